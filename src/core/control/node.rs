//! The node of one worker: its name, connection, binding and state file.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use redis::cmd;
use tracing::{debug, error, info};

use super::ControlSettings;
use super::inquiry::release;
use super::state_file::{SavedState, StateFile};
use crate::engine::Engine;
use crate::events::LamportClock;
use crate::results::Results;
use crate::transport::{Transport, bind};
use tradebot_base::clock::SharedClock;
use tradebot_base::connection::{Connection, RedisTrouble};
use tradebot_base::error_chain;
use tradebot_wire::keys::Keys;
use tradebot_wire::pidbox;

/// For how long kombu 5.7 keeps a binding that is not renewed.
const BINDING_TTL_MS: u64 = 60 * 60 * 1000;

/// This worker as remote control sees it.
pub(super) struct Node {
    engine: Arc<Engine>,
    pub(super) settings: ControlSettings,
    pub(super) transport: Transport,
    pub(super) results: Results,
    pub(super) started: Instant,
    /// The clock of the mailbox, separate from the worker's.
    mailbox: LamportClock,
    state_file: Option<StateFile>,
    /// It is asking the other workers. It answers itself meanwhile.
    pub(super) mingling: AtomicBool,
    /// The version of the revocations that is in the state file.
    saved: AtomicU64,
}

impl Node {
    /// Reads the state file.
    pub(super) fn new(
        engine: Arc<Engine>,
        settings: ControlSettings,
        connection: Connection,
        results: Results,
    ) -> io::Result<Self> {
        let state_file = settings.state_file.as_deref().map(StateFile::new);
        if let Some(file) = &state_file {
            let state = file.read()?;
            engine.lamport().adjust(state.clock);
            engine
                .revocations()
                .restore(state.revoked(), engine.clock().now());
            info!(revoked = state.revoked.len(), "state file read");
        }
        Ok(Self {
            saved: AtomicU64::new(engine.revocations().version()),
            transport: engine.transport().sibling(connection),
            engine,
            settings,
            results,
            started: Instant::now(),
            mailbox: LamportClock::default(),
            mingling: AtomicBool::new(false),
            state_file,
        })
    }

    pub(super) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    pub(super) fn name(&self) -> &str {
        &self.engine.settings().hostname
    }

    pub(super) fn clock(&self) -> &SharedClock {
        self.engine.clock()
    }

    pub(super) fn keys(&self) -> &Keys {
        self.transport.keys()
    }

    pub(super) fn connection(&self) -> &Connection {
        self.transport.connection()
    }

    pub(super) fn mailbox(&self) -> &LamportClock {
        &self.mailbox
    }

    /// Ids of the revoked tasks, oldest first.
    pub(super) fn revoked_ids(&self) -> Vec<String> {
        let revoked = self.engine.revocations().ids(self.clock().now());
        revoked.into_iter().map(|(id, _)| id).collect()
    }

    /// Binds this node's queue, or renews the binding.
    pub(super) async fn bind(&self) -> Result<(), RedisTrouble> {
        let member = self.keys().binding_member("", "", &self.queue());
        bind(
            self.connection(),
            self.keys(),
            pidbox::EXCHANGE,
            &[false],
            &member,
        )
        .await?;
        self.extend_deadline(pidbox::EXCHANGE).await
    }

    /// Checks that the connection still works.
    pub(super) async fn ping(&self) -> Result<(), RedisTrouble> {
        self.connection().command(&cmd("PING")).await
    }

    /// Extends the time for which kombu 5.7 keeps an exchange's bindings. After it, other nodes remove them.
    pub(super) async fn extend_deadline(&self, exchange: &str) -> Result<(), RedisTrouble> {
        let (seconds, micros): (u64, u64) = self.connection().command(&cmd("TIME")).await?;
        let deadline = seconds * 1000 + micros / 1000 + BINDING_TTL_MS;
        let mut extend = cmd("ZADD");
        extend.arg(self.keys().binding_deadlines());
        extend.arg("GT").arg(deadline).arg(exchange);
        match self.connection().command(&extend).await {
            // Before Redis 6.2 there is no `GT`, and no node removes old bindings.
            Err(trouble @ RedisTrouble::Refused { .. }) => {
                debug!(error = %error_chain(&trouble), "the server keeps no deadlines of bindings");
                Ok(())
            }
            other => other,
        }
    }

    /// Saves the state file and removes this node's binding.
    pub(super) async fn leave(&self) {
        self.save(true);
        let queue = self.queue();
        let member = self.keys().binding_member("", "", &queue);
        let released = release(self.connection(), self.keys(), pidbox::EXCHANGE, &member, &queue).await;
        if let Err(trouble) = released {
            debug!(error = %error_chain(&trouble), "cannot remove the binding of remote control");
        }
    }

    /// Writes the state file if it is out of date, or `always`.
    pub(super) fn save(&self, always: bool) {
        let Some(file) = &self.state_file else {
            return;
        };
        let version = self.engine.revocations().version();
        if self.saved.swap(version, Ordering::Relaxed) == version && !always {
            return;
        }
        let revoked = self.engine.revocations().ids(self.clock().now());
        let state = SavedState::new(self.engine.lamport().value(), revoked);
        if let Err(reason) = file.write(&state) {
            error!(%reason, "cannot save the revoked ids");
            self.saved.store(u64::MAX, Ordering::Relaxed);
        }
    }

    fn queue(&self) -> String {
        format!("{}.{}", self.name(), pidbox::EXCHANGE)
    }
}
