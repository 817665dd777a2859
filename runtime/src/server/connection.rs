//! One client connection: told apart by its first bytes, then served as HTTP/2 or HTTP/1. What its calls do is the
//! caller's business.

use core::future::{Future, poll_fn};
use core::task::Poll;
use core::time::Duration;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use etcd_proxy_core::http2::PREFACE;
use h2::RecvStream;
use h2::server::SendResponse;
use http::Request;
use tokio::io::AsyncReadExt as _;
use tokio::sync::watch;

use super::{Open, http1, stranger};
use crate::keepalive::Keepalive;
use crate::metrics::Metrics;
use crate::rt::{self, Runtime};
use crate::settings::Limits;
use crate::shutdown::Phase;
use crate::tls::Wire;
use crate::transport::{PingGuard, Transport};

/// How long a client may take from connecting to the end of the HTTP/2 preface or the first line of HTTP/1.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);

/// Receive window of a call, in bytes.
const CALL_WINDOW: u32 = 1 << 20;

/// Largest list of request headers, in bytes; tokens may be long.
const HEADER_LIST_BYTES_MAX: u32 = 1 << 20;

/// Calls that a client may cancel before they were looked at, all in one go, without being taken for an
/// attacker (CVE-2023-44487).
const PENDING_RESETS_MAX: usize = 1024;

/// What a connection's first bytes say it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
    /// A client's first TLS message.
    Tls,
    Unknown,
}

/// Serves a connection to its end. `peer` is for the log, `metrics` are there for HTTP/1 clients. Each gRPC call becomes a
/// task of the future that `call` makes.
pub(crate) async fn serve<R, F>(
    mut stream: Wire<R::Stream>,
    peer: Option<SocketAddr>,
    limits: Limits,
    metrics: Option<Arc<Metrics>>,
    mut shutdown: watch::Receiver<Phase>,
    call: impl FnMut(Request<RecvStream>, SendResponse<Bytes>) -> F,
) where
    R: Runtime,
    F: Future<Output = ()> + Send + 'static,
{
    let deadline = Instant::now() + PREFACE_TIMEOUT;
    let mut read = BytesMut::with_capacity(PREFACE.len());
    let sniffed = tokio::select! {
        sniffed = rt::timeout_at::<R, _>(deadline, sniff(&mut stream, &mut read)) => sniffed,
        _ = shutdown.wait_for(|phase| *phase == Phase::Draining) => return,
    };
    match sniffed {
        Ok(Ok(Some(Protocol::Http2))) => {
            http2::<R, F>(stream, peer, read.freeze(), limits, shutdown, call).await;
        }
        Ok(Ok(Some(Protocol::Http1))) => {
            Box::pin(http1::serve::<R>(stream, peer, read.freeze(), metrics, shutdown)).await
        }
        Ok(Ok(Some(Protocol::Tls))) => stranger::speaks_tls(peer),
        Ok(Ok(Some(Protocol::Unknown))) => stranger::speaks_gibberish(peer, &read),
        Ok(Ok(None) | Err(_)) | Err(rt::Elapsed) => {
            tracing::debug!("a client connection ended before it was known what it speaks");
        }
    }
}

/// Reads until it is known what the client speaks; `None` if it ends before.
async fn sniff(
    stream: &mut (impl tokio::io::AsyncRead + Unpin),
    read: &mut BytesMut,
) -> io::Result<Option<Protocol>> {
    loop {
        if stream.read_buf(read).await? == 0 {
            return Ok(None);
        }
        let common = read
            .iter()
            .zip(PREFACE)
            .take_while(|(read, expected)| read == expected)
            .count();
        if common == PREFACE.len() {
            return Ok(Some(Protocol::Http2));
        }
        if common < read.len() {
            // HTTP/1 begins with a method: letters (RFC 9112, section 3).
            let method = read
                .iter()
                .all(|byte| !byte.is_ascii_control() || matches!(byte, b'\r' | b'\n'));
            return Ok(Some(match read[..] {
                [first, ..] if first.is_ascii_uppercase() && method => Protocol::Http1,
                // A handshake record of TLS 1.0 to 1.3 (RFC 8446, section 5.1).
                [22] | [22, 3, ..] => Protocol::Tls,
                _ => Protocol::Unknown,
            }));
        }
    }
}

async fn http2<R, F>(
    stream: Wire<R::Stream>,
    peer: Option<SocketAddr>,
    replay: Bytes,
    limits: Limits,
    mut shutdown: watch::Receiver<Phase>,
    mut call: impl FnMut(Request<RecvStream>, SendResponse<Bytes>) -> F,
) where
    R: Runtime,
    F: Future<Output = ()> + Send + 'static,
{
    let calls_open = Arc::new(AtomicUsize::new(0));
    let guard = PingGuard::new(limits.pings, calls_open.clone());
    let transport = Transport::new(stream, replay).guarded(guard);
    let reads = transport.reads();
    let handshake = h2::server::Builder::new()
        .initial_window_size(CALL_WINDOW)
        .initial_connection_window_size(limits.connection_window_bytes)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .max_concurrent_streams(limits.concurrent_streams_max)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .handshake::<_, Bytes>(transport);
    let Ok(Ok(mut connection)) = rt::timeout_at::<R, _>(Instant::now() + PREFACE_TIMEOUT, handshake).await
    else {
        return;
    };
    let mut keepalive = limits.keepalive.and_then(|times| {
        let pings = connection.ping_pong()?;
        Some(Keepalive::<R>::new(pings, times, true, reads))
    });
    let mut draining = core::pin::pin!(shutdown.wait_for(|phase| *phase == Phase::Draining));
    let mut told = false;
    poll_fn(|cx| {
        if let Some(keepalive) = &mut keepalive
            && keepalive
                .poll(cx, || calls_open.load(Ordering::Relaxed) > 0)
                .is_ready()
        {
            tracing::debug!("a client doesn't answer HTTP/2 keepalive pings; closing its connection");
            return Poll::Ready(());
        }
        if !told && draining.as_mut().poll(cx).is_ready() {
            told = true;
            connection.graceful_shutdown();
        }
        loop {
            match connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    let open = Open::new(&calls_open);
                    let call = call(request, respond);
                    rt::spawn::<R>(async move {
                        call.await;
                        drop(open);
                    });
                }
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(error = %error, "a client connection has ended");
                    // Our own verdict, not the client's, nor the operating system's.
                    if error.is_library() {
                        stranger::breaks_http2(peer, &error);
                    }
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        Poll::Pending
    })
    .await;
}
