//! Messages that this worker leaves to others. The next claim passes over them.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tradebot_wire::envelope::Envelope;
use tradebot_wire::python_json;

/// How many texts are remembered, two a message.
const MAX_TEXTS: usize = 2_000;

/// Texts by which the claiming script recognises those messages.
#[derive(Debug, Default)]
pub(super) struct LeftOut(Mutex<VecDeque<String>>);

impl LeftOut {
    /// Remembers a message.
    pub(super) fn add(&self, message: &Envelope) {
        match message.publisher_tag() {
            Some(tag) => self.add_by("delivery_tag", tag),
            None => self.add_by("id", message.id()),
        }
    }

    /// Remembers a message by a member of its JSON text, in both usual spellings. The value alone is not enough: a short
    /// one may occur in every message.
    pub(super) fn add_by(&self, member: &str, value: &str) {
        let value = python_json::to_string(value).expect("text is JSON");
        let mut texts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for blank in [" ", ""] {
            let text = format!("\"{member}\":{blank}{value}");
            if !texts.contains(&text) {
                if texts.len() == MAX_TEXTS {
                    texts.pop_front();
                }
                texts.push_back(text);
            }
        }
    }

    /// All texts.
    pub(super) fn texts(&self) -> Vec<String> {
        let texts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        texts.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_thousand_messages_are_remembered() {
        let left_out = LeftOut::default();
        for number in 0..1_500 {
            left_out.add_by("id", &number.to_string());
        }
        let texts = left_out.texts();
        let ends = (texts[0].as_str(), texts[1_999].as_str());
        assert_eq!((texts.len(), ends), (2_000, (r#""id": "500""#, r#""id":"1499""#)));
    }
}
