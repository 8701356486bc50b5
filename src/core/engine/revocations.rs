//! Revoked task ids, and revoked values of stamps.
//!
//! Bounded as in Celery (`celery.worker.state`): 50,000 ids, each for three hours. Beyond that the oldest go first.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value};

use super::Engine;
use tradebot_wire::envelope::Envelope;

/// Celery's `REVOKES_MAX`.
const MAX_IDS: usize = 50_000;
/// Celery's `REVOKE_EXPIRES`.
const EXPIRES: TimeDelta = TimeDelta::hours(3);
/// How many values of stamps are kept. Celery keeps them all, for ever.
const MAX_STAMPS: usize = 10_000;

/// Why a task ends as revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revocation {
    /// Argument of the `TaskRevokedError`: `revoked`, `terminated` or `expired`.
    pub reason: &'static str,
    /// It was running.
    pub terminated: bool,
    /// The signal that ended it.
    pub signum: Option<i32>,
    /// Its time was over.
    pub expired: bool,
}

impl Revocation {
    /// It was revoked before it could start.
    pub const REVOKED: Self = Self {
        reason: "revoked",
        terminated: false,
        signum: None,
        expired: false,
    };
    /// It expired before it could start.
    pub const EXPIRED: Self = Self {
        reason: "expired",
        expired: true,
        ..Self::REVOKED
    };

    /// It was ended while it ran.
    #[must_use]
    pub const fn terminated(signal: i32) -> Self {
        Self {
            reason: "terminated",
            terminated: true,
            signum: Some(signal),
            expired: false,
        }
    }
}

/// Revoked task ids and stamps.
#[derive(Debug, Default)]
pub struct Revocations {
    /// Counts changes, so that the state file is written only after one.
    version: AtomicU64,
    // Locked for map operations, never across an await.
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Ids by the number of their last insertion.
    ids: HashMap<String, u64>,
    /// Insertions in their order; one that was renewed since has another number in `ids`.
    order: VecDeque<Insertion>,
    insertions: u64,
    stamps: HashMap<String, Vec<Value>>,
}

#[derive(Debug)]
struct Insertion {
    number: u64,
    since: DateTime<Utc>,
    id: String,
}

impl Revocations {
    /// Adds ids; one that is known already lives on from `now`.
    pub fn add<'i>(&self, ids: impl IntoIterator<Item = &'i str>, now: DateTime<Utc>) {
        self.restore(ids.into_iter().map(|id| (id, now)), now);
    }

    /// Adds ids with the time of their revocation, oldest first.
    pub fn restore<'i>(&self, ids: impl IntoIterator<Item = (&'i str, DateTime<Utc>)>, now: DateTime<Utc>) {
        let mut known = self.lock();
        let mut changed = false;
        for (id, since) in ids {
            known.insert(id, since);
            changed = true;
        }
        known.purge(now);
        drop(known);
        if changed {
            self.version.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Revokes all tasks that carry one of `values` as the stamp `name`.
    pub fn add_stamp(&self, name: &str, values: &[Value]) {
        let mut known = self.lock();
        let room = MAX_STAMPS.saturating_sub(known.stamps.values().map(Vec::len).sum());
        let held = known.stamps.entry(name.to_owned()).or_default();
        held.extend(values.iter().take(room).cloned());
    }

    /// The revoked ids with the time of their revocation, oldest first.
    #[must_use]
    pub fn ids(&self, now: DateTime<Utc>) -> Vec<(String, DateTime<Utc>)> {
        let mut known = self.lock();
        known.purge(now);
        let current = |one: &&Insertion| known.ids.get(&one.id) == Some(&one.number);
        let listed = known.order.iter().filter(current);
        listed.map(|one| (one.id.clone(), one.since)).collect()
    }

    /// A number that grows whenever ids are added.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    /// Whether a message's task was revoked, by its id or by a stamp.
    #[must_use]
    pub fn contains(&self, message: &Envelope) -> bool {
        let known = self.lock();
        known.ids.contains_key(message.id()) || known.has_stamp_of(message)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// Revokes tasks by their ids. Those that wait here are settled at once; running ones continue.
    pub fn revoke(&self, ids: &[&str]) {
        if ids.is_empty() {
            return;
        }
        self.revocations.add(ids.iter().copied(), self.clock.now());
        let revoked: HashSet<&str> = ids.iter().copied().collect();
        for request in self.requests.all() {
            if revoked.contains(request.id()) {
                request.wake();
            }
        }
    }

    /// Makes all waiting requests check again whether they were revoked.
    pub fn wake_waiting(&self) {
        for request in self.requests.all() {
            request.wake();
        }
    }
}

impl Known {
    fn insert(&mut self, id: &str, since: DateTime<Utc>) {
        self.insertions += 1;
        let number = self.insertions;
        self.ids.insert(id.to_owned(), number);
        let id = id.to_owned();
        self.order.push_back(Insertion { number, since, id });
    }

    fn purge(&mut self, now: DateTime<Utc>) {
        while let Some(oldest) = self.order.front() {
            let current = self.ids.get(&oldest.id) == Some(&oldest.number);
            if current && self.ids.len() <= MAX_IDS && now - oldest.since < EXPIRES {
                break;
            }
            let oldest = self.order.pop_front().expect("just looked at");
            if current {
                self.ids.remove(&oldest.id);
            }
        }
        // Ids that are renewed over and over leave old places behind in the middle.
        if self.order.len() > 2 * MAX_IDS {
            let ids = &self.ids;
            self.order.retain(|one| ids.get(&one.id) == Some(&one.number));
        }
    }

    fn has_stamp_of(&self, message: &Envelope) -> bool {
        if self.stamps.is_empty() {
            return false;
        }
        let Some(Value::Array(names)) = message.header("stamped_headers") else {
            return false;
        };
        let stamps = message.header("stamps");
        let stamps = stamps.as_ref().and_then(Value::as_object);
        names
            .iter()
            .filter_map(Value::as_str)
            .any(|name| matching(stamps, name, self.stamps.get(name)).next().is_some())
    }
}

/// The values that a message's stamps of one name have in common with `wanted`.
pub fn matching<'s>(
    stamps: Option<&'s Map<String, Value>>,
    name: &str,
    wanted: Option<&Vec<Value>>,
) -> impl Iterator<Item = &'s Value> {
    let carried: &[Value] = match stamps.and_then(|stamps| stamps.get(name)) {
        None | Some(Value::Null) => &[],
        Some(Value::Array(several)) => several,
        Some(one) => std::slice::from_ref(one),
    };
    carried
        .iter()
        .filter(move |value| wanted.is_some_and(|wanted| wanted.contains(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tradebot_wire::timestamp;

    fn noon() -> DateTime<Utc> {
        timestamp::parse("2026-11-23T12:00:00+00:00").unwrap()
    }

    fn message(id: &str, stamps: &Value) -> Envelope {
        let names: Vec<&String> = stamps.as_object().unwrap().keys().collect();
        let headers = json!({"task": "t", "id": id, "stamped_headers": names, "stamps": stamps});
        Envelope::parse(json!({"headers": headers}).to_string().as_bytes()).unwrap()
    }

    #[test]
    fn ids_expire_and_the_oldest_make_room() {
        let revoked = Revocations::default();
        assert!(!revoked.contains(&message("a", &json!({}))));
        revoked.add(["a", "b"], noon());
        revoked.add(["a"], noon() + TimeDelta::hours(1));
        assert!(revoked.contains(&message("a", &json!({}))));
        let left = revoked.ids(noon() + TimeDelta::hours(3));
        assert_eq!(left, [("a".to_owned(), noon() + TimeDelta::hours(1))]);

        let many: Vec<String> = (0..50_000).map(|n| n.to_string()).collect();
        revoked.add(many.iter().map(String::as_str), noon() + TimeDelta::hours(2));
        let ids = revoked.ids(noon() + TimeDelta::hours(2));
        assert_eq!((ids.len(), ids[0].0.as_str()), (50_000, "0"));
        for _ in 0..3 {
            revoked.add(many.iter().map(String::as_str), noon() + TimeDelta::hours(3));
        }
        assert!(revoked.lock().order.len() <= 100_000);
    }

    #[test]
    fn no_more_than_ten_thousand_stamps_are_kept() {
        let revoked = Revocations::default();
        for name in ["run", "other"] {
            let values: Vec<Value> = (0..9_000).map(Value::from).collect();
            revoked.add_stamp(name, &values);
        }
        let held = revoked.lock().stamps.values().map(Vec::len).sum::<usize>();
        assert_eq!(held, 10_000);
    }

    #[test]
    fn stamps_match_one_value_or_several() {
        let revoked = Revocations::default();
        revoked.add_stamp("run", &[json!("x"), json!(7)]);
        for (stamps, hit) in [
            (json!({"run": "x"}), true),
            (json!({"run": ["y", 7]}), true),
            (json!({"run": "y"}), false),
            (json!({"other": "x"}), false),
            (json!({"run": null}), false),
        ] {
            assert_eq!(revoked.contains(&message("i", &stamps)), hit, "{stamps}");
        }
    }
}
