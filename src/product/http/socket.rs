//! The socket of one connection, as hyper is given it: it notes what goes through it, sends what lies in a file from
//! there, and answers what is only asked again.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::file_body::FileBodies;
use super::repeats::Repeats;
use super::site::Site;
use super::watch::{BLOCKED, READING, Watch};

/// A socket.
pub(super) struct Socket<S: Site> {
    wire: Wire,
    watch: Arc<Watch>,
    repeats: Repeats<S::Lasting>,
    site: Arc<S>,
}

impl<S: Site> Socket<S> {
    pub(super) fn new(
        stream: TcpStream,
        files: Arc<FileBodies>,
        watch: Arc<Watch>,
        repeats: Repeats<S::Lasting>,
        site: Arc<S>,
    ) -> Self {
        let wire = Wire { stream, files };
        Self {
            wire,
            watch,
            repeats,
            site,
        }
    }

    /// Sends what is left of an answer that is sent again. Nothing else may be read or written before that.
    fn poll_repeat(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(slices) = self.repeats.unsent() {
            let written = self.wire.poll_slices(cx, &slices.map(io::IoSlice::new));
            let sent = ready!(self.noted(written))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            if self.repeats.sent(sent) {
                self.watch.clear(BLOCKED);
            }
        }
        Poll::Ready(Ok(()))
    }

    fn noted<T>(&self, written: Poll<T>) -> Poll<T> {
        if written.is_pending() {
            self.watch.set(BLOCKED);
        }
        written
    }
}

impl<S: Site> AsyncRead for Socket<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            ready!(this.poll_repeat(cx))?;
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.wire.stream).poll_read(cx, buf))?;
            let bytes = &buf.filled()[before..];
            if bytes.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if !this
                .repeats
                .is_again(bytes, |lasting| this.site.answer_again(lasting))
            {
                this.watch.set(READING);
                this.repeats.given(bytes);
                return Poll::Ready(Ok(()));
            }
            this.watch.request(false);
            buf.set_filled(before);
        }
    }
}

impl<S: Site> AsyncWrite for Socket<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_repeat(cx))?;
        let written = this.wire.poll_slices(cx, bufs);
        if let Poll::Ready(Ok(sent)) = written {
            let (head, body) = two(bufs);
            this.repeats.written(head, body, sent);
        }
        this.noted(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.wire.stream.is_write_vectored()
    }

    /// hyper flushes when nothing is left to write: only then has a slow client caught up.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_repeat(cx))?;
        this.watch.clear(BLOCKED);
        Pin::new(&mut this.wire.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_repeat(cx))?;
        // While an answer was sent again nothing was read. To close with a request unread would take from the client
        // what it has not received of that answer; a failure to read shows in what follows.
        let _ = this.wire.stream.try_read(&mut [0; 8192]);
        Pin::new(&mut this.wire.stream).poll_shutdown(cx)
    }
}

/// Where bytes leave.
struct Wire {
    stream: TcpStream,
    files: Arc<FileBodies>,
}

impl Wire {
    fn poll_slices(&mut self, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let (first, second) = two(bufs);
        let (head, body) = if second.is_empty() {
            (second, first)
        } else {
            (first, second)
        };
        if body.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if let Some((body, part)) = self.files.find(body) {
            loop {
                ready!(self.stream.poll_write_ready(cx))?;
                let send = || body.send(&self.stream, head, &part);
                match self.stream.try_io(Interest::WRITABLE, send) {
                    Ok(Some(sent)) => return Poll::Ready(Ok(sent)),
                    Ok(None) => break,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
        }
        let stream = Pin::new(&mut self.stream);
        if second.is_empty() {
            // `send` costs the system less than `writev`.
            return stream.poll_write(cx, first);
        }
        stream.poll_write_vectored(cx, bufs)
    }
}

/// The first two slices that have bytes in them, or fewer.
fn two<'b>(bufs: &'b [io::IoSlice<'_>]) -> (&'b [u8], &'b [u8]) {
    let mut filled = bufs.iter().filter(|buf| !buf.is_empty());
    let mut next = || filled.next().map_or(&[][..], |buf| &**buf);
    (next(), next())
}
