//! The answer to a client's stream.

use core::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};

use super::{End, Head, status_fields};

/// The sending half of the HTTP/2 stream. The head goes out with the first message, as grpc-go sends it.
pub(crate) enum Answer {
    Waiting {
        respond: SendResponse<Bytes>,
        head: Head,
    },
    Open(SendStream<Bytes>),
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
        if let Self::Waiting { respond, head } = self {
            *self = match respond.send_response(head.response(), false) {
                Ok(stream) => Self::Open(stream),
                Err(_) => Self::Gone,
            };
        }
        let Self::Open(stream) = self else {
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
        Poll::Ready(stream.send_data(part, false).map_err(|_| ClientGone))
    }

    /// Completes when the client has cancelled the call or is gone.
    pub(crate) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Waiting { respond, .. } => respond.poll_reset(cx).map(drop),
            Self::Open(stream) => stream.poll_reset(cx).map(drop),
            Self::Gone => Poll::Ready(()),
        }
    }

    /// Ends the call.
    pub(crate) fn finish(self, end: End) {
        match (end, self) {
            (End::ClientGone, _) | (_, Self::Gone) => {}
            (End::Expired, Self::Waiting { mut respond, .. }) => respond.send_reset(Reason::CANCEL),
            (End::Expired, Self::Open(mut stream)) => stream.send_reset(Reason::CANCEL),
            (End::Broken, Self::Waiting { mut respond, .. }) => respond.send_reset(Reason::PROTOCOL_ERROR),
            (End::Broken, Self::Open(mut stream)) => stream.send_reset(Reason::PROTOCOL_ERROR),
            (End::Status { code, message }, Self::Waiting { respond, head }) => {
                head.refuse(respond, code, &message);
            }
            // An error means that the client has gone.
            (End::Status { code, message }, Self::Open(mut stream)) => {
                drop(stream.send_trailers(status_fields(code, &message)));
            }
        }
    }
}
