//! The fault suite: workers are killed and stopped, Redis is restarted, paused and made to refuse, connections
//! are reset and frozen, and every message is accounted for afterwards.
//!
//! Each scenario prints one line, `sent N executed N duplicated N lost N parked N`. Nothing may be lost; each
//! scenario states how many runs may be repeated. `SOAK=1` (`make soak`) runs the long form.

mod abandoned;
mod beat_clocks;
mod beat_deployment;
mod beats;
mod chords;
mod etas;
mod failpoints;
mod figures;
mod footprint;
mod kills;
mod ledger;
mod network;
mod outages;
mod poison;
mod scene;
mod sends;
mod settling;
mod stops;
mod trouble;
