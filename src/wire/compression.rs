//! Decompression of bodies, by kombu's names of the methods.
//!
//! kombu writes a zlib stream under `application/x-gzip`. Foreign publishers take the name literally, so real gzip
//! is accepted too. The output is bounded, whatever size the input claims.

use std::io::Read;

use bzip2::read::BzDecoder;
use flate2::read::{GzDecoder, ZlibDecoder};
use zstd::stream::read::Decoder as ZstdDecoder;

use super::body_error::{BodyError, MAX_BODY_BYTES};

/// Decompresses a body. `method` is the message's `compression` header.
pub(super) fn decompress(method: &str, bytes: &[u8]) -> Result<Vec<u8>, BodyError> {
    match method {
        "application/x-gzip" | "application/zlib" | "gzip" | "zlib" => {
            if bytes.starts_with(&[0x1f, 0x8b]) {
                read_bounded(GzDecoder::new(bytes))
            } else {
                read_bounded(ZlibDecoder::new(bytes))
            }
        }
        "application/x-bz2" | "bzip2" | "bzip" => read_bounded(BzDecoder::new(bytes)),
        "application/zstd" | "zstd" => {
            read_bounded(ZstdDecoder::with_buffer(bytes).map_err(BodyError::Compression)?)
        }
        other => Err(BodyError::UnknownCompression(other.chars().take(80).collect())),
    }
}

fn read_bounded(decoder: impl Read) -> Result<Vec<u8>, BodyError> {
    let mut plain = Vec::new();
    let limit = u64::try_from(MAX_BODY_BYTES).unwrap_or(u64::MAX);
    decoder
        .take(limit + 1)
        .read_to_end(&mut plain)
        .map_err(BodyError::Compression)?;
    if plain.len() > MAX_BODY_BYTES {
        return Err(BodyError::TooLarge);
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const PLAIN: &[u8] = b"[[1, 2, 3, 3, 3, 3, 3], {}, null]";

    #[test]
    fn every_method_of_kombu_that_is_known_is_undone() {
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        zlib.write_all(PLAIN).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(PLAIN).unwrap();
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
        bzip2.write_all(PLAIN).unwrap();
        let zstd = zstd::bulk::compress(PLAIN, 0).unwrap();
        for (method, bytes) in [
            ("application/x-gzip", zlib.finish().unwrap()),
            ("application/x-gzip", gzip.finish().unwrap()),
            ("application/x-bz2", bzip2.finish().unwrap()),
            ("application/zstd", zstd),
        ] {
            assert_eq!(decompress(method, &bytes).unwrap(), PLAIN, "{method}");
        }
    }

    #[test]
    fn damage_and_bombs_are_refused() {
        for method in ["application/x-gzip", "application/x-bz2", "application/zstd"] {
            assert!(decompress(method, b"not that").is_err(), "{method}");
        }
        assert!(matches!(
            decompress("application/x-lzma", b""),
            Err(BodyError::UnknownCompression(_))
        ));
        let zeros = vec![0_u8; MAX_BODY_BYTES + 1];
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        zlib.write_all(&zeros).unwrap();
        for (method, bomb) in [
            ("zlib", zlib.finish().unwrap()),
            ("zstd", zstd::bulk::compress(&zeros, 0).unwrap()),
        ] {
            assert!(
                matches!(decompress(method, &bomb), Err(BodyError::TooLarge)),
                "{method}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            for method in ["application/x-gzip", "application/x-bz2", "application/zstd"] {
                let _ = decompress(method, &bytes);
            }
        }
    }
}
