//! A child process of the supervisor.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tracing::{debug, warn};

use crate::cli::tethered;

/// One child; killed when dropped.
pub(super) struct Child {
    name: &'static str,
    process: tokio::process::Child,
}

impl Child {
    /// Starts `program` with this process's environment plus `environment`.
    pub(super) fn start(
        name: &'static str,
        program: &Path,
        args: &[String],
        environment: &[(String, String)],
    ) -> Result<Self> {
        let process = tethered::command(program)?
            .args(args)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            // systemd expects messages from this process alone.
            .env_remove("NOTIFY_SOCKET")
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        debug!(child = name, pid = process.id(), "child started");
        Ok(Self { name, process })
    }

    /// Sends SIGTERM to the child, and kills it after `patience`.
    pub(super) async fn stop(&mut self, patience: Duration) {
        let pid = self.process.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid
            && let Err(error) = kill(Pid::from_raw(pid), Signal::SIGTERM)
        {
            debug!(child = self.name, %error, "child cannot be signalled, it has ended");
        }
        match tokio::time::timeout(patience, self.process.wait()).await {
            Ok(Ok(status)) => debug!(child = self.name, %status, "child ended"),
            Ok(Err(error)) => warn!(child = self.name, %error, "cannot wait for the child"),
            Err(_) => {
                warn!(child = self.name, "child does not end, killing it");
                if let Err(error) = self.process.kill().await {
                    warn!(child = self.name, %error, "child cannot be killed");
                }
            }
        }
    }
}

/// Waits until one of the children ends; returns which one and how. Cancel-safe.
pub(super) async fn first_end(children: &mut [Child]) -> String {
    let waits = children.iter_mut().map(|child| {
        Box::pin(async {
            match child.process.wait().await {
                Ok(status) => format!("the {} ended unexpectedly ({status})", child.name),
                Err(error) => format!("cannot wait for the {} ({error})", child.name),
            }
        })
    });
    futures_util::future::select_all(waits).await.0
}
