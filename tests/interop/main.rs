//! The worker and the beat beside real Python Celery, in the deployment's version and in the newest.
//!
//! Each test starts its own Redis server, its own exchange and the processes it needs; [`fleet`] is how.

mod beat;
mod canvas;
mod captures;
mod client;
mod conformance;
mod control;
mod demo;
mod envelope;
mod events;
mod events_dump;
mod fleet;
mod flower;
mod guarded_lists;
mod mingle;
mod mixed_fleet;
mod monitoring;
mod proxies;
mod python_takes_over;
mod queues;
mod redbeat;
mod remote;
mod results;
mod revoke;
mod shared_queue;
mod take_over;
mod values;
mod web;
