//! What the log has said already.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// How many things are remembered; further ones count as said.
const MOST: usize = 1_000;

/// Remembers what was said, for warnings that would otherwise repeat for as long as their cause lasts.
#[derive(Debug, Default)]
pub struct Said(Mutex<BTreeSet<String>>);

impl Said {
    /// Nothing was said.
    #[must_use]
    pub const fn nothing() -> Self {
        Self(Mutex::new(BTreeSet::new()))
    }

    /// Whether this is the first time for `what`.
    pub fn first(&self, what: &str) -> bool {
        // Locked for one insertion, never across an await.
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.len() < MOST && !said.contains(what) && said.insert(what.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_said_once_and_the_memory_is_bounded() {
        let said = Said::nothing();
        assert_eq!(["a", "b", "a"].map(|what| said.first(what)), [true, true, false]);
        let first = (0..2 * MOST).filter(|n| said.first(&n.to_string())).count();
        assert_eq!(first, MOST - 2);
    }
}
