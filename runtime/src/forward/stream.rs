//! Calls with messages in one or both directions, and calls nothing is known of.

use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::{Context, Poll, ready};

use bytes::Bytes;
use etcd_proxy_core::grpc::{MessageLimit, Status};
use etcd_proxy_core::retry::{Attempts, CONNECTION_LOST, Failure, Next};
use etcd_proxy_core::rpc::Shape;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};

use super::deadline::Expiry;
use super::head::Head;
use super::observer::Observer;
use super::pump::{Pump, PumpEnd};
use super::{Call, NoAttempt, StreamFailure};
use crate::grpc::{Body, Record, Responder, SERVER_STOPPED, status_fields};
use crate::rt::Runtime;
use crate::shutdown::Phase;
use crate::upstream::OpenCall;

/// Forwards a call as two directions that move on by themselves.
pub(super) async fn forward<R: Runtime>(
    mut call: Call,
    request: Request<RecvStream>,
    mut responder: Responder,
) {
    let (parts, body) = request.into_parts();
    let observer = Observer::of(call.rpc, &call.client.worker.reads);
    let head = Head::new(parts);
    // No more of the body is taken before the call is open, so until then it can be opened anywhere.
    let empty = body.is_end_stream();
    let mut attempts = Attempts::new(false);
    let mut failed_on = None;
    let (response, stream, open) = loop {
        let (connection, request) = match call.next::<R>(&head, failed_on, &mut responder).await {
            Ok(next) => next,
            Err(NoAttempt::Refused(status)) => return responder.refuse(&status),
            Err(NoAttempt::ClientGone) => return,
        };
        match call.open(&connection, request, empty) {
            Ok(opened) => break opened,
            Err(_refused) => {
                call.refused(&connection).await;
                if attempts.after(Failure::NotSent, &mut call.rng) == Next::GiveUp {
                    return responder.refuse(&CONNECTION_LOST);
                }
                failed_on = Some(connection.id());
            }
        }
    };
    let limits = call.client.worker.limits;
    let request = if empty {
        RequestSide::Empty(stream)
    } else {
        let limit = MessageLimit::new(limits.request_bytes_max);
        RequestSide::Open(Pump::new(body, stream, limit).without_trailers())
    };
    let response = ResponseSide::Waiting { response, responder };
    let mut both = Both {
        request,
        request_over: empty,
        response,
        response_limit: MessageLimit::new(limits.response_bytes_max),
        observer,
        _open: open,
    };
    let mut expiry = Expiry::<R>::new(call.deadline);
    let mut shutdown = call.client.worker.shutdown.clone();
    let mut stopped = core::pin::pin!(async {
        match call.rpc.shape() {
            Shape::Endless => drop(shutdown.wait_for(|phase| *phase == Phase::Draining).await),
            Shape::Unary | Shape::Stream => core::future::pending().await,
        }
    });
    poll_fn(|cx| {
        if both.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if expiry.poll(cx).is_ready() {
            both.stop(&Status::deadline_exceeded());
            return Poll::Ready(());
        }
        stopped.as_mut().poll(cx).map(|()| both.stop(&SERVER_STOPPED))
    })
    .await;
}

enum RequestSide {
    Open(Pump),
    /// It had no body; the member's stream stays open for its answer.
    Empty(SendStream<Bytes>),
}

enum ResponseSide {
    Waiting {
        response: ResponseFuture,
        responder: Responder,
    },
    Open {
        pump: Pump,
        record: Record,
    },
    Over,
}

/// Both directions of a call. When the answer is over the call is; what the client still sends is of no use.
struct Both {
    request: RequestSide,
    /// The request's pump has nothing left to do.
    request_over: bool,
    response: ResponseSide,
    response_limit: MessageLimit,
    /// Of the answer, until it begins.
    observer: Option<Box<Observer>>,
    _open: OpenCall,
}

impl Both {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.poll_response(cx).is_ready() {
            return Poll::Ready(());
        }
        self.poll_request(cx)
    }

    /// Ready only when the whole call is over.
    fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let ResponseSide::Waiting { response, responder } = &mut self.response {
            let Poll::Ready(response) = Pin::new(response).poll(cx) else {
                let reset = ready!(responder.poll_reset(cx));
                self.cancel(reset.unwrap_or(Reason::CANCEL));
                return Poll::Ready(());
            };
            let (parts, body) = match response {
                Ok(response) => response.into_parts(),
                Err(error) => {
                    self.fail(&error);
                    return Poll::Ready(());
                }
            };
            let head = Response::from_parts(parts, ());
            if body.is_end_stream() {
                self.end(|responder| responder.answer_with(head), drop);
                return Poll::Ready(());
            }
            let waiting = core::mem::replace(&mut self.response, ResponseSide::Over);
            let ResponseSide::Waiting { responder, .. } = waiting else {
                return Poll::Ready(());
            };
            let Some(Body { stream, record }) = responder.begin(head) else {
                self.cancel(Reason::CANCEL);
                return Poll::Ready(());
            };
            let pump = Pump::new(body, stream, self.response_limit.clone());
            self.response = ResponseSide::Open {
                pump: pump.observed(self.observer.take()),
                record,
            };
        }
        let ResponseSide::Open { pump, record } = &mut self.response else {
            return Poll::Ready(());
        };
        match pump.poll(cx) {
            Poll::Ready(PumpEnd::Done) => record.ends(pump.outcome()),
            // An answer may have trailers.
            Poll::Ready(PumpEnd::Sink | PumpEnd::Trailers) => self.cancel(Reason::CANCEL),
            Poll::Ready(PumpEnd::Source(error)) => self.fail(&error),
            Poll::Ready(PumpEnd::TooLarge(too_large)) => self.stop(&too_large.status()),
            Poll::Pending => {
                let Poll::Ready(reset) = pump.sink().poll_reset(cx) else {
                    return Poll::Pending;
                };
                self.cancel(reset.unwrap_or(Reason::CANCEL));
            }
        }
        Poll::Ready(())
    }

    /// Ready only when the whole call is over.
    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let pump = match &mut self.request {
            RequestSide::Open(pump) if !self.request_over => pump,
            _ => return Poll::Pending,
        };
        match pump.poll(cx) {
            Poll::Pending => return Poll::Pending,
            // The member has ended the stream or is gone: its answer will tell.
            Poll::Ready(PumpEnd::Done | PumpEnd::Sink) => {
                self.request_over = true;
                return Poll::Pending;
            }
            Poll::Ready(PumpEnd::Source(error)) => self.cancel(error.reason().unwrap_or(Reason::CANCEL)),
            Poll::Ready(PumpEnd::Trailers) => {
                self.reset_client(Reason::PROTOCOL_ERROR);
                self.cancel(Reason::CANCEL);
            }
            Poll::Ready(PumpEnd::TooLarge(too_large)) => self.stop(&too_large.status()),
        }
        Poll::Ready(())
    }

    /// The client has given the call up: so does the member's stream, for the same reason.
    fn cancel(&mut self, reason: Reason) {
        match &mut self.request {
            RequestSide::Open(pump) => pump.sink().send_reset(reason),
            RequestSide::Empty(stream) => stream.send_reset(reason),
        }
    }

    /// The member's stream has failed: the client's fails the same way, or with UNAVAILABLE if the connection did.
    fn fail(&mut self, error: &h2::Error) {
        match StreamFailure::of(error) {
            StreamFailure::Reset(reason) => self.reset_client(reason),
            StreamFailure::LeftOut | StreamFailure::Refused | StreamFailure::ConnectionLost => {
                self.stop(&CONNECTION_LOST)
            }
        }
    }

    fn reset_client(&mut self, reason: Reason) {
        self.end(|responder| responder.reset(reason), |mut body| body.reset(reason));
    }

    /// Ends the call with a status of the proxy's own.
    fn stop(&mut self, status: &Status) {
        self.end(
            |responder| responder.refuse(status),
            |mut body| body.end(status_fields(status)),
        );
        self.cancel(Reason::CANCEL);
    }

    /// Ends the client's side of the call, if that hasn't ended: its answer had not begun, or had.
    fn end(&mut self, not_begun: impl FnOnce(Responder), begun: impl FnOnce(Body)) {
        let request_bytes = self.request_bytes();
        match core::mem::replace(&mut self.response, ResponseSide::Over) {
            ResponseSide::Waiting { mut responder, .. } => {
                responder.record.received(request_bytes);
                not_begun(responder);
            }
            ResponseSide::Open { pump, mut record } => {
                record.received(request_bytes);
                record.sent(pump.moved());
                let stream = pump.into_sink();
                begun(Body { stream, record });
            }
            ResponseSide::Over => {}
        }
    }

    fn request_bytes(&self) -> u64 {
        match &self.request {
            RequestSide::Open(pump) => pump.moved(),
            RequestSide::Empty(_) => 0,
        }
    }
}

impl Drop for Both {
    fn drop(&mut self) {
        self.end(drop, drop);
    }
}
