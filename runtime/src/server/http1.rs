//! HTTP/1 on the port that gRPC clients use.

use core::convert::Infallible;
use core::future::Future;
use core::marker::PhantomData;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use core::time::Duration;
use std::io;
use std::time::Instant;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::rt::{Read, ReadBufCursor, Sleep, Timer, Write};
use hyper::service::service_fn;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use super::Phase;
use crate::rt::Runtime;
use crate::transport::Transport;

/// How long a client may take for the head of a request, and how long it may keep an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves a connection to its end. The proxy has no HTTP paths yet, so every one is unknown, in the words of Go's
/// HTTP server, which the existing proxy answers with.
pub(super) async fn serve<R: Runtime>(
    stream: R::Stream,
    replay: Bytes,
    mut shutdown: watch::Receiver<Phase>,
) {
    let io = HyperIo(Transport::new(stream, replay));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(HyperTimer::<R>(PhantomData))
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(io, service_fn(answer));
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
    }
}

async fn answer(_: Request<hyper::body::Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"404 page not found\n")));
    *response.status_mut() = StatusCode::NOT_FOUND;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(
        HeaderName::from_static("x-content-type-options"),
        HeaderValue::from_static("nosniff"),
    );
    Ok(response)
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
