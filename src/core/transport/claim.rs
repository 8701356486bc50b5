//! Claiming: taking messages of known tasks off shared queues, and recording each in the same step.

use redis::{ScriptInvocation, cmd};

use super::passes::{DEPTH, Look, Passes, Seen};
use super::{DeliveryTag, Source, Transport};
use tradebot_base::connection::RedisTrouble;
use tradebot_wire::python_json;

/// How many elements one claim reads; bounds its time on the server.
const WINDOW: usize = 256;
/// How many elements it reads at each end of a list in any case.
const FEW: usize = 32;

/// What a consumer wants.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'w> {
    /// The most messages to take.
    pub messages: usize,
    /// The tasks to take.
    pub tasks: &'w [String],
    /// Tasks of this worker to take at another time.
    pub not_now: &'w [String],
    /// Messages of these tasks that must be left to others.
    pub left_out: &'w LeftOut,
    /// Leave messages whose `eta` is to come.
    pub leave_etas: bool,
}

/// Messages to be left to others, as the script recognises them.
#[derive(Debug, Clone, Default)]
pub struct LeftOut {
    /// Their delivery tags, as they are written inside the quotes of the JSON text.
    pub tags: Vec<String>,
    /// Texts that occur in messages without one. Each is searched for in each message of ours.
    pub texts: Vec<String>,
}

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

/// A message still in its list, whose task the script could not determine.
#[derive(Debug)]
pub struct Unclear {
    /// Where it is.
    pub source: Source,
    /// The list element.
    pub raw: Vec<u8>,
    /// Where it was seen, for counting it.
    pub region: Region,
}

/// Where a message was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Region {
    /// Where it may have been counted before.
    PassedOver,
    /// Among the elements that were pushed since the last claim.
    Pushed,
    /// In the pass through the list.
    Pass,
}

/// What one claim found.
#[derive(Debug, Default)]
pub struct Claim {
    /// Messages that are now ours.
    pub claimed: Vec<Claimed>,
    /// Messages to look at more closely.
    pub unclear: Vec<Unclear>,
    /// What was seen of each list, for [`Passes::adopt`].
    pub looks: Vec<Look>,
}

impl Transport {
    /// Claims messages, from where something may be new according to `passes`.
    ///
    /// Also arms the change notification, before looking: whatever is pushed afterwards ends
    /// [`changed`](Self::changed). Finding nothing therefore means that waiting is safe, unless
    /// [`Passes::go_on`] says otherwise.
    ///
    /// # Errors
    /// [`RedisTrouble`]. When only the answer was lost the messages are in `unacked`, and are restored from
    /// there like those of a worker that died.
    pub async fn claim(&self, wish: &Wish<'_>, passes: &Passes) -> Result<Claim, RedisTrouble> {
        self.claim_from(&self.served.sources(), wish, passes).await
    }

    /// Claims messages from these lists.
    pub(super) async fn claim_from(
        &self,
        sources: &[Source],
        wish: &Wish<'_>,
        passes: &Passes,
    ) -> Result<Claim, RedisTrouble> {
        if sources.is_empty() {
            return Ok(Claim::default());
        }
        let prefix = self.tags.next();
        let mut arm = cmd("EXISTS");
        let mut call = self.claim.prepare_invoke();
        call.key(self.keys.unacked()).key(self.keys.unacked_index());
        for source in sources {
            arm.arg(&source.list);
            call.key(source.list.as_str());
        }
        call.arg(wish.messages).arg(WINDOW).arg(FEW).arg(DEPTH);
        call.arg(self.score())
            .arg(prefix.as_str())
            .arg(u8::from(wish.leave_etas));
        let LeftOut { tags, texts } = wish.left_out;
        let texts = [wish.tasks, wish.not_now, tags, texts];
        for texts in texts {
            call.arg(texts.len());
        }
        for text in texts.into_iter().flatten() {
            call.arg(text.as_str());
        }
        let mut windowed = Vec::with_capacity(sources.len());
        for source in sources {
            let (seen, due) = (passes.of(&source.list), passes.window_is_due(&source.list));
            windowed.push(due);
            call.arg(record_suffix(&source.queue)).arg(u8::from(due));
            call.arg(seen.length).arg(seen.marker).arg(seen.newer);
            call.arg(seen.place).arg(u8::from(seen.known));
        }
        type Counts = Vec<(Vec<u8>, usize)>;
        type Lists = Vec<(
            i64,
            Option<Vec<u8>>,
            usize,
            usize,
            bool,
            bool,
            bool,
            usize,
            Counts,
            Counts,
        )>;
        type ClaimReply = (Vec<usize>, Vec<Vec<u8>>, Vec<(usize, u8, Vec<u8>)>, Lists);
        let (taken, messages, unclear, lists): ClaimReply = self.connection.script(Some(&arm), &call).await?;
        for (source, taken) in sources.iter().zip(&taken) {
            if *taken > 0 {
                self.served.note_delivery(&self.keys, &source.queue);
            }
        }
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
        let unclear = unclear.into_iter().map(|(list, region, raw)| Unclear {
            source: sources[list - 1].clone(),
            raw,
            region: match region {
                1 => Region::Pushed,
                2 => Region::Pass,
                _ => Region::PassedOver,
            },
        });
        // Names of foreign tasks can be any bytes.
        let named = |counts: Counts| {
            let named = counts.into_iter();
            named
                .map(|(task, n)| (String::from_utf8_lossy(&task).into_owned(), n))
                .collect()
        };
        let looks = sources.iter().zip(lists).zip(windowed);
        let looks = looks.map(|((source, list), windowed)| {
            let (length, marker, newer, place, known, began, ended, left, passed, pushed) = list;
            Look {
                list: source.list.clone(),
                length: usize::try_from(length).ok(),
                began,
                ended,
                passed: named(passed),
                pushed: named(pushed),
                seen: Seen::new(length, marker.unwrap_or_default(), newer, place, known),
                left,
                windowed,
            }
        });
        Ok(Claim {
            claimed,
            unclear: unclear.collect(),
            looks: looks.collect(),
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
            self.served.note_delivery(&self.keys, &source.queue);
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
