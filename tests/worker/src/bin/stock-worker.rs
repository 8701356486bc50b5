//! Stock rusty-celery with its own Redis broker: the peer in the benchmark.

#![expect(non_local_definitions, reason = "made by the task macro")]

use celery::error::CeleryError;
use celery::task::TaskResult;

/// Does nothing.
#[celery::task(name = "tests.noop")]
async fn noop() -> TaskResult<()> {
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), CeleryError> {
    #[expect(
        clippy::disallowed_methods,
        reason = "a benchmark peer has no configuration of ours"
    )]
    let url = std::env::var("CELERY_BROKER_URL").unwrap_or_else(|_| "redis://127.0.0.1:6379/0".into());
    let app = celery::CeleryBuilder::new("stock", &url)
        .prefetch_count(10)
        .acks_late(true)
        .build()
        .await?;
    app.register_task::<noop>().await?;
    std::sync::Arc::new(app).consume_from(&["celery"]).await
}
