//! Why a list element is not a task message.

use thiserror::Error;

use crate::body_error::BodyError;

/// Why a list element is not a task message.
#[derive(Debug, Error)]
pub enum EnvelopeError {
    /// The element is not JSON.
    #[error("message is not JSON: {0}")]
    NotJson(#[from] serde_json::Error),
    /// The element is JSON but not an object.
    #[error("message is JSON but not an object")]
    NotAnObject,
    /// The task's name is absent, empty or not a string.
    #[error("message has no usable header `task`")]
    NoName,
    /// The task is named, but its id is absent, empty or neither a string nor a UUID.
    #[error("message of the task {task} has no usable header `id`")]
    NoId {
        /// Name of the task.
        task: String,
    },
    /// A header has an invalid value.
    #[error("message header `{name}` has the value {value}, expected {expected}")]
    BadHeader {
        /// Name of the header.
        name: &'static str,
        /// Its value, cut to 80 characters.
        value: String,
        /// What is valid.
        expected: &'static str,
    },
    /// The headers name no task (protocol 2), and neither does the body (protocol 1), as far as this worker can read it.
    #[error("message names no task in its headers, and its body is not a protocol 1 task: {0}")]
    NoTask(BodyError),
}

impl EnvelopeError {
    /// The task for which the message is, as far as that is certain.
    #[must_use]
    pub fn task(&self) -> &str {
        match self {
            Self::NoId { task } => task,
            _ => "",
        }
    }
}
