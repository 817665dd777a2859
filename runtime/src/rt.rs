//! The seam between the proxy and an async runtime.
//!
//! Everything that touches a socket, a timer, a signal or an executor goes through [`Runtime`]; an
//! adapter is one small crate that implements it. The functions are associated functions without
//! `self`: an adapter's executor, reactor and timers are found through the current thread, as both
//! tokio and async-io have it.

use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::panic::AssertUnwindSafe;
use std::time::Instant;

use futures_util::FutureExt as _;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::settings::Endpoint;

/// What the proxy needs of an async runtime.
pub trait Runtime: Send + Sync + Sized + 'static {
    /// A connected byte stream. It belongs to the executor of the thread that made it.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// A listening socket of the current thread's reactor.
    type Listener: Send + Sync + 'static;

    /// A timer of the current thread.
    type Sleep: Future<Output = ()> + Send + Sync + 'static;

    /// Runs a future to its end on a new executor of the current thread. Tasks that were spawned from
    /// it run in the meantime, all on this thread, and are dropped when it returns.
    ///
    /// # Errors
    /// When the executor or its reactor can't be set up.
    fn block_on<F: Future>(future: F) -> io::Result<F::Output>;

    /// Runs a future on the current thread's executor, detached. The future doesn't panic: this crate's
    /// callers see to it.
    fn spawn(future: impl Future<Output = ()> + Send + 'static);

    /// Completes at or soon after `deadline`, never before.
    fn sleep_until(deadline: Instant) -> Self::Sleep;

    /// Registers a listening socket with the current thread's reactor.
    ///
    /// # Errors
    /// The operating system's.
    fn listener(listener: TcpListener) -> io::Result<Self::Listener>;

    /// Waits for the next connection. The socket isn't bound to any reactor yet, so that it can be
    /// handed to another thread.
    fn accept(listener: &Self::Listener) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send;

    /// Makes an accepted socket a stream of the current thread.
    ///
    /// # Errors
    /// The operating system's.
    fn adopt(socket: TcpStream) -> io::Result<Self::Stream>;

    /// Connects to an endpoint, its name resolved afresh; each of its addresses is tried in turn. TCP sockets get the
    /// options of [`prepare_connected`].
    fn connect(endpoint: &Endpoint) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// The signals that the process handles, as a stream; see [`Signals`].
    ///
    /// # Errors
    /// When no handler can be installed.
    fn signals() -> io::Result<impl Signals>;
}

/// How long nothing comes on a connection to a member before the kernel asks whether its peer still knows of it, and the
/// time between two such questions; values of Go's dialer, as clients without a proxy have them. Connections that drain
/// can't be probed: without this, calls on them would wait for ever for a host that lost its power.
const MEMBER_KEEPALIVE: Duration = Duration::from_secs(15);

/// Questions without answer after which the connection counts as broken (Go's).
const MEMBER_KEEPALIVE_QUESTIONS: u32 = 9;

/// Sets the options of a TCP socket that was connected to a member.
///
/// # Errors
/// The operating system's.
pub fn prepare_connected(socket: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    let keepalive = TcpKeepalive::new()
        .with_time(MEMBER_KEEPALIVE)
        .with_interval(MEMBER_KEEPALIVE)
        .with_retries(MEMBER_KEEPALIVE_QUESTIONS);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive)
}

/// SIGTERM, SIGINT and SIGHUP.
pub trait Signals: Send {
    /// Waits for the next signal.
    fn next(&mut self) -> impl Future<Output = Signal> + Send;
}

/// A signal that would end a process which doesn't handle it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP, 1.
    Hangup,
    /// SIGINT, 2.
    Interrupt,
    /// SIGTERM, 15.
    Terminate,
}

impl Signal {
    /// The signal's number; a shell shows 128 + this for a process that it ended.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Hangup => 1,
            Self::Interrupt => 2,
            Self::Terminate => 15,
        }
    }
}

/// Spawns a future whose panic ends only itself. The panic hook has logged it by then.
pub(crate) fn spawn<R: Runtime>(future: impl Future<Output = ()> + Send + 'static) {
    R::spawn(AssertUnwindSafe(future).catch_unwind().map(drop));
}

/// A number that differs from process to process: many proxies must not choose the same endpoint.
pub(crate) fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Completes after `wait`.
pub(crate) fn sleep<R: Runtime>(wait: Duration) -> R::Sleep {
    R::sleep_until(Instant::now() + wait)
}

/// Lets other tasks of the thread have their turn.
pub(crate) async fn yield_now() {
    let mut had_their_turn = false;
    poll_fn(|cx| {
        if core::mem::replace(&mut had_their_turn, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// The deadline passed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Elapsed;

/// Runs `future` until it is done or `deadline` has come.
pub(crate) async fn timeout_at<R: Runtime, F: Future>(
    deadline: Instant,
    future: F,
) -> Result<F::Output, Elapsed> {
    let mut future = core::pin::pin!(future);
    let mut sleep = core::pin::pin!(R::sleep_until(deadline));
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Ok(output)),
        Poll::Pending => sleep.as_mut().poll(cx).map(|()| Err(Elapsed)),
    })
    .await
}

/// A timer that can be set again in its place.
pub(crate) struct Alarm<R: Runtime>(Pin<Box<R::Sleep>>);

impl<R: Runtime> Alarm<R> {
    pub(crate) fn new(wait: Duration) -> Self {
        Self(Box::pin(sleep::<R>(wait)))
    }

    pub(crate) fn reset(&mut self, deadline: Instant) {
        self.0.set(R::sleep_until(deadline));
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_their_numbers() {
        let signals = [Signal::Hangup, Signal::Interrupt, Signal::Terminate];
        assert_eq!(signals.map(Signal::number), [1, 2, 15]);
    }
}
