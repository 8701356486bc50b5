//! Building the crate's app around the engine, and running both until a stop.

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
use super::task_set::TaskSet;
use tradebot_base::clock::SharedClock;
use tradebot_core::engine::Engine;

/// How long settlements may go on once a cold stop was asked for.
const COLD_PATIENCE: Duration = Duration::from_secs(2);

/// Why a worker ended that was not asked to.
#[derive(Debug, Error)]
pub enum BridgeError {
    /// The crate's app could not be put together.
    #[error("the task app could not be built")]
    Build(#[source] CeleryError),
    /// The loopback port that the build needs could not be opened.
    #[error("no loopback port could be opened while building the task app")]
    Loopback(#[source] std::io::Error),
    /// The crate's loop ended by itself.
    #[error("the task loop ended unexpectedly")]
    Loop(#[source] CeleryError),
    /// The engine's consumer is gone.
    #[error("the consumer ended unexpectedly")]
    Consumer,
    /// The heartbeat is gone, and with it the protection of what this worker holds.
    #[error("the heartbeat ended unexpectedly")]
    Heartbeat,
    /// Not everything taken could be settled before the process had to end.
    #[error("some messages could not be settled before the stop; they are in unacked and will be restored")]
    NotDrained,
}

/// Runs `tasks` on `engine` until a stop is asked for and everything taken is settled or handed back.
/// `state` is what tasks find through [`state`](super::state).
///
/// # Errors
/// [`BridgeError`]; after an unexpected end the process should exit and be started again.
pub async fn run(
    engine: Arc<Engine>,
    tasks: TaskSet,
    state: Arc<dyn Any + Send + Sync>,
    clock: SharedClock,
) -> Result<(), BridgeError> {
    let (sender, jobs) = mpsc::channel(engine.settings().concurrency);
    let tasks = Arc::new(tasks);
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
        // Neither branch is polled again once it has ended.
        tokio::select! {
            ended = &mut crate_loop, if !loop_ended => {
                loop_ended = true;
                match ended {
                    // It heard the signal itself, before us perhaps.
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
                // While stopping it is the engine that ends it.
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

/// The builder insists on connecting its own broker first. It is given a socket that accepts and says
/// nothing; the old client sends nothing either, and both are gone before the first message.
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
