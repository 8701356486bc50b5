//! Chords in the result backend: counting the results of a header, and ending the chord once.
//!
//! If results are in the broker's database, one script removes the header's parts and publishes the body, so the body is
//! published once even if workers die. Otherwise the order is: count, publish with the acknowledgement, remove.

use std::time::Duration;

use redis::Script;
use serde_json::{Value, json};

use crate::transport::{DeliveryTag, Push};
use tradebot_base::connection::{Connection, RedisTrouble};
use tradebot_wire::canvas::{ChordPart, Preparation};
use tradebot_wire::keys::{self, Keys};
use tradebot_wire::python_json;
use tradebot_wire::result::TaskState;

/// How long the one that completed a header may take to publish its body before another may, in seconds. No
/// longer than a lease, so that the claim of a worker that died is over when its messages are run again.
const CLAIM_SECONDS: u64 = 5;
/// For how long late copies of a header's tasks are recognised after its end, in seconds; Celery's value.
const DONE_SECONDS: u64 = 300;

/// The state of a chord after a part was counted.
#[derive(Debug, PartialEq)]
pub(crate) enum Count {
    /// Other parts are missing, or the chord's sender is not done yet.
    Waiting,
    /// The chord has ended already.
    Done,
    /// The header is complete, and another worker is about to publish the body; its claim expires after this time.
    Held(Duration),
    /// The chord's keys hold something else.
    Broken,
    /// The header is complete, and the body is the caller's to publish.
    Complete {
        /// The parts in their order, see [`ChordPart::member`].
        parts: Vec<Value>,
        /// The saved result of the header, if it has groups in it.
        saved: Option<Value>,
    },
}

/// The outcome of an attempt to end a chord.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChordEnd {
    /// Everything was published.
    Yes,
    /// Another worker has ended it or will.
    NotOurs,
    /// Nothing was done: a message leads to a key that is no list.
    Misdirected,
}

/// The chords of one result backend.
pub(crate) struct Chords {
    connection: Connection,
    /// `global_keyprefix` of the result backend.
    key_prefix: String,
    /// `result_expires` in seconds; zero keeps results for ever.
    expires_seconds: u64,
    part: Script,
    end: Script,
    grow: Script,
}

impl Chords {
    /// Chords in the backend behind `connection`.
    pub(super) fn new(connection: &Connection, key_prefix: &str, expires_seconds: u64) -> Self {
        Self {
            connection: connection.clone(),
            key_prefix: key_prefix.to_owned(),
            expires_seconds,
            part: Script::new(include_str!("scripts/chord_part.lua")),
            end: Script::new(include_str!("scripts/chord_end.lua")),
            grow: Script::new(include_str!("scripts/chord_grow.lua")),
        }
    }

    /// Writes what a chord needs before its tasks are published: its size, its header's structure, or how many members were
    /// added. A chord that is run again begins anew.
    ///
    /// # Errors
    /// [`RedisTrouble`]; writing it again is harmless.
    pub(crate) async fn prepare(&self, preparation: &Preparation) -> Result<(), RedisTrouble> {
        let key = |group: &str, suffix: &str| keys::group_meta(&self.key_prefix, group, suffix);
        let mut pipeline = redis::pipe();
        pipeline.atomic();
        let (key, value) = match preparation {
            Preparation::ChordSize { group, size } => {
                pipeline.del(key(group, ".c")).ignore();
                (key(group, ".s"), size.to_string())
            }
            Preparation::SavedGroup { group, result } => {
                let document = json!({"result": result});
                let document = python_json::to_string(&document).expect("JSON values are JSON");
                (key(group, ""), document)
            }
            Preparation::ChordGrows { group, by, members } => {
                let mut call = self.grow.prepare_invoke();
                call.key(key(group, ".t")).key(key(group, &format!(".t:{by}")));
                call.arg(*members).arg(self.expires_seconds);
                return self.connection.script(None, &call).await;
            }
        };
        let set = pipeline.cmd("SET").arg(key).arg(value);
        if self.expires_seconds > 0 {
            set.arg("EX").arg(self.expires_seconds);
        }
        set.ignore();
        self.connection.pipeline(&pipeline).await
    }

    /// Counts one part of a chord.
    ///
    /// # Errors
    /// [`RedisTrouble`]; counting it again changes nothing.
    pub(crate) async fn count(&self, part: &ChordPart, state: &TaskState) -> Result<Count, RedisTrouble> {
        let mut call = self.part.prepare_invoke();
        for key in self.keys(&part.group) {
            call.key(key);
        }
        call.key(keys::group_meta(&self.key_prefix, &part.group, ""));
        let member = python_json::to_string(&part.member(state)).expect("JSON values are JSON");
        let id = python_json::to_string(&part.task_id).expect("text is JSON");
        call.arg(part.task_id.as_str())
            .arg(member)
            .arg(format!("[1, {id}, "))
            .arg(place(part))
            .arg(self.expires_seconds)
            .arg(claim(part))
            .arg(CLAIM_SECONDS);
        let answer: Vec<redis::Value> = self.connection.script(None, &call).await?;
        Ok(read_count(&answer))
    }

    /// Ends a chord by publishing `pushes`, if `tag` is still held and the chord is still the caller's. `broker` names
    /// the keys of that delivery; without a tag they are not used.
    ///
    /// # Errors
    /// [`RedisTrouble`]; only the first call that succeeds has an effect.
    pub(crate) async fn end(
        &self,
        broker: &Keys,
        part: &ChordPart,
        (tag, pushes): (Option<&DeliveryTag>, &[Push]),
        succeeded: bool,
    ) -> Result<ChordEnd, RedisTrouble> {
        let mut call = self.end.prepare_invoke();
        for key in self.keys(&part.group) {
            call.key(key);
        }
        if tag.is_some() {
            call.key(broker.unacked());
        }
        call.arg(tag.map_or("", |tag| tag.0.as_str()))
            .arg(claim(part))
            .arg(u8::from(succeeded))
            .arg(DONE_SECONDS);
        for push in pushes {
            call.key(push.list.as_str()).arg(push.message.as_str());
        }
        let ended: i64 = self.connection.script(None, &call).await?;
        Ok(match ended {
            1 => ChordEnd::Yes,
            -1 => ChordEnd::Misdirected,
            _ => ChordEnd::NotOurs,
        })
    }

    fn keys(&self, group: &str) -> [String; 5] {
        [".j", ".t", ".s", ".d", ".c"].map(|suffix| keys::group_meta(&self.key_prefix, group, suffix))
    }
}

/// The score that orders the parts.
fn place(part: &ChordPart) -> String {
    part.index
        .map_or_else(|| "+inf".into(), |index| index.to_string())
}

/// The claim of the part that completes a header. The same when its task is run again.
fn claim(part: &ChordPart) -> String {
    format!("{}:{}:{}", keys::OWN, part.task_id, place(part))
}

fn read_count(answer: &[redis::Value]) -> Count {
    let text = |at: usize| match answer.get(at) {
        Some(redis::Value::BulkString(bytes)) => bytes.as_slice(),
        _ => b"",
    };
    match text(0) {
        b"waiting" => Count::Waiting,
        b"done" => Count::Done,
        b"held" => {
            let left = match answer.get(1) {
                Some(redis::Value::Int(left)) => u64::try_from(*left).unwrap_or(0),
                _ => 0,
            };
            Count::Held(Duration::from_millis(left))
        }
        b"complete" => {
            let saved = json_of(answer.get(1)).and_then(|saved| saved.get("result").cloned());
            let Some(redis::Value::Array(parts)) = answer.get(2) else {
                return Count::Broken;
            };
            let parts: Option<Vec<Value>> = parts.iter().map(|part| json_of(Some(part))).collect();
            parts.map_or(Count::Broken, |parts| Count::Complete { parts, saved })
        }
        _ => Count::Broken,
    }
}

fn json_of(answer: Option<&redis::Value>) -> Option<Value> {
    match answer {
        Some(redis::Value::BulkString(bytes)) => python_json::from_slice(bytes).ok(),
        _ => None,
    }
}
