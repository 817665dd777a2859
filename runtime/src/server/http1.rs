//! HTTP/1 on the port that gRPC clients use.

use core::convert::Infallible;
use core::future::Future;
use core::marker::PhantomData;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use core::time::Duration;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::rt::{Read, ReadBufCursor, Sleep, Timer, Write};
use hyper::service::service_fn;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use super::stranger;
use crate::metrics::Metrics;
use crate::rt::Runtime;
use crate::shutdown::Phase;
use crate::tls::Wire;
use crate::transport::Transport;

/// How long a client may take for the head of a request, and how long it may keep an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves a connection to its end.
pub(super) async fn serve<R: Runtime>(
    stream: Wire<R::Stream>,
    peer: Option<SocketAddr>,
    replay: Bytes,
    metrics: Option<Arc<Metrics>>,
    mut shutdown: watch::Receiver<Phase>,
) {
    let io = HyperIo(Transport::new(stream, replay));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(HyperTimer::<R>(PhantomData))
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(
            io,
            service_fn(move |request| {
                let answer = answer(&request, metrics.as_deref());
                core::future::ready(Ok::<_, Infallible>(answer))
            }),
        );
    let mut connection = core::pin::pin!(connection);
    let mut stop = core::pin::pin!(shutdown.wait_for(|phase| *phase == Phase::Draining));
    let mut stopping = false;
    let ended = core::future::poll_fn(|cx| {
        if !stopping && stop.as_mut().poll(cx).is_ready() {
            stopping = true;
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(cx)
    })
    .await;
    if let Err(error) = ended {
        tracing::debug!(error = %error, "an HTTP/1 connection has ended");
        if error.is_parse() {
            stranger::breaks_http1(peer, &error);
        }
    }
}

/// Answers in the words of Go's HTTP server, which the existing proxy answers with.
fn answer(request: &Request<hyper::body::Incoming>, metrics: Option<&Metrics>) -> Response<Full<Bytes>> {
    match (request.uri().path(), metrics) {
        // A HEAD is answered like a GET; hyper keeps the body back.
        ("/proxy/metrics", Some(metrics)) if [Method::GET, Method::HEAD].contains(request.method()) => {
            match metrics.text() {
                Ok(metrics) => text(
                    StatusCode::OK,
                    "text/plain; version=0.0.4; charset=utf-8",
                    metrics,
                ),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, format!("{error}\n")),
            }
        }
        _ => text(StatusCode::NOT_FOUND, PLAIN, "404 page not found\n"),
    }
}

const PLAIN: &str = "text/plain; charset=utf-8";

fn text(status: StatusCode, content_type: &'static str, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(
        HeaderName::from_static("x-content-type-options"),
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// tokio's IO traits as hyper's.
struct HyperIo<T>(T);

impl<T: AsyncRead + Unpin> Read for HyperIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        // HTTP/1 is for probes and people here: a copy is cheap enough, and safe code can't lend hyper's buffer out.
        let mut bytes = [0; 4096];
        let len = bytes.len().min(buf.remaining());
        let mut read = ReadBuf::new(&mut bytes[..len]);
        ready!(Pin::new(&mut self.0).poll_read(cx, &mut read))?;
        buf.put_slice(read.filled());
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> Write for HyperIo<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The runtime's timers as hyper's.
struct HyperTimer<R>(PhantomData<R>);

impl<R: Runtime> Timer for HyperTimer<R> {
    fn sleep(&self, wait: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(Instant::now() + wait)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(HyperSleep::<R>(Box::pin(R::sleep_until(deadline))))
    }
}

struct HyperSleep<R: Runtime>(Pin<Box<R::Sleep>>);

impl<R: Runtime> Future for HyperSleep<R> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl<R: Runtime> Sleep for HyperSleep<R> {}
