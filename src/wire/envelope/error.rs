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
    /// The task's name or id is absent, empty or not a string.
    #[error("message has no usable header `{0}`")]
    MissingHeader(&'static str),
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
    /// A protocol 1 message in a serializer or compression that this worker does not accept. It may be for another
    /// worker: only the body names the task.
    #[error("message names no task in its headers, and its protocol 1 body cannot be read here: {error}")]
    Foreign {
        /// Why this worker does not accept the body.
        error: BodyError,
        /// The publisher's delivery tag, which identifies the message.
        publisher_tag: String,
    },
    /// Neither the headers (protocol 2) nor the body (protocol 1) name a task.
    #[error("message names no task in its headers, and its body is not a protocol 1 task: {0}")]
    NoTask(BodyError),
}
