//! A `redis-server` for one run: on a free local port, in a temporary directory, without persistence.

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tokio::process::Child;
use tracing::{info, warn};

use crate::cli::tethered;
use tradebot_base::connection::Connection;
use tradebot_base::secret::RedisUrl;

/// How long the server may take to answer.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// The server; killed when dropped.
pub(super) struct PrivateRedis {
    process: Child,
    port: u16,
    _directory: TempDir,
}

impl PrivateRedis {
    /// Starts the server and waits until it answers.
    pub(super) async fn start() -> Result<Self> {
        let directory =
            tempfile::tempdir().context("cannot create a temporary directory for redis-server")?;
        let port = free_port()?;
        let process = tethered::command(Path::new("redis-server"))?
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--port", &port.to_string()])
            .arg("--dir")
            .arg(directory.path())
            .stdout(Stdio::null())
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start redis-server")?;
        let mut redis = Self {
            process,
            port,
            _directory: directory,
        };
        redis.until_it_answers().await?;
        info!(
            url = redis.url(),
            "private redis-server started; its data is lost after this run"
        );
        Ok(redis)
    }

    /// Its URL.
    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Variables that point the children to it.
    pub(super) fn environment(&self) -> Vec<(String, String)> {
        ["REDIS_URL", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"]
            .into_iter()
            .map(|name| (name.to_owned(), self.url()))
            .collect()
    }

    /// Stops the server.
    pub(super) async fn stop(mut self) {
        if let Err(error) = self.process.kill().await {
            warn!(%error, "the private redis-server cannot be killed");
        }
    }

    async fn until_it_answers(&mut self) -> Result<()> {
        let connection = Connection::new(&RedisUrl::new(self.url()), "up-probe")?;
        let started = Instant::now();
        while started.elapsed() < START_PATIENCE {
            if let Some(status) = self.process.try_wait()? {
                bail!(
                    "redis-server ended right after its start ({status}); install it with `apt-get install redis-server`"
                );
            }
            if connection.command::<String>(&redis::cmd("PING")).await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!(
            "redis-server does not answer on port {} within {} s",
            self.port,
            START_PATIENCE.as_secs()
        )
    }
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("cannot find a free local port")?;
    Ok(listener
        .local_addr()
        .context("cannot find a free local port")?
        .port())
}
