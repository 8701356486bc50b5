//! The steps and outcomes of looking up a user's list. None of these types can print a secret.

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

/// The list that a user gets.
#[derive(Debug, Clone)]
pub enum UserList {
    /// The deployment's network accepts the key. Its list is the public one.
    Public(Network),
    /// Another network accepts the key. Its list is for this user and must not be written to a shared cache key.
    Private(Arc<PrivateList>),
}

/// The list of a network other than the deployment's.
#[derive(Debug)]
pub struct PrivateList {
    /// The network.
    pub network: Network,
    /// Scheme and host that served it.
    pub host: String,
    /// The symbols, filtered and sorted like the public list.
    pub symbols: Vec<Symbol>,
    /// Unix seconds of the fetch.
    pub fetched_at: i64,
    /// The answer comes from a sandbox, and its symbols are made up.
    pub sandbox: bool,
}

/// Why a user falls back to the public list.
#[derive(Debug, Error)]
pub enum Fallback {
    /// The token is not accepted.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The database query failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// No user has this e-mail address.
    #[error("there is no such user")]
    UnknownUser,
    /// `users.is_active` is false.
    #[error("user {0} is not active")]
    InactiveUser(i64),
    /// The user has stored no key.
    #[error("user {0} has no stored key")]
    NoKey(i64),
    /// None of the stored keys can be decrypted.
    #[error("no key of user {user} can be decrypted: {reason}")]
    Undecryptable {
        /// `users.id`.
        user: i64,
        /// Why the first of them cannot be decrypted.
        reason: FernetError,
    },
    /// Every network failed.
    #[error("no network returned a list for key {key} of user {user}: {}", Reasons(.reasons))]
    Networks {
        /// `users.id`.
        user: i64,
        /// `api_keys.id`.
        key: i64,
        /// The failure of each network.
        reasons: Vec<(Network, NetworkFailure)>,
    },
    /// The lookup ran out of time.
    #[error("no list for the user within {} s", .0.as_secs_f64())]
    OutOfTime(Duration),
}

impl Fallback {
    /// Whether to warn the operator. A remembered refusal has been logged before.
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

/// Why a network returned no list.
#[derive(Debug, Error)]
pub enum NetworkFailure {
    /// The account could not be read.
    #[error(transparent)]
    Signed(#[from] SignedError),
    /// It refused the key a short while ago, so no request was made.
    #[error("{}", remembered(.0))]
    Remembered(KeyVerdict),
    /// The key is good, but the list could not be fetched.
    #[error("the key is good, but the list could not be fetched")]
    List(#[from] UpstreamError),
    /// The key is good, but no symbol qualifies for the list.
    #[error("the key is good, but no symbol is trading")]
    Empty,
    /// The key is good, but the list lacks symbols that every real list has.
    #[error("the key is good, but the list lacks {}", .0.join(", "))]
    NoAnchors(Vec<String>),
    /// The network used up its share of the time.
    #[error("no answer within {} s", .0.as_secs_f64())]
    OutOfTime(Duration),
}

fn remembered(verdict: &KeyVerdict) -> &'static str {
    match verdict {
        KeyVerdict::BadFormat => "no request made: it recently rejected the key as malformed (-2014)",
        _ => "no request made: it recently refused the key",
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

/// A step of a lookup, for `credentials check`.
#[derive(Debug)]
pub enum LookupStep<'a> {
    /// The database answered.
    User {
        /// `users.id`.
        id: i64,
        /// How many stored keys were read.
        keys: usize,
    },
    /// A stored key cannot be decrypted; the next one is tried.
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
        /// Whether the deployment has marked it valid.
        is_valid: bool,
    },
    /// A network accepted the key.
    Accepted {
        /// The network.
        network: Network,
        /// How far its clock is ahead of ours, if measured.
        offset_ms: Option<i64>,
    },
    /// A network failed.
    Failed {
        /// The network.
        network: Network,
        /// Why.
        failure: &'a NetworkFailure,
    },
}

/// The outcomes that are counted, as metrics name them.
pub(crate) const OUTCOMES: [&str; 10] = [
    "public",
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

/// The index of an outcome in [`OUTCOMES`].
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
