//! Lists for users with their own exchange keys: verify the token, find the user, decrypt the stored key, try the exchange's
//! networks in order.
//!
//! [`jwt`] verifies tokens, [`users`] queries PostgreSQL, [`fernet`] decrypts the keys stored there. [`user_lists`] puts
//! them together and returns a private list, the public list, or the reason for falling back to the public list.
//! [`settings`] reads the environment. None of this runs for a list that is in the cache, and nothing here writes to the
//! database or to Redis.
//!
//! A secret stays in a `tradebot_base::secret::Secret` from the environment to the signature. `tradebot_base::process` keeps
//! it out of core dumps.

pub(crate) mod database_url;
pub(crate) mod fernet;
pub(crate) mod jwt;
pub(crate) mod outcome;
pub(crate) mod settings;
pub(crate) mod tls;
pub(crate) mod user_lists;
pub(crate) mod users;
pub(crate) mod verdicts;
