//! When each entry is to be looked at next.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::slots::Micros;

/// Entries by index, the earliest first. Finding the due ones costs the same however many are not due.
#[derive(Debug, Default)]
pub(super) struct Agenda(BinaryHeap<Reverse<(Micros, usize)>>);

impl Agenda {
    pub(super) fn push(&mut self, at: Micros, entry: usize) {
        self.0.push(Reverse((at, entry)));
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// When the next entry is to be looked at.
    pub(super) fn next(&self) -> Option<Micros> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }

    /// Removes the next entry if its time is not after `until`.
    pub(super) fn pop(&mut self, until: Micros) -> Option<usize> {
        self.next().filter(|at| *at <= until)?;
        self.0.pop().map(|Reverse((_, entry))| entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_in_order_of_time_and_not_early() {
        let mut agenda = Agenda::default();
        for (at, entry) in [(30, 0), (10, 1), (20, 2), (10, 3)] {
            agenda.push(at, entry);
        }
        assert_eq!((agenda.next(), agenda.pop(9)), (Some(10), None));
        let taken: Vec<_> = std::iter::from_fn(|| agenda.pop(20)).collect();
        assert_eq!(taken, [1, 3, 2]);
        assert_eq!(agenda.next(), Some(30));
    }
}
