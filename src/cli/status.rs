//! `status`: the short picture of lists, queues, workers and beats.

use anyhow::Result;
use serde_json::json;

use super::doctor::LookArgs;
use super::report;
use crate::product::doctor::{Finding, Picture};

/// Shows the lists, the queues, the workers and the beats.
///
/// Judges nothing: see `doctor` for that. A Celery beat cannot be seen.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tradebot-symbols status\n  tradebot-symbols status --watch\n  \
    tradebot-symbols status --json | jq '.lists[].age_seconds'"
)]
pub(super) struct Args {
    #[command(flatten)]
    look: LookArgs,
}

pub(super) async fn run(args: Args) -> Result<u8> {
    let text = |picture: &Picture, _: &[Finding]| report::picture(picture);
    let json = |picture: &Picture, _: &[Finding]| json!(picture);
    args.look.run(&text, &json, false).await
}
