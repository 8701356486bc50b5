//! Messages of other workers' tasks that wait on our queues.
//!
//! This worker leaves them alone, but warns if they stay there.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

use crate::transport::{Look, Region};
use tradebot_base::text::printable;
use tradebot_wire::keys::{MAX_WAITING_TASKS, OTHER_TASKS};

/// How long messages may wait before that is worth a warning, and how often it is repeated.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long published numbers stand at least, however fast they change.
const PAUSE: Duration = Duration::from_secs(2);
/// How long published numbers are left as they are; they are kept for twice as long.
pub(super) const FRESH: Duration = Duration::from_secs(30);

/// Numbers of messages by task; those of tasks beyond the first hundred are summed up.
type Counts = BTreeMap<String, usize>;

/// Counts foreign messages per task, and warns if they stay.
#[derive(Debug, Default)]
pub(super) struct ForeignWatch(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    lists: BTreeMap<String, ListCounts>,
    since: Option<Instant>,
    warned: Option<Instant>,
    /// What was last published, and when.
    published: Option<(Counts, Instant)>,
}

#[derive(Debug, Default)]
struct ListCounts {
    /// Counted in the pass through the list that is under way.
    counting: Counts,
    /// What the last pass saw, and what was pushed since.
    waiting: Option<Counts>,
}

impl ForeignWatch {
    /// Adds what one claim saw, and the unclear messages among it that are not ours: list, region and task of each.
    pub(super) fn note(&self, looks: Vec<Look>, unclear: Vec<(String, Region, String)>) {
        let mut state = self.lock();
        for look in looks {
            match look.length {
                None => continue,
                Some(0) => {
                    state.lists.remove(&look.list);
                    continue;
                }
                Some(_) => {}
            }
            let list = state.lists.entry(look.list.clone()).or_default();
            if look.began {
                list.counting.clear();
            }
            let unclear = |region: Region| {
                let here = unclear.iter().filter(|one| one.0 == look.list);
                here.filter(move |one| one.1 == region)
                    .map(|one| (one.2.clone(), 1))
            };
            add(
                &mut list.counting,
                look.passed.into_iter().chain(unclear(Region::Pass)),
            );
            if let Some(waiting) = &mut list.waiting {
                add(waiting, look.pushed.into_iter().chain(unclear(Region::Pushed)));
            }
            if look.ended {
                list.waiting = Some(std::mem::take(&mut list.counting));
            }
        }
        state.warn();
    }

    /// The lists are empty.
    pub(super) fn forget(&self) {
        let mut state = self.lock();
        state.lists.clear();
        state.since = None;
    }

    /// The numbers, if they have changed since they were published or are about to expire.
    pub(super) fn news(&self) -> Option<Counts> {
        let mut state = self.lock();
        let waiting = state.waiting();
        let known = match &state.published {
            Some((_, at)) if at.elapsed() < PAUSE => true,
            Some((numbers, at)) => *numbers == waiting && (numbers.is_empty() || at.elapsed() < FRESH),
            None => waiting.is_empty(),
        };
        if known {
            return None;
        }
        state.published = Some((waiting.clone(), Instant::now()));
        Some(waiting)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn waiting(&self) -> Counts {
        let mut all = Counts::new();
        for list in self.lists.values() {
            let counts = list.waiting.as_ref().unwrap_or(&list.counting);
            add(
                &mut all,
                counts.iter().map(|(task, messages)| (task.clone(), *messages)),
            );
        }
        all
    }

    fn warn(&mut self) {
        let is_idle = |list: &ListCounts| list.waiting.as_ref().unwrap_or(&list.counting).is_empty();
        if self.lists.values().all(is_idle) {
            self.since = None;
            return;
        }
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        let warned_lately = self.warned.is_some_and(|at| at.elapsed() < PATIENCE * 2);
        if since.elapsed() >= PATIENCE && !warned_lately {
            self.warned = Some(now);
            let waiting = self.waiting();
            let tasks = waiting
                .iter()
                .map(|(task, n)| format!("{} ({n})", printable(task)));
            warn!(
                tasks = %tasks.collect::<Vec<_>>().join(", "),
                waiting_seconds = since.elapsed().as_secs(),
                "messages of tasks that this worker does not run wait in the queue; is a Python worker running?"
            );
        }
    }
}

fn add(counts: &mut Counts, seen: impl Iterator<Item = (String, usize)>) {
    for (task, messages) in seen {
        let named = counts.len() - usize::from(counts.contains_key(OTHER_TASKS));
        let is_named = named < MAX_WAITING_TASKS || counts.contains_key(&task);
        let task = if is_named { task } else { OTHER_TASKS.to_owned() };
        *counts.entry(task).or_default() += messages;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(passed: &[(&str, usize)]) -> Look {
        Look {
            list: "q".into(),
            length: Some(9),
            passed: passed.iter().map(|(task, n)| ((*task).to_owned(), *n)).collect(),
            ..Look::default()
        }
    }

    fn pass(passed: &[(&str, usize)]) -> Look {
        Look {
            began: true,
            ended: true,
            ..look(passed)
        }
    }

    fn empty() -> Look {
        Look {
            length: Some(0),
            ..look(&[])
        }
    }

    fn counts(of: &[(&str, usize)]) -> Counts {
        of.iter().map(|(task, n)| ((*task).to_owned(), *n)).collect()
    }

    #[test]
    fn a_pass_is_counted_as_a_whole_and_forgotten_by_the_next() {
        let watch = ForeignWatch::default();
        let waiting = |looks: Vec<Look>, unclear| {
            watch.note(looks, unclear);
            watch.lock().waiting()
        };
        let begins = Look {
            began: true,
            ..look(&[("a", 2)])
        };
        assert_eq!(waiting(vec![begins], vec![]), counts(&[("a", 2)]));
        let ends = Look {
            ended: true,
            ..look(&[("a", 1), ("b", 1)])
        };
        let unclear = vec![("q".to_owned(), Region::Pass, "c".to_owned())];
        assert_eq!(
            waiting(vec![ends], unclear),
            counts(&[("a", 3), ("b", 1), ("c", 1)])
        );
        let pushed = Look {
            pushed: vec![("a".into(), 1)],
            ..look(&[])
        };
        let seen_before = vec![("q".to_owned(), Region::PassedOver, "c".to_owned())];
        assert_eq!(
            waiting(vec![pushed], seen_before),
            counts(&[("a", 4), ("b", 1), ("c", 1)])
        );
        assert_eq!(waiting(vec![pass(&[("b", 1)])], vec![]), counts(&[("b", 1)]));
        assert_eq!(waiting(vec![empty()], vec![]), Counts::new());
    }

    #[test]
    fn tasks_beyond_a_hundred_are_summed_up() {
        let watch = ForeignWatch::default();
        let names: Vec<String> = (0..150).map(|number| format!("task-{number:03}")).collect();
        let passed: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), 2)).collect();
        watch.note(vec![pass(&passed)], vec![]);
        let waiting = watch.lock().waiting();
        assert_eq!(
            (waiting.len(), waiting["task-099"], waiting["others"]),
            (101, 2, 100)
        );
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
            watch.note(vec![pass(&[("a", 1)])], vec![]);
            watch.lock().warned != before
        };
        assert_eq!([0, 29, 1, 59, 1].map(pass), [false, false, true, false, true]);
        watch.note(vec![empty()], vec![]);
        assert!(!pass(0), "the wait begins anew");
    }

    #[test]
    fn numbers_are_published_when_they_change() {
        let watch = ForeignWatch::default();
        assert_eq!(watch.news(), None);
        let one = || vec![pass(&[("a", 1)])];
        let published = || Some(counts(&[("a", 1)]));
        watch.note(one(), vec![]);
        assert_eq!(watch.news(), published());
        watch.note(one(), vec![]);
        assert_eq!(watch.news(), None);
        watch.note(vec![empty()], vec![]);
        assert_eq!(watch.news(), None, "too soon");
        watch.lock().published.as_mut().unwrap().1 -= Duration::from_secs(2);
        assert_eq!(watch.news(), Some(BTreeMap::new()));
        let later = |seconds: u64| {
            watch.lock().published.as_mut().unwrap().1 -= Duration::from_secs(seconds);
            watch.news()
        };
        assert_eq!(later(30), None);
        watch.note(one(), vec![]);
        assert_eq!(later(0), published());
        assert_eq!(later(29), None);
        assert_eq!(later(1), published(), "about to expire");
    }
}
