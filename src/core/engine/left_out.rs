//! Messages that this worker leaves to others. The next claim passes over them.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};

use crate::transport;
use tradebot_wire::envelope::Envelope;
use tradebot_wire::python_json;

/// How many messages are remembered that were claimed and handed back.
const MAX_HANDED_BACK: usize = 1_000;
/// How many messages are remembered that were looked at in their list.
const MAX_LOOKED_AT: usize = 10_000;

/// Messages of our tasks' names that were claimed and handed back, as the claiming script recognises them.
#[derive(Debug, Default)]
pub(super) struct LeftOut(Mutex<transport::LeftOut>);

impl LeftOut {
    /// Remembers a message that is handed back.
    pub(super) fn add(&self, message: &Envelope) {
        let text = |value: &str| python_json::to_string(value).expect("text is JSON");
        let mut left_out = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (list, value) = match message.publisher_tag() {
            // Up to the first quote, as the script reads it.
            Some(tag) => (
                &mut left_out.tags,
                text(tag).split('"').nth(1).unwrap_or_default().to_owned(),
            ),
            // The value alone is not enough: a short one may occur in every message.
            None => (&mut left_out.texts, format!("\"id\": {}", text(message.id()))),
        };
        if !list.contains(&value) {
            if list.len() == MAX_HANDED_BACK {
                list.remove(0);
            }
            list.push(value);
        }
    }

    /// All of them.
    pub(super) fn all(&self) -> transport::LeftOut {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Messages that the claiming script reported as unclear and that turned out not to be ours, by the hash of their bytes.
#[derive(Debug, Default)]
pub(super) struct LookedAt {
    hasher: RandomState,
    tasks: HashMap<u64, String>,
    order: VecDeque<u64>,
}

impl LookedAt {
    /// Remembers a message of this task.
    pub(super) fn add(&mut self, raw: &[u8], task: &str) {
        let hash = self.hasher.hash_one(raw);
        if self.tasks.insert(hash, task.to_owned()).is_none() {
            self.order.push_back(hash);
            if self.order.len() > MAX_LOOKED_AT
                && let Some(oldest) = self.order.pop_front()
            {
                self.tasks.remove(&oldest);
            }
        }
    }

    /// The task of a message that is remembered.
    pub(super) fn task(&self, raw: &[u8]) -> Option<&str> {
        self.tasks.get(&self.hasher.hash_one(raw)).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_thousand_messages_are_left_out_by_their_tags() {
        let left_out = LeftOut::default();
        for number in 0..1_500 {
            let raw = format!(
                r#"{{"headers": {{"task": "t", "id": "i"}}, "properties": {{"delivery_tag": "\u00e9 {number}"}}}}"#
            );
            left_out.add(&Envelope::parse(raw.as_bytes()).unwrap());
        }
        let tags = left_out.all().tags;
        let ends = (tags[0].as_str(), tags[999].as_str());
        assert_eq!((tags.len(), ends), (1_000, (r"\u00e9 500", r"\u00e9 1499")));
        let untagged = r#"{"headers": {"task": "t", "id": "one"}}"#;
        left_out.add(&Envelope::parse(untagged.as_bytes()).unwrap());
        assert_eq!(left_out.all().texts, [r#""id": "one""#]);
    }

    #[test]
    fn the_last_ten_thousand_messages_are_not_looked_at_again() {
        let mut looked_at = LookedAt::default();
        for number in 0..10_001_u32 {
            looked_at.add(&number.to_le_bytes(), "t");
        }
        let known = [0, 1, 10_000, 10_001_u32].map(|number| looked_at.task(&number.to_le_bytes()));
        assert_eq!(known, [None, Some("t"), Some("t"), None]);
    }
}
