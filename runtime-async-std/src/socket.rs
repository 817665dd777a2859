//! The two kinds of socket, as tokio's IO traits see them.

use core::pin::Pin;
use core::task::{Context, Poll, ready};
use std::io::{self, IoSlice};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use async_io::Async;
use futures_util::io::{AsyncRead as _, AsyncWrite as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connected socket.
#[derive(Debug)]
pub struct Socket {
    kind: Kind,
    /// Nothing was left to read: the next read waits for the reactor first, which saves the system call that would
    /// only say so.
    drained: bool,
}

#[derive(Debug)]
enum Kind {
    Tcp(Async<TcpStream>),
    Unix(Async<UnixStream>),
}

macro_rules! each {
    ($kind:expr, $socket:ident => $call:expr) => {
        match $kind {
            Kind::Tcp($socket) => $call,
            Kind::Unix($socket) => $call,
        }
    };
}

impl Socket {
    pub(crate) fn tcp(stream: TcpStream) -> io::Result<Self> {
        Async::new(stream).map(Kind::Tcp).map(Self::new)
    }

    pub(crate) fn unix(stream: UnixStream) -> io::Result<Self> {
        Async::new(stream).map(Kind::Unix).map(Self::new)
    }

    const fn new(kind: Kind) -> Self {
        Self { kind, drained: false }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        each!(&self.kind, socket => socket.as_fd())
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.drained {
            ready!(each!(&self.kind, socket => socket.poll_readable(cx)))?;
            self.drained = false;
        }
        let unfilled = buf.initialize_unfilled();
        let room = unfilled.len();
        let Poll::Ready(read) = each!(&mut self.kind, socket => Pin::new(socket).poll_read(cx, unfilled))
        else {
            self.drained = true;
            return Poll::Pending;
        };
        let read = read?;
        self.drained = (1..room).contains(&read);
        buf.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(&mut self.kind, socket => Pin::new(socket).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(&mut self.kind, socket => Pin::new(socket).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Sockets hold nothing back.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match each!(&self.kind, socket => socket.get_ref().shutdown(Shutdown::Write)) {
            // The peer was first.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            done => Poll::Ready(done),
        }
    }
}
