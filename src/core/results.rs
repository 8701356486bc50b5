//! The result backend: where outcomes are stored and announced.
//!
//! With results in the broker's own database an outcome is stored by the same script that acknowledges the
//! message. A backend elsewhere is written first and the message acknowledged after.

use redis::Script;
use serde_json::Value;

use crate::core::clock::SharedClock;
use crate::core::transport::{Connection, RedisTrouble, ScriptCall, StoredResult};
use crate::core::wire::envelope::Envelope;
use crate::core::wire::keys;
use crate::core::wire::result::{self, State};

/// How results are stored.
#[derive(Debug, Clone, Default)]
pub struct ResultOptions {
    /// `global_keyprefix` of the result backend.
    pub key_prefix: String,
    /// `result_expires` in seconds; zero keeps results for ever.
    pub expires_seconds: u64,
}

/// The result backend of one worker.
pub struct Results {
    connection: Connection,
    options: ResultOptions,
    clock: SharedClock,
    store: Script,
}

impl Results {
    /// A backend over `connection`.
    #[must_use]
    pub fn new(connection: Connection, options: ResultOptions, clock: SharedClock) -> Self {
        let store = Script::new(include_str!("transport/scripts/settle.lua"));
        Self {
            connection,
            options,
            clock,
            store,
        }
    }

    /// The backend's connection.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The document for a state of a task; `None` when the producer wants no result. As in Celery an ignored
    /// result is ignored for failures too.
    #[must_use]
    pub fn document(&self, message: &Envelope, state: &State, children: &[Value]) -> Option<StoredResult> {
        if message.ignore_result() == Some(true) {
            return None;
        }
        Some(StoredResult {
            key: keys::task_meta(&self.options.key_prefix, message.id()),
            document: result::document(message, state, children, self.clock.now()),
            expires_seconds: self.options.expires_seconds,
        })
    }

    /// Stores and announces one document, unless a success is stored already.
    ///
    /// # Errors
    /// [`RedisTrouble`]; storing the same document again is harmless.
    pub async fn store(&self, result: &StoredResult) -> Result<(), RedisTrouble> {
        // The settling script without a delivery: only the result part acts.
        let mut call = ScriptCall::default();
        call.key("unacked").key("unacked_index").key(result.key.as_str());
        call.arg("")
            .arg(result.document.as_str())
            .number(result.expires_seconds)
            .number(0);
        let _: (i64, i64) = self.connection.script(None, &self.store, &call).await?;
        Ok(())
    }
}
