//! The answer to a client's stream.

use core::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::Reason;

use super::{Body, End, Head, Responder, status_fields};

/// The sending half of the HTTP/2 stream. The head goes out with the first message, as grpc-go sends it.
pub(crate) enum Answer {
    Waiting { responder: Responder, head: Head },
    Open(Body),
    Gone,
}

/// The client takes no more.
pub(crate) struct ClientGone;

impl Answer {
    /// Hands over as much of a chunk, which is not empty, as the client has room for.
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        chunk: &mut Bytes,
    ) -> Poll<Result<(), ClientGone>> {
        if matches!(self, Self::Waiting { .. })
            && let Self::Waiting { responder, head } = core::mem::replace(self, Self::Gone)
            && let Some(body) = responder.begin(head.response())
        {
            *self = Self::Open(body);
        }
        let Self::Open(Body { stream, record }) = self else {
            return Poll::Ready(Err(ClientGone));
        };
        stream.reserve_capacity(chunk.len());
        let mut room = stream.capacity();
        if room == 0 {
            match ready!(stream.poll_capacity(cx)) {
                Some(Ok(capacity)) => room = capacity,
                Some(Err(_)) | None => return Poll::Ready(Err(ClientGone)),
            }
        }
        let part = chunk.split_to(room.min(chunk.len()));
        record.sent(part.len() as u64);
        Poll::Ready(stream.send_data(part, false).map_err(|_| ClientGone))
    }

    /// Completes when the client has cancelled the call or is gone.
    pub(crate) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Waiting { responder, .. } => responder.poll_reset(cx).map(drop),
            Self::Open(body) => body.stream.poll_reset(cx).map(drop),
            Self::Gone => Poll::Ready(()),
        }
    }

    /// Ends the call, of whose request so many bytes were taken in.
    pub(crate) fn finish(mut self, end: End, request_bytes: u64) {
        match &mut self {
            Self::Waiting { responder, .. } => responder.record.received(request_bytes),
            Self::Open(body) => body.record.received(request_bytes),
            Self::Gone => {}
        }
        match (end, self) {
            (End::ClientGone, _) | (_, Self::Gone) => {}
            (End::Expired, Self::Waiting { responder, .. }) => responder.reset(Reason::CANCEL),
            (End::Expired, Self::Open(mut body)) => body.reset(Reason::CANCEL),
            (End::Broken, Self::Waiting { responder, .. }) => responder.reset(Reason::PROTOCOL_ERROR),
            (End::Broken, Self::Open(mut body)) => body.reset(Reason::PROTOCOL_ERROR),
            (End::Status(status), Self::Waiting { responder, head }) => head.refuse(responder, &status),
            (End::Status(status), Self::Open(mut body)) => body.end(status_fields(&status)),
        }
    }
}
