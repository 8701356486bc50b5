//! What goes over the wire, without any I/O: messages, results, keys, times, and what follows from a task (canvas).
//!
//! Everything here is a pure function of its arguments. The facts come from Celery 5.5 to 5.7 and kombu of the same age,
//! as observed on a Redis server.

mod big_int;
pub mod body;
pub mod body_error;
pub mod canvas;
mod compression;
pub mod envelope;
pub mod keys;
mod msgpack;
pub mod pidbox;
pub mod python_json;
pub mod python_repr;
pub mod result;
pub mod task_message;
pub mod timestamp;
