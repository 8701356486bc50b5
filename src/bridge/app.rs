//! Builds the crate's app around the engine and runs both until a stop.

use std::any::Any;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use celery::error::CeleryError;
use celery::{Celery, CeleryBuilder};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tracing::{error, info};

use super::broker::KombuBroker;
use super::local_calls::{LocalCalls, LocalErrbacks};
use super::task_set::TaskSet;
use tradebot_base::clock::SharedClock;
use tradebot_core::engine::Engine;

/// How long settlements may take after a cold stop.
const COLD_PATIENCE: Duration = Duration::from_secs(2);

/// Why a worker ended without a stop, or with work left.
#[derive(Debug, Error)]
pub enum BridgeError {
    /// The crate's app cannot be built.
    #[error("cannot build the task app")]
    Build(#[source] CeleryError),
    /// The build needs a loopback port.
    #[error("cannot open a loopback port to build the task app")]
    Loopback(#[source] std::io::Error),
    /// The crate's loop ended without a stop.
    #[error("the task loop ended unexpectedly")]
    Loop(#[source] CeleryError),
    /// The engine's consumer ended.
    #[error("the consumer ended unexpectedly")]
    Consumer,
    /// The heartbeat ended: other workers will restore this worker's messages.
    #[error("the heartbeat ended unexpectedly")]
    Heartbeat,
    /// Some messages were not settled in time.
    #[error("some messages could not be settled before the stop; they are in unacked and will be restored")]
    NotDrained,
}

/// Runs `tasks` on `engine` until a stop, and until every received message is settled or returned. Tasks get `state` from
/// [`state`](super::state).
///
/// # Errors
/// [`BridgeError`]. Restart the process after an unexpected end.
pub(crate) async fn run(
    engine: Arc<Engine>,
    tasks: TaskSet,
    state: Arc<dyn Any + Send + Sync>,
    clock: SharedClock,
) -> Result<(), BridgeError> {
    let (sender, jobs) = mpsc::channel(engine.settings().concurrency);
    let (tasks, worker_state) = (Arc::new(tasks), Arc::clone(&state));
    let broker = KombuBroker {
        engine: Arc::clone(&engine),
        tasks: Arc::clone(&tasks),
        state,
        clock,
        jobs: Mutex::new(Some(jobs)),
    };
    let app = build(&engine.settings().hostname, broker).await?;
    tasks.register_all(&app).await.map_err(BridgeError::Build)?;
    let app = Arc::new(app);
    engine.call_errbacks_with(Arc::new(LocalErrbacks {
        calls: LocalCalls {
            app: Arc::clone(&app),
            tasks,
        },
        state: worker_state,
    }));

    let consumer = tokio::spawn(Arc::clone(&engine).consume(sender));
    let queues = ["engine"];
    let mut crate_loop = std::pin::pin!(app.consume_from(&queues));
    let mut engine_end = std::pin::pin!(async {
        let consumer_end = consumer.await;
        if let Err(panic) = consumer_end {
            error!(error = %panic, "the consumer panicked");
            engine.end_lease(false).await;
            return Err(BridgeError::Consumer);
        }
        let drained = engine.drained(COLD_PATIENCE).await;
        engine.end_lease(drained).await;
        if drained {
            Ok(())
        } else {
            Err(BridgeError::NotDrained)
        }
    });
    let mut heartbeat_end = std::pin::pin!(engine.heartbeat_ended());
    let (mut loop_ended, mut heartbeat_ended) = (false, false);
    loop {
        // A future that has ended must not be polled again.
        tokio::select! {
            ended = &mut crate_loop, if !loop_ended => {
                loop_ended = true;
                match ended {
                    // It also receives the signal, perhaps before us.
                    Ok(()) => engine.stop().stop_warm(),
                    Err(CeleryError::ForcedShutdown) => engine.stop().stop_cold(),
                    Err(reason) => {
                        engine.end_lease(false).await;
                        return Err(BridgeError::Loop(reason));
                    }
                }
            }
            () = &mut heartbeat_end, if !heartbeat_ended => {
                heartbeat_ended = true;
                // During a stop the engine ends it.
                if !engine.stop().is_stopping() {
                    return Err(BridgeError::Heartbeat);
                }
            }
            ended = &mut engine_end => {
                info!("worker stopped");
                return ended;
            }
        }
    }
}

/// The builder insists on connecting to a broker. It gets a socket that accepts and stays silent, as its client does;
/// both are closed before the first message.
async fn build(hostname: &str, broker: KombuBroker) -> Result<Celery, BridgeError> {
    let listener = TcpListener::bind(("127.0.0.1", 0))
        .await
        .map_err(BridgeError::Loopback)?;
    let port = listener.local_addr().map_err(BridgeError::Loopback)?.port();
    let url = format!("redis://127.0.0.1:{port}/0");
    let mut app = CeleryBuilder::new("tradebot-symbols", &url)
        .hostname(hostname)
        .broker_connection_timeout(5)
        .broker_connection_max_retries(1)
        .build()
        .await
        .map_err(BridgeError::Build)?;
    app.task_options.acks_late = Some(true);
    app.broker = Box::new(broker);
    Ok(app)
}
