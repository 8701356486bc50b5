//! A body in every content coding, made once.

use std::io::{self, Write};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::header::HeaderValue;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tracing::warn;

use super::negotiation::ContentCoding;

/// Part of the entity tags of compressed bodies. Raise it when other settings or another encoder release compress the
/// same text to other bytes.
const PACKING: u32 = 1;
const GZIP_LEVEL: u32 = 9;
const ZSTD_LEVEL: i32 = 19;
const BROTLI_QUALITY: u32 = 11;
const BROTLI_WINDOW: u32 = 22;

/// A body in every content coding.
#[derive(Debug)]
pub(crate) struct Representation {
    plain: Bytes,
    packed: [OnceLock<Bytes>; 3],
    tags: [HeaderValue; 4],
}

impl Representation {
    /// The uncompressed body. [`pack`](Self::pack) adds the other codings.
    pub(super) fn new(plain: Bytes) -> Self {
        let hash = Sha256::digest(&plain);
        let hash: String = hash[..12].iter().map(|byte| format!("{byte:02x}")).collect();
        let tags = ContentCoding::ALL.map(|coding| {
            let tag = match coding.token() {
                None => format!("\"{hash}\""),
                Some(token) => format!("\"{hash}-{token}{PACKING}\""),
            };
            HeaderValue::from_str(&tag).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
        });
        Self {
            plain,
            packed: Default::default(),
            tags,
        }
    }

    /// Compresses the body in the background. Each coding is served as soon as it is made, the fastest first.
    pub(super) fn pack_on(self: &Arc<Self>, runtime: &Handle) {
        let body = Arc::clone(self);
        drop(runtime.spawn_blocking(move || {
            for coding in [ContentCoding::Gzip, ContentCoding::Zstd, ContentCoding::Brotli] {
                if let Err(error) = body.pack(coding) {
                    warn!(?coding, %error, "cannot compress a list, it is served without this coding");
                }
            }
        }));
    }

    /// Compresses the body in one coding and keeps the result if it is smaller.
    ///
    /// # Errors
    /// When the encoder fails.
    pub(super) fn pack(&self, coding: ContentCoding) -> io::Result<()> {
        let packed = match coding {
            ContentCoding::Identity => return Ok(()),
            ContentCoding::Gzip => gzip(&self.plain, GZIP_LEVEL)?,
            ContentCoding::Zstd => zstd::bulk::compress(&self.plain, ZSTD_LEVEL)?,
            ContentCoding::Brotli => {
                let mut packed = Vec::new();
                let mut encoder =
                    brotli::CompressorWriter::new(&mut packed, 4096, BROTLI_QUALITY, BROTLI_WINDOW);
                encoder.write_all(&self.plain)?;
                drop(encoder);
                packed
            }
        };
        if packed.len() < self.plain.len() {
            // Another call made the same bytes.
            let _ = self.packed[coding as usize - 1].set(packed.into());
        }
        Ok(())
    }

    /// The uncompressed body.
    pub(super) fn plain(&self) -> &Bytes {
        &self.plain
    }

    /// The body in a coding, if it has been made.
    pub(super) fn body(&self, coding: ContentCoding) -> Option<&Bytes> {
        match coding {
            ContentCoding::Identity => Some(&self.plain),
            packed => self.packed[packed as usize - 1].get(),
        }
    }

    /// The strong entity tag of a coding, made or not. Every process computes the same one.
    pub(super) fn tag(&self, coding: ContentCoding) -> &HeaderValue {
        &self.tags[coding as usize]
    }
}

/// Compresses a text with gzip.
///
/// # Errors
/// When the encoder fails.
fn gzip(text: &[u8], level: u32) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(text.len() / 8), Compression::new(level));
    encoder.write_all(text)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn text() -> Bytes {
        let symbols: Vec<String> = (0..400)
            .map(|n| format!("{{\"symbol\": \"S{n}USDT\", \"status\": \"TRADING\"}}"))
            .collect();
        format!("[{}]", symbols.join(", ")).into()
    }

    #[test]
    fn each_coding_holds_the_same_text_in_fewer_bytes() {
        let body = Representation::new(text());
        for coding in ContentCoding::ALL {
            body.pack(coding).unwrap();
        }
        let packed = |coding| &body.body(coding).unwrap()[..];
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(packed(ContentCoding::Gzip))
            .read_to_end(&mut unpacked)
            .unwrap();
        assert_eq!(unpacked, text());
        assert_eq!(
            zstd::bulk::decompress(packed(ContentCoding::Zstd), 1 << 20).unwrap(),
            text()
        );
        let mut unpacked = Vec::new();
        brotli::Decompressor::new(packed(ContentCoding::Brotli), 4096)
            .read_to_end(&mut unpacked)
            .unwrap();
        assert_eq!(unpacked, text());
        let sizes = ContentCoding::ALL.map(|coding| packed(coding).len());
        assert!(sizes.iter().skip(1).all(|size| *size * 4 < sizes[0]), "{sizes:?}");
    }

    #[test]
    fn tags_depend_on_text_and_coding_alone() {
        let (one, same, other) = (
            Representation::new(text()),
            Representation::new(text()),
            Representation::new("[]".into()),
        );
        one.pack(ContentCoding::Gzip).unwrap();
        let tags = |body: &Representation| ContentCoding::ALL.map(|coding| body.tag(coding).clone());
        assert_eq!(tags(&one), tags(&same));
        let mut all: Vec<_> = tags(&one).into_iter().chain(tags(&other)).collect();
        all.sort_by(|one, other| one.as_bytes().cmp(other.as_bytes()));
        all.dedup();
        assert_eq!(all.len(), 8);
    }

    #[test]
    fn a_text_that_packing_makes_longer_stays_as_it_is() {
        let body = Representation::new("[]".into());
        for coding in ContentCoding::ALL {
            body.pack(coding).unwrap();
        }
        assert!(
            ContentCoding::ALL[1..]
                .iter()
                .all(|coding| body.body(*coding).is_none())
        );
    }
}
