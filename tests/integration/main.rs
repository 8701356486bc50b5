//! The worker as a process, between a real Redis and a scripted exchange.
//!
//! Each test makes a [`world::World`] and looks only at what an operator or a Python peer sees: keys in Redis, requests
//! to the exchange, log lines, exit codes.

mod backlog;
mod beat;
mod bounds;
mod broker_trouble;
mod canvas;
mod captures;
mod cli;
mod compatibility;
mod crash;
mod credentials;
mod doctor;
mod documents;
mod env_files;
mod examples;
mod golden;
mod http;
mod latency;
mod logs;
mod manual;
mod messages;
mod odd_keys;
mod oddities;
mod outcomes;
mod parked;
mod pidbox;
mod queue;
mod reach;
mod reads;
mod rights;
mod sandbox;
mod secrets;
mod silence;
mod stop;
mod systemd;
mod task_api;
#[cfg(feature = "otel")]
mod traces;
mod up;
mod upstream;
mod watchers;
mod world;
