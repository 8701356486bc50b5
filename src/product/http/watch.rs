//! What a connection is doing, seen from outside, so that a look now and then keeps all of them within their
//! limits: no timer is set and no clock is read for a request.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

/// How long a connection may stay in each of its states.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// From the first byte of a request to the end of its header.
    pub header: Duration,
    /// Between two requests, and before the first.
    pub idle: Duration,
    /// For a client to take an answer that was ready.
    pub send: Duration,
}

/// What the owner wants of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Order {
    /// Go on.
    Serve,
    /// Answer what has been asked and end.
    Drain,
    /// End now.
    Cut,
}

/// Bytes of a request have arrived whose header is not complete.
pub(super) const READING: u8 = 1;
/// The client does not take what was written.
pub(super) const BLOCKED: u8 = 2;
/// HTTP/2, where bytes also arrive between requests.
const MULTIPLEXED: u8 = 4;

/// The state of one connection. Written by the thread that serves it, read by the same thread's [`Sweep`]; the
/// atomics only make it `Sync`.
#[derive(Debug, Default)]
pub(super) struct Watch {
    flags: AtomicU8,
    in_flight: AtomicU32,
    /// Rises with every change of the others.
    turn: AtomicU64,
    order: AtomicU8,
    waker: OnceLock<Waker>,
}

impl Watch {
    /// A request is complete enough to be answered.
    pub(super) fn request(&self, multiplexed: bool) {
        let flags = self.flags.load(Relaxed) & !READING;
        self.flags
            .store(flags | if multiplexed { MULTIPLEXED } else { 0 }, Relaxed);
        self.turned();
    }

    /// The answer to a request has to be waited for.
    pub(super) fn begin(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    /// The answer is there.
    pub(super) fn end(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
        self.turned();
    }

    /// What is wanted of the connection now; `cx` is woken when that changes.
    pub(super) fn order(&self, cx: &Context<'_>) -> Order {
        self.waker.get_or_init(|| cx.waker().clone());
        match self.order.load(Relaxed) {
            0 => Order::Serve,
            1 => Order::Drain,
            _ => Order::Cut,
        }
    }

    /// Tells the connection what is wanted of it.
    pub(super) fn give(&self, order: Order) {
        self.order.store(order as u8, Relaxed);
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    /// Notes that a flag begins to hold.
    pub(super) fn set(&self, flag: u8) {
        let flags = self.flags.load(Relaxed);
        if flags & flag == 0 {
            self.flags.store(flags | flag, Relaxed);
            self.turned();
        }
    }

    /// Notes that a flag no longer holds.
    pub(super) fn clear(&self, flag: u8) {
        let flags = self.flags.load(Relaxed);
        if flags & flag != 0 {
            self.flags.store(flags & !flag, Relaxed);
            self.turned();
        }
    }

    fn turned(&self) {
        self.turn.store(self.turn.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// How long the present state may last; `None` while an answer is being made, which has a deadline of its own.
    fn limit(&self, patience: &Patience) -> Option<Duration> {
        let flags = self.flags.load(Relaxed);
        if flags & BLOCKED != 0 {
            Some(patience.send)
        } else if self.in_flight.load(Relaxed) > 0 {
            None
        } else if flags & (READING | MULTIPLEXED) == READING {
            Some(patience.header)
        } else {
            Some(patience.idle)
        }
    }
}

/// All connections of one thread.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    watch: Arc<Watch>,
    turn: u64,
    since: Instant,
}

impl Sweep {
    pub(super) fn add(&mut self, watch: Arc<Watch>, now: Instant) {
        self.entries.push(Entry {
            watch,
            turn: 0,
            since: now,
        });
    }

    /// Forgets connections that have ended and cuts those that stayed in one state for too long. How many it cut.
    pub(super) fn look(&mut self, patience: &Patience, now: Instant) -> usize {
        let mut cut = 0;
        self.entries.retain_mut(|entry| {
            // The connection's own share has gone.
            if Arc::strong_count(&entry.watch) == 1 {
                return false;
            }
            let turn = entry.watch.turn.load(Relaxed);
            if turn != entry.turn {
                (entry.turn, entry.since) = (turn, now);
                return true;
            }
            let limit = entry.watch.limit(patience);
            let over = limit.is_some_and(|limit| now.duration_since(entry.since) >= limit);
            if over {
                entry.watch.give(Order::Cut);
                cut += 1;
            }
            !over
        });
        cut
    }

    /// Whether no connection is left.
    pub(super) fn all_ended(&mut self) -> bool {
        self.entries.retain(|entry| Arc::strong_count(&entry.watch) > 1);
        self.entries.is_empty()
    }

    /// Tells all connections the same.
    pub(super) fn give(&self, order: Order) {
        for entry in &self.entries {
            entry.watch.give(order);
        }
    }
}
