//! One HTTP/2 connection to a member.

use core::future::poll_fn;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use bytes::Bytes;
use etcd_proxy_core::endpoints::ConnectionId;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::Request;
use http::uri::Authority;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Settings;
use crate::cli::Endpoint;
use crate::keepalive::Keepalive;
use crate::rt::Runtime;
use crate::transport::{ReadCount, Transport};

/// Receive window of a call, in bytes: what is kept in memory for a client that doesn't read.
const CALL_WINDOW: u32 = 256 * 1024;

/// Receive window of a connection: the largest there is, so that calls whose clients don't read never stop
/// the others (RFC 9113, section 6.9.1).
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// Largest list of response headers taken from a member, in bytes.
const HEADER_LIST_BYTES_MAX: u32 = 1 << 20;

const OPEN: u8 = 0;
const DRAINING: u8 = 1;
const CLOSED: u8 = 2;

/// What a connection's users and its driver share.
#[derive(Debug, Default)]
struct Shared {
    /// [`OPEN`], [`DRAINING`] (takes no new calls) or [`CLOSED`].
    state: AtomicU8,
    close: Notify,
    calls_open: AtomicUsize,
}

/// A connection to a member. It ends when the last handle is dropped and its last call is over, or at once
/// with [`Connection::close`].
#[derive(Debug)]
pub(crate) struct Connection {
    id: ConnectionId,
    target: Endpoint,
    authority: Authority,
    sender: Mutex<SendRequest<Bytes>>,
    shared: Arc<Shared>,
    reads: ReadCount,
}

/// The connection takes no new calls; nothing of the call was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused;

impl Connection {
    /// Connects to a member and starts HTTP/2. The returned driver must run for the connection to live.
    pub(crate) async fn open<R: Runtime>(
        id: ConnectionId,
        target: Endpoint,
        settings: &Settings,
    ) -> io::Result<(Arc<Self>, Driver<R>)> {
        let authority = Authority::try_from(target.authority())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "endpoint makes no valid :authority"))?;
        let transport = Transport::new(R::connect(&target).await?, Bytes::new(), None);
        let reads = transport.reads();
        let (sender, mut connection) = h2::client::Builder::new()
            .initial_window_size(CALL_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEADER_LIST_BYTES_MAX)
            .enable_push(false)
            .handshake(transport)
            .await
            .map_err(io::Error::other)?;
        let keepalive = settings.keepalive.and_then(|times| {
            let pings = connection.ping_pong()?;
            Some(Keepalive::new(
                pings,
                times,
                settings.keepalive_without_calls,
                reads.clone(),
            ))
        });
        let shared = Arc::new(Shared::default());
        let driver = Driver {
            connection,
            keepalive,
            shared: shared.clone(),
        };
        Ok((
            Arc::new(Self {
                id,
                target,
                authority,
                sender: Mutex::new(sender),
                shared,
                reads,
            }),
            driver,
        ))
    }

    pub(crate) fn id(&self) -> ConnectionId {
        self.id
    }

    /// Where it leads.
    pub(crate) fn target(&self) -> &Endpoint {
        &self.target
    }

    /// What `:authority` of requests to this member is.
    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    pub(crate) fn reads(&self) -> u64 {
        self.reads.get()
    }

    /// Whether new calls may be tried.
    pub(crate) fn is_open(&self) -> bool {
        self.shared.state.load(Ordering::Acquire) == OPEN
    }

    /// Whether it has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.shared.state.load(Ordering::Acquire) == CLOSED
    }

    /// Takes no new calls from now on. True for the first caller.
    pub(crate) fn drain(&self) -> bool {
        self.shared
            .state
            .compare_exchange(OPEN, DRAINING, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Ends the connection at once; its calls fail as if it had broken.
    pub(crate) fn close(&self) {
        self.shared.close.notify_one();
    }

    /// Opens a call. What it sends is queued; the driver writes it.
    pub(crate) fn open_call(
        &self,
        head: Request<()>,
        end_of_stream: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>, OpenCall), Refused> {
        if !self.is_open() {
            return Err(Refused);
        }
        let mut sender = self.sender.lock();
        let sent = match sender.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => sender.send_request(head, end_of_stream),
            Poll::Ready(Err(error)) => Err(error),
            // The member's limit of concurrent streams is reached: a fresh handle queues behind it in `h2`.
            Poll::Pending => sender.clone().send_request(head, end_of_stream),
        };
        drop(sender);
        let (response, stream) = sent.map_err(|error| {
            tracing::debug!(error = %error, "a member's connection takes no more calls");
            Refused
        })?;
        Ok((response, stream, OpenCall::new(&self.shared)))
    }
}

/// Counts a call as open for as long as it lives.
#[derive(Debug)]
pub(crate) struct OpenCall(Arc<Shared>);

impl OpenCall {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.calls_open.fetch_add(1, Ordering::Relaxed);
        Self(shared.clone())
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.calls_open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Reads and writes the socket of a [`Connection`].
pub(crate) struct Driver<R: Runtime> {
    connection: h2::client::Connection<Transport<R::Stream>, Bytes>,
    keepalive: Option<Keepalive<R>>,
    shared: Arc<Shared>,
}

impl<R: Runtime> Driver<R> {
    /// Runs until the connection has ended. Tells whether that was expected: its peer or its users had
    /// stopped using it before.
    pub(crate) async fn run(self) -> bool {
        let Self {
            mut connection,
            mut keepalive,
            shared,
        } = self;
        {
            let mut close = core::pin::pin!(shared.close.notified());
            poll_fn(|cx| {
                if close.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                if let Some(keepalive) = &mut keepalive {
                    let calls_open = || shared.calls_open.load(Ordering::Relaxed) > 0;
                    if keepalive.poll(cx, calls_open).is_ready() {
                        tracing::warn!(
                            "a member doesn't answer HTTP/2 keepalive pings; closing the connection"
                        );
                        return Poll::Ready(());
                    }
                }
                Pin::new(&mut connection).poll(cx).map(|ended| {
                    if let Err(error) = ended {
                        tracing::debug!(error = %error, "a member's connection has ended");
                    }
                })
            })
            .await;
        }
        // First the state, then the calls' errors: whoever sees such an error must not pick this connection again.
        let before = shared.state.swap(CLOSED, Ordering::AcqRel);
        drop(connection);
        before == DRAINING
    }
}
