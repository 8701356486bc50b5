//! The switch of task events.

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether task events are sent; worker events always are.
///
/// A worker started with `-E` sends them for good: like Celery's, its switch then cannot be moved by remote
/// control (`celery.events.dispatcher`: no groups chosen means all of them).
#[derive(Debug, Default)]
pub struct Switch {
    on: AtomicBool,
    fixed: bool,
}

impl Switch {
    /// A switch that is on for good, or off until [`enable`](Self::enable).
    #[must_use]
    pub fn new(on: bool) -> Self {
        Self {
            on: AtomicBool::new(on),
            fixed: on,
        }
    }

    /// Whether task events are sent. One relaxed load.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// The command `enable_events`; `false` if they were sent already.
    pub fn enable(&self) -> bool {
        !self.on.swap(true, Ordering::Relaxed)
    }

    /// The command `disable_events`; `false` if they were not sent, or are sent for good.
    pub fn disable(&self) -> bool {
        !self.fixed && self.on.swap(false, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_moves_by_command() {
        let switch = Switch::new(false);
        assert!(!switch.is_on() && !switch.disable());
        assert!(switch.enable() && !switch.enable() && switch.is_on());
        assert!(switch.disable() && !switch.is_on());
    }

    #[test]
    fn what_the_command_line_switched_on_stays_on() {
        let switch = Switch::new(true);
        assert!(!switch.enable() && !switch.disable() && switch.is_on());
    }
}
