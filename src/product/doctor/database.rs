//! The database of users' own keys: reached, logged in, and of the deployment's form.

use std::time::Duration;

use serde::Serialize;

use super::finding::{self, Finding};
use crate::product::credentials::database_url::DatabaseUrl;
use crate::product::credentials::users::{DatabaseError, Users};
use tradebot_base::error_chain;

/// How long a look-up may take.
const TIMEOUT: Duration = Duration::from_secs(4);
/// Nobody has this address: `invalid` is a name that never exists.
const NOBODY: &str = "doctor@tradebot-symbols.invalid";

/// Why the database cannot be used.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case", tag = "trouble", content = "text")]
pub enum DatabaseTrouble {
    /// It does not answer, or its URL cannot be used.
    Unreachable(String),
    /// It refuses the login or the query.
    Refuses(String),
    /// Its tables are others.
    OtherTables(String),
}

/// Looks a user up that does not exist. `None` without a database.
pub(super) async fn look(url: Option<&Result<DatabaseUrl, String>>) -> Option<Option<DatabaseTrouble>> {
    let users = match url? {
        Ok(url) => Users::new(url, 1, TIMEOUT).map_err(|error| error_chain(&error)),
        Err(reason) => Err(reason.clone()),
    };
    let users = match users {
        Ok(users) => users,
        Err(reason) => return Some(Some(DatabaseTrouble::Unreachable(reason))),
    };
    Some(users.find(NOBODY).await.err().map(|error| {
        let text = error_chain(&error);
        match error {
            DatabaseError::Refused(_) => DatabaseTrouble::Refuses(text),
            DatabaseError::Schema(_) => DatabaseTrouble::OtherTables(text),
            _ => DatabaseTrouble::Unreachable(text),
        }
    }))
}

impl DatabaseTrouble {
    pub(super) fn judge(&self) -> Finding {
        let (kind, text) = match self {
            Self::Unreachable(text) => (&finding::DATABASE_UNREACHABLE, text),
            Self::Refuses(text) => (&finding::DATABASE_REFUSES, text),
            Self::OtherTables(text) => (&finding::DATABASE_OTHER_TABLES, text),
        };
        kind.found("database", text)
    }
}
