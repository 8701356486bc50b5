//! Claiming: taking messages of known tasks off shared queues, and recording each in the same step.

use redis::{ScriptInvocation, cmd};

use super::{DeliveryTag, Source, Transport};
use tradebot_base::connection::RedisTrouble;
use tradebot_wire::python_json;

/// How many elements of a list one claim reads; bounds its time on the server.
pub const SCAN_WINDOW: usize = 512;

/// A message taken off its queue and recorded in `unacked`.
#[derive(Debug)]
pub struct Claimed {
    /// What to acknowledge.
    pub tag: DeliveryTag,
    /// Where it came from.
    pub source: Source,
    /// The list element as it was.
    pub raw: Vec<u8>,
}

/// What one claim found.
#[derive(Debug, Default)]
pub struct Claim {
    /// Messages that are now ours.
    pub claimed: Vec<Claimed>,
    /// Messages still in their list, whose task the script could not determine.
    pub unclear: Vec<(Source, Vec<u8>)>,
    /// Foreign tasks whose messages were passed over, with their number.
    pub foreign: Vec<(String, usize)>,
    /// A list continues beyond the window: claim again with a higher offset.
    pub more: bool,
    /// Messages that were seen and left because their `eta` is to come.
    pub later: usize,
}

impl Transport {
    /// Claims up to `want` messages of the tasks in `names`; messages whose text holds one of `left_out` stay, and
    /// with `leave_etas` those whose `eta` is to come.
    ///
    /// Also arms the change notification, before looking: whatever is pushed afterwards ends
    /// [`changed`](Self::changed). Finding nothing therefore means that waiting is safe, once the lists have
    /// been looked through: `offset` skips that many elements at the served end.
    ///
    /// # Errors
    /// [`RedisTrouble`]. When only the answer was lost the messages are in `unacked`, and are restored from
    /// there like those of a worker that died.
    pub async fn claim(
        &self,
        want: usize,
        offset: usize,
        names: &[String],
        left_out: &[String],
        leave_etas: bool,
    ) -> Result<Claim, RedisTrouble> {
        let sources = self.served.sources();
        if sources.is_empty() {
            return Ok(Claim::default());
        }
        let prefix = self.tags.next();
        let mut arm = cmd("EXISTS");
        let mut call = self.claim.prepare_invoke();
        call.key(self.keys.unacked()).key(self.keys.unacked_index());
        for source in sources.iter() {
            arm.arg(&source.list);
            call.key(source.list.as_str());
        }
        call.arg(want)
            .arg(SCAN_WINDOW)
            .arg(offset)
            .arg(self.score())
            .arg(prefix.as_str())
            .arg(u8::from(leave_etas));
        call.arg(names.len());
        for name in names {
            call.arg(name.as_str());
        }
        for source in sources.iter() {
            call.arg(record_suffix(&source.queue));
        }
        for id in left_out {
            call.arg(id.as_str());
        }
        type Unclear = Vec<(usize, Vec<u8>)>;
        type Foreign = Vec<(Vec<u8>, usize)>;
        type ClaimReply = (Vec<usize>, Vec<Vec<u8>>, Unclear, Foreign, bool, usize);
        let (taken, messages, unclear, foreign, more, later): ClaimReply =
            self.connection.script(Some(&arm), &call).await?;
        let by_source = sources.iter().zip(taken);
        let claimed: Vec<Claimed> = by_source
            .flat_map(|(source, taken)| std::iter::repeat_n(source, taken))
            .zip(messages)
            .enumerate()
            .map(|(place, (source, raw))| Claimed {
                tag: DeliveryTag(format!("{prefix}{}", place + 1)),
                source: source.clone(),
                raw,
            })
            .collect();
        self.held().extend(claimed.iter().map(|one| one.tag.clone()));
        Ok(Claim {
            claimed,
            unclear: unclear
                .into_iter()
                .map(|(list, raw)| (sources[list - 1].clone(), raw))
                .collect(),
            // Names of foreign tasks can be any bytes.
            foreign: foreign
                .into_iter()
                .map(|(task, n)| (String::from_utf8_lossy(&task).into_owned(), n))
                .collect(),
            more,
            later,
        })
    }

    /// Whether any of the queues holds a message, of any task. Arms the change notification like a claim.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn has_messages(&self) -> Result<bool, RedisTrouble> {
        let sources = self.served.sources();
        if sources.is_empty() {
            return Ok(false);
        }
        let mut exists = cmd("EXISTS");
        for source in sources.iter() {
            exists.arg(&source.list);
        }
        Ok(self.connection.command::<u64>(&exists).await? > 0)
    }

    /// Claims one message that [`claim`](Self::claim) reported as unclear; `None` if it is gone.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn claim_exact(&self, source: &Source, raw: Vec<u8>) -> Result<Option<Claimed>, RedisTrouble> {
        let tag = DeliveryTag(format!("{}1", self.tags.next()));
        let record = [b"[".as_slice(), &raw, record_suffix(&source.queue).as_bytes()].concat();
        let mut call = self.take_exact(source, &raw);
        call.key(self.keys.unacked()).key(self.keys.unacked_index());
        call.arg(tag.0.as_str()).arg(self.score()).arg(record);
        let taken: bool = self.connection.script(None, &call).await?;
        if taken {
            self.held().insert(tag.clone());
        }
        Ok(taken.then(|| Claimed {
            tag,
            source: source.clone(),
            raw,
        }))
    }

    /// Moves an undecodable message from its list to the parked ones; `false` if it is gone.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn park_unclaimed(
        &self,
        source: &Source,
        raw: &[u8],
        reason: &str,
    ) -> Result<bool, RedisTrouble> {
        let entry = self.parked_entry(source, raw, reason);
        let mut call = self.take_exact(source, raw);
        call.key(self.keys.parked()).arg(entry);
        let moved: bool = self.connection.script(None, &call).await?;
        if moved {
            // A change of our own ends the tracking of the list without a report (NOLOOP): look again.
            self.changed.notify_one();
        }
        Ok(moved)
    }

    fn take_exact(&self, source: &Source, raw: &[u8]) -> ScriptInvocation<'_> {
        let mut call = self.claim_exact.prepare_invoke();
        call.key(source.list.as_str()).arg(raw);
        call
    }
}

/// The end of the triple `[message, exchange, routing_key]` that kombu keeps in `unacked`. The default
/// exchange with the queue's name leads a restored message back to the queue, whatever it was sent through.
fn record_suffix(queue: &str) -> String {
    format!(
        ", \"\", {}]",
        python_json::to_string(queue).expect("text is JSON")
    )
}
