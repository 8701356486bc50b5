//! What happens on the way to a user's own list, and how it ends. Nothing here can print a secret.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::fernet::FernetError;
use super::jwt::TokenError;
use super::users::DatabaseError;
use super::verdicts::KeyVerdict;
use crate::product::binance::error::UpstreamError;
use crate::product::binance::exchange_info::Symbol;
use crate::product::binance::signed::SignedError;
use tradebot_base::error_chain;
use tradebot_base::market::Network;

/// What a user gets.
#[derive(Debug, Clone)]
pub enum UserList {
    /// The key is good on the deployment's own network, whose list is everybody's.
    Public(Network),
    /// The key is good on another network: its list is for this user, and belongs into no shared key.
    Private(Arc<PrivateList>),
}

/// The list of a network that is not the deployment's.
#[derive(Debug)]
pub struct PrivateList {
    /// Which network.
    pub network: Network,
    /// Scheme and host that served it.
    pub host: String,
    /// The symbols, filtered and sorted as ever.
    pub symbols: Vec<Symbol>,
    /// Unix seconds of the fetch.
    pub fetched_at: i64,
    /// The answer says of itself that it is made up.
    pub sandbox: bool,
}

/// Why a user gets the public list after all.
#[derive(Debug, Error)]
pub enum Fallback {
    /// The token says nothing.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// No user could be looked up.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// Nobody has this e-mail address.
    #[error("there is no such user")]
    UnknownUser,
    /// `is_active` is false.
    #[error("user {0} is not active")]
    InactiveUser(i64),
    /// The user has stored none.
    #[error("user {0} has no key")]
    NoKey(i64),
    /// None of the stored keys can be decrypted.
    #[error("no key of user {user} can be decrypted: {reason}")]
    Undecryptable {
        /// `users.id`.
        user: i64,
        /// What is wrong with the best of them.
        reason: FernetError,
    },
    /// No network gave a list for the key.
    #[error("no network gave a list for key {key} of user {user}: {}", Reasons(.reasons))]
    Networks {
        /// `users.id`.
        user: i64,
        /// `api_keys.id`.
        key: i64,
        /// What each of them said.
        reasons: Vec<(Network, NetworkFailure)>,
    },
    /// The time for the whole branch passed.
    #[error("no list of the user's own within {} s", .0.as_secs_f64())]
    OutOfTime(Duration),
}

impl Fallback {
    /// Whether somebody should look at it who did not hear of it a minute ago.
    pub(super) fn deserves_a_warning(&self) -> bool {
        match self {
            Self::Undecryptable { .. } | Self::OutOfTime(_) => true,
            Self::Networks { reasons, .. } => reasons
                .iter()
                .any(|(_, failure)| !matches!(failure, NetworkFailure::Remembered(_))),
            _ => false,
        }
    }
}

/// Why one network gave no list.
#[derive(Debug, Error)]
pub enum NetworkFailure {
    /// The account could not be read.
    #[error(transparent)]
    Signed(#[from] SignedError),
    /// It has refused the key lately and was not asked again.
    #[error("{}", remembered(.0))]
    Remembered(KeyVerdict),
    /// The key is good, and there is no list.
    #[error("the key is good, but there is no list")]
    List(#[from] UpstreamError),
    /// The key is good, and nothing may be listed.
    #[error("the key is good, but no symbol is trading")]
    Empty,
    /// The key is good, and the list lacks what every list has.
    #[error("the key is good, but the list lacks {}", .0.join(", "))]
    NoAnchors(Vec<String>),
    /// The network's share of the time passed.
    #[error("no answer within {} s", .0.as_secs_f64())]
    OutOfTime(Duration),
}

fn remembered(verdict: &KeyVerdict) -> &'static str {
    match verdict {
        KeyVerdict::BadFormat => "not asked: it found the key's format wrong lately (-2014)",
        _ => "not asked: it refused the key lately",
    }
}

struct Reasons<'a>(&'a [(Network, NetworkFailure)]);

impl fmt::Display for Reasons<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (network, failure)) in self.0.iter().enumerate() {
            let separator = if number > 0 { "; " } else { "" };
            write!(f, "{separator}{network}: {}", error_chain(failure))?;
        }
        Ok(())
    }
}

/// A step that was made, for `credentials check`.
#[derive(Debug)]
pub enum LookupStep<'a> {
    /// The database answered.
    User {
        /// `users.id`.
        id: i64,
        /// How many keys were read.
        keys: usize,
    },
    /// A stored key cannot be decrypted, and the next one is tried.
    Skipped {
        /// `api_keys.id`.
        key: i64,
        /// Why.
        reason: FernetError,
    },
    /// A stored key was decrypted.
    Decrypted {
        /// `api_keys.id`.
        key: i64,
        /// Whether the deployment found it valid.
        is_valid: bool,
    },
    /// A network accepted the key.
    Accepted {
        /// Which.
        network: Network,
        /// How far its clock is ahead of ours, if compared.
        offset_ms: Option<i64>,
    },
    /// A network gave no list.
    Failed {
        /// Which.
        network: Network,
        /// Why.
        failure: &'a NetworkFailure,
    },
}

/// The ends of a walk, for counting.
pub const OUTCOMES: [&str; 10] = [
    "everybodys",
    "private",
    "token",
    "database",
    "unknown_user",
    "inactive_user",
    "no_key",
    "undecryptable",
    "networks",
    "out_of_time",
];

/// The place of an end in [`OUTCOMES`].
pub(super) fn outcome_index(outcome: &Result<UserList, Fallback>) -> usize {
    match outcome {
        Ok(UserList::Public(_)) => 0,
        Ok(UserList::Private(_)) => 1,
        Err(Fallback::Token(_)) => 2,
        Err(Fallback::Database(_)) => 3,
        Err(Fallback::UnknownUser) => 4,
        Err(Fallback::InactiveUser(_)) => 5,
        Err(Fallback::NoKey(_)) => 6,
        Err(Fallback::Undecryptable { .. }) => 7,
        Err(Fallback::Networks { .. }) => 8,
        Err(Fallback::OutOfTime(_)) => 9,
    }
}
