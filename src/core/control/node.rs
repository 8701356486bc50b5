//! The node of one worker: its name, connection, binding and state file.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use redis::{Pipeline, cmd};
use tracing::{debug, error, info};

use super::ControlSettings;
use super::state_file::{State, StateFile};
use crate::engine::Engine;
use crate::events::LamportClock;
use crate::results::Results;
use crate::transport::Transport;
use tradebot_base::clock::SharedClock;
use tradebot_base::connection::{Connection, RedisTrouble};
use tradebot_base::error_chain;
use tradebot_wire::keys::{self, Keys, PRIORITY_STEPS};
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
    channel: String,
    /// The clock of the mailbox, which is another one than the worker's.
    mailbox: LamportClock,
    state_file: Option<StateFile>,
    /// The version of the revocations that is in the state file.
    saved: AtomicU64,
}

impl Node {
    /// A node that has read its state file.
    pub(super) fn new(
        engine: Arc<Engine>,
        settings: ControlSettings,
        connection: Connection,
        channel: String,
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
            channel,
            mailbox: LamportClock::default(),
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

    pub(super) fn channel(&self) -> &str {
        &self.channel
    }

    pub(super) fn mailbox(&self) -> &LamportClock {
        &self.mailbox
    }

    /// Keeps this node among the bound ones.
    pub(super) async fn bind(&self) -> Result<(), RedisTrouble> {
        self.declare(pidbox::EXCHANGE, &keys::binding_member("", "", &self.queue()))
            .await
    }

    /// Finds out whether the connection is still there.
    pub(super) async fn ping(&self) -> Result<(), RedisTrouble> {
        self.connection().command(&cmd("PING")).await
    }

    /// Binds a queue that goes with its owner, as kombu 5.7 does: should the owner die, others sweep it out.
    pub(super) async fn declare(&self, exchange: &str, member: &str) -> Result<(), RedisTrouble> {
        let binding = self.keys().binding(exchange, false);
        let (seconds, micros): (u64, u64) = {
            let mut pipeline = Pipeline::new();
            pipeline.cmd("SADD").arg(binding).arg(member).ignore().cmd("TIME");
            let (time,): ((u64, u64),) = self.connection().pipeline(&pipeline).await?;
            time
        };
        let deadline = seconds * 1000 + micros / 1000 + BINDING_TTL_MS;
        let renewed: Result<(), RedisTrouble> = self
            .connection()
            .command(
                cmd("ZADD")
                    .arg(self.keys().binding_deadlines())
                    .arg("GT")
                    .arg(deadline)
                    .arg(exchange),
            )
            .await;
        match renewed {
            // Before Redis 6.2 there is no `GT`, and no node removes old bindings.
            Err(trouble @ RedisTrouble::Refused { .. }) => {
                debug!(error = %error_chain(&trouble), "no deadline");
                Ok(())
            }
            other => other,
        }
    }

    /// Releases a binding and deletes the queue's lists.
    pub(super) async fn release(
        &self,
        exchange: &str,
        member: &str,
        queue: &str,
    ) -> Result<(), RedisTrouble> {
        let mut pipeline = Pipeline::new();
        for permanent in [false, true] {
            let binding = self.keys().binding(exchange, permanent);
            pipeline.cmd("SREM").arg(binding).arg(member).ignore();
        }
        pipeline.cmd("DEL");
        for step in PRIORITY_STEPS {
            pipeline.arg(self.keys().list(queue, step));
        }
        pipeline.ignore();
        self.connection().pipeline(&pipeline).await
    }

    /// Saves the state file and removes this node's binding.
    pub(super) async fn leave(&self) {
        self.save(true);
        let queue = self.queue();
        let member = keys::binding_member("", "", &queue);
        let released = self.release(pidbox::EXCHANGE, &member, &queue).await;
        if let Err(trouble) = released {
            debug!(error = %error_chain(&trouble), "the binding of remote control stays");
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
        let state = State::new(self.engine.lamport().value(), revoked);
        if let Err(reason) = file.write(&state) {
            error!(%reason, "cannot save the revoked ids");
            self.saved.store(u64::MAX, Ordering::Relaxed);
        }
    }

    fn queue(&self) -> String {
        format!("{}.{}", self.name(), pidbox::EXCHANGE)
    }
}
