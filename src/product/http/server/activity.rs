//! What each connection is doing, so that one look at all of them every now and then enforces the timeouts. No request
//! sets a timer or reads the clock.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

/// How long a connection may stay in each state.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionTimeouts {
    /// From the first byte of a request to the end of its header.
    pub header: Duration,
    /// Between two requests, and before the first.
    pub idle: Duration,
    /// For a client to take a response that is ready.
    pub send: Duration,
}

/// What the server tells a connection to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Directive {
    /// Go on.
    Serve,
    /// Finish the requests in flight, then close.
    Drain,
    /// Close now.
    Close,
}

/// Part of a request header has arrived.
pub(super) const READING: u8 = 1;
/// The client does not read what was written.
pub(super) const BLOCKED: u8 = 2;
/// HTTP/2, where bytes also arrive between requests.
const MULTIPLEXED: u8 = 4;

/// The state of one connection. Its own thread writes it and the same thread's [`TimeoutSweep`] reads it; the atomics
/// only make it `Sync`.
#[derive(Debug, Default)]
pub(super) struct ConnectionActivity {
    flags: AtomicU8,
    in_flight: AtomicU32,
    /// Rises with every change of the other fields.
    turn: AtomicU64,
    directive: AtomicU8,
    waker: OnceLock<Waker>,
}

impl ConnectionActivity {
    /// A request header is complete.
    pub(super) fn request_arrived(&self, multiplexed: bool) {
        let flags = self.flags.load(Relaxed) & !READING;
        self.flags
            .store(flags | if multiplexed { MULTIPLEXED } else { 0 }, Relaxed);
        self.record_turn();
    }

    /// Starts waiting for a response to be made.
    pub(super) fn begin_request(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    /// The response is made, or its request has gone.
    pub(super) fn end_request(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
        self.record_turn();
    }

    /// What the connection is to do now. A later directive wakes the task behind `cx`.
    pub(super) fn directive(&self, cx: &Context<'_>) -> Directive {
        self.waker.get_or_init(|| cx.waker().clone());
        match self.directive.load(Relaxed) {
            0 => Directive::Serve,
            1 => Directive::Drain,
            _ => Directive::Close,
        }
    }

    /// Tells the connection what to do.
    pub(super) fn give(&self, directive: Directive) {
        self.directive.store(directive as u8, Relaxed);
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    /// Sets a flag.
    pub(super) fn set(&self, flag: u8) {
        let flags = self.flags.load(Relaxed);
        if flags & flag == 0 {
            self.flags.store(flags | flag, Relaxed);
            self.record_turn();
        }
    }

    /// Clears a flag.
    pub(super) fn clear(&self, flag: u8) {
        let flags = self.flags.load(Relaxed);
        if flags & flag != 0 {
            self.flags.store(flags & !flag, Relaxed);
            self.record_turn();
        }
    }

    fn record_turn(&self) {
        self.turn.store(self.turn.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// How long the present state may last. `None` while a response is being made, which has its own deadline.
    fn limit(&self, timeouts: &ConnectionTimeouts) -> Option<Duration> {
        let flags = self.flags.load(Relaxed);
        if flags & BLOCKED != 0 {
            Some(timeouts.send)
        } else if self.in_flight.load(Relaxed) > 0 {
            None
        } else if flags & (READING | MULTIPLEXED) == READING {
            Some(timeouts.header)
        } else {
            Some(timeouts.idle)
        }
    }
}

/// All connections of one thread.
#[derive(Debug, Default)]
pub(super) struct TimeoutSweep {
    connections: Vec<SweptConnection>,
}

#[derive(Debug)]
struct SweptConnection {
    activity: Arc<ConnectionActivity>,
    turn: u64,
    since: Instant,
}

impl TimeoutSweep {
    pub(super) fn add(&mut self, activity: Arc<ConnectionActivity>, now: Instant) {
        self.connections.push(SweptConnection {
            activity,
            turn: 0,
            since: now,
        });
    }

    /// Forgets connections that have ended and closes those that exceeded a timeout. Returns how many it closed.
    pub(super) fn sweep(&mut self, timeouts: &ConnectionTimeouts, now: Instant) -> usize {
        let mut closed = 0;
        self.connections.retain_mut(|connection| {
            // The connection's own task has dropped it.
            if Arc::strong_count(&connection.activity) == 1 {
                return false;
            }
            let turn = connection.activity.turn.load(Relaxed);
            if turn != connection.turn {
                (connection.turn, connection.since) = (turn, now);
                return true;
            }
            let limit = connection.activity.limit(timeouts);
            let over = limit.is_some_and(|limit| now.duration_since(connection.since) >= limit);
            if over {
                connection.activity.give(Directive::Close);
                closed += 1;
            }
            !over
        });
        closed
    }

    /// Whether no connection is left.
    pub(super) fn all_ended(&mut self) -> bool {
        self.connections
            .retain(|connection| Arc::strong_count(&connection.activity) > 1);
        self.connections.is_empty()
    }

    /// Tells every connection to finish its requests and close.
    pub(super) fn drain(&self) {
        for connection in &self.connections {
            connection.activity.give(Directive::Drain);
        }
    }
}
