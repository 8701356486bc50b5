//! Events that wait for the publisher.

use std::collections::VecDeque;

/// The most bytes of waiting events; more are dropped. About 16,000 task events.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// From which size an array is left alone and a new one begun.
const FULL_ARRAY: usize = 64 * 1024;
/// Bytes that the publisher takes at a time: less time on the wire than any other command should wait.
const MAX_TAKEN: usize = 256 * 1024;

/// One body to publish.
#[derive(Debug)]
pub(super) struct Chunk {
    /// The last part of the channel, kombu's routing key.
    pub(super) routing_key: String,
    /// The sender in the message's headers; absent for task events, which are the worker's.
    pub(super) sender: Option<String>,
    /// The JSON; of task events an array without its last bracket.
    body: Vec<u8>,
}

impl Chunk {
    /// One event on its own.
    pub(super) fn single(kind: &str, sender: &str, body: Vec<u8>) -> Self {
        Self {
            routing_key: kind.replace('-', "."),
            sender: Some(sender.to_owned()),
            body,
        }
    }

    fn array() -> Self {
        Self {
            routing_key: "task.multi".into(),
            sender: None,
            body: Vec::new(),
        }
    }

    /// Whether it is an array of task events, which is worth keeping for later.
    pub(super) fn is_array(&self) -> bool {
        self.sender.is_none()
    }

    /// The two parts of the body.
    pub(super) fn body(&self) -> (&[u8], &'static [u8]) {
        (&self.body, if self.is_array() { b"]" } else { b"" })
    }
}

/// Events that wait to be published.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    /// The beginning of every task event.
    common: Vec<u8>,
    chunks: VecDeque<Chunk>,
    bytes: usize,
    dropped: u64,
}

impl Buffer {
    pub(super) fn has_common(&self) -> bool {
        !self.common.is_empty()
    }

    pub(super) fn set_common(&mut self, common: Vec<u8>) {
        self.common = common;
    }

    /// Adds a task event, which `write` appends to the body it is given; `true` if it is the first to wait.
    pub(super) fn push_task(&mut self, write: impl FnOnce(&mut Vec<u8>, &[u8])) -> bool {
        let first = self.chunks.is_empty();
        if self.bytes >= MAX_BYTES {
            self.dropped += 1;
            return first;
        }
        let has_room = |last: &Chunk| last.is_array() && last.body.len() < FULL_ARRAY;
        if !self.chunks.back().is_some_and(has_room) {
            self.chunks.push_back(Chunk::array());
        }
        let body = &mut self.chunks.back_mut().expect("there is one now").body;
        let before = body.len();
        body.extend_from_slice(if before == 0 { b"[" } else { b", " });
        write(body, &self.common);
        self.bytes += body.len() - before;
        first
    }

    /// Adds an event that leaves on its own.
    pub(super) fn push_single(&mut self, kind: &str, sender: &str, body: Vec<u8>) {
        if self.bytes >= MAX_BYTES {
            self.dropped += 1;
            return;
        }
        self.bytes += body.len();
        self.chunks.push_back(Chunk::single(kind, sender, body));
    }

    /// The oldest events, as much as one round may send, and whether there are more.
    pub(super) fn take(&mut self) -> (Vec<Chunk>, bool) {
        let mut taken = Vec::new();
        let mut bytes = 0;
        while bytes < MAX_TAKEN
            && let Some(chunk) = self.chunks.pop_front()
        {
            bytes += chunk.body.len();
            taken.push(chunk);
        }
        self.bytes -= bytes;
        (taken, !self.chunks.is_empty())
    }

    /// Puts back chunks that could not be sent, without worker events, which are out of date by then.
    pub(super) fn put_back(&mut self, chunks: Vec<Chunk>) {
        for chunk in chunks.into_iter().rev().filter(Chunk::is_array) {
            self.bytes += chunk.body.len();
            self.chunks.push_front(chunk);
        }
    }

    /// How many events were dropped since the last call.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(buffer: &mut Buffer, size: usize) -> bool {
        buffer.push_task(|body, _| body.extend(std::iter::repeat_n(b'x', size)))
    }

    fn text(chunk: &Chunk) -> String {
        let (body, end) = chunk.body();
        String::from_utf8([body, end].concat()).unwrap()
    }

    #[test]
    fn task_events_gather_in_arrays_and_others_keep_their_place_between_them() {
        let mut buffer = Buffer::default();
        assert!(event(&mut buffer, 1), "the first one wakes the publisher");
        assert!(!event(&mut buffer, 2));
        buffer.push_single("worker-heartbeat", "w@h", b"{}".to_vec());
        event(&mut buffer, 1);
        let (taken, _) = buffer.take();
        assert_eq!(
            taken.iter().map(text).collect::<Vec<_>>(),
            ["[x, xx]", "{}", "[x]"]
        );
        assert_eq!(taken[1].routing_key, "worker.heartbeat");
        assert_eq!(taken[2].routing_key, "task.multi");
        assert_eq!((buffer.bytes, buffer.take().1), (0, false));
    }

    #[test]
    fn no_array_and_no_round_grows_without_bound() {
        let mut buffer = Buffer::default();
        for _ in 0..8 {
            event(&mut buffer, 64 << 10);
        }
        let taken = |buffer: &mut Buffer| {
            let (chunks, more) = buffer.take();
            (chunks.len(), more)
        };
        assert_eq!(taken(&mut buffer), (4, true));
        assert_eq!(taken(&mut buffer), (4, false));
    }

    #[test]
    fn beyond_the_bound_events_are_dropped_and_counted() {
        let mut buffer = Buffer::default();
        for _ in 0..5 {
            event(&mut buffer, 1 << 20);
        }
        event(&mut buffer, 1);
        buffer.push_single("worker-heartbeat", "w@h", b"{}".to_vec());
        assert_eq!((buffer.take_dropped(), buffer.take_dropped()), (3, 0));
    }

    #[test]
    fn what_could_not_be_sent_comes_first_again_without_old_heartbeats() {
        let mut buffer = Buffer::default();
        event(&mut buffer, 1);
        buffer.push_single("worker-heartbeat", "w@h", b"{}".to_vec());
        let (taken, _) = buffer.take();
        event(&mut buffer, 2);
        buffer.put_back(taken);
        assert_eq!(buffer.bytes, 2 + 3);
        assert_eq!(
            buffer.take().0.iter().map(text).collect::<Vec<_>>(),
            ["[x]", "[xx]"]
        );
    }
}
