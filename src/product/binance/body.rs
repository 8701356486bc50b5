//! Reads response bodies within a limit.

use reqwest::Response;

use super::error::Reason;
use tradebot_base::error_chain;

/// How much of an error's body is read.
const ERROR_TEXT_BYTES: usize = 4096;

/// Reads a body of at most `cap` bytes, decompressed, into a buffer that begins with room for `capacity` bytes.
pub(super) async fn read_body(mut answer: Response, cap: usize, capacity: usize) -> Result<Vec<u8>, Reason> {
    let mut body = Vec::with_capacity(capacity);
    while let Some(chunk) = answer
        .chunk()
        .await
        .map_err(|error| Reason::Body(error_chain(&error)))?
    {
        if body.len() + chunk.len() > cap {
            return Err(Reason::TooLarge(cap));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The start of an error's body as one line, unless it must not be quoted.
pub(super) async fn error_text(mut answer: Response, quote: bool) -> String {
    if !quote {
        return "signed call".into();
    }
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() >= ERROR_TEXT_BYTES {
            break;
        }
    }
    let text = String::from_utf8_lossy(&body);
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() {
        "no text".into()
    } else {
        line.chars().take(160).collect()
    }
}
