//! A user's own exchange key: token, user, stored key, decryption, the exchange's networks in order.
//!
//! [`jwt`] reads tokens, [`users`] PostgreSQL, [`fernet`] what is stored there; [`branch`] walks through them and ends
//! in a list of the user's own, in that of everybody, or in a reason why it is the public one after all. [`settings`]
//! reads the environment. Nothing of it is touched for a list that is in the cache, and nothing here writes: neither
//! to the database nor to Redis.
//!
//! Secrets are of the type `tradebot_base::secret::Secret` from the environment to the signature. [`protect`] keeps them out of
//! core dumps.

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
