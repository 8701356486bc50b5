//! The wire format of Celery on Redis, without I/O: messages, results, keys, times and workflows (canvas).
//!
//! Everything here is a pure function of its arguments. The facts were observed on a Redis server with Celery 5.5
//! to 5.7 and the kombu releases they use.

pub mod body;
pub mod body_error;
pub mod canvas;
mod compression;
pub mod envelope;
pub mod keys;
mod msgpack;
mod opaque;
pub mod pidbox;
pub mod python_json;
pub mod python_repr;
pub mod result;
pub mod task_message;
pub mod timestamp;
mod typed;
