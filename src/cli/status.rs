//! `status`: a summary of the lists, queues, workers and beats.

use anyhow::Result;
use serde_json::json;

use super::doctor::ExamineArgs;
use super::report;
use crate::product::doctor::{Finding, Picture};

/// Shows the servers, lists, queues, workers and beats.
///
/// `doctor` reports what is wrong with them. A Celery beat is not visible.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 success, 2 a Redis server does not answer, 1 any other failure,\n  \
    64 invalid command line or configuration\n\nExamples:\n  tradebot-symbols status\n  tradebot-symbols status --watch\n  \
    tradebot-symbols status --json | jq '.lists[].age_seconds'"
)]
pub(super) struct StatusCommand {
    #[command(flatten)]
    examine: ExamineArgs,
}

pub(super) async fn run(args: StatusCommand) -> Result<u8> {
    let text = |picture: &Picture, _: &[Finding]| report::picture(picture);
    let json = |picture: &Picture, _: &[Finding]| json!(picture);
    let last = args.examine.run(&text, &json).await?;
    let is_reachable = last.is_none_or(|(picture, _)| report::is_reachable(&picture));
    Ok(if is_reachable { 0 } else { report::EXIT_WARNINGS })
}
