//! What can be wrong with a message body.

use thiserror::Error;

/// The most a decompressed body may hold, in bytes.
pub const MAX_BODY_BYTES: usize = 64 << 20;

/// Why a body could not be decoded.
#[derive(Debug, Error)]
pub enum BodyError {
    /// There is none, or it is not text.
    #[error("message has no body")]
    Missing,
    /// `body_encoding` says base64 and it is not.
    #[error("message body is not base64: {0}")]
    Base64(#[from] base64::DecodeError),
    /// A compression this worker does not know.
    #[error("message body is compressed with `{0}`, which this worker does not know")]
    UnknownCompression(String),
    /// The compressed bytes are damaged.
    #[error("message body does not decompress: {0}")]
    Compression(std::io::Error),
    /// Larger than [`MAX_BODY_BYTES`] after decompression.
    #[error("message body is larger than {MAX_BODY_BYTES} bytes")]
    TooLarge,
    /// A serializer outside the accept-list.
    #[error("message content type `{0}` is refused, accepted are application/json and application/x-msgpack")]
    ContentDisallowed(String),
    /// Not JSON.
    #[error("message body is not JSON: {0}")]
    NotJson(#[from] serde_json::Error),
    /// Not msgpack, or nothing that JSON could hold.
    #[error("message body is not msgpack: {0}")]
    NotMsgpack(String),
    /// JSON of another shape than `[args, kwargs, embed]`.
    #[error("message body is not `[args, kwargs, embed]` but {0}")]
    Shape(&'static str),
}

impl BodyError {
    /// Whether the body may be whole, and only this worker does not accept its form.
    #[must_use]
    pub fn is_not_accepted(&self) -> bool {
        matches!(self, Self::UnknownCompression(_) | Self::ContentDisallowed(_))
    }
}
