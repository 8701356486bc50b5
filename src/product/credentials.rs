//! Lists for users with their own exchange keys: verify the token, find the user, decrypt the stored key, try the exchange's
//! networks in order.
//!
//! [`jwt`] verifies tokens, [`users`] queries PostgreSQL, [`fernet`] decrypts the keys stored there. [`user_lists`] puts
//! them together and returns a private list, the public list, or the reason for falling back to the public list.
//! [`settings`] reads the environment. None of this runs for a list that is in the cache, and nothing here writes to the
//! database or to Redis.
//!
//! A secret stays in a `tradebot_base::secret::Secret` from the environment to the signature. [`protect`] keeps secrets out of core
//! dumps.

pub mod database_url;
pub mod fernet;
pub mod jwt;
pub mod outcome;
pub mod protect;
pub mod settings;
pub mod tls;
pub mod user_lists;
pub mod users;
pub mod verdicts;
