//! Reads users and their stored keys from PostgreSQL. Never writes.
//!
//! One query per lookup, over a small pool that connects on demand. Statements are unnamed, so PgBouncer in transaction mode
//! works.

use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod};
use thiserror::Error;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::config::SslMode;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Config, Row};

use super::database_url::{DatabaseUrl, TlsMode};
use super::tls::{self, TlsError};

/// How many of a user's keys are read. A rotation leaves two.
const KEYS: i64 = 4;

/// Valid keys first, then newest first. A key that is not marked valid is used only if there is no other.
const LOOK_UP: &str = "SELECT u.id::bigint, coalesce(u.is_active, false), k.id::bigint, \
     k.encrypted_api_key::text, k.encrypted_secret_key::text, coalesce(k.is_valid, false) \
     FROM users u LEFT JOIN api_keys k ON k.user_id = u.id \
     WHERE u.email = $1 \
     ORDER BY coalesce(k.is_valid, false) DESC, k.created_at DESC NULLS LAST, k.id DESC \
     LIMIT $2";

/// A user and their stored keys.
#[derive(Debug)]
pub(crate) struct User {
    /// `users.id`.
    pub id: i64,
    /// Whether the user may log in.
    pub is_active: bool,
    /// Stored keys, in the order to try them.
    pub keys: Vec<StoredKey>,
}

/// A row of `api_keys`.
#[derive(Debug)]
pub(crate) struct StoredKey {
    /// `api_keys.id`.
    pub id: i64,
    /// Whether the deployment has marked the key valid.
    pub is_valid: bool,
    /// Fernet token of the API key.
    pub encrypted_api_key: String,
    /// Fernet token of the secret key.
    pub encrypted_secret_key: String,
}

/// Why a user could not be looked up.
#[derive(Debug, Error)]
pub enum DatabaseError {
    /// The query ran out of time.
    #[error("the database did not answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// No connection, or the connection broke.
    #[error("the database cannot be reached")]
    Unreachable(#[source] tokio_postgres::Error),
    /// The server refused the login or the query.
    #[error("the database refused the login or the query")]
    Refused(#[source] tokio_postgres::Error),
    /// A table or column is missing or of another type.
    #[error("the tables `users` and `api_keys` do not have the expected schema")]
    Schema(#[source] tokio_postgres::Error),
}

/// Looks users up.
pub(crate) struct Users {
    pool: Pool,
    timeout: Duration,
}

impl Users {
    /// A store for `url` with at most `connections` connections. Does not connect yet.
    ///
    /// # Errors
    /// [`TlsError`].
    pub(crate) fn new(url: &DatabaseUrl, connections: usize, timeout: Duration) -> Result<Self, TlsError> {
        let recycling_method = RecyclingMethod::Fast;
        let manager = Manager::from_config(
            config(url, timeout),
            tls::connector(url)?,
            ManagerConfig { recycling_method },
        );
        // Each lookup has a deadline that covers waiting and connecting, so the pool needs no timeouts.
        let pool = Pool::builder(manager).max_size(connections).build();
        Ok(Self {
            pool: pool.expect("a pool without timeouts needs no runtime"),
            timeout,
        })
    }

    /// The user with exactly this e-mail address.
    ///
    /// # Errors
    /// [`DatabaseError`], at the latest when the timeout is over.
    pub(crate) async fn find(&self, email: &str) -> Result<Option<User>, DatabaseError> {
        let deadline = Instant::now() + self.timeout;
        let late = |_| DatabaseError::Timeout(self.timeout);
        let client = timeout_at(deadline, self.pool.get()).await.map_err(late)?;
        let pooled = PooledClient(Some(client.map_err(|error| self.pool_error(error))?));
        let Some(client) = &pooled.0 else {
            return Ok(None);
        };
        let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&email, Type::TEXT), (&KEYS, Type::INT8)];
        let query = client.query_typed(LOOK_UP, &parameters);
        let rows = timeout_at(deadline, query).await.map_err(late)?;
        let rows = rows.map_err(|error| self.query_error(error))?;
        pooled.give_back();
        user(&rows).map_err(DatabaseError::Schema)
    }

    fn pool_error(&self, error: PoolError) -> DatabaseError {
        match error {
            PoolError::Backend(error) if error.as_db_error().is_some() => DatabaseError::Refused(error),
            PoolError::Backend(error) => DatabaseError::Unreachable(error),
            _ => DatabaseError::Timeout(self.timeout),
        }
    }

    fn query_error(&self, error: tokio_postgres::Error) -> DatabaseError {
        use tokio_postgres::error::SqlState;
        match error.code() {
            Some(&SqlState::QUERY_CANCELED) => DatabaseError::Timeout(self.timeout),
            Some(&SqlState::UNDEFINED_TABLE | &SqlState::UNDEFINED_COLUMN) => DatabaseError::Schema(error),
            Some(_) => DatabaseError::Refused(error),
            None => DatabaseError::Unreachable(error),
        }
    }
}

/// A pooled connection that is dropped unless its query has finished, so that its late answer delays no other query.
struct PooledClient(Option<Object>);

impl PooledClient {
    fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for PooledClient {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            drop(Object::take(object));
        }
    }
}

fn config(url: &DatabaseUrl, timeout: Duration) -> Config {
    let mut config = Config::new();
    for (host, port) in &url.hosts {
        if host.starts_with('/') {
            config.host_path(host);
        } else {
            config.host(host);
        }
        config.port(*port);
    }
    config.user(&url.user).dbname(&url.database);
    if let Some(password) = &url.password {
        config.password(password.expose());
    }
    config
        .application_name("tradebot-symbols")
        .target_session_attrs(url.target)
        .ssl_mode(match url.tls {
            TlsMode::Disable => SslMode::Disable,
            TlsMode::Prefer => SslMode::Prefer,
            TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => SslMode::Require,
        })
        // The server cancels a slow query even after our timeout, and refuses writes.
        .options(format!(
            "-c statement_timeout={} -c default_transaction_read_only=on",
            timeout.as_millis().max(1)
        ))
        .connect_timeout(timeout)
        .keepalives_idle(Duration::from_secs(30));
    config
}

fn user(rows: &[Row]) -> Result<Option<User>, tokio_postgres::Error> {
    let Some(first) = rows.first() else {
        return Ok(None);
    };
    let id: i64 = first.try_get(0)?;
    let mut user = User {
        id,
        is_active: first.try_get(1)?,
        keys: Vec::new(),
    };
    for row in rows {
        // A user without keys is one row of nulls.
        let Some(key_id) = row.try_get::<_, Option<i64>>(2)? else {
            continue;
        };
        let text = |column| row.try_get::<_, Option<String>>(column);
        if row.try_get::<_, i64>(0)? == id {
            user.keys.push(StoredKey {
                id: key_id,
                encrypted_api_key: text(3)?.unwrap_or_default(),
                encrypted_secret_key: text(4)?.unwrap_or_default(),
                is_valid: row.try_get(5)?,
            });
        }
    }
    Ok(Some(user))
}
