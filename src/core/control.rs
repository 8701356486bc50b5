//! Remote control: the commands of `celery inspect`, `celery control` and Flower, and mingle.
//!
//! Requests arrive on the channel of kombu's pidbox, and replies go to lists that the clients read. A separate thread and
//! connection let a worker reply while all its tasks are busy, without disturbing them. Without Redis there is no remote
//! control, and the worker runs on.

mod arguments;
mod commands;
mod destination;
mod inquiry;
mod inspect;
mod mingle;
mod node;
mod revoke;
mod serve;
mod standing;
mod state_file;
mod stats;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::engine::Engine;
use crate::results::Results;
use tradebot_base::backoff::Reconnect;
use tradebot_base::connection::{Connection, RedisTrouble};
use tradebot_base::error_chain;
use tradebot_base::lifecycle::sleep_unless_stopping;
use tradebot_base::secret::RedisUrl;
use tradebot_wire::keys::Keys;
use tradebot_wire::pidbox;

pub use inquiry::{Inquiry, Replies};
use node::Node;
pub use stats::BrokerInfo;

/// How many requests may wait; further ones are dropped.
const INBOX: usize = 1_000;
/// How often an idle connection is checked; kombu's `health_check_interval`.
const KEEP_ALIVE: Duration = Duration::from_secs(25);
/// How often the deadline of the binding is extended by an hour.
const RENEWAL: Duration = Duration::from_secs(20 * 60);
/// The longest pause between two attempts once there were many.
const LONG_PAUSE: Duration = Duration::from_secs(10);
/// For how long the first mingle may hold up the start.
const SYNC_PATIENCE: Duration = Duration::from_secs(2);
/// For how long removing the binding may hold up a stop.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// Settings of remote control.
#[derive(Debug, Clone, Default)]
pub struct ControlSettings {
    /// What `inspect conf` shows.
    pub conf: Map<String, Value>,
    /// What `inspect stats` shows of the broker.
    pub broker: BrokerInfo,
    /// Where revoked ids outlive the process (`--statedb`).
    pub state_file: Option<PathBuf>,
    /// Whether to ask the other workers for their revoked ids at the start (`--without-mingle`).
    pub mingle: bool,
}

/// The running remote control of one worker.
pub struct Control {
    synced: CancellationToken,
    ended: CancellationToken,
}

impl Control {
    /// Starts it over a new connection to `broker`; `results` must have a separate connection too.
    ///
    /// # Errors
    /// When the URL is invalid ([`RedisTrouble::Url`], as an I/O error), the state file cannot be read, or no thread can be
    /// started.
    pub fn start(
        engine: Arc<Engine>,
        settings: ControlSettings,
        broker: &RedisUrl,
        keys: &Keys,
        results: Results,
    ) -> io::Result<Self> {
        let (inbox, requests) = mpsc::channel(INBOX);
        let lost = Arc::new(Notify::new());
        let name = format!("{}-control", engine.settings().hostname);
        let database = engine.transport().connection().database();
        let channel = keys.channel(database, pidbox::EXCHANGE);
        let connection = Connection::with_channel(broker, &name, channel, inbox, Arc::clone(&lost))
            .map_err(io::Error::other)?;
        let node = Node::new(engine, settings, connection, results)?;
        let (synced, ended) = (CancellationToken::new(), CancellationToken::new());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let standing = {
            let _runtime = runtime.enter();
            signal(SignalKind::user_defined1())?
        };
        let service = Service {
            node: Arc::new(node),
            standing: Some(standing),
            requests,
            lost,
            synced: synced.clone(),
        };
        // Both trip when the thread ends, by a panic too.
        let at_end = (synced.clone().drop_guard(), ended.clone().drop_guard());
        std::thread::Builder::new()
            .name("control".into())
            .spawn(move || {
                let _at_end = at_end;
                runtime.block_on(service.run());
            })?;
        Ok(Self { synced, ended })
    }

    /// Waits until the other workers have sent their revoked ids: two seconds at most.
    pub async fn synced(&self) {
        // After a timeout a revoked task may still run.
        let _ = tokio::time::timeout(SYNC_PATIENCE, self.synced.cancelled()).await;
    }

    /// Waits until it has removed its binding, once the worker stops: two seconds at most.
    pub async fn ended(&self) {
        // A timeout does no harm: the binding then names a node that does not reply.
        let _ = tokio::time::timeout(END_PATIENCE, self.ended.cancelled()).await;
    }
}

/// What runs on the thread.
struct Service {
    node: Arc<Node>,
    /// SIGUSR1.
    standing: Option<Signal>,
    requests: mpsc::Receiver<Vec<u8>>,
    lost: Arc<Notify>,
    synced: CancellationToken,
}

/// Why a session ended.
enum SessionEnd {
    Stop,
    Lost,
}

impl Service {
    async fn run(mut self) {
        if let Some(signal) = self.standing.take() {
            tokio::spawn(standing::report_at(signal, Arc::clone(self.node.engine())));
        }
        let mut waits = Reconnect::new(self.node.engine().random().fork());
        let stop = self.node.engine().stop().clone();
        while !stop.is_stopping() {
            match self.session(&mut waits).await {
                Ok(SessionEnd::Stop) => break,
                Ok(SessionEnd::Lost) => debug!("remote control lost its connection"),
                Err(trouble) => {
                    self.synced.cancel();
                    let delay = waits.next_delay();
                    if waits.attempt() == 1 {
                        warn!(error = %error_chain(&trouble), "no remote control until the broker is back");
                    } else {
                        debug!(error = %error_chain(&trouble), "still no remote control");
                    }
                    let pause = if waits.attempt() > 30 { LONG_PAUSE } else { delay };
                    sleep_unless_stopping(&stop, pause).await;
                }
            }
        }
        self.node.leave().await;
    }

    /// Serves requests over one connection.
    async fn session(&mut self, waits: &mut Reconnect) -> Result<SessionEnd, RedisTrouble> {
        // Opening the connection subscribes to the channel.
        self.node.bind().await?;
        info!("remote control ready");
        waits.reset();
        let (node, synced) = (Arc::clone(&self.node), self.synced.clone());
        tokio::spawn(async move {
            node.mingle().await;
            synced.cancel();
        });
        let stop = self.node.engine().stop().clone();
        let mut bound = Instant::now();
        loop {
            // All branches are cancel-safe.
            tokio::select! {
                biased;
                () = stop.warm() => return Ok(SessionEnd::Stop),
                () = self.lost.notified() => return Ok(SessionEnd::Lost),
                request = self.requests.recv() => match request {
                    Some(raw) => self.node.serve(&raw).await,
                    None => return Ok(SessionEnd::Stop),
                },
                () = tokio::time::sleep(KEEP_ALIVE) => {
                    if bound.elapsed() >= RENEWAL {
                        self.node.bind().await?;
                        bound = Instant::now();
                    } else {
                        self.node.ping().await?;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn remote_control_that_hangs_holds_up_start_and_stop_for_two_seconds_each() {
        let control = Control {
            synced: CancellationToken::new(),
            ended: CancellationToken::new(),
        };
        let began = tokio::time::Instant::now();
        control.synced().await;
        assert_eq!(began.elapsed().as_secs(), 2);
        control.ended().await;
        assert_eq!(began.elapsed().as_secs(), 4);
    }
}
