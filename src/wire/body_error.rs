//! Why a message body could not be decoded.

use thiserror::Error;

use crate::result::Exception;

/// The largest decompressed body that is accepted, in bytes.
pub const MAX_BODY_BYTES: usize = 64 << 20;

/// Why a body could not be decoded.
#[derive(Debug, Error)]
pub enum BodyError {
    /// The field `body` is absent or not a string.
    #[error("message has no body")]
    Missing,
    /// `body_encoding` says base64, but the body is not.
    #[error("message body is not base64: {0}")]
    Base64(#[from] base64::DecodeError),
    /// The compression method is unknown.
    #[error("message body is compressed with `{0}`, which this worker does not know")]
    UnknownCompression(String),
    /// The compressed bytes are damaged.
    #[error("message body does not decompress: {0}")]
    Compression(std::io::Error),
    /// The decompressed body exceeds [`MAX_BODY_BYTES`].
    #[error("message body is larger than {MAX_BODY_BYTES} bytes when decompressed")]
    TooLarge,
    /// The serializer is not accepted.
    #[error("message content type `{0}` is refused; send application/json or application/x-msgpack")]
    ContentDisallowed(String),
    /// The body is not JSON.
    #[error("message body is not JSON: {0}")]
    NotJson(#[from] serde_json::Error),
    /// The body is not msgpack, or has no equivalent in JSON.
    #[error("message body is not msgpack: {0}")]
    NotMsgpack(String),
    /// The body is not `[args, kwargs, embed]`.
    #[error("message body is not `[args, kwargs, embed]` but {0}")]
    Shape(&'static str),
}

impl BodyError {
    /// The exception with which a task fails whose message has such a body.
    #[must_use]
    pub fn exception(&self) -> Exception {
        let (module, kind) = match self {
            Self::ContentDisallowed(_) => ("kombu.exceptions", "ContentDisallowed"),
            Self::Missing | Self::Shape(_) => ("celery.exceptions", "InvalidTaskError"),
            _ => ("kombu.exceptions", "DecodeError"),
        };
        Exception::new(module, kind, vec![self.to_string().into()])
    }
}
