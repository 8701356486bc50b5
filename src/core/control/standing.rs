//! SIGUSR1: the log says where the tasks stand.
//!
//! Celery's workers write the stacks of their threads then. The signal arrives on the thread of remote control, which is
//! free while tasks keep the others busy.

use std::sync::Arc;

use tokio::signal::unix::Signal;
use tracing::info;

use crate::engine::{Engine, Phase};

/// How many tasks are named.
const NAMED: usize = 100;

/// Writes a report at each signal.
pub(super) async fn report_at(mut signal: Signal, engine: Arc<Engine>) {
    while signal.recv().await.is_some() {
        report(&engine);
    }
}

fn report(engine: &Engine) {
    let requests =
        [Phase::Active, Phase::Reserved, Phase::Scheduled].map(|phase| engine.requests().in_phase(phase));
    let [active, reserved, scheduled] = requests.each_ref().map(Vec::len);
    info!(
        signal = "SIGUSR1",
        active, reserved, scheduled, "where the tasks stand"
    );
    #[expect(
        clippy::cast_precision_loss,
        reason = "microseconds since 1970 fit in 53 bits until 2255"
    )]
    let now = engine.clock().now().timestamp_micros() as f64 / 1e6;
    for request in requests.iter().flatten().take(NAMED) {
        let runtime_seconds = request.time_start().map(|start| (now - start).max(0.0));
        let phase = request.phase().name();
        let (name, id) = (request.task().name(), request.id());
        info!(task.name = name, task.id = id, phase, runtime_seconds, "a task");
    }
}
