//! `adopt`: prepares the switch from an existing deployment.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{report, say, start_logs};
use crate::product::doctor::{Adoption, Comparison, VariableUse};
use tradebot_base::clock::SystemClock;
use tradebot_base::config::{ProcessEnvironment, Reader};
use tradebot_base::env_file::EnvFile;
use tradebot_base::market::Market;

/// Prepares the switch from the Python system. Changes nothing.
///
/// Reads its .env file and reports which variables are used and what is unsafe, compares both lists with the exchange's,
/// and prints the steps to switch and to switch back.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: the same as those of `doctor`\n\nExample: tradebot-symbols adopt --env-file .env"
)]
pub(super) struct AdoptCommand {
    /// The Python system's env file, read as docker compose reads it; its values alone are judged
    #[arg(long, value_name = "FILE")]
    env_file: PathBuf,
    /// Queues that the Python workers serve, separated by commas
    #[arg(short = 'Q', long, value_delimiter = ',', default_value = "celery")]
    queues: Vec<String>,
}

/// The interval of progress reports.
const PROGRESS: Duration = Duration::from_secs(1);

pub(super) async fn run(args: AdoptCommand) -> Result<u8> {
    start_logs(Reader::new(&ProcessEnvironment), None)?;
    let file = EnvFile::read(&args.env_file, &ProcessEnvironment)?;
    let adoption = Adoption::read(&file, &args.queues, SystemClock::shared())?;
    let (used, unused): (Vec<&VariableUse>, Vec<&VariableUse>) =
        adoption.uses.iter().partition(|one| one.meaning.is_some());
    say(&format!("Used of {}:", args.env_file.display()))?;
    for one in &used {
        let meaning = one.meaning.as_deref().unwrap_or_default();
        say(&format!("  {} = {}  ({meaning})", one.name, one.value))?;
    }
    say("\nNot used here (the Python system may use them):")?;
    let names: Vec<&str> = unused.iter().map(|one| one.name.as_str()).collect();
    let names = if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    };
    say(&format!("  {names}"))?;

    let (picture, findings) = with_progress("asking the servers of the file", adoption.examine()).await??;
    say(&format!(
        "\nWhat exists:\n{}",
        indented(&report::picture(&picture))
    ))?;
    say(&format!(
        "What is unsafe or wrong:\n{}",
        indented(&report::findings(&findings))
    ))?;

    say(&format!(
        "The lists in {} compared with those that would be written now:",
        adoption.cache()
    ))?;
    let (mut differs, mut contradicts) = (false, false);
    for market in Market::ALL {
        let what = format!("fetching the {market} list from {}", adoption.hosts(market));
        let compared = with_progress(&what, adoption.compare(market, &findings)).await?;
        differs |= !matches!(compared, Comparison::Same { .. });
        contradicts |= matches!(compared, Comparison::OtherNetwork { .. });
        say(&format!("  {market}: {}", comparison(&compared)))?;
    }
    if contradicts {
        say(CONTRADICTION)?;
        return Ok(report::EXIT_CRITICAL);
    }
    say(&steps(
        &args.env_file.display().to_string(),
        &args.queues.join(","),
    ))?;
    let code = report::exit_code(&findings);
    Ok(if differs {
        code.max(report::EXIT_WARNINGS)
    } else {
        code
    })
}

fn comparison(compared: &Comparison) -> String {
    match compared {
        Comparison::Same {
            count,
            same_bytes: true,
        } => format!("{count} symbols, the same byte for byte"),
        Comparison::Same { count, .. } => {
            format!("{count} symbols, the same after parsing; spaces or escapes differ")
        }
        Comparison::OtherNetwork {
            stored,
            resembles,
            chosen,
        } => format!("{stored} symbols of the {resembles} are stored, but the file chooses the {chosen}"),
        Comparison::Nothing => "nothing is stored yet".to_owned(),
        Comparison::Failed { reason } => format!("not compared: {reason}"),
        Comparison::Differs {
            stored,
            ours,
            differences,
        } => {
            let mut text = format!("{stored} symbols are stored, {ours} would be written");
            for one in differences {
                let more = if one.symbols > one.examples.len() {
                    ", …"
                } else {
                    ""
                };
                let examples = one.examples.join(", ");
                text.push_str(&format!("\n    {} {}: {examples}{more}", one.symbols, one.what));
            }
            text
        }
    }
}

const CONTRADICTION: &str = "\nCRITICAL: after the switch readers would get the symbols of another network, and front ends \
    delete watch-list entries that are gone.\n  Set TESTNET_URL to what the Python containers really use (`docker compose config` \
    and `docker compose exec` show it), then run this again. The steps follow once the networks agree.";

/// After each step the system works, and each step can be undone.
fn steps(file: &str, queues: &str) -> String {
    format!(
        "\nTo switch, one step at a time; docs/take-over.md says more about each:\n  \
        1. SPOT_SYMBOLS_CACHE_TTL_SECONDS=900 and FUTURES_SYMBOLS_CACHE_TTL_SECONDS=900 in {file}\n     \
        lists that live for three intervals outlive two refreshes that fail\n  \
        2. tradebot-symbols worker --env-file {file} -Q {queues}\n     \
        beside the Python workers, which keep all other tasks\n  \
        3. tradebot-symbols healthcheck worker --env-file {file}\n     \
        until it reports that the worker answers\n  \
        4. tradebot-beat --env-file {file} -Q {queues}\n     \
        sends the warm-ups from now on. TradeBot's own Celery beat never sends them. If yours does, remove both entries\n     \
        first and restart it; an interval of 0 there sends them a thousand times a second\n  \
        5. ENABLE_SPOT_WARMUP_ON_STARTUP=0 and ENABLE_FUTURES_WARMUP_ON_STARTUP=0 for the Python API\n     \
        its warm-ups at startup are not needed any more\n  \
        6. tradebot-symbols serve --env-file {file} --listen 127.0.0.1:8001\n     \
        if the two routes should be ours too: docker/proxy has the configuration of nginx and Caddy. Port 8000 is the backend's\n  \
        7. -Q symbols for this worker and beat, and on the Python side, where tasks are sent:\n     \
        app.conf.task_routes = {{\"app.core.cache_warmup_tasks.*\": {{\"queue\": \"symbols\"}}}}\n     \
        then no Python worker gets a warm-up, which it would run without a guard\n  \
        8. tradebot-symbols doctor --env-file {file} -Q symbols\n     \
        after two intervals; it must report that nothing is wrong\n\
        \nTo switch back, each step by itself:\n  \
        7. remove the task_routes; -Q {queues} for this worker and beat\n  \
        6. give the two routes back to the backend in the proxy, then stop tradebot-symbols serve (SIGTERM)\n  \
        5. ENABLE_SPOT_WARMUP_ON_STARTUP=1 and ENABLE_FUTURES_WARMUP_ON_STARTUP=1\n  \
        4. put the warm-ups back into the Celery beat's schedule, restart it, and stop tradebot-beat (SIGTERM)\n  \
        2. stop tradebot-symbols worker (SIGTERM); it returns unfinished messages to the queue\n  \
        Leave Redis as it is: keys and messages are the same"
    )
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// Runs `work` and reports progress on standard error every second.
async fn with_progress<T>(what: &str, work: impl Future<Output = T>) -> Result<T> {
    let started = Instant::now();
    let mut work = std::pin::pin!(work);
    loop {
        if let Ok(done) = tokio::time::timeout(PROGRESS, &mut work).await {
            return Ok(done);
        }
        writeln!(std::io::stderr(), "{what}, {} s …", started.elapsed().as_secs())
            .context("cannot write to standard error")?;
    }
}
