//! Bodies that lie in a file in memory as well, from which the kernel sends them without a copy.
//!
//! Most of what a large answer costs is the copy of its body into the kernel, made anew for each client. `sendfile`
//! hands over references to the pages of a file instead, and a `memfd` is such a file without a disk. hyper knows
//! nothing of it: it writes slices, and a slice that lies within a body kept here is recognised by its address. The
//! header before it is the same for most clients for a second, so it is kept in the file as well, and one call sends
//! both. Where the system has no `memfd`, or will not send from it, slices are written as they are.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use rustix::io::Errno;
use tracing::{debug, warn};

/// Of fewer bytes the copy costs less than the second call.
const MIN_BYTES: usize = 16 * 1024;

/// A header that is not in the file is put there, but no more often than this.
const NEW_HEAD: Duration = Duration::from_millis(500);

/// A body that lies in a file.
#[derive(Debug)]
pub(super) struct FileBody {
    /// Keeps the address taken by which it is recognised.
    bytes: Bytes,
    file: ArcSwap<HeadedFile>,
    /// The system has refused to send from it.
    refused: AtomicBool,
}

/// A file with the body, and a header before it.
#[derive(Debug)]
struct HeadedFile {
    head: Vec<u8>,
    file: OwnedFd,
    made: Instant,
}

impl HeadedFile {
    fn new(head: &[u8], body: &[u8]) -> io::Result<Self> {
        Ok(Self {
            head: head.to_vec(),
            file: system::memory_file(&[head, body])?,
            made: Instant::now(),
        })
    }
}

impl FileBody {
    /// Sends `head` and then a part of the body, as much as the socket takes. How many bytes of both it took; `None`
    /// when the system does not send from such a file, and nothing was sent.
    ///
    /// # Errors
    /// The socket's, also when it takes nothing now ([`WouldBlock`](io::ErrorKind::WouldBlock)).
    pub(super) fn send(
        &self,
        socket: impl AsFd,
        head: &[u8],
        part: &Range<usize>,
    ) -> io::Result<Option<usize>> {
        let mut file = self.file.load();
        let new = !head.is_empty() && head != file.head;
        if part.start == 0 && new && file.made.elapsed() > NEW_HEAD {
            match HeadedFile::new(head, &self.bytes) {
                Ok(made) => self.file.store(Arc::new(made)),
                Err(error) => debug!(%error, "a header is sent apart from its body"),
            }
            file = self.file.load();
        }
        let body = file.head.len();
        let mut range = body + part.start..body + part.end;
        let mut sent = 0;
        if part.start == 0 && head == file.head {
            range.start = 0;
        } else if !head.is_empty() {
            sent = system::send_with_more_to_come(&socket, head)?;
            if sent < head.len() {
                return Ok(Some(sent));
            }
        }
        match system::send_file(&socket, &file.file, &range) {
            Ok(0) | Err(Errno::INVAL | Errno::NOSYS | Errno::PERM | Errno::ACCESS) => {
                if !self.refused.swap(true, Relaxed) {
                    warn!("the system does not send from memory files, lists are copied for each client");
                }
                Ok((sent > 0).then_some(sent))
            }
            Ok(more) => Ok(Some(sent + more)),
            // It will be told of the next time.
            Err(_) if sent > 0 => Ok(Some(sent)),
            Err(error) => Err(error.into()),
        }
    }
}

/// All bodies of a server that lie in files.
#[derive(Debug, Default)]
pub(super) struct FileBodies(ArcSwap<Vec<(Range<usize>, Weak<FileBody>)>>);

impl FileBodies {
    /// Puts a body into a file, where that pays. It is recognised for as long as the returned value lives.
    pub(super) fn keep(&self, bytes: &Bytes) -> Option<Arc<FileBody>> {
        if bytes.len() < MIN_BYTES {
            return None;
        }
        let file = match HeadedFile::new(&[], bytes) {
            Ok(file) => file,
            Err(error) => {
                warn!(%error, "there is no memory file for a list, it is copied for each client");
                return None;
            }
        };
        let body = Arc::new(FileBody {
            bytes: bytes.clone(),
            file: ArcSwap::from_pointee(file),
            refused: AtomicBool::new(false),
        });
        self.0.rcu(|kept| {
            let living = kept.iter().filter(|(_, body)| body.strong_count() > 0);
            let mut kept: Vec<_> = living.cloned().collect();
            kept.push((addresses(&body.bytes), Arc::downgrade(&body)));
            kept
        });
        Some(body)
    }

    /// How often a body was put into a file lately.
    #[cfg(test)]
    pub(super) fn files_of(&self, bytes: &Bytes) -> usize {
        let kept = self.0.load();
        kept.iter()
            .filter(|(whole, _)| *whole == addresses(bytes))
            .count()
    }

    /// The body that `slice` is a part of, and which part.
    pub(super) fn find(&self, slice: &[u8]) -> Option<(Arc<FileBody>, Range<usize>)> {
        if slice.len() < MIN_BYTES {
            return None;
        }
        let wanted = addresses(slice);
        let kept = self.0.load();
        kept.iter()
            .filter(|(whole, _)| whole.start <= wanted.start && wanted.end <= whole.end)
            .find_map(|(whole, body)| {
                // Its bytes live, so the address is still theirs.
                let body = body.upgrade().filter(|body| !body.refused.load(Relaxed))?;
                Some((body, wanted.start - whole.start..wanted.end - whole.start))
            })
    }
}

fn addresses(bytes: &[u8]) -> Range<usize> {
    let addresses = bytes.as_ptr_range();
    addresses.start.addr()..addresses.end.addr()
}

#[cfg(target_os = "linux")]
mod system {
    use std::fs::File;
    use std::io::{self, Write};
    use std::ops::Range;
    use std::os::fd::{AsFd, OwnedFd};

    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create, sendfile};
    use rustix::io::Errno;
    use rustix::net::{SendFlags, send};

    pub(super) fn memory_file(parts: &[&[u8]]) -> io::Result<OwnedFd> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = File::from(memfd_create("symbols", flags)?);
        for part in parts {
            file.write_all(part)?;
        }
        // What clients are still to be sent can never change under them.
        fcntl_add_seals(
            &file,
            SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
        )?;
        Ok(file.into())
    }

    pub(super) fn send_with_more_to_come(socket: impl AsFd, bytes: &[u8]) -> Result<usize, Errno> {
        send(socket, bytes, SendFlags::MORE | SendFlags::NOSIGNAL)
    }

    pub(super) fn send_file(socket: impl AsFd, file: &OwnedFd, part: &Range<usize>) -> Result<usize, Errno> {
        let mut offset = part.start as u64;
        sendfile(socket, file, Some(&mut offset), part.len())
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::io;
    use std::ops::Range;
    use std::os::fd::{AsFd, OwnedFd};

    use rustix::io::Errno;

    pub(super) fn memory_file(_: &[&[u8]]) -> io::Result<OwnedFd> {
        Err(Errno::NOSYS.into())
    }

    pub(super) fn send_with_more_to_come(_: impl AsFd, _: &[u8]) -> Result<usize, Errno> {
        Err(Errno::NOSYS)
    }

    pub(super) fn send_file(_: impl AsFd, _: &OwnedFd, _: &Range<usize>) -> Result<usize, Errno> {
        Err(Errno::NOSYS)
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn body() -> Bytes {
        (0..40_000_u32)
            .map(|number| (number % 251) as u8)
            .collect::<Vec<_>>()
            .into()
    }

    /// All that arrives of `send`, called until `whole` bytes are sent.
    fn sent(whole: usize, send: impl Fn(&UnixStream, usize) -> io::Result<Option<usize>>) -> Vec<u8> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).unwrap();
            all
        });
        let mut done = 0;
        while done < whole {
            done += send(&ours, done).unwrap().expect("sent");
        }
        drop(ours);
        reader.join().unwrap()
    }

    #[test]
    fn only_parts_of_living_bodies_of_some_size_are_recognised() {
        let (files, bytes) = (FileBodies::default(), body());
        let kept = files.keep(&bytes).expect("a file");
        assert_eq!(files.find(&bytes).expect("found").1, 0..40_000);
        assert_eq!(files.find(&bytes[100..30_000]).expect("found").1, 100..30_000);
        assert!(files.find(&bytes[..1000]).is_none(), "too small to pay");
        assert!(files.find(&body()).is_none(), "the same bytes elsewhere");
        assert!(files.keep(&bytes.slice(..1000)).is_none());
        drop(kept);
        assert!(files.find(&bytes).is_none(), "nobody keeps it any more");
    }

    #[test]
    fn a_body_kept_twice_is_recognised_until_both_are_gone() {
        let (files, bytes) = (FileBodies::default(), body());
        let (first, second) = (files.keep(&bytes), files.keep(&bytes));
        drop(first.expect("a file"));
        let second = second.expect("a file");
        let (found, _) = files.find(&bytes).expect("the second");
        assert!(Arc::ptr_eq(&found, &second));
        drop((found, second));
        assert!(files.find(&bytes).is_none());
    }

    #[tokio::test]
    async fn head_and_body_arrive_whole_whatever_the_file_holds() {
        let (files, bytes) = (FileBodies::default(), body());
        let kept = files.keep(&bytes).expect("a file");
        // In the file or not, just put there or long ago, and another one than is there.
        for (head, wait) in [
            ("one", 600),
            ("one", 0),
            ("another", 0),
            ("another", 600),
            ("", 600),
        ] {
            tokio::time::sleep(Duration::from_millis(wait)).await;
            let arrived = sent(head.len() + bytes.len(), |socket, done| {
                let head = &head.as_bytes()[done.min(head.len())..];
                kept.send(
                    socket,
                    head,
                    &(done.saturating_sub(head.len()).min(bytes.len())..bytes.len()),
                )
            });
            assert_eq!(arrived.len(), head.len() + bytes.len());
            assert!(arrived.starts_with(head.as_bytes()) && arrived.ends_with(&bytes));
        }
        assert_eq!(
            kept.file.load().head,
            b"another",
            "no head is no reason for a new file"
        );
    }

    #[test]
    fn what_clients_are_still_to_be_sent_cannot_change() {
        let file = std::fs::File::from(system::memory_file(&[b"bytes"]).unwrap());
        assert_eq!(
            io::Write::write(&mut &file, b"other").unwrap_err().kind(),
            io::ErrorKind::PermissionDenied
        );
        assert!(file.set_len(2).is_err());
    }
}
