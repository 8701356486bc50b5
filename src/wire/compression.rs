//! Compressed bodies, under the names kombu gives the methods.
//!
//! `application/x-gzip` holds a zlib stream, not gzip: that is what kombu writes. Real gzip is read as well,
//! because foreign publishers take the name at its word. Output is bounded, whatever the input claims.

use std::io::Read;

use bzip2::read::BzDecoder;
use flate2::read::{GzDecoder, ZlibDecoder};
use ruzstd::decoding::StreamingDecoder;

use super::body_error::{BodyError, MAX_BODY_BYTES};

/// Undoes the compression that a message's `compression` header names.
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
            let decoder = StreamingDecoder::new(bytes)
                .map_err(|error| BodyError::Compression(std::io::Error::other(error.to_string())))?;
            read_bounded(decoder)
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
        let zstd = ruzstd::encoding::compress_to_vec(PLAIN, ruzstd::encoding::CompressionLevel::Fastest);
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
        let mut bomb = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        let zeros = vec![0_u8; 1 << 20];
        for _ in 0..65 {
            bomb.write_all(&zeros).unwrap();
        }
        assert!(matches!(
            decompress("zlib", &bomb.finish().unwrap()),
            Err(BodyError::TooLarge)
        ));
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
