//! Reads response bodies within a limit, and decompresses them.
//!
//! reqwest could decompress while it reads, in pieces of a few kilobytes on the runtime's threads. As a whole it takes
//! less time, and a thread for blocking work can do it.

use std::io::Read;

use flate2::bufread::MultiGzDecoder;
use reqwest::Response;
use reqwest::header::CONTENT_ENCODING;

use super::error::Reason;
use tradebot_base::error_chain;

/// What [`Body::decoded`] can decompress, for `Accept-Encoding`.
pub(super) const ENCODINGS: &str = "gzip";
/// How much of an error's body is read.
const ERROR_TEXT_BYTES: usize = 4096;

/// A body as the exchange sent it.
pub(super) struct Body {
    bytes: Vec<u8>,
    is_gzip: bool,
    cap: usize,
}

impl Body {
    /// Reads a body that has at most `cap` bytes, both as sent and decompressed.
    pub(super) async fn read(mut answer: Response, cap: usize) -> Result<Self, Reason> {
        let is_gzip = is_gzip(&answer)?;
        let mut bytes = Vec::new();
        while let Some(chunk) = answer
            .chunk()
            .await
            .map_err(|error| Reason::Body(error_chain(&error)))?
        {
            if bytes.len() + chunk.len() > cap {
                return Err(Reason::TooLarge(cap));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Self { bytes, is_gzip, cap })
    }

    /// The body, decompressed. Takes milliseconds for a large one.
    pub(super) fn decoded(self) -> Result<Vec<u8>, Reason> {
        if !self.is_gzip {
            return Ok(self.bytes);
        }
        // Reserves address space only: pages take memory when they are written to, and the buffer never has to grow.
        let mut plain = Vec::with_capacity(self.cap);
        let mut decoder = MultiGzDecoder::new(self.bytes.as_slice());
        // `read_to_end` would write zeros to all of the buffer first.
        let mut piece = [0; 32 << 10];
        loop {
            let read = decoder
                .read(&mut piece)
                .map_err(|error| Reason::Body(format!("cannot decompress it: {error}")))?;
            if read == 0 {
                break;
            }
            if plain.len() + read > self.cap {
                return Err(Reason::TooLarge(self.cap));
            }
            plain.extend_from_slice(&piece[..read]);
        }
        Ok(plain)
    }
}

/// The start of an error's body.
pub(super) async fn error_body(mut answer: Response) -> String {
    let is_gzip = is_gzip(&answer).unwrap_or(false);
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() >= ERROR_TEXT_BYTES {
            break;
        }
    }
    if is_gzip {
        let mut plain = Vec::new();
        let limit = ERROR_TEXT_BYTES as u64;
        // What precedes damage, or the place where reading stopped, is quoted.
        let _ = MultiGzDecoder::new(body.as_slice())
            .take(limit)
            .read_to_end(&mut plain);
        body = plain;
    }
    String::from_utf8_lossy(&body).into_owned()
}

/// The start of an error's body as one line.
pub(super) fn one_line(body: &str) -> String {
    let line: String = body.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() {
        "no text".into()
    } else {
        line.chars().take(160).collect()
    }
}

/// The start of an error's body as one line, unless it must not be quoted.
pub(super) async fn error_text(answer: Response, quote: bool) -> String {
    if quote {
        one_line(&error_body(answer).await)
    } else {
        "signed call".into()
    }
}

/// Whether a body is compressed. Names of encodings may be written in any case (RFC 9110, 8.4.1).
///
/// # Errors
/// When it has an encoding that was not requested, or more than one.
fn is_gzip(answer: &Response) -> Result<bool, Reason> {
    let values = answer.headers().get_all(CONTENT_ENCODING);
    let values = values
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase());
    let values = values.collect::<Vec<_>>().join(",");
    let mut encodings = values.split(',').map(str::trim);
    encodings.try_fold(false, |is_gzip, encoding| match encoding {
        "" | "identity" => Ok(is_gzip),
        "gzip" | "x-gzip" if !is_gzip => Ok(true),
        other => {
            let encoding: String = other.chars().take(20).collect();
            Err(Reason::Body(format!(
                "it has the unrequested content encoding {encoding}"
            )))
        }
    })
}
