//! Many concurrent readers of the symbol lists in one process. Prints the totals as JSON.
//!
//! `test-readers MARKET READERS START_AT_MS`: READERS tasks read the market's list at that Unix time.

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::json;
use tradebot_base::config::ProcessEnvironment;
use tradebot_base::market::Market;
use tradebot_symbols::symbols::{ReadsSettings, SymbolReads};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(summary) => {
            println!("{summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{}", json!({"error": format!("{error:#}")}));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<serde_json::Value> {
    let [market, readers, start_at] = std::env::args()
        .skip(1)
        .collect::<Vec<_>>()
        .try_into()
        .ok()
        .context("MARKET READERS START_AT_MS")?;
    let market = Market::ALL
        .into_iter()
        .find(|known| known.name() == market)
        .context("a market")?;
    let reads = SymbolReads::start(ReadsSettings::read(&ProcessEnvironment)?, "test-readers")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let start_at = Duration::from_millis(start_at.parse()?);
    let late = now.saturating_sub(start_at);
    tokio::time::sleep(start_at.saturating_sub(now)).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..readers.parse::<usize>()? {
        let reads = reads.clone();
        tasks.spawn(async move {
            let began = Instant::now();
            (
                reads.read(market).await.map(|reading| reading.list.count()),
                began.elapsed(),
            )
        });
    }
    let (mut counts, mut errors, mut slowest) = (Vec::new(), Vec::new(), Duration::ZERO);
    for (read, took) in tasks.join_all().await {
        slowest = slowest.max(took);
        match read {
            Ok(count) => counts.push(count),
            Err(error) => errors.push(error.to_string()),
        }
    }
    let read = counts.len();
    counts.sort_unstable();
    counts.dedup();
    errors.dedup();
    reads.stop().await;
    Ok(json!({
        "read": read, "counts": counts, "errors": errors, "slowest_ms": slowest.as_millis(),
        "late_ms": late.as_millis(),
    }))
}
