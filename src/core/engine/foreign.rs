//! Messages of other workers' tasks that wait on our queues.
//!
//! This worker leaves them alone, but warns if they stay there.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

/// How long messages may wait before that is worth a warning, and how often it is repeated.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long published numbers stand at least, however fast they change.
const PAUSE: Duration = Duration::from_secs(2);
/// How long published numbers are left as they are; they are kept for twice as long.
pub(super) const FRESH: Duration = Duration::from_secs(30);

/// Counts foreign messages per task, and warns if they stay.
#[derive(Debug, Default)]
pub(super) struct ForeignWatch(Mutex<ForeignCounts>);

#[derive(Debug, Default)]
struct ForeignCounts {
    /// Counted in the pass through the lists that is under way.
    counting: BTreeMap<String, usize>,
    /// What the last full pass saw.
    waiting: BTreeMap<String, usize>,
    since: Option<Instant>,
    warned: Option<Instant>,
    /// What was last published, and when.
    published: Option<(BTreeMap<String, usize>, Instant)>,
}

impl ForeignWatch {
    /// Adds what one claim saw; `ends_pass` if it reached the end of the lists.
    pub(super) fn note(&self, seen: Vec<(String, usize)>, ends_pass: bool) {
        let mut state = self.lock();
        for (task, messages) in seen {
            *state.counting.entry(task).or_default() += messages;
        }
        if !ends_pass {
            return;
        }
        state.waiting = std::mem::take(&mut state.counting);
        if state.waiting.is_empty() {
            state.since = None;
            return;
        }
        let now = Instant::now();
        let since = *state.since.get_or_insert(now);
        let warned_lately = state.warned.is_some_and(|at| at.elapsed() < PATIENCE * 2);
        if since.elapsed() >= PATIENCE && !warned_lately {
            state.warned = Some(now);
            let tasks: Vec<String> = state
                .waiting
                .iter()
                .map(|(task, n)| format!("{task} ({n})"))
                .collect();
            warn!(
                tasks = %tasks.join(", "),
                waiting_seconds = since.elapsed().as_secs(),
                "messages of tasks that this worker does not run wait in the queue; is a Python worker running?"
            );
        }
    }

    /// The numbers of the last full pass, if they have changed since they were published or are about to expire.
    pub(super) fn news(&self) -> Option<BTreeMap<String, usize>> {
        let mut state = self.lock();
        let known = match &state.published {
            Some((_, at)) if at.elapsed() < PAUSE => true,
            Some((numbers, at)) => *numbers == state.waiting && (numbers.is_empty() || at.elapsed() < FRESH),
            None => state.waiting.is_empty(),
        };
        if known {
            return None;
        }
        state.published = Some((state.waiting.clone(), Instant::now()));
        Some(state.waiting.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ForeignCounts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_counted_as_a_whole_and_forgotten_by_the_next() {
        let watch = ForeignWatch::default();
        watch.note(vec![("a".into(), 2)], false);
        watch.note(vec![("a".into(), 1), ("b".into(), 1)], true);
        assert_eq!(
            watch.lock().waiting,
            BTreeMap::from([("a".into(), 3), ("b".into(), 1)])
        );
        watch.note(Vec::new(), true);
        assert!(watch.lock().waiting.is_empty());
    }

    #[test]
    fn a_warning_comes_after_half_a_minute_and_once_a_minute() {
        let watch = ForeignWatch::default();
        let pass = |time: u64| {
            let time = Duration::from_secs(time);
            let mut state = watch.lock();
            state.since = state.since.map(|since| since - time);
            state.warned = state.warned.map(|warned| warned - time);
            drop(state);
            let before = watch.lock().warned;
            watch.note(vec![("a".into(), 1)], true);
            watch.lock().warned != before
        };
        assert_eq!([0, 29, 1, 59, 1].map(pass), [false, false, true, false, true]);
        watch.note(Vec::new(), true);
        assert!(!pass(0), "the wait begins anew");
    }

    #[test]
    fn numbers_are_published_when_they_change() {
        let watch = ForeignWatch::default();
        assert_eq!(watch.news(), None);
        let one = || vec![("a".to_owned(), 1)];
        watch.note(one(), true);
        assert_eq!(watch.news(), Some(one().into_iter().collect()));
        watch.note(one(), true);
        assert_eq!(watch.news(), None);
        watch.note(Vec::new(), true);
        assert_eq!(watch.news(), None, "too soon");
        watch.lock().published.as_mut().unwrap().1 -= Duration::from_secs(2);
        assert_eq!(watch.news(), Some(BTreeMap::new()));
        let pass = |seconds: u64| {
            watch.lock().published.as_mut().unwrap().1 -= Duration::from_secs(seconds);
            watch.news()
        };
        assert_eq!(pass(30), None);
        watch.note(one(), true);
        assert_eq!(pass(0), Some(one().into_iter().collect()));
        assert_eq!(pass(29), None);
        assert_eq!(pass(1), Some(one().into_iter().collect()), "about to expire");
    }
}
