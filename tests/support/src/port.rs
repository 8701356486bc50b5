//! Free TCP ports on 127.0.0.1.

use std::net::{Ipv4Addr, TcpListener};

/// Below the ports that Linux gives to outgoing connections (32768 and up). From that range, a client that keeps
/// trying to reach a stopped server could take the server's port or connect to itself.
const FIRST: u16 = 15_000;
const COUNT: u16 = 17_000;

/// A port that is free now, for a server that is about to start.
///
/// Another process may take it first; then try again with a new one.
///
/// # Panics
/// When a thousand ports in a row are taken.
#[must_use]
pub fn free_port() -> u16 {
    listen().1
}

/// A listener on a free port, and the port.
pub(crate) fn listen() -> (TcpListener, u16) {
    for _ in 0..1000 {
        // Not from `seeded_rng`: processes that share a seed would compete for the same ports.
        let port = FIRST + fastrand::u16(..COUNT);
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return (listener, port);
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}
