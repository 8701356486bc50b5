//! The captured output of a child process.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The lines captured so far, with a wake-up for each new one.
#[derive(Debug, Default)]
pub(crate) struct Output {
    state: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Debug, Default)]
pub(crate) struct Lines {
    pub(crate) lines: Vec<(Pipe, String)>,
    pub(crate) open_pipes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pipe {
    Stdout,
    Stderr,
}

impl Output {
    /// Reads `source` to its end on a thread.
    pub(crate) fn capture(self: &Arc<Self>, pipe: Pipe, source: impl Read + Send + 'static) {
        self.state().open_pipes += 1;
        let output = Arc::clone(self);
        thread::spawn(move || {
            let mut source = BufReader::new(source);
            let mut line = Vec::new();
            while source.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                let text = String::from_utf8_lossy(&line)
                    .trim_end_matches(['\n', '\r'])
                    .to_owned();
                output.state().lines.push((pipe, text));
                output.changed.notify_all();
                line.clear();
            }
            output.state().open_pipes -= 1;
            output.changed.notify_all();
        });
    }

    pub(crate) fn text(&self, wanted: impl Fn(Pipe) -> bool) -> String {
        let mut text = String::new();
        for (_, line) in self.state().lines.iter().filter(|(pipe, _)| wanted(*pipe)) {
            writeln!(text, "{line}").expect("writing to a String cannot fail");
        }
        text
    }

    /// Waits until both pipes are closed, up to `limit`: a grandchild can keep them open forever.
    pub(crate) fn wait_for_end(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut state = self.state();
        while state.open_pipes > 0 && Instant::now() < deadline {
            state = self.wait(state, deadline.saturating_duration_since(Instant::now()));
        }
    }

    pub(crate) fn wait<'a>(&self, state: MutexGuard<'a, Lines>, limit: Duration) -> MutexGuard<'a, Lines> {
        self.changed
            .wait_timeout(state, limit)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, Lines> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
