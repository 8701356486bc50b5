//! `parked`: the messages that were set aside.

use std::io::Write;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use serde_json::json;

use super::{both, read_logs, start_logs};
use tradebot_base::config::{ProcessEnvironment, Reader, RedisConfig};
use tradebot_base::connection::Connection;
use tradebot_core::transport::{Parked, ParkedPages};
use tradebot_wire::keys::Keys;

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
    let list = List { connection, keys };
    match args.verb {
        Verb::List { json } => list.show(json).await,
        Verb::Replay(choice) => list.each_chosen(&choice, Deed::Replay).await,
        Verb::Drop(choice) => list.each_chosen(&choice, Deed::Drop).await,
    }
}

/// The list of parked messages, which can be long: it is never read as a whole.
struct List {
    connection: Connection,
    keys: Keys,
}

#[derive(Clone, Copy)]
enum Deed {
    Replay,
    Drop,
}

impl List {
    async fn show(&self, as_json: bool) -> Result<()> {
        let (mut pages, mut shown) = (ParkedPages::default(), 0);
        while let Some(page) = pages.next(&self.connection, &self.keys).await? {
            for one in &page {
                say(&if as_json { line_of_json(one) } else { line(one) })?;
            }
            shown += page.len();
        }
        if shown == 0 && !as_json {
            say("nothing is parked")?;
        }
        Ok(())
    }

    async fn each_chosen(&self, choice: &Choice, deed: Deed) -> Result<()> {
        if !choice.all {
            for one in self.find(&choice.ids).await? {
                self.deal_with(&one, deed).await?;
            }
            return Ok(());
        }
        let mut pages = ParkedPages::default();
        // What is parked from now on was not meant.
        let mut left = Parked::count(&self.connection, &self.keys).await?;
        let mut kept = 0;
        while left > 0 {
            let Some(page) = pages.next(&self.connection, &self.keys).await? else {
                break;
            };
            for one in page.iter().take(left) {
                if matches!(deed, Deed::Replay) && one.list.is_empty() {
                    kept += 1;
                    continue;
                }
                self.deal_with(one, deed).await?;
                pages.one_is_gone();
            }
            left = left.saturating_sub(page.len().max(1));
        }
        if kept > 0 {
            bail!(
                "{kept} came from no known queue and cannot be replayed; drop them, or publish them by hand"
            );
        }
        Ok(())
    }

    async fn deal_with(&self, one: &Parked, deed: Deed) -> Result<()> {
        let (done, word) = match deed {
            Deed::Replay if one.list.is_empty() => bail!(
                "{} came from no known queue and cannot be replayed; drop it, or publish it by hand",
                one.id
            ),
            Deed::Replay => (one.replay(&self.connection, &self.keys).await?, "replayed"),
            Deed::Drop => (one.discard(&self.connection, &self.keys).await?, "dropped"),
        };
        say(&format!(
            "{} {}",
            one.id,
            if done { word } else { "is gone already" }
        ))
    }

    /// The messages that are meant; every id must fit exactly one.
    async fn find(&self, ids: &[String]) -> Result<Vec<Parked>> {
        let mut found: Vec<Option<Parked>> = ids.iter().map(|_| None).collect();
        let mut pages = ParkedPages::default();
        while let Some(page) = pages.next(&self.connection, &self.keys).await? {
            for one in page {
                for (id, slot) in ids.iter().zip(&mut found) {
                    if !one.id.starts_with(id.as_str()) {
                        continue;
                    }
                    if slot.is_some() {
                        bail!("several parked messages have ids that begin with `{id}`");
                    }
                    *slot = Some(one.clone());
                }
            }
        }
        ids.iter()
            .zip(found)
            .map(|(id, slot)| {
                slot.with_context(|| {
                    format!("no parked message has an id that begins with `{id}`; see `parked list`")
                })
            })
            .collect()
    }
}

fn line(one: &Parked) -> String {
    let bytes = one.bytes().len();
    format!("{}  queue {}  {bytes} bytes  {}", one.id, one.queue, one.reason)
}

fn line_of_json(one: &Parked) -> String {
    json!({"id": one.id, "queue": one.queue, "reason": one.reason, "parked_at": one.parked_at,
        "message": one.message})
    .to_string()
}

fn say(text: &str) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{text}").context("cannot write to standard output")
}
