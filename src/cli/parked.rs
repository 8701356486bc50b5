//! `parked`: messages that workers have set aside.

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use serde_json::json;

use super::{say, start_logs};
use tradebot_base::config::{ProcessEnvironment, Reader, RedisConfig};
use tradebot_base::connection::Connection;
use tradebot_core::transport::{Parked, ParkedPages};
use tradebot_wire::keys::Keys;

/// Lists, replays or drops parked messages.
///
/// A worker parks a message of one of its tasks that it cannot run, and a message that has killed three workers, the last
/// of which ran nothing else. Their tasks have failed; a replay stores a new result.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tradebot-symbols parked list\n  tradebot-symbols parked replay 5f0c\n  \
    tradebot-symbols parked drop --all"
)]
pub(super) struct ParkedCommand {
    #[command(subcommand)]
    verb: ParkedVerb,
}

#[derive(Debug, Subcommand)]
enum ParkedVerb {
    /// Lists the parked messages, oldest first
    List {
        /// Print one JSON object per line, with the whole message
        #[arg(long)]
        json: bool,
    },
    /// Returns messages to the end of their queue
    Replay(Choice),
    /// Deletes messages for good
    Drop(Choice),
}

#[derive(Debug, clap::Args)]
struct Choice {
    /// Ids, or unique prefixes of ids
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<String>,
    /// Every parked message
    #[arg(long)]
    all: bool,
}

pub(super) async fn run(args: ParkedCommand) -> Result<()> {
    let mut reader = Reader::new(&ProcessEnvironment);
    let redis = RedisConfig::read(&mut reader);
    start_logs(reader, None)?;
    let list = ParkedList {
        connection: Connection::new(&redis.broker, "parked")?,
        keys: Keys::new(&redis.key_prefix, &redis.sep, &redis.priority_steps),
    };
    match args.verb {
        ParkedVerb::List { json } => list.show(json).await,
        ParkedVerb::Replay(choice) => list.apply(&choice, Action::Replay).await,
        ParkedVerb::Drop(choice) => list.apply(&choice, Action::Drop).await,
    }
}

/// The list of parked messages, read in pages because it can be long.
struct ParkedList {
    connection: Connection,
    keys: Keys,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Replay,
    Drop,
}

impl ParkedList {
    async fn show(&self, as_json: bool) -> Result<()> {
        let (mut pages, mut shown) = (ParkedPages::default(), 0);
        while let Some(page) = pages.next(&self.connection, &self.keys).await? {
            for one in &page {
                say(&if as_json { json_line(one) } else { line(one) })?;
            }
            shown += page.len();
        }
        if shown == 0 && !as_json {
            say("nothing is parked")?;
        }
        Ok(())
    }

    async fn apply(&self, choice: &Choice, action: Action) -> Result<()> {
        if choice.all {
            return self.apply_to_all(action).await;
        }
        for one in self.find(&choice.ids).await? {
            if action == Action::Replay && one.list.is_empty() {
                bail!(
                    "{} came from no known queue and cannot be replayed; drop it, or publish it by hand",
                    one.id
                );
            }
            self.apply_to(&one, action).await?;
        }
        Ok(())
    }

    /// Ignores messages parked from now on.
    async fn apply_to_all(&self, action: Action) -> Result<()> {
        let mut pages = ParkedPages::default();
        let mut left = Parked::count(&self.connection, &self.keys).await?;
        let mut kept = 0;
        while left > 0 {
            let Some(page) = pages.next(&self.connection, &self.keys).await? else {
                break;
            };
            for one in page.iter().take(left) {
                if action == Action::Replay && one.list.is_empty() {
                    kept += 1;
                    continue;
                }
                self.apply_to(one, action).await?;
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

    async fn apply_to(&self, one: &Parked, action: Action) -> Result<()> {
        let (done, word) = match action {
            Action::Replay => (one.replay(&self.connection, &self.keys).await?, "replayed"),
            Action::Drop => (one.discard(&self.connection, &self.keys).await?, "dropped"),
        };
        let outcome = if done { word } else { "is already gone" };
        say(&format!("{} {outcome}", one.id))
    }

    /// The messages with these ids; each id must match exactly one.
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
                        bail!("several parked messages have ids that begin with `{id}`; give more of the id");
                    }
                    *slot = Some(one.clone());
                }
            }
        }
        let missing = |id| format!("no parked message has an id that begins with `{id}`; see `parked list`");
        let found = ids.iter().zip(found);
        found
            .map(|(id, slot)| slot.with_context(|| missing(id)))
            .collect()
    }
}

fn line(one: &Parked) -> String {
    let bytes = one.bytes().len();
    format!("{}  queue {}  {bytes} bytes  {}", one.id, one.queue, one.reason)
}

fn json_line(one: &Parked) -> String {
    json!({"id": one.id, "queue": one.queue, "reason": one.reason, "parked_at": one.parked_at,
        "message": one.message})
    .to_string()
}
