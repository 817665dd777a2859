//! What a client gets: the one exit of every unary call.

use core::future::poll_fn;
use core::task::Poll;

use etcd_proxy_core::grpc::Status;
use etcd_proxy_core::retry::CONNECTION_LOST;
use h2::Reason;

use super::StreamFailure;
use super::exchange::{Answer, AnswerEnd};
use super::pump::{Pump, PumpEnd};
use crate::grpc::{Body, Outcome, Responder, send_all, status_fields};

/// How a unary call ends.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are answers, and none is kept"
)]
pub(super) enum Conclusion {
    /// With an answer, whether a member has given it or the proxy itself.
    Answer(Answer),
    /// With a status of the proxy's.
    Status(Status),
    /// With a reset.
    Reset(Reason),
    /// With nothing: the client has cancelled the call or is gone.
    Nothing,
}

impl Conclusion {
    /// Gives it to the client, as fast as that takes it.
    pub(super) async fn give(self, responder: Responder) {
        match self {
            Self::Answer(answer) => deliver(answer, responder).await,
            Self::Status(status) => responder.refuse(&status),
            Self::Reset(reason) => responder.reset(reason),
            Self::Nothing => {}
        }
    }
}

/// Passes an answer on, and ends early when the client has gone.
async fn deliver(answer: Answer, responder: Responder) {
    let Answer { head, chunks, end } = answer;
    let (source, limit, _request, _open) = match end {
        AnswerEnd::Complete(None) if chunks.is_empty() => return responder.answer_with(head),
        AnswerEnd::Complete(trailers) => {
            if let Some(body) = responder.begin(head) {
                send_all(body, chunks, trailers).await;
            }
            return;
        }
        AnswerEnd::More {
            body,
            limit,
            request,
            open,
        } => (body, limit, request, open),
    };
    let Some(Body { stream, mut record }) = responder.begin(head) else {
        return;
    };
    let mut pump = Pump::new(source, stream, limit).with_pending(chunks);
    let end = poll_fn(|cx| match pump.poll(cx) {
        Poll::Ready(end) => Poll::Ready(end),
        Poll::Pending => pump.sink().poll_reset(cx).map(|_| PumpEnd::Sink),
    })
    .await;
    record.sent(pump.moved());
    let outcome = pump.outcome();
    let mut body = Body {
        stream: pump.into_sink(),
        record,
    };
    match end {
        PumpEnd::Done => body.record.ends(outcome),
        PumpEnd::Sink | PumpEnd::Trailers => body.record.ends(Outcome::ClientGone),
        PumpEnd::TooLarge(too_large) => body.end(status_fields(&too_large.status())),
        PumpEnd::Source(error) => match StreamFailure::of(&error) {
            StreamFailure::Reset(reason) => body.reset(reason),
            StreamFailure::LeftOut | StreamFailure::Refused | StreamFailure::ConnectionLost => {
                body.end(status_fields(&CONNECTION_LOST));
            }
        },
    }
}

#[cfg(test)]
mod tests;
