//! A socket as HTTP/2 sees it, on both sides of the proxy.

use core::pin::Pin;
use core::task::{Context, Poll, ready};
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::{Buf as _, Bytes, BytesMut};
use etcd_proxy_core::http2::{FrameKind, FrameScanner, LONG_FRAME};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

mod guard;

pub(crate) use guard::PingGuard;

/// Writes up to this size are kept back until the flush, in bytes: frame headers then travel in one
/// system call with the payload behind them.
const HELD_BYTES_MAX: usize = 4 * 1024;

/// Counts the reads that brought something: the sign of life of the peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReadCount(Arc<AtomicU64>);

impl ReadCount {
    /// A number that has changed if something was read since it was last asked for.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What `h2` doesn't tell of what a member sends.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inbound(Arc<Seen>);

#[derive(Debug, Default)]
struct Seen {
    go_away: AtomicBool,
    long_frame: AtomicBool,
    bytes: AtomicU64,
}

impl Inbound {
    /// Whether there was a GOAWAY: `h2` tells only when no call is open.
    pub(crate) fn go_away(&self) -> bool {
        self.0.go_away.load(Ordering::Relaxed)
    }

    /// Whether there was a frame of a long answer since this was last asked.
    pub(crate) fn take_long_frame(&self) -> bool {
        self.0.long_frame.load(Ordering::Relaxed) && self.0.long_frame.swap(false, Ordering::Relaxed)
    }

    /// All bytes so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    fn read(&self, scanner: &mut FrameScanner, bytes: &[u8]) {
        self.0.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        scanner.scan(bytes, |kind, len| match kind {
            FrameKind::GoAway => self.0.go_away.store(true, Ordering::Relaxed),
            FrameKind::Message if len >= LONG_FRAME => self.0.long_frame.store(true, Ordering::Relaxed),
            FrameKind::Message | FrameKind::Ping | FrameKind::Other => {}
        });
    }
}

/// Wraps a socket for the `h2` crate.
///
/// - It counts reads, so that silence can be told from life.
/// - It gathers small writes until `h2` flushes. `h2` copies payloads below 1 KiB behind their frame headers
///   when the IO isn't vectored, which is what small messages want; a larger payload goes out together with
///   everything gathered before it in one vectored write.
/// - On the side of clients it carries the [`PingGuard`].
#[derive(Debug)]
pub(crate) struct Transport<S> {
    stream: S,
    reads: ReadCount,
    /// Bytes that were read from the stream before it was known to be HTTP/2.
    replay: Bytes,
    held: BytesMut,
    watch: Watch,
}

/// What is looked for in the frames.
#[derive(Debug)]
enum Watch {
    Nothing,
    /// On the side of clients.
    Pings(PingGuard),
    /// On the side of members.
    Inbound {
        scanner: FrameScanner,
        seen: Inbound,
    },
}

impl<S> Transport<S> {
    /// For a socket of which `replay` was read before.
    pub(crate) fn new(stream: S, replay: Bytes) -> Self {
        Self {
            stream,
            reads: ReadCount::default(),
            replay,
            held: BytesMut::new(),
            watch: Watch::Nothing,
        }
    }

    /// Polices the peer's PINGs.
    pub(crate) fn guarded(mut self, guard: PingGuard) -> Self {
        self.watch = Watch::Pings(guard);
        self
    }

    /// Looks at what the peer sends.
    pub(crate) fn watched(mut self) -> (Self, Inbound) {
        let seen = Inbound::default();
        self.watch = Watch::Inbound {
            scanner: FrameScanner::default(),
            seen: seen.clone(),
        };
        (self, seen)
    }

    fn guard(&mut self) -> Option<&mut PingGuard> {
        match &mut self.watch {
            Watch::Pings(guard) => Some(guard),
            Watch::Nothing | Watch::Inbound { .. } => None,
        }
    }

    pub(crate) fn reads(&self) -> ReadCount {
        self.reads.clone()
    }
}

impl<S: AsyncWrite + Unpin> Transport<S> {
    fn poll_write_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.held))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.held.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Once the guard has condemned the connection: its GOAWAY goes out at the next frame boundary, and then
    /// nothing more does.
    fn poll_goodbye(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(goodbye) = self.guard().and_then(PingGuard::goodbye) else {
            return Poll::Pending;
        };
        self.held.extend_from_slice(&goodbye);
        ready!(self.poll_write_held(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn condemned(&self) -> bool {
        matches!(&self.watch, Watch::Pings(guard) if guard.condemned())
    }

    /// Condemned, and between two frames: the moment for the GOAWAY.
    fn may_say_goodbye(&self) -> bool {
        matches!(&self.watch, Watch::Pings(guard) if guard.condemned() && guard.at_boundary())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Transport<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.condemned() {
            // Nothing filled in: the end of the stream.
            return self.poll_goodbye(cx);
        }
        let before = buf.filled().len();
        let this = &mut *self;
        if this.replay.is_empty() {
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        } else {
            let len = this.replay.len().min(buf.remaining());
            buf.put_slice(&this.replay.split_to(len));
        }
        let read = &buf.filled()[before..];
        if !read.is_empty() {
            this.reads.0.fetch_add(1, Ordering::Relaxed);
            match &mut this.watch {
                Watch::Nothing => {}
                Watch::Pings(guard) => guard.received(read),
                Watch::Inbound { scanner, seen } => seen.read(scanner, read),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Transport<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.may_say_goodbye() {
            ready!(self.poll_goodbye(cx))?;
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let this = &mut *self;
        let accepted = if this.held.len() + buf.len() <= HELD_BYTES_MAX {
            this.held.extend_from_slice(buf);
            buf.len()
        } else {
            loop {
                let slices = [IoSlice::new(&this.held), IoSlice::new(buf)];
                let written = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, &slices))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                let from_held = written.min(this.held.len());
                this.held.advance(from_held);
                if written > from_held {
                    break written - from_held;
                }
            }
        };
        if let Some(guard) = this.guard() {
            guard.sent(&buf[..accepted]);
        }
        Poll::Ready(Ok(accepted))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_held(cx))?;
        if self.guard().is_some_and(PingGuard::waits_for_boundary) {
            // The frame that was in the way of the goodbye is over: have the reading side polled again.
            cx.waker().wake_by_ref();
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_held(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
