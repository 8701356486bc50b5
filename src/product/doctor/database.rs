//! Whether the database of exchange keys is reachable, accepts the login and has the deployment's tables.

use std::time::Duration;

use serde::Serialize;

use super::finding::{self, Finding};
use crate::product::credentials::database_url::DatabaseUrl;
use crate::product::credentials::users::{DatabaseError, Users};
use tradebot_base::error_chain;

/// Time limit of the query.
const TIMEOUT: Duration = Duration::from_secs(4);
/// An address that no user has: the domain `invalid` never exists.
const UNKNOWN_USER: &str = "doctor@tradebot-symbols.invalid";

/// Why the database cannot be used.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case", tag = "trouble", content = "text")]
pub(crate) enum DatabaseTrouble {
    /// It does not answer, or its URL is invalid.
    Unreachable(String),
    /// It refuses the login or the query.
    Refuses(String),
    /// It has other tables.
    OtherTables(String),
}

/// Queries a user that does not exist.
pub(super) async fn probe(url: &Result<DatabaseUrl, String>) -> Result<(), DatabaseTrouble> {
    let url = url.as_ref().map_err(|reason| reason.clone());
    let users = url.and_then(|url| Users::new(url, 1, TIMEOUT).map_err(|error| error_chain(&error)));
    let found = users
        .map_err(DatabaseTrouble::Unreachable)?
        .find(UNKNOWN_USER)
        .await;
    found.map(drop).map_err(|error| {
        let text = error_chain(&error);
        match error {
            DatabaseError::Refused(_) => DatabaseTrouble::Refuses(text),
            DatabaseError::Schema(_) => DatabaseTrouble::OtherTables(text),
            _ => DatabaseTrouble::Unreachable(text),
        }
    })
}

pub(super) fn judge(trouble: &DatabaseTrouble) -> Finding {
    let (kind, text) = match trouble {
        DatabaseTrouble::Unreachable(text) => (&finding::DATABASE_UNREACHABLE, text),
        DatabaseTrouble::Refuses(text) => (&finding::DATABASE_REFUSES, text),
        DatabaseTrouble::OtherTables(text) => (&finding::DATABASE_OTHER_TABLES, text),
    };
    kind.found("database", text)
}
