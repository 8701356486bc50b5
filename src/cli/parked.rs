//! `parked`: the messages that were set aside.

use std::io::Write;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use serde_json::json;

use super::{both, read_logs, start_logs};
use crate::config::{ProcessEnvironment, Reader, RedisConfig};
use crate::core::transport::{Connection, Parked};
use crate::core::wire::keys::Keys;

/// Lists, replays or drops messages that were set aside.
///
/// A message is parked when nobody can read it, or after three workers died while they ran it, the last of them while
/// it ran nothing else.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tradebot-symbols parked list\n  tradebot-symbols parked replay 5f0c\n  \
    tradebot-symbols parked drop --all"
)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Shows them, the oldest first
    List {
        /// One JSON object a line, messages included
        #[arg(long)]
        json: bool,
    },
    /// Puts them back to the end of the queue they came from
    Replay(Choice),
    /// Deletes them for good
    Drop(Choice),
}

#[derive(Debug, clap::Args)]
struct Choice {
    /// Ids, or beginnings of ids that fit only one
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<String>,
    /// Every parked message
    #[arg(long)]
    all: bool,
}

pub(super) async fn run(args: Args) -> Result<()> {
    let mut reader = Reader::new(&ProcessEnvironment);
    let redis = RedisConfig::read(&mut reader);
    let ((), logs) = both(reader.finish(), read_logs(None))?;
    start_logs(&logs)?;
    let connection = Connection::new(&redis.broker, "parked")?;
    let keys = Keys::with_prefix(&redis.key_prefix);
    let parked = Parked::all(&connection, &keys).await?;
    match args.verb {
        Verb::List { json } => list(&parked, json),
        Verb::Replay(choice) => {
            for one in chosen(&parked, &choice)? {
                if one.list.is_empty() {
                    bail!(
                        "{} came from no known queue and cannot be replayed; drop it, or publish it by hand",
                        one.id
                    );
                }
                let done = one.replay(&connection, &keys).await?;
                say(&format!(
                    "{} {}",
                    one.id,
                    if done { "replayed" } else { "is gone already" }
                ))?;
            }
            Ok(())
        }
        Verb::Drop(choice) => {
            for one in chosen(&parked, &choice)? {
                let done = one.discard(&connection, &keys).await?;
                say(&format!(
                    "{} {}",
                    one.id,
                    if done { "dropped" } else { "is gone already" }
                ))?;
            }
            Ok(())
        }
    }
}

fn list(parked: &[Parked], as_json: bool) -> Result<()> {
    for one in parked {
        if as_json {
            say(
                &json!({"id": one.id, "queue": one.queue, "reason": one.reason, "parked_at": one.parked_at,
                "message": one.message})
                .to_string(),
            )?;
        } else {
            let bytes = one.bytes().len();
            say(&format!(
                "{}  queue {}  {bytes} bytes  {}",
                one.id, one.queue, one.reason
            ))?;
        }
    }
    if parked.is_empty() && !as_json {
        say("nothing is parked")?;
    }
    Ok(())
}

/// The messages a choice names; every id must fit exactly one.
fn chosen<'p>(parked: &'p [Parked], choice: &Choice) -> Result<Vec<&'p Parked>> {
    if choice.all {
        return Ok(parked.iter().collect());
    }
    choice
        .ids
        .iter()
        .map(|id| {
            let mut fitting = parked.iter().filter(|one| one.id.starts_with(id.as_str()));
            match (fitting.next(), fitting.next()) {
                (Some(one), None) => Ok(one),
                (None, _) => bail!("no parked message has an id that begins with `{id}`; see `parked list`"),
                (Some(_), Some(_)) => bail!("several parked messages have ids that begin with `{id}`"),
            }
        })
        .collect()
}

fn say(text: &str) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{text}").context("cannot write to standard output")
}
