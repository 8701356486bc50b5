//! A body in every coding, made once and then only handed out.

use std::io::{self, Write};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::header::HeaderValue;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tracing::warn;

use super::negotiation::Coding;

/// Part of the tags of packed bodies: to be raised when the same text is packed into other bytes, by other settings or
/// by another release of an encoder.
const PACKING: u32 = 1;
const GZIP_LEVEL: u32 = 9;
const ZSTD_LEVEL: i32 = 19;
const BROTLI_QUALITY: u32 = 11;
const BROTLI_WINDOW: u32 = 22;

/// One body.
#[derive(Debug)]
pub(super) struct Representation {
    plain: Bytes,
    packed: [OnceLock<Bytes>; 3],
    tags: [HeaderValue; 4],
}

impl Representation {
    /// The body as it is; the other codings follow with [`pack`](Self::pack).
    pub(super) fn new(plain: Bytes) -> Self {
        let hash = Sha256::digest(&plain);
        let hash: String = hash[..12].iter().map(|byte| format!("{byte:02x}")).collect();
        let tags = Coding::ALL.map(|coding| {
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

    /// Packs the body in the background: the quick coding first, each ready as soon as it is made.
    pub(super) fn pack_on(self: &Arc<Self>, runtime: &Handle) {
        let body = Arc::clone(self);
        drop(runtime.spawn_blocking(move || {
            for coding in [Coding::Gzip, Coding::Zstd, Coding::Brotli] {
                if let Err(error) = body.pack(coding) {
                    warn!(?coding, %error, "a list cannot be packed, it is served without");
                }
            }
        }));
    }

    /// Packs the body in one coding. Nothing is kept of a coding that makes it no smaller.
    ///
    /// # Errors
    /// The encoder's.
    pub(super) fn pack(&self, coding: Coding) -> io::Result<()> {
        let packed = match coding {
            Coding::Identity => return Ok(()),
            Coding::Gzip => gzip(&self.plain, GZIP_LEVEL)?,
            Coding::Zstd => zstd::bulk::compress(&self.plain, ZSTD_LEVEL)?,
            Coding::Brotli => {
                let mut packed = Vec::new();
                let mut encoder =
                    brotli::CompressorWriter::new(&mut packed, 4096, BROTLI_QUALITY, BROTLI_WINDOW);
                encoder.write_all(&self.plain)?;
                drop(encoder);
                packed
            }
        };
        if packed.len() < self.plain.len() {
            // Made once; another call makes the same bytes.
            let _ = self.packed[coding as usize - 1].set(packed.into());
        }
        Ok(())
    }

    /// The body as it is.
    pub(super) fn plain(&self) -> &Bytes {
        &self.plain
    }

    /// The body in a coding, if it is made.
    pub(super) fn body(&self, coding: Coding) -> Option<&Bytes> {
        match coding {
            Coding::Identity => Some(&self.plain),
            packed => self.packed[packed as usize - 1].get(),
        }
    }

    /// The entity tag of a coding, also of one that is not made yet: the same in every process, and strong.
    pub(super) fn tag(&self, coding: Coding) -> &HeaderValue {
        &self.tags[coding as usize]
    }
}

/// Packs a text that is sent once, as quickly as it is worth.
///
/// # Errors
/// The encoder's.
pub(super) fn gzip(text: &[u8], level: u32) -> io::Result<Vec<u8>> {
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
        for coding in Coding::ALL {
            body.pack(coding).unwrap();
        }
        let packed = |coding| &body.body(coding).unwrap()[..];
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(packed(Coding::Gzip))
            .read_to_end(&mut unpacked)
            .unwrap();
        assert_eq!(unpacked, text());
        assert_eq!(
            zstd::bulk::decompress(packed(Coding::Zstd), 1 << 20).unwrap(),
            text()
        );
        let mut unpacked = Vec::new();
        brotli::Decompressor::new(packed(Coding::Brotli), 4096)
            .read_to_end(&mut unpacked)
            .unwrap();
        assert_eq!(unpacked, text());
        let sizes = Coding::ALL.map(|coding| packed(coding).len());
        assert!(sizes.iter().skip(1).all(|size| *size * 4 < sizes[0]), "{sizes:?}");
    }

    #[test]
    fn tags_depend_on_text_and_coding_alone() {
        let (one, same, other) = (
            Representation::new(text()),
            Representation::new(text()),
            Representation::new("[]".into()),
        );
        one.pack(Coding::Gzip).unwrap();
        let tags = |body: &Representation| Coding::ALL.map(|coding| body.tag(coding).clone());
        assert_eq!(tags(&one), tags(&same));
        let mut all: Vec<_> = tags(&one).into_iter().chain(tags(&other)).collect();
        all.sort_by(|one, other| one.as_bytes().cmp(other.as_bytes()));
        all.dedup();
        assert_eq!(all.len(), 8);
    }

    #[test]
    fn a_text_that_packing_makes_longer_stays_as_it_is() {
        let body = Representation::new("[]".into());
        for coding in Coding::ALL {
            body.pack(coding).unwrap();
        }
        assert!(Coding::ALL[1..].iter().all(|coding| body.body(*coding).is_none()));
    }
}
