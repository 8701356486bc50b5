//! A connection to one Redis server that reconnects by itself.
//!
//! The first command opens it. Any error that leaves its state in doubt (a broken pipe, a late reply, a server that
//! became a replica) closes it, and the next command opens another: half-open connections end within seconds, and a
//! failover is followed. Callers wait between attempts with [`crate::backoff::Reconnect`].
//!
//! `redis::aio::ConnectionManager` does nearly this, but has no place for the `CLIENT TRACKING` that must
//! be sent again on every new connection before anything is read; that is why it is done by hand here.

mod endpoint;
mod pushes;
mod refusal;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, Pipeline, PushInfo, PushKind, RedisError,
    ScriptInvocation, ServerErrorKind, Value,
};
use thiserror::Error;
use tokio::sync::{Mutex, Notify, mpsc};
use tracing::warn;

use endpoint::Endpoint;
use pushes::Pushes;

use crate::failpoint;
use crate::said::Said;
use crate::secret::RedisUrl;

/// How long opening a connection may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a reply may take. After that, the connection counts as broken.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a Redis command failed.
#[derive(Debug, Clone, Error)]
pub enum RedisTrouble {
    /// The URL is invalid; no attempt will succeed.
    #[error("redis URL {url} cannot be used: {reason}")]
    Url {
        /// The URL without its secrets.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No connection, or it broke, or no reply in time.
    #[error("redis at {url} is unreachable{hint}")]
    Unreachable {
        /// The URL without its secrets.
        url: String,
        /// What to do about a host name without an address; empty for other errors.
        hint: String,
        /// What the socket said.
        source: Arc<RedisError>,
    },
    /// The server answers with an error: `READONLY`, `LOADING`, `OOM`, `NOAUTH`, …
    #[error("redis at {url} refuses with {code}{hint}")]
    Refused {
        /// The URL without its secrets.
        url: String,
        /// The error code that the server's answer began with; `NOPERM` within a script too.
        code: String,
        /// Which right is missing or which key has the wrong type, and what to do; empty for other codes.
        hint: String,
        /// The answer.
        source: Arc<RedisError>,
    },
}

impl RedisTrouble {
    /// Whether the user lacks a right: no attempt will succeed until it is granted.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == refusal::FORBIDDEN)
    }

    /// Whether it lasts until an operator grants a right or mends a key.
    #[must_use]
    pub fn needs_an_operator(&self) -> bool {
        matches!(self, Self::Refused { hint, .. } if !hint.is_empty())
    }
}

/// A connection that heals itself; clones share it.
#[derive(Clone)]
pub struct Connection {
    inner: Arc<Inner>,
}

struct Inner {
    /// The server by a protocol without pushes, and by the one with.
    plain: Endpoint,
    pushing: Endpoint,
    shown: String,
    name: String,
    /// What the server is asked to push.
    pushes: Pushes,
    /// How long opening and a reply may take.
    patience: (Duration, Duration),
    tracking: AtomicBool,
    current: Mutex<Option<Live>>,
}

#[derive(Clone)]
struct Live {
    socket: MultiplexedConnection,
    generation: u64,
    /// The server has closed it, perhaps while it was idle.
    lost: Arc<AtomicBool>,
}

impl Connection {
    /// A connection to `url` that will introduce itself as `name` (`CLIENT SETNAME`). Nothing is opened yet.
    ///
    /// # Errors
    /// [`RedisTrouble::Url`] when the URL cannot be understood.
    pub fn new(url: &RedisUrl, name: &str) -> Result<Self, RedisTrouble> {
        Self::build(url, name, Pushes::Nothing, (CONNECT_TIMEOUT, RESPONSE_TIMEOUT))
    }

    /// Like [`new`](Self::new), but opening the connection and each reply may take `patience` at most.
    ///
    /// # Errors
    /// [`RedisTrouble::Url`] when the URL cannot be understood.
    pub fn impatient(url: &RedisUrl, name: &str, patience: Duration) -> Result<Self, RedisTrouble> {
        Self::build(url, name, Pushes::Nothing, (patience, patience))
    }

    /// Like [`new`](Self::new), with server-assisted tracking of the keys it reads: `changed` is notified
    /// when one of them changes and whenever the connection was lost.
    ///
    /// # Errors
    /// [`RedisTrouble::Url`] when the URL cannot be understood.
    pub fn with_tracking(url: &RedisUrl, name: &str, changed: Arc<Notify>) -> Result<Self, RedisTrouble> {
        Self::build(
            url,
            name,
            Pushes::Changes(changed),
            (CONNECT_TIMEOUT, RESPONSE_TIMEOUT),
        )
    }

    /// Like [`new`](Self::new), subscribed to a channel while it is open: what is published there goes to
    /// `inbox`, or is dropped while that is full; `lost` is notified when the connection was lost. Needs Redis 6.
    ///
    /// # Errors
    /// [`RedisTrouble::Url`] when the URL cannot be understood.
    pub fn with_channel(
        url: &RedisUrl,
        name: &str,
        channel: String,
        inbox: mpsc::Sender<Vec<u8>>,
        lost: Arc<Notify>,
    ) -> Result<Self, RedisTrouble> {
        let pushes = Pushes::Channel {
            name: channel,
            inbox,
            lost,
        };
        Self::build(url, name, pushes, (CONNECT_TIMEOUT, RESPONSE_TIMEOUT))
    }

    fn build(
        url: &RedisUrl,
        name: &str,
        pushes: Pushes,
        patience: (Duration, Duration),
    ) -> Result<Self, RedisTrouble> {
        let shown = url.to_string();
        let parse = |pushes| {
            Endpoint::parse(url, pushes).map_err(|reason| RedisTrouble::Url {
                url: shown.clone(),
                reason,
            })
        };
        let (plain, pushing) = (parse(false)?, parse(true)?);
        // CLIENT SETNAME takes no spaces and no control characters.
        let name = name
            .chars()
            .map(|c| if c.is_ascii_graphic() { c } else { '-' })
            .collect();
        let inner = Inner {
            plain,
            pushing,
            shown,
            name,
            pushes,
            patience,
            tracking: AtomicBool::new(false),
            current: Mutex::new(None),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The URL without its secrets.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.inner.shown
    }

    /// Whether the server agreed to report changes of tracked keys (Redis 6 and later).
    #[must_use]
    pub fn is_tracking(&self) -> bool {
        self.inner.tracking.load(Ordering::Relaxed)
    }

    /// Whether both connections lead to the same database of the same server as the same user, as far as their URLs tell.
    #[must_use]
    pub fn same_database(&self, other: &Self) -> bool {
        self.inner.plain.same_database(&other.inner.plain)
    }

    /// The database number of the URL.
    #[must_use]
    pub fn database(&self) -> i64 {
        self.inner.plain.database()
    }

    /// Runs one command.
    ///
    /// # Errors
    /// [`RedisTrouble`]; the command may or may not have been carried out when the answer was lost.
    pub async fn command<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisTrouble> {
        let mut live = self.live().await?;
        let answer = command.query_async(&mut live.socket).await;
        self.judge(live, answer, std::iter::once(command)).await
    }

    /// Sends several commands at once and returns all answers. A transaction if the pipeline is atomic.
    ///
    /// # Errors
    /// [`RedisTrouble`], for the first answer that is an error.
    pub async fn pipeline<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, RedisTrouble> {
        let mut live = self.live().await?;
        let answer = pipeline.query_async(&mut live.socket).await;
        self.judge(live, answer, pipeline.cmd_iter()).await
    }

    /// Runs a script after the command `before`, and loads it first if the server does not know it. Returns the
    /// script's reply alone.
    ///
    /// # Errors
    /// [`RedisTrouble`]. The script runs at most once per call.
    pub async fn script<T: FromRedisValue>(
        &self,
        before: Option<&Cmd>,
        call: &ScriptInvocation<'_>,
    ) -> Result<T, RedisTrouble> {
        let mut pipeline = Pipeline::new();
        if let Some(command) = before {
            pipeline.add_command(command.clone()).ignore();
        }
        pipeline.invoke_script(call);
        let mut live = self.live().await?;
        failpoint::pass("script sent");
        let mut answer: Result<(T,), RedisError> = pipeline.query_async(&mut live.socket).await;
        if answer
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::Server(ServerErrorKind::NoScript))
        {
            let loaded = call.load_async(&mut live.socket).await;
            self.judge(live.clone(), loaded, std::iter::empty()).await?;
            answer = pipeline.query_async(&mut live.socket).await;
        }
        failpoint::pass("script answered");
        Ok(self.judge(live, answer, pipeline.cmd_iter()).await?.0)
    }

    /// Returns the open connection, or opens one. Only one attempt runs at a time.
    async fn live(&self) -> Result<Live, RedisTrouble> {
        let mut current = self.inner.current.lock().await;
        if let Some(live) = current.as_ref().filter(|live| !live.lost.load(Ordering::Relaxed)) {
            return Ok(live.clone());
        }
        let lost = Arc::default();
        let socket = self.open(&lost).await?;
        let live = Live {
            socket,
            generation: next_generation(),
            lost,
        };
        *current = Some(live.clone());
        Ok(live)
    }

    /// Opens a connection that reports its own end, and the changes of tracked keys if they are wanted, as far
    /// as the server knows how and the user may.
    async fn open(&self, lost: &Arc<AtomicBool>) -> Result<MultiplexedConnection, RedisTrouble> {
        let pushes = &self.inner.pushes;
        let track = matches!(pushes, Pushes::Changes(_));
        let (opened, pushing) = match self.open_pushing(lost).await {
            // Redis 5 has no RESP3.
            Err(error) if error.kind() == ErrorKind::RESP3NotSupported && !pushes.is_channel() => {
                if track {
                    self.warn_of_polling(&error);
                }
                (self.inner.plain.open(&self.timeouts()).await, false)
            }
            opened => (opened, true),
        };
        let mut socket = opened.map_err(|error| self.refused(error, None))?;
        let introduced = self.introduce(&mut socket, track && pushing).await;
        let tracking = introduced.map_err(|error| self.refused(error, None))?;
        self.inner.tracking.store(tracking, Ordering::Relaxed);
        if let Pushes::Channel { name, .. } = pushes {
            let subscribed = socket.subscribe(name).await;
            subscribed.map_err(|error| self.refused(error, Some(refusal::channel_right(name))))?;
        }
        Ok(socket)
    }

    async fn open_pushing(&self, lost: &Arc<AtomicBool>) -> Result<MultiplexedConnection, RedisError> {
        let (lost, pushes) = (Arc::clone(lost), self.inner.pushes.clone());
        let config = self.timeouts().set_push_sender(move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                lost.store(true, Ordering::Relaxed);
            }
            pushes.deliver(push);
            Ok::<(), std::convert::Infallible>(())
        });
        self.inner.pushing.open(&config).await
    }

    /// Names the connection and turns tracking on; returns whether the server tracks. A server that refuses either, because
    /// the user lacks the right or the command was renamed, is used without.
    async fn introduce(&self, socket: &mut MultiplexedConnection, track: bool) -> Result<bool, RedisError> {
        let mut setup = Pipeline::new();
        setup.ignore_errors();
        setup.cmd("CLIENT").arg("SETNAME").arg(&self.inner.name);
        if track {
            setup.cmd("CLIENT").arg("TRACKING").arg("ON").arg("NOLOOP");
        }
        let answers: Vec<Result<Value, RedisError>> = setup.query_async(socket).await?;
        let mut answers = answers.into_iter();
        if let Some(Err(error)) = answers.next()
            && self.warns_first()
        {
            warn!(
                url = self.inner.shown,
                %error,
                "the server refuses CLIENT: connections have no names, and changes are polled \
                 (rights `client|setname` and `client|tracking`)"
            );
        }
        Ok(match answers.next() {
            Some(Err(error)) => {
                self.warn_of_polling(&error);
                false
            }
            answer => answer.is_some(),
        })
    }

    fn warn_of_polling(&self, error: &RedisError) {
        if self.warns_first() {
            warn!(
                url = self.inner.shown,
                %error,
                "the server does not report changes (that needs Redis 6 and the right `client|tracking`), polling instead"
            );
        }
    }

    /// Whether nothing has been said yet about what this process may not do on this server.
    fn warns_first(&self) -> bool {
        static SAID: Said = Said::nothing();
        SAID.first(&self.inner.shown)
    }

    fn timeouts(&self) -> AsyncConnectionConfig {
        let (connect, response) = self.inner.patience;
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(connect))
            .set_response_timeout(Some(response))
    }

    /// Passes an answer on, and drops the connection it came over when that cannot be trusted any more.
    async fn judge<T>(
        &self,
        mut live: Live,
        answer: Result<T, RedisError>,
        commands: impl Iterator<Item = &Cmd>,
    ) -> Result<T, RedisTrouble> {
        let error = match answer {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let doubtful = error.is_io_error()
            || error.is_unrecoverable_error()
            || matches!(
                error.kind(),
                ErrorKind::Parse | ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown)
            )
            || matches!(error.code(), Some("NOAUTH" | "UNBLOCKED"));
        if doubtful {
            let mut current = self.inner.current.lock().await;
            if current
                .as_ref()
                .is_some_and(|now| now.generation == live.generation)
            {
                *current = None;
            }
        }
        let hint = match refusal::code_of(&error) {
            // On the heap: it is rare, and every caller's future would be larger.
            Some(code) => {
                let commands: Vec<&Cmd> = commands.collect();
                Box::pin(refusal::hint(&code, &commands, &mut live.socket)).await
            }
            None => String::new(),
        };
        Err(self.trouble(error, hint))
    }

    /// The trouble of opening a connection. `right` is the one it needs beside those to run commands.
    fn refused(&self, error: RedisError, right: Option<String>) -> RedisTrouble {
        let forbidden = refusal::code_of(&error).as_deref() == Some(refusal::FORBIDDEN);
        let hint = forbidden.then(|| refusal::lacks(right.as_slice()));
        self.trouble(error, hint.unwrap_or_default())
    }

    fn trouble(&self, error: RedisError, hint: String) -> RedisTrouble {
        let url = self.inner.shown.clone();
        let code = refusal::code_of(&error);
        let source = Arc::new(error);
        match code {
            Some(code) => RedisTrouble::Refused {
                url,
                code,
                hint,
                source,
            },
            None => RedisTrouble::Unreachable {
                hint: refusal::unknown_host(&url, &source),
                url,
                source,
            },
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("url", &self.inner.shown)
            .field("name", &self.inner.name)
            .finish()
    }
}

fn next_generation() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_cannot_be_used_is_refused_without_its_password() {
        for url in [
            "",
            "canary",
            "http://:canary@h",
            "redis://:canary@h:port/0",
            "sentinel://:canary@h:1/0",
        ] {
            let error = Connection::new(&RedisUrl::new(url), "t").unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(
                !text.contains("canary") && text.contains("cannot be used"),
                "{url}: {text}"
            );
        }
    }

    #[tokio::test]
    async fn a_host_that_is_the_name_of_a_compose_service_is_explained() {
        for (url, explained) in [
            ("redis://:canary@no-such-service:6379/0", true),
            ("redis://no-such-host.invalid", false),
            ("redis://127.0.0.1:1", false),
        ] {
            let connection = Connection::new(&RedisUrl::new(url), "t").unwrap();
            let trouble = connection
                .command::<String>(&redis::cmd("PING"))
                .await
                .unwrap_err();
            let text = crate::error_chain(&trouble);
            assert!(
                text.contains("is unreachable") && !text.contains("canary"),
                "{text}"
            );
            let hint = "`no-such-service` has no address here; if it is a service of docker compose";
            assert_eq!(text.contains(hint), explained, "{text}");
        }
    }

    #[test]
    fn the_same_database_is_recognised() {
        let open = |url: &str| Connection::new(&RedisUrl::new(url), "t").unwrap();
        assert!(open("redis://h").same_database(&open("redis://:x@h:6379/0")));
        assert!(!open("redis://h/0").same_database(&open("redis://h/1")));
        assert!(!open("redis://h:1").same_database(&open("redis://h:2")));
        assert!(open("redis://h").same_database(&open("redis://default:x@h")));
        assert!(
            !open("redis://a:x@h").same_database(&open("redis://b:x@h")),
            "another user"
        );
        assert_eq!(open("redis://h/7").database(), 7);
    }
}
