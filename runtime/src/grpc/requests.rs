//! The messages of a client's stream.

use core::task::{Context, Poll, ready};

use bytes::Bytes;
use etcd_proxy_core::grpc::{Code, Status};
use h2::RecvStream;

use super::uploads::Upload;
use super::{Cut, End, Messages, Uploads};

/// What the client sends.
pub(crate) struct Requests {
    body: RecvStream,
    messages: Messages,
    upload: Upload,
    /// What has come so far.
    bytes: u64,
    /// Its end was told.
    over: bool,
}

impl Requests {
    /// Of a stream on the connection that has these places for large messages.
    pub(crate) fn new(body: RecvStream, messages: Messages, uploads: &Uploads) -> Self {
        Self {
            body,
            messages,
            upload: uploads.upload(),
            bytes: 0,
            over: false,
        }
    }

    /// How many bytes have come, message prefixes included.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next message; `None` for the half-close, once.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, End>> {
        if self.over {
            return Poll::Pending;
        }
        loop {
            match self.messages.next() {
                Ok(Some(message)) => return Poll::Ready(Ok(Some(message))),
                Ok(None) => {}
                Err(status) => return Poll::Ready(Err(End::Status(status))),
            }
            ready!(self.upload.poll(cx, self.messages.held()));
            match ready!(self.body.poll_data(cx)) {
                Some(Ok(chunk)) => {
                    // It fails only when the stream has ended and its window means nothing any more.
                    let _ = self.body.flow_control().release_capacity(chunk.len());
                    self.bytes += chunk.len() as u64;
                    self.messages.push(chunk);
                }
                Some(Err(_)) => return Poll::Ready(Err(End::ClientGone)),
                None => {
                    // gRPC has none in this direction: an etcd server ends the connection.
                    if !matches!(ready!(self.body.poll_trailers(cx)), Ok(None)) {
                        return Poll::Ready(Err(End::Broken));
                    }
                    self.over = true;
                    return Poll::Ready(match self.messages.cut() {
                        Cut::Between => Ok(None),
                        Cut::Within => Err(End::Status(Status::of(Code::Internal, "unexpected EOF"))),
                    });
                }
            }
        }
    }
}
