//! The result backend: where outcomes are stored and announced.
//!
//! If results are in the broker's database, one script stores the outcome and acknowledges the message. Otherwise the
//! result is stored first.

pub(crate) mod chords;

use std::sync::Arc;

use redis::Script;
use serde_json::Value;

use chords::Chords;

use crate::transport::{Stored, StoredResult};
use tradebot_base::clock::SharedClock;
use tradebot_base::connection::{Connection, RedisTrouble};
use tradebot_wire::envelope::Envelope;
use tradebot_wire::keys;
use tradebot_wire::python_json;
use tradebot_wire::result::{self, TaskState};

/// Stores and announces one result document. The functions are those of the settling script.
const STORE: &str = concat!(
    include_str!("transport/scripts/store_result.lua"),
    "return store(KEYS[1], ARGV[1], ARGV[2])"
);

/// How results are stored.
#[derive(Debug, Clone, Default)]
pub struct ResultOptions {
    /// `global_keyprefix` of the result backend.
    pub key_prefix: String,
    /// `result_expires` in seconds; zero keeps results for ever.
    pub expires_seconds: u64,
    /// `task_track_started`: that a task runs is stored, too.
    pub track_started: bool,
    /// `task_ignore_result`: the default for messages that do not set it.
    pub ignore: bool,
    /// `task_store_errors_even_if_ignored`: with an ignored result, all but the success is stored.
    pub store_errors: bool,
    /// Name of the worker, with which documents are those of `result_extended`.
    pub extended: Option<String>,
}

/// The result backend of one worker.
pub struct Results {
    connection: Connection,
    options: ResultOptions,
    clock: SharedClock,
    store: Script,
    chords: Chords,
    revoke: Script,
}

impl Results {
    /// A backend over `connection`.
    #[must_use]
    pub fn new(connection: Connection, options: ResultOptions, clock: SharedClock) -> Self {
        Self {
            chords: Chords::new(&connection, &options.key_prefix, options.expires_seconds),
            connection,
            options,
            clock,
            store: Script::new(STORE),
            revoke: Script::new(include_str!("results/scripts/revoke.lua")),
        }
    }

    /// The same backend over another connection, for another thread.
    #[must_use]
    pub fn sibling(&self, connection: Connection) -> Self {
        Self::new(connection, self.options.clone(), Arc::clone(&self.clock))
    }

    /// The backend's connection.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The document for a state of a task; `None` when the producer wants no result. As in Celery an ignored
    /// result is ignored for failures too, unless errors are to be stored, and not for a state that the task itself stores.
    #[must_use]
    pub fn document(
        &self,
        message: &Envelope,
        state: &TaskState,
        children: &[Value],
    ) -> Option<StoredResult> {
        let asked_for = matches!(state, TaskState::Custom { .. });
        if !asked_for && message.ignore_result().unwrap_or(self.options.ignore) {
            let is_error = matches!(
                state,
                TaskState::Retry(..) | TaskState::Failure(..) | TaskState::Revoked(_)
            );
            if !(self.options.store_errors && is_error) {
                return None;
            }
        }
        Some(StoredResult {
            key: keys::task_meta(&self.options.key_prefix, message.id()),
            document: result::document(
                message,
                state,
                children,
                self.clock.now(),
                self.options.extended.as_deref(),
            ),
            expires_seconds: self.options.expires_seconds,
        })
    }

    /// The chords of this backend.
    pub(crate) fn chords(&self) -> &Chords {
        &self.chords
    }

    /// The stored documents of these tasks; tasks without one are left out.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn documents(&self, ids: &[String]) -> Result<Vec<Value>, RedisTrouble> {
        let mut mget = redis::cmd("MGET");
        for id in ids {
            mget.arg(keys::task_meta(&self.options.key_prefix, id));
        }
        let stored: Vec<Option<Vec<u8>>> = self.connection.command(&mget).await?;
        let documents = stored.into_iter().flatten();
        Ok(documents
            .filter_map(|text| python_json::from_slice(&text).ok())
            .collect())
    }

    /// The STARTED document of a task; `None` unless its starts are tracked: `tracked`, or else the worker's option.
    #[must_use]
    pub fn started(&self, message: &Envelope, hostname: &str, tracked: Option<bool>) -> Option<StoredResult> {
        if !tracked.unwrap_or(self.options.track_started) {
            return None;
        }
        let state = TaskState::Started {
            pid: std::process::id(),
            hostname: hostname.to_owned(),
        };
        self.document(message, &state, &[])
    }

    /// Stores and announces one document, unless a success is stored already.
    ///
    /// # Errors
    /// [`RedisTrouble`]; storing the same document again is harmless.
    pub async fn store(&self, result: &StoredResult) -> Result<Stored, RedisTrouble> {
        let mut call = self.store.prepare_invoke();
        call.key(result.key.as_str());
        call.arg(result.document.as_str()).arg(result.expires_seconds);
        self.connection.script(None, &call).await.map(Stored::of)
    }

    /// Stores and announces that a task was revoked, unless a worker has started it already.
    ///
    /// # Errors
    /// [`RedisTrouble`]; storing it again is harmless.
    pub async fn store_revoked(&self, id: &str) -> Result<bool, RedisTrouble> {
        let mut call = self.revoke.prepare_invoke();
        call.key(keys::task_meta(&self.options.key_prefix, id));
        call.arg(result::revoked_document(id, self.clock.now()))
            .arg(self.options.expires_seconds);
        self.connection.script(None, &call).await
    }
}
