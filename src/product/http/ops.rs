//! Pages for operators and machines: the metrics and the status page.

pub(super) mod durations;
pub(super) mod metrics;
pub(super) mod page;
