//! Free TCP ports on 127.0.0.1.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{Ipv4Addr, TcpListener};

/// Below the range from which Linux takes the local ports of outgoing connections (32768 and up). From inside that
/// range a client that keeps trying to reach a stopped server could take the server's port, or connect to itself.
const FIRST: u16 = 15_000;
const COUNT: u16 = 17_000;

/// A port on which nothing listens now, for a server that is about to start.
///
/// Somebody else may take it in between; whoever starts a server on it tries again with another one.
///
/// # Panics
/// When a thousand ports in a row are taken.
#[must_use]
pub fn free_port() -> u16 {
    listen().1
}

/// A listener on a port of its own, and the port.
pub(crate) fn listen() -> (TcpListener, u16) {
    for attempt in 0..1000_u32 {
        // `RandomState` is seeded anew for every instance: the standard library's only source of chance.
        let chance = RandomState::new().hash_one(attempt) % u64::from(COUNT);
        let port = FIRST + u16::try_from(chance).expect("the remainder is below a u16");
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return (listener, port);
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}
