//! Calls with one request message and one response message: the request is read to its end first, so that it can
//! be sent again, and the answer is held back until it is complete or too large to hold, so that another one can
//! take its place.

use core::future::{Future, poll_fn};
use core::task::Poll;
use std::collections::VecDeque;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use etcd_proxy_core::endpoints::ConnectionId;
use etcd_proxy_core::grpc::{Code, MessageLimit, MessageTooLarge, Status};
use etcd_proxy_core::method::Member;
use etcd_proxy_core::retry::{Attempts, Failure, Next};
use h2::client::ResponseFuture;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};

use super::answer::{self, GRPC_STATUS};
use super::head::Head;
use super::pump::{Pump, PumpEnd};
use super::{Call, StreamFailure, leader};
use crate::rt::{self, Runtime};
use crate::upstream::{Connection, OpenCall};

/// An answer up to this many bytes is held back until it is complete; a longer one is passed on as it comes, and
/// can't be asked for again once it has begun.
const HELD_BYTES_MAX: usize = 1 << 20;

/// An answer within this many bytes is handed to the client's connection at once, whatever its window; a longer one
/// as fast as the client reads.
const BURST_BYTES_MAX: usize = 16 * 1024;

const CONNECTION_LOST: Status = Status::new(
    Code::Unavailable,
    "etcd-proxy: the connection to the member was lost during the call",
);

const MAY_BE_APPLIED: Status = Status::new(
    Code::Unavailable,
    "etcd-proxy: the connection to the member was lost during the call; it may have been carried out",
);

/// A request, read to its end.
pub(super) struct Payload {
    pub(super) data: Bytes,
    pub(super) trailers: Option<HeaderMap>,
}

/// An answer, as far as it was read.
pub(super) struct Answer {
    pub(super) head: Response<()>,
    pub(super) chunks: VecDeque<Bytes>,
    pub(super) end: AnswerEnd,
}

pub(super) enum AnswerEnd {
    /// It is complete.
    Complete(Option<HeaderMap>),
    /// It is longer than what is held back.
    More {
        body: RecvStream,
        limit: MessageLimit,
        request: SendStream<Bytes>,
        open: OpenCall,
    },
}

/// How one attempt ended.
#[expect(
    clippy::large_enum_variant,
    reason = "it lives on the stack of one call, and nearly always holds an answer"
)]
pub(super) enum Outcome {
    Answer(Answer),
    Failed(Failure),
    Reset(Reason),
    TooLarge(MessageTooLarge),
    ClientGone,
}

/// Forwards a unary call.
pub(super) async fn forward<R: Runtime>(
    mut call: Call,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let (parts, mut body) = request.into_parts();
    let limit = MessageLimit::new(call.client.worker.limits.request_bytes_max);
    let payload = match collect_request(&mut body, limit).await {
        Ok(payload) => payload,
        Err(CollectError::TooLarge(too_large)) => return answer::refuse(respond, too_large.status()),
        // The client has cancelled the call or is gone.
        Err(CollectError::Client) => return,
    };
    let head = Head::new(parts);
    let mut attempts = Attempts::new(call.method.repeatable);
    let mut failed_on: Option<ConnectionId> = None;
    let mut first = true;
    loop {
        let connection = match call.connection::<R>(failed_on).await {
            Ok(connection) => connection,
            Err(status) => return answer::refuse(respond, status),
        };
        let request = if first {
            head.first(&connection)
        } else {
            head.again(&connection, call.deadline)
        };
        first = false;
        let outcome = attempt(&call, &connection, request, &payload, &mut respond).await;
        let (failure, answer) = match outcome {
            Outcome::Answer(answer) if call.method.repeatable && is_unavailable(&answer) => {
                call.doubt(&connection);
                (Failure::Unavailable, Some(answer))
            }
            Outcome::Answer(answer)
                if call.method.member == Member::Leader && leader::is_elsewhere(&answer) =>
            {
                let answer = leader::ask::<R>(&call, &connection, &head, &payload, &mut respond)
                    .await
                    .unwrap_or(answer);
                return deliver(answer, respond).await;
            }
            Outcome::Answer(answer) => return deliver(answer, respond).await,
            Outcome::Failed(failure) => (failure, None),
            Outcome::Reset(reason) => return respond.send_reset(reason),
            Outcome::TooLarge(too_large) => return answer::refuse(respond, too_large.status()),
            Outcome::ClientGone => return,
        };
        let next = match (attempts.after(failure, &mut call.rng), answer) {
            (Next::Again(wait), answer) if call.deadline.at.is_none_or(|at| Instant::now() + wait < at) => {
                drop(answer);
                wait
            }
            (_, Some(answer)) => return deliver(answer, respond).await,
            (_, None) if call.deadline.has_passed() => {
                return answer::refuse(respond, Status::deadline_exceeded());
            }
            (_, None) if call.method.repeatable || failure == Failure::NotSent => {
                return answer::refuse(respond, CONNECTION_LOST);
            }
            (_, None) => return answer::refuse(respond, MAY_BE_APPLIED),
        };
        failed_on = (failure != Failure::Unavailable).then_some(connection.id());
        drop(connection);
        if !next.is_zero() && !wait::<R>(next, &mut respond).await {
            return;
        }
    }
}

enum CollectError {
    TooLarge(MessageTooLarge),
    Client,
}

async fn collect_request(body: &mut RecvStream, mut limit: MessageLimit) -> Result<Payload, CollectError> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(|_| CollectError::Client)?;
        limit.check(&chunk).map_err(CollectError::TooLarge)?;
        body.flow_control()
            .release_capacity(chunk.len())
            .map_err(|_| CollectError::Client)?;
        if rest.is_empty() && first.is_empty() {
            first = chunk;
        } else {
            if rest.is_empty() {
                rest.extend_from_slice(&first);
            }
            rest.extend_from_slice(&chunk);
        }
    }
    let trailers = if body.is_end_stream() {
        None
    } else {
        body.trailers().await.map_err(|_| CollectError::Client)?
    };
    Ok(Payload {
        data: if rest.is_empty() { first } else { rest.freeze() },
        trailers,
    })
}

/// Waits, unless the client goes away before. Tells whether it is still there.
async fn wait<R: Runtime>(wait: core::time::Duration, respond: &mut SendResponse<Bytes>) -> bool {
    let mut sleep = core::pin::pin!(rt::sleep::<R>(wait));
    poll_fn(|cx| match respond.poll_reset(cx) {
        Poll::Ready(_) => Poll::Ready(false),
        Poll::Pending => sleep.as_mut().poll(cx).map(|()| true),
    })
    .await
}

/// Sends the request on a connection and takes the answer in.
pub(super) async fn attempt(
    call: &Call,
    connection: &Connection,
    request: Request<()>,
    payload: &Payload,
    respond: &mut SendResponse<Bytes>,
) -> Outcome {
    let empty = payload.data.is_empty() && payload.trailers.is_none();
    let Ok((response, mut stream, open)) = connection.open_call(request, empty) else {
        call.refused(connection).await;
        return Outcome::Failed(Failure::NotSent);
    };
    let sent = match &payload.trailers {
        _ if empty => Ok(()),
        None => stream.send_data(payload.data.clone(), true),
        Some(trailers) => stream
            .send_data(payload.data.clone(), false)
            .and_then(|()| stream.send_trailers(trailers.clone())),
    };
    if let Err(error) = sent {
        return failed(call, connection, &error).await;
    }
    let limit = MessageLimit::new(call.client.worker.limits.response_bytes_max);
    match receive(response, stream, open, limit, respond).await {
        Ok(outcome) => outcome,
        Err(error) => failed(call, connection, &error).await,
    }
}

async fn failed(call: &Call, connection: &Connection, error: &h2::Error) -> Outcome {
    match StreamFailure::of(error) {
        StreamFailure::NotProcessed => {
            call.refused(connection).await;
            Outcome::Failed(Failure::NotSent)
        }
        StreamFailure::Reset(reason) => Outcome::Reset(reason),
        StreamFailure::ConnectionLost => Outcome::Failed(Failure::ConnectionLost),
    }
}

/// Takes an answer in until it is complete or longer than what is held back.
async fn receive(
    mut response: ResponseFuture,
    request: SendStream<Bytes>,
    open: OpenCall,
    mut limit: MessageLimit,
    respond: &mut SendResponse<Bytes>,
) -> Result<Outcome, h2::Error> {
    let Some(response) = unless_gone(respond, |cx| core::pin::Pin::new(&mut response).poll(cx)).await else {
        return Ok(Outcome::ClientGone);
    };
    let (parts, mut body) = response?.into_parts();
    let head = Response::from_parts(parts, ());
    let mut chunks = VecDeque::new();
    let mut held = 0;
    while !body.is_end_stream() {
        let Some(data) = unless_gone(respond, |cx| body.poll_data(cx)).await else {
            return Ok(Outcome::ClientGone);
        };
        let Some(data) = data else {
            let Some(trailers) = unless_gone(respond, |cx| body.poll_trailers(cx)).await else {
                return Ok(Outcome::ClientGone);
            };
            return Ok(Outcome::Answer(Answer {
                head,
                chunks,
                end: AnswerEnd::Complete(trailers?),
            }));
        };
        let data = data?;
        if let Err(too_large) = limit.check(&data) {
            return Ok(Outcome::TooLarge(too_large));
        }
        held += data.len();
        body.flow_control().release_capacity(data.len())?;
        chunks.push_back(data);
        if held > HELD_BYTES_MAX {
            return Ok(Outcome::Answer(Answer {
                head,
                chunks,
                end: AnswerEnd::More {
                    body,
                    limit,
                    request,
                    open,
                },
            }));
        }
    }
    Ok(Outcome::Answer(Answer {
        head,
        chunks,
        end: AnswerEnd::Complete(None),
    }))
}

/// Polls until it is ready; `None` if the client cancels the call or goes away before.
async fn unless_gone<T>(
    respond: &mut SendResponse<Bytes>,
    mut poll: impl FnMut(&mut core::task::Context<'_>) -> Poll<T>,
) -> Option<T> {
    poll_fn(|cx| match poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => respond.poll_reset(cx).map(|_| None),
    })
    .await
}

/// The trailers of a complete answer; an answer without a body has them in its head.
pub(super) fn trailers(answer: &Answer) -> Option<&HeaderMap> {
    match &answer.end {
        AnswerEnd::Complete(Some(trailers)) => Some(trailers),
        AnswerEnd::Complete(None) => Some(answer.head.headers()),
        AnswerEnd::More { .. } => None,
    }
}

fn is_unavailable(answer: &Answer) -> bool {
    let status = trailers(answer).and_then(|trailers| trailers.get(GRPC_STATUS));
    status.is_some_and(|status| status.as_bytes() == b"14")
}

/// Passes an answer on. Errors mean that the client has gone.
async fn deliver(answer: Answer, mut respond: SendResponse<Bytes>) {
    let Answer {
        head,
        mut chunks,
        end,
    } = answer;
    match end {
        AnswerEnd::Complete(trailers) => {
            let only_head = chunks.is_empty() && trailers.is_none();
            let Ok(mut stream) = respond.send_response(head, only_head) else {
                return;
            };
            let held: usize = chunks.iter().map(Bytes::len).sum();
            let all_at_once = held <= BURST_BYTES_MAX;
            while let Some(mut chunk) = chunks.pop_front() {
                while !all_at_once && !chunk.is_empty() {
                    stream.reserve_capacity(chunk.len());
                    let Some(Ok(room)) = poll_fn(|cx| stream.poll_capacity(cx)).await else {
                        return;
                    };
                    let part = chunk.split_to(room.min(chunk.len()));
                    let last = chunks.is_empty() && chunk.is_empty() && trailers.is_none();
                    if stream.send_data(part, last).is_err() {
                        return;
                    }
                }
                let last = chunks.is_empty() && trailers.is_none();
                if all_at_once && stream.send_data(chunk, last).is_err() {
                    return;
                }
            }
            if let Some(trailers) = trailers {
                let _ = stream.send_trailers(trailers);
            }
        }
        AnswerEnd::More {
            body,
            limit,
            request: _request,
            open: _open,
        } => {
            let Ok(stream) = respond.send_response(head, false) else {
                return;
            };
            let mut pump = Pump::new(body, stream, limit).with_pending(chunks);
            let end = poll_fn(|cx| match pump.poll(cx) {
                Poll::Ready(end) => Poll::Ready(end),
                Poll::Pending => pump.sink().poll_reset(cx).map(|_| PumpEnd::Sink),
            })
            .await;
            match end {
                PumpEnd::Done | PumpEnd::Sink => {}
                PumpEnd::TooLarge(too_large) => answer::end(pump.sink(), &too_large.status()),
                PumpEnd::Source(error) => match StreamFailure::of(&error) {
                    StreamFailure::Reset(reason) => pump.sink().send_reset(reason),
                    _ => answer::end(pump.sink(), &CONNECTION_LOST),
                },
            }
        }
    }
}
