//! Why a list element is no task message.

use thiserror::Error;

use crate::body_error::BodyError;

/// Why a list element is no task message.
#[derive(Debug, Error)]
pub enum EnvelopeError {
    /// The bytes are not a JSON document.
    #[error("message is not JSON: {0}")]
    NotJson(#[from] serde_json::Error),
    /// JSON, but not an object.
    #[error("message is JSON but not an object")]
    NotAnObject,
    /// A header without which nothing can be run or reported is absent, or not text.
    #[error("message has no usable header `{0}`")]
    MissingHeader(&'static str),
    /// A header is there and cannot be understood.
    #[error("message header `{name}` has the value {value}, expected {expected}")]
    BadHeader {
        /// Name of the header.
        name: &'static str,
        /// What it holds, cut to 80 characters.
        value: String,
        /// What would have been understood.
        expected: &'static str,
    },
    /// A protocol 1 message in a serializer or compression that this worker does not accept and another may:
    /// whose task it is cannot be told.
    #[error("message names no task in its headers, and its protocol 1 body cannot be read here: {error}")]
    Foreign {
        /// What is not accepted.
        error: BodyError,
        /// The message's own delivery tag, by which it is recognised.
        publisher_tag: String,
    },
    /// Neither a protocol 2 header nor a protocol 1 body names a task.
    #[error("message names no task in its headers, and its body is no protocol 1 task: {0}")]
    NoTask(BodyError),
}
