//! A body in every content coding, made once.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use brotli::enc::BrotliEncoderParams;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::header::HeaderValue;
use sha2::{Digest, Sha256};
use tracing::warn;

use super::negotiation::ContentCoding;

/// Part of the entity tags of compressed bodies. Raise it when other settings or another encoder release compress the
/// same text to other bytes.
const PACKING: u32 = 2;
const GZIP_LEVEL: u32 = 9;
const ZSTD_LEVEL: i32 = 19;
const BROTLI_QUALITY: i32 = 11;
/// The smallest and the largest window, as powers of two.
const BROTLI_WINDOWS: (i32, i32) = (16, 22);
/// How much of a text is compressed at a time, as a power of two. Smaller blocks make larger results.
const BROTLI_BLOCK: i32 = 16;
/// How much of a text is compressed before the next look whether it is still used.
const PIECE: usize = 1 << BROTLI_BLOCK;

/// A body in every content coding.
#[derive(Debug)]
pub(crate) struct Representation {
    plain: Bytes,
    packed: [OnceLock<Bytes>; 3],
    tags: [HeaderValue; 4],
}

impl Representation {
    /// The uncompressed body. A [`Packer`] adds the other codings.
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

/// Compresses bodies in the background, one at a time, so that many new lists cost no more memory than one. A body that is
/// no longer used is given up. Clones share the thread.
#[derive(Debug, Clone, Default)]
pub(crate) struct Packer(Arc<Mutex<PackQueue>>);

#[derive(Debug, Default)]
struct PackQueue {
    /// Only bodies in use, so the caches that hold them bound the queue.
    waiting: VecDeque<Weak<Representation>>,
    /// Whether the thread runs. It ends when nothing waits.
    running: bool,
}

impl Packer {
    /// Packs a body before all that wait. Each coding is served as soon as it is made, the fastest first.
    pub(super) fn pack_next(&self, body: &Arc<Representation>) {
        self.add(|waiting| waiting.push_front(Arc::downgrade(body)));
    }

    /// Packs a body after all that wait.
    pub(super) fn pack_last(&self, body: &Arc<Representation>) {
        self.add(|waiting| waiting.push_back(Arc::downgrade(body)));
    }

    fn add(&self, push: impl FnOnce(&mut VecDeque<Weak<Representation>>)) {
        let mut queue = self.queue();
        queue.waiting.retain(|body| body.strong_count() > 0);
        push(&mut queue.waiting);
        if !queue.running {
            let packer = self.clone();
            let thread = std::thread::Builder::new().name("packer".to_owned());
            match thread.spawn(move || packer.run()) {
                Ok(_) => queue.running = true,
                Err(error) => {
                    warn!(%error, "cannot start a thread that compresses lists, they are served as they are");
                }
            }
        }
    }

    fn run(self) {
        loop {
            let body = {
                let mut queue = self.queue();
                let next = queue.waiting.pop_front();
                queue.running = next.is_some();
                next
            };
            let Some(body) = body else { return };
            for coding in [ContentCoding::Gzip, ContentCoding::Zstd, ContentCoding::Brotli] {
                if let Err(error) = pack(&body, coding) {
                    warn!(?coding, %error, "cannot compress a list, it is served without this coding");
                }
            }
        }
    }

    /// Locked for one look, never while a body is packed.
    fn queue(&self) -> MutexGuard<'_, PackQueue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Compresses a body in one coding and keeps the result if it is smaller. Stops early when the body is no longer used.
///
/// # Errors
/// When the encoder fails.
fn pack(body: &Weak<Representation>, coding: ContentCoding) -> io::Result<()> {
    let Some(plain) = body.upgrade().map(|body| body.plain.clone()) else {
        return Ok(());
    };
    let write = |encoder: &mut dyn Write| {
        for piece in plain.chunks(PIECE) {
            if body.strong_count() == 0 {
                break;
            }
            encoder.write_all(piece)?;
        }
        io::Result::Ok(())
    };
    let mut packed = Vec::with_capacity(plain.len() / 8);
    match coding {
        ContentCoding::Identity => return Ok(()),
        ContentCoding::Gzip => {
            let mut encoder = GzEncoder::new(&mut packed, Compression::new(GZIP_LEVEL));
            write(&mut encoder)?;
            encoder.finish()?;
        }
        ContentCoding::Zstd => packed = zstd::bulk::compress(&plain, ZSTD_LEVEL)?,
        ContentCoding::Brotli => {
            let params = BrotliEncoderParams {
                quality: BROTLI_QUALITY,
                lgwin: brotli_window(plain.len()),
                lgblock: BROTLI_BLOCK,
                ..BrotliEncoderParams::default()
            };
            let mut encoder = brotli::CompressorWriter::with_params(&mut packed, 4096, &params);
            write(&mut encoder)?;
        }
    }
    if let Some(body) = body.upgrade().filter(|_| packed.len() < plain.len()) {
        packed.shrink_to_fit();
        // Another call made the same bytes.
        let _ = body.packed[coding as usize - 1].set(packed.into());
    }
    Ok(())
}

/// The smallest window, as a power of two, that holds the whole text: the encoder allocates eight bytes for each of it.
fn brotli_window(length: usize) -> i32 {
    // The format keeps 16 bytes of a window free.
    (BROTLI_WINDOWS.0..BROTLI_WINDOWS.1)
        .find(|window| (1_usize << window) - 16 >= length)
        .unwrap_or(BROTLI_WINDOWS.1)
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

    fn packed_in_all(text: Bytes) -> Arc<Representation> {
        let body = Arc::new(Representation::new(text));
        for coding in ContentCoding::ALL {
            pack(&Arc::downgrade(&body), coding).unwrap();
        }
        body
    }

    #[test]
    fn each_coding_holds_the_same_text_in_fewer_bytes() {
        let body = packed_in_all(text());
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
        let one = Arc::new(one);
        pack(&Arc::downgrade(&one), ContentCoding::Gzip).unwrap();
        let tags = |body: &Representation| ContentCoding::ALL.map(|coding| body.tag(coding).clone());
        assert_eq!(tags(&one), tags(&same));
        let mut all: Vec<_> = tags(&one).into_iter().chain(tags(&other)).collect();
        all.sort_by(|one, other| one.as_bytes().cmp(other.as_bytes()));
        all.dedup();
        assert_eq!(all.len(), 8);
    }

    #[test]
    fn the_window_of_brotli_fits_the_text() {
        let windows = [0, 65_520, 65_521, 292_000, 10_000_000].map(brotli_window);
        assert_eq!(windows, [16, 16, 17, 19, 22]);
    }

    #[test]
    fn bodies_are_packed_one_after_another_and_the_queue_holds_only_those_in_use() {
        let packer = Packer::default();
        // As if the thread were busy.
        packer.queue().running = true;
        let filtered = Arc::new(Representation::new(text()));
        packer.pack_last(&filtered);
        for _ in 0..1000 {
            packer.pack_next(&Arc::new(Representation::new(text())));
        }
        let list = Arc::new(Representation::new(text()));
        packer.pack_next(&list);
        let waiting: Vec<_> = packer.queue().waiting.iter().filter_map(Weak::upgrade).collect();
        assert_eq!(waiting.len(), packer.queue().waiting.len());
        assert!(Arc::ptr_eq(&waiting[0], &list) && Arc::ptr_eq(&waiting[1], &filtered));
        assert_eq!(waiting.len(), 2);
        packer.clone().run();
        assert!(!packer.queue().running);
        for body in [list, filtered] {
            assert!(body.body(ContentCoding::Brotli).is_some());
        }
    }

    #[test]
    fn a_text_that_packing_makes_longer_stays_as_it_is() {
        let body = packed_in_all("[]".into());
        assert!(
            ContentCoding::ALL[1..]
                .iter()
                .all(|coding| body.body(*coding).is_none())
        );
    }
}
