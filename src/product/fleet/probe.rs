//! The time that probing any one part may take, and why it failed.

use std::time::Duration;

use serde::Serialize;

use super::ReadLimits;
use tradebot_base::connection::RedisTrouble;
use tradebot_base::error_chain;

/// How long the doctor waits for any one part of the deployment.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

impl ReadLimits {
    /// Limits time alone.
    #[must_use]
    pub const fn patience(patience: Duration) -> Self {
        Self {
            patience,
            members: usize::MAX,
            scan_steps: usize::MAX,
        }
    }
}

/// Why a part could not be read.
#[derive(Debug, Clone, Serialize)]
pub struct ProbeFailure {
    /// The error code that a server's refusal began with, such as `NOAUTH`.
    pub code: Option<String>,
    /// The whole reason, without secrets.
    pub text: String,
}

impl ProbeFailure {
    /// Runs a probe for as long as any may take.
    pub(crate) async fn limit<T>(
        probe: impl Future<Output = Result<T, RedisTrouble>>,
    ) -> Result<T, ProbeFailure> {
        match tokio::time::timeout(PROBE_TIMEOUT, probe).await {
            Ok(answer) => answer.map_err(Self::from),
            Err(_) => Err(Self {
                code: None,
                text: format!("no answer within {} s", PROBE_TIMEOUT.as_secs()),
            }),
        }
    }
}

impl From<RedisTrouble> for ProbeFailure {
    fn from(trouble: RedisTrouble) -> Self {
        let text = error_chain(&trouble);
        let code = match &trouble {
            RedisTrouble::Refused { code, .. } => Some(code.clone()),
            // The Redis client reports a failed login as an error kind, and keeps the code in the text only.
            _ => ["WRONGPASS", "NOAUTH"]
                .into_iter()
                .find(|code| text.contains(code))
                .map(str::to_owned),
        };
        Self { code, text }
    }
}
