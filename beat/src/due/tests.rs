use chrono_tz::Tz;

use super::*;
use crate::crontab::Crontab;

const SECOND: Micros = 1_000_000;
const HOUR: Micros = 3600 * SECOND;
const MONTH: Micros = 30 * 24 * HOUR;
/// A whole minute.
const NOW: Micros = 1_800_000_000 * SECOND;

fn every(seconds: u64) -> ScheduleEntry {
    ScheduleEntry::new("e", "t", "q", Plan::every(Duration::from_secs(seconds)))
}

fn at(line: &str) -> ScheduleEntry {
    let crontab = Crontab::from_line(line).unwrap();
    ScheduleEntry::new("e", "t", "q", Plan::Crontab(Box::new(crontab), Tz::UTC))
}

fn after(last: Micros) -> Progress {
    let mut progress = Progress::default();
    progress.adopt(Some(SlotRecord {
        last,
        anchor: last,
        sent: Some(last),
        runs: 1,
    }));
    progress
}

fn act(entry: &ScheduleEntry, progress: &mut Progress, now: Micros, clock_jumped: bool) -> Act {
    match decide(entry, progress, now, clock_jumped) {
        Decision::Act(act) => act,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_interval_starts_at_once_and_a_crontab_with_its_next_minute() {
    let first = act(&every(300), &mut Progress::default(), NOW, false);
    assert_eq!(
        (first.guard, first.slots, first.pass),
        (Guard::First, vec![NOW], None)
    );
    let noted = act(&at("0 9 * * *"), &mut Progress::default(), NOW, false);
    assert_eq!(
        (noted.guard, noted.slots, noted.pass),
        (Guard::First, vec![], Some(NOW))
    );
}

#[test]
fn nothing_is_due_before_the_next_slot_and_exactly_one_at_it() {
    let entry = every(300);
    let next = NOW + 300 * SECOND;
    assert_eq!(
        decide(&entry, &mut after(NOW), next - 1, false),
        Decision::Wait(next)
    );
    let act = act(&entry, &mut after(NOW), next, false);
    assert_eq!(
        (act.guard, &act.slots[..], act.missed, act.caught_up),
        (Guard::After, &[next][..], 0, 0)
    );
    assert_eq!(
        decide(&at("0 0 1 1 *"), &mut after(NOW), NOW, false),
        Decision::Wait(1_830_297_600 * SECOND)
    );
}

#[test]
fn missed_slots_are_caught_up_as_the_entry_says() {
    let now = NOW + 17 * 60 * SECOND + 30 * SECOND;
    let slot = |minute: Micros| NOW + minute * 60 * SECOND;
    for (policy, slots, pass, missed, caught_up) in [
        (CatchUp::Skip, vec![], Some(slot(17)), 17, 0),
        (CatchUp::One, vec![slot(17)], None, 16, 1),
        (CatchUp::All(3), vec![slot(15), slot(16), slot(17)], None, 14, 3),
        (CatchUp::All(100), (1..=17).map(slot).collect(), None, 0, 17),
    ] {
        for mut entry in [every(60), at("* * * * *")] {
            entry.catch_up = policy;
            let act = act(&entry, &mut after(NOW), now, false);
            assert_eq!((act.slots, act.pass), (slots.clone(), pass), "{policy:?}");
            assert_eq!((act.missed, act.caught_up), (missed, caught_up), "{policy:?}");
        }
    }
    // Here the last slot is still on time.
    let now = slot(17) + 2 * SECOND;
    for (policy, sent, missed, caught_up) in [
        (CatchUp::Skip, 1, 16, 0),
        (CatchUp::One, 1, 16, 0),
        (CatchUp::All(9), 9, 8, 8),
    ] {
        let mut entry = every(60);
        entry.catch_up = policy;
        let act = act(&entry, &mut after(NOW), now, false);
        assert_eq!(
            (act.slots.len(), act.missed, act.caught_up),
            (sent, missed, caught_up),
            "{policy:?}"
        );
    }
}

#[test]
fn a_clock_that_leaps_forward_adds_at_most_one_message() {
    for leap in [HOUR, MONTH] {
        for mut entry in [every(1), every(300), at("* * * * *"), at("0 * * * *")] {
            for policy in [CatchUp::Skip, CatchUp::One, CatchUp::All(100)] {
                entry.catch_up = policy;
                let act = act(&entry, &mut after(NOW), NOW + leap, true);
                assert!(act.slots.len() <= 1, "{policy:?}: {act:?}");
                let last = act.slots.last().copied().or(act.pass).unwrap();
                let next = decide(&entry, &mut after(last), NOW + leap, false);
                assert!(
                    matches!(next, Decision::Wait(until) if until > NOW + leap),
                    "{next:?}"
                );
            }
        }
    }
}

#[test]
fn a_clock_that_is_set_back_neither_stalls_an_entry_nor_sends_at_once() {
    for back in [HOUR, MONTH] {
        for entry in [every(1), every(300), at("* * * * *"), at("*/10 * * * *")] {
            let now = NOW - back + 7 * SECOND;
            let mut progress = after(NOW);
            let Decision::Wait(until) = decide(&entry, &mut progress, now, true) else {
                panic!("sent at once")
            };
            let step = entry.plan.gap(NOW, until).unwrap();
            let step = Micros::try_from(step.as_micros()).unwrap();
            assert!(
                until > now && until <= now + step,
                "waits {} s",
                (until - now) / SECOND
            );
            let act = act(&entry, &mut progress, until, false);
            assert_eq!(
                (act.guard, act.slots, act.missed),
                (Guard::Instead(NOW), vec![until], 0)
            );
        }
    }
    // Set back twice before anything is sent.
    let mut progress = after(NOW);
    decide(&at("* * * * *"), &mut progress, NOW - HOUR, true);
    let wait = decide(&at("* * * * *"), &mut progress, NOW - MONTH, true);
    assert_eq!(wait, Decision::Wait(NOW - MONTH + 60 * SECOND));
    // Half an hour back does not repeat a daily run: the next one is tomorrow's.
    let entry = at("0 8 * * *");
    let day = 1_800_000_000 / 86_400 * 86_400 * SECOND + 8 * HOUR;
    assert_eq!(
        decide(&entry, &mut after(day), day - HOUR / 2, true),
        Decision::Wait(day + 24 * HOUR)
    );
    // A difference between two machines does not count as a clock that was set back.
    assert_eq!(
        decide(&every(1), &mut after(NOW), NOW - 30 * SECOND, false),
        Decision::Wait(NOW + SECOND)
    );
}

#[test]
fn jitter_delays_the_message_and_not_the_slot() {
    let mut entry = every(60);
    entry.jitter = Duration::from_secs(60);
    let slot = NOW + 60 * SECOND;
    let due = entry.due(slot);
    assert!(due > slot);
    assert_eq!(
        decide(&entry, &mut after(NOW), due - 1, false),
        Decision::Wait(due)
    );
    let act = act(&entry, &mut after(NOW), due, false);
    assert_eq!((act.slots, act.missed, act.caught_up), (vec![slot], 0, 0));
}
