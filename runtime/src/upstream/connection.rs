//! One HTTP/2 connection to a member.

use core::future::poll_fn;
use core::pin::Pin;
use core::task::Poll;
use core::time::Duration;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use etcd_proxy_core::endpoints::ConnectionId;
use etcd_proxy_core::http2::{CALL_WINDOW_MIN, CallWindow};
use etcd_proxy_core::pool::Link;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::Request;
use http::uri::{Authority, Scheme};
use parking_lot::Mutex;
use tokio::sync::{Notify, OnceCell};

use super::Settings;
use super::lane::Counted;
use crate::keepalive::Keepalive;
use crate::rt::Runtime;
use crate::settings::{self, Endpoint};
use crate::tls::{self, Wire};
use crate::transport::{Inbound, ReadCount, Transport};

/// Receive window of a connection: the largest there is, so that calls whose clients don't read never stop
/// the others (RFC 9113, section 6.9.1).
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// Largest list of response headers taken from a member, in bytes.
const HEADER_LIST_BYTES_MAX: u32 = 1 << 20;

/// Calls that were given up and may still be answered: `h2` forgets older ones, and must count answers to those as
/// errors of the peer.
const GIVEN_UP_CALLS_MAX: usize = 4096;

/// PINGs to a member while a call is open on a connection that can't be probed, no more often than etcd servers allow.
pub(crate) const UNPROBED_KEEPALIVE: settings::Keepalive = settings::Keepalive {
    interval: Duration::from_secs(10),
    timeout: Duration::from_secs(10),
};

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum State {
    /// It takes calls.
    Open,
    /// New calls go elsewhere by our own choice; probes may still be sent.
    Withdrawn,
    /// The member takes no new calls on it.
    Refusing,
    /// It has ended.
    Closed,
}

/// What a connection's users and its driver share.
#[derive(Debug)]
struct Shared {
    /// A [`State`]; it only ever grows.
    state: AtomicU8,
    close: Notify,
    /// It was closed to have its calls made elsewhere.
    moved_away: AtomicBool,
    calls_open: AtomicUsize,
    /// How many the member allows; the largest number there is until it has said so.
    calls_max: AtomicUsize,
    /// The member has begun to speak, or the connection has ended.
    heard: Notify,
}

impl Shared {
    fn new() -> Self {
        Self {
            state: AtomicU8::new(State::Open as u8),
            close: Notify::new(),
            moved_away: AtomicBool::new(false),
            calls_open: AtomicUsize::new(0),
            calls_max: AtomicUsize::new(usize::MAX),
            heard: Notify::new(),
        }
    }

    /// Moves on to `state`; false if it had come that far before.
    fn advance(&self, state: State) -> bool {
        self.state.fetch_max(state as u8, Ordering::AcqRel) < state as u8
    }

    fn has_reached(&self, state: State) -> bool {
        self.state.load(Ordering::Acquire) >= state as u8
    }
}

/// A connection to a member. It ends when the last handle is dropped, calls being handles too, or at once with
/// [`Connection::close`].
#[derive(Debug)]
pub(crate) struct Connection {
    id: ConnectionId,
    target: Endpoint,
    scheme: Scheme,
    authority: Authority,
    sender: Mutex<SendRequest<Bytes>>,
    shared: Arc<Shared>,
    reads: ReadCount,
    /// What was learned of the member in how far it can be trusted, once that was asked for.
    pub(super) trusts_progress: OnceCell<bool>,
    /// The id of the cluster that its member is of, if it says so.
    pub(super) cluster: OnceCell<Option<u64>>,
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
        let stream = R::connect(&target).await?;
        let wire = match &settings.tls {
            Some(tls) => tls::connect::<R, _>(&tls.get(), &target, stream).await?,
            None => Wire::Plain(stream),
        };
        let (transport, inbound) = Transport::new(wire, Bytes::new()).watched();
        let reads = transport.reads();
        let (sender, mut connection) = h2::client::Builder::new()
            .initial_window_size(CALL_WINDOW_MIN)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEADER_LIST_BYTES_MAX)
            // Clients give calls up all the time. Members are trusted not to abuse what that leaves open.
            .max_concurrent_reset_streams(GIVEN_UP_CALLS_MAX)
            .max_local_error_reset_streams(None)
            .enable_push(false)
            .handshake(transport)
            .await
            .map_err(io::Error::other)?;
        let keepalive = connection.ping_pong().map(|pings| {
            let is_wanted = settings.keepalive.is_some();
            Keepalive::new(
                pings,
                settings.keepalive.unwrap_or(UNPROBED_KEEPALIVE),
                is_wanted && settings.keepalive_without_calls,
                reads.clone(),
            )
        });
        let shared = Arc::new(Shared::new());
        let driver = Driver {
            connection,
            keepalive,
            is_pinged: settings.keepalive.is_some(),
            shared: shared.clone(),
            reads: reads.clone(),
            heard: false,
            inbound,
            window: CallWindow::default(),
            window_told: CALL_WINDOW_MIN,
            measuring: None,
        };
        let connection = Self {
            id,
            target,
            scheme: if settings.tls.is_some() {
                Scheme::HTTPS
            } else {
                Scheme::HTTP
            },
            authority,
            sender: Mutex::new(sender),
            shared,
            reads,
            trusts_progress: OnceCell::new(),
            cluster: OnceCell::new(),
        };
        Ok((Arc::new(connection), driver))
    }

    pub(crate) fn id(&self) -> ConnectionId {
        self.id
    }

    /// Where it leads.
    pub(crate) fn target(&self) -> &Endpoint {
        &self.target
    }

    /// What `:scheme` of requests to this member is.
    pub(crate) fn scheme(&self) -> Scheme {
        self.scheme.clone()
    }

    /// What `:authority` of requests to this member is.
    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The id of the cluster that its member is of, as far as it has said so.
    pub(crate) fn known_cluster(&self) -> Option<u64> {
        self.cluster.get().copied().flatten()
    }

    pub(crate) fn reads(&self) -> u64 {
        self.reads.get()
    }

    /// Whether clients' calls may be tried on it.
    pub(crate) fn is_open(&self) -> bool {
        !self.shared.has_reached(State::Withdrawn)
    }

    /// Whether the member takes no new calls on it, or it has ended.
    pub(crate) fn is_refusing(&self) -> bool {
        self.shared.has_reached(State::Refusing)
    }

    /// Whether it has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.shared.has_reached(State::Closed)
    }

    /// Whether the member's limit of calls on one connection is reached: another one would wait in line.
    pub(crate) fn is_full(&self) -> bool {
        self.calls_open() >= self.calls_max()
    }

    /// Completes when the member has begun to speak, so that it is known how many calls it allows, or the connection has
    /// ended.
    pub(crate) async fn heard(&self) {
        self.shared.heard.notified().await;
    }

    /// New calls go elsewhere from now on.
    pub(crate) fn withdraw(&self) {
        self.shared.advance(State::Withdrawn);
    }

    /// The member takes no new calls from now on. True for the first who says so.
    pub(crate) fn refuses(&self) -> bool {
        self.shared.advance(State::Refusing)
    }

    /// Ends the connection at once, to have its calls made on another member.
    pub(crate) fn move_away(&self) {
        self.shared.moved_away.store(true, Ordering::Release);
        self.close();
    }

    /// Whether it was ended for that reason.
    pub(crate) fn has_moved_away(&self) -> bool {
        self.shared.moved_away.load(Ordering::Acquire)
    }

    /// Ends the connection at once; its calls fail as if it had broken.
    pub(crate) fn close(&self) {
        self.shared.close.notify_one();
    }

    /// Opens a call. What it sends is queued; the driver writes it. Beyond the member's limit of concurrent streams it
    /// waits in line.
    pub(crate) fn open_call(
        self: &Arc<Self>,
        head: Request<()>,
        end_of_stream: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>, OpenCall), Refused> {
        if self.is_refusing() {
            return Err(Refused);
        }
        // A fresh handle each time: a used one holds on to a stream that waits in line, and shares its waker.
        let mut sender = self.sender.lock().clone();
        let (response, stream) = sender.send_request(head, end_of_stream).map_err(|error| {
            tracing::debug!(error = %error, "a member's connection takes no more calls");
            Refused
        })?;
        Ok((response, stream, OpenCall::new(self)))
    }
}

impl Link for Connection {
    fn id(&self) -> ConnectionId {
        self.id
    }

    fn is_open(&self) -> bool {
        self.is_open()
    }

    fn calls_open(&self) -> usize {
        self.shared.calls_open.load(Ordering::Relaxed)
    }

    fn calls_max(&self) -> usize {
        self.shared.calls_max.load(Ordering::Relaxed)
    }
}

/// Counts a call as open for as long as it lives, and keeps its connection.
#[derive(Debug)]
pub(crate) struct OpenCall {
    connection: Arc<Connection>,
    /// Given back after the connection's own count, so that whose turn it is then finds room.
    counted: Option<Counted>,
}

impl OpenCall {
    fn new(connection: &Arc<Connection>) -> Self {
        connection.shared.calls_open.fetch_add(1, Ordering::Relaxed);
        Self {
            connection: connection.clone(),
            counted: None,
        }
    }

    /// Counts as its client's too.
    pub(crate) fn count(&mut self, counted: Counted) {
        self.counted = Some(counted);
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.connection.shared.calls_open.fetch_sub(1, Ordering::Relaxed);
        drop(self.counted.take());
    }
}

/// How a connection has ended.
#[derive(Debug)]
pub(crate) struct End {
    /// The end was announced, by its peer or by its users.
    pub(crate) announced: bool,
    /// What went wrong, for the log; `None` when the peer just closed it.
    pub(crate) error: Option<String>,
}

/// Reads and writes the socket of a [`Connection`].
pub(crate) struct Driver<R: Runtime> {
    connection: h2::client::Connection<Transport<Wire<R::Stream>>, Bytes>,
    keepalive: Option<Keepalive<R>>,
    /// Whether it is pinged from the beginning, and not only when it can't be probed any more.
    is_pinged: bool,
    shared: Arc<Shared>,
    reads: ReadCount,
    /// Something came from the member.
    heard: bool,
    inbound: Inbound,
    window: CallWindow,
    /// The window that the member knows of.
    window_told: u32,
    /// A PING is under way beside a long answer: since when, and what had come until then.
    measuring: Option<(Instant, u64)>,
}

impl<R: Runtime> Driver<R> {
    /// Runs until the connection has ended. Calls `on_go_away` when the peer says that it takes no new calls. Tells
    /// how it ended.
    pub(crate) async fn run(mut self, on_go_away: impl FnOnce()) -> End {
        let mut on_go_away = Some(on_go_away);
        let mut failed = None;
        let shared = self.shared.clone();
        let mut close = core::pin::pin!(shared.close.notified());
        poll_fn(|cx| {
            if close.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            if let Some(keepalive) = &mut self.keepalive {
                let is_pinged = self.is_pinged || shared.has_reached(State::Refusing);
                let calls_open = || is_pinged && shared.calls_open.load(Ordering::Relaxed) > 0;
                if keepalive.poll(cx, calls_open).is_ready() {
                    failed = Some("HTTP/2 keepalive pings are not answered".to_owned());
                    return Poll::Ready(());
                }
            }
            let mut ended = Pin::new(&mut self.connection).poll(cx);
            if ended.is_pending() && self.tune() {
                ended = Pin::new(&mut self.connection).poll(cx);
            }
            self.note_calls_max();
            if self.inbound.go_away()
                && let Some(on_go_away) = on_go_away.take()
                && shared.advance(State::Refusing)
            {
                on_go_away();
            }
            ended.map(|ended| {
                if let Err(error) = ended {
                    tracing::debug!(error = %error, "a member's connection has ended");
                    failed = Some(error.to_string());
                }
            })
        })
        .await;
        let announced = shared.has_reached(State::Withdrawn);
        // First the state, then the calls' errors: whoever sees such an error must not pick this connection again.
        drop(self);
        End {
            announced,
            error: failed,
        }
    }

    /// Has the windows of calls follow what the link holds. True if there is something to send.
    fn tune(&mut self) -> bool {
        let Some(keepalive) = &mut self.keepalive else {
            return false;
        };
        let calls_open = self.shared.calls_open.load(Ordering::Relaxed);
        if keepalive.take_measured()
            && let Some((since, before)) = self.measuring.take()
        {
            let bytes = self.inbound.bytes() - before;
            self.window.measured(bytes, since.elapsed(), calls_open);
        }
        self.window.fit(calls_open);
        let mut sends = false;
        if self.measuring.is_none() && self.inbound.take_long_frame() && keepalive.measure() {
            self.measuring = Some((Instant::now(), self.inbound.bytes()));
            sends = true;
        }
        let bytes = self.window.bytes();
        // Refused while the member hasn't confirmed the last change; it will be tried again.
        if bytes != self.window_told && self.connection.set_initial_window_size(bytes).is_ok() {
            self.window_told = bytes;
            sends = true;
        }
        sends
    }

    /// What a member allows is the first that it says, and it may change it.
    fn note_calls_max(&mut self) {
        if self.reads.get() > 0 {
            let max = self.connection.max_concurrent_send_streams();
            self.shared.calls_max.store(max, Ordering::Relaxed);
            if !core::mem::replace(&mut self.heard, true) {
                self.shared.heard.notify_one();
            }
        }
    }
}

impl<R: Runtime> Drop for Driver<R> {
    fn drop(&mut self) {
        self.shared.advance(State::Closed);
        self.shared.heard.notify_one();
    }
}

#[cfg(test)]
mod tests;
