//! Where calls and the cache of reads meet.

use core::future::Future as _;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use etcd_proxy_core::grpc::header::{APPLICATION_GRPC, GRPC_MESSAGE};
use etcd_proxy_core::grpc::{Code, MESSAGE_PREFIX_LEN, Status, decode_message, framed};
use etcd_proxy_core::read::{Payload as ReplyPayload, ReadTicket, Refresh, RefreshEnd, RefreshRuling, Reply};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response};

use super::deadline::Expiry;
use super::exchange::{Answer, AnswerEnd, Client, Payload, Unanswered, attempt, trailers};
use super::head::Head;
use super::{Call, NoAttempt};
use crate::grpc::{Responder, code_of, status_fields};
use crate::read::{Admitted, HeldTicket, ReadCache};
use crate::rt::{self, Runtime};

/// An answer from the cache is sent in one piece up to this many bytes. A larger one isn't copied.
const COPIED_BYTES_MAX: usize = 4 * 1024;

/// More than a gRPC prefix and the header of a response.
const HEAD_BYTES: usize = 128;

/// What becomes of a read.
pub(super) enum Looked {
    /// A message with its prefix.
    Answer(VecDeque<Bytes>),
    Refused(Status),
    Forward(Option<ReadTicket>),
}

/// Asks the cache, and waits if it says so.
///
/// # Errors
/// When the client doesn't want the answer any more.
pub(super) async fn look_up<R: Runtime>(
    reads: &Arc<ReadCache>,
    request: &Bytes,
    client: &mut Client<'_, R>,
) -> Result<Looked, Unanswered> {
    let mut admitted = reads.read(request);
    loop {
        return Ok(match admitted {
            Admitted::Answer(answer) if answer.body.len() <= COPIED_BYTES_MAX => {
                let mut whole = BytesMut::with_capacity(answer.head.len() + answer.body.len());
                whole.extend_from_slice(&answer.head);
                whole.extend_from_slice(&answer.body);
                Looked::Answer(VecDeque::from([whole.freeze()]))
            }
            Admitted::Answer(answer) => Looked::Answer(VecDeque::from([answer.head, answer.body])),
            Admitted::Shared(Ok(message)) => Looked::Answer(VecDeque::from([framed(&message)])),
            Admitted::Shared(Err(status)) => Looked::Refused(status),
            Admitted::Forward(ticket) => Looked::Forward(ticket),
            Admitted::Wait(mut waiting) => {
                admitted = client.patient(|cx| waiting.poll(cx)).await?;
                continue;
            }
        });
    }
}

/// The head of an answer: its content type is the request's.
fn head(request: &HeaderMap) -> Response<()> {
    let mut response = Response::new(());
    let content_type = request.get(CONTENT_TYPE).cloned();
    let content_type = content_type.unwrap_or(HeaderValue::from_static(APPLICATION_GRPC));
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// An answer of the proxy's own: a message, with its prefix.
pub(super) fn answer(data: VecDeque<Bytes>, request: &HeaderMap) -> Answer {
    Answer {
        head: head(request),
        chunks: data,
        end: AnswerEnd::Complete(Some(status_fields(&Status::OK))),
    }
}

/// An answer of the proxy's own: a status and nothing else.
pub(super) fn refusal(status: &Status, request: &HeaderMap) -> Answer {
    let mut head = head(request);
    head.headers_mut().extend(status_fields(status));
    Answer {
        head,
        chunks: VecDeque::new(),
        end: AnswerEnd::Complete(None),
    }
}

/// Tells the cache what a call is about to be answered.
pub(super) fn tell(ticket: HeldTicket, answer: &Answer) {
    let reply = reply(answer, ticket.wants_all());
    ticket.answered(&reply);
}

/// What the cache is told of an answer: all of it, if that is wanted and it was taken in as a whole, or its beginning.
fn reply(answer: &Answer, all: bool) -> Reply<'_> {
    let fields = trailers(answer);
    let field = |name| fields.and_then(|fields| fields.get(name)?.to_str().ok());
    let code = match fields {
        Some(fields) => code_of(fields).unwrap_or(Code::Unknown.number()),
        // As the answer goes on.
        None => 0,
    };
    let is_whole = matches!(answer.end, AnswerEnd::Complete(_));
    let enough = if all && is_whole { usize::MAX } else { HEAD_BYTES };
    Reply {
        code,
        message: decode_message(field(GRPC_MESSAGE).unwrap_or_default()),
        payload: ReplyPayload::of(&joined(&answer.chunks, enough)),
        is_whole,
    }
}

/// The first chunks, as many as have so many bytes. Often that is one, and it isn't copied.
fn joined(chunks: &VecDeque<Bytes>, enough: usize) -> Bytes {
    let first = chunks.front().cloned().unwrap_or_default();
    if first.len() >= enough || chunks.len() < 2 {
        return first;
    }
    let mut joined = BytesMut::new();
    for chunk in chunks {
        if joined.len() >= enough {
            break;
        }
        joined.extend_from_slice(chunk);
    }
    joined.freeze()
}

/// Whether an answer may be older than what was shown before its call came.
pub(super) fn is_old(ticket: &HeldTicket, answer: &Answer) -> bool {
    // Of most calls the answer isn't looked at for this.
    ticket.has_floor() && ticket.is_old(&reply(answer, false))
}

/// Why an old answer wasn't replaced.
pub(super) enum NotRefreshed {
    /// The client is to be told this.
    Refused(Status),
    /// The client doesn't want the answer any more.
    ClientGone,
}

/// Asks a read once more whose answer is older than what was shown, until a member answers it as the core says.
pub(super) async fn refreshed<R: Runtime>(
    call: &mut Call,
    head: &Head,
    payload: &Payload,
    ticket: &HeldTicket,
    responder: &mut Responder,
    expiry: &mut Expiry<R>,
) -> Result<Answer, NotRefreshed> {
    let payload = Payload {
        data: framed(&Refresh::request(&payload.data[MESSAGE_PREFIX_LEN..])),
        only_head: false,
    };
    let began = Instant::now();
    let mut refresh = Refresh::new(call.deadline.left());
    let mut failed_on = None;
    loop {
        let asked = ticket.asks();
        let avoid = failed_on.take();
        let mut asked_on = None;
        let asking = async {
            let (connection, request) = call.next::<R>(head, avoid, &mut *responder).await?;
            asked_on = Some(connection.id());
            let mut client = Client {
                responder: &mut *responder,
                expiry: &mut *expiry,
            };
            let answered = attempt(call, &connection, request, &payload, &mut client).await;
            Ok::<_, NoAttempt>(answered)
        };
        let until = Instant::now() + refresh.attempt_max(began.elapsed());
        let (end, answer) = match rt::timeout_at::<R, _>(until, asking).await {
            Ok(Ok(Ok(answer))) => {
                let told = reply(&answer, false);
                ticket.refreshed(asked, &told);
                (RefreshEnd::Answered(told.code), Some(answer))
            }
            Ok(Err(NoAttempt::ClientGone) | Ok(Err(Unanswered::ClientGone))) => {
                return Err(NotRefreshed::ClientGone);
            }
            Ok(Ok(Err(Unanswered::Expired))) => {
                return Err(NotRefreshed::Refused(Status::deadline_exceeded()));
            }
            Ok(Ok(Err(Unanswered::TooLarge(too_large)))) => {
                return Err(NotRefreshed::Refused(too_large.status()));
            }
            Ok(Ok(Err(Unanswered::Failed(_) | Unanswered::Reset(_)))) => (RefreshEnd::Failed, None),
            Ok(Err(NoAttempt::Refused(_))) | Err(rt::Elapsed) => (RefreshEnd::Nobody, None),
        };
        let pause = match (refresh.ended(began.elapsed(), end), answer) {
            (RefreshRuling::Give, Some(answer)) => return Ok(answer),
            (RefreshRuling::Again { pause, elsewhere }, _) => {
                failed_on = asked_on.filter(|_| elsewhere);
                pause
            }
            (RefreshRuling::Refuse(status), _) => return Err(NotRefreshed::Refused(status)),
            (RefreshRuling::Give, None) => unreachable!("only an answer is ever given"),
        };
        let mut sleep = core::pin::pin!(rt::sleep::<R>(pause));
        let mut client = Client {
            responder: &mut *responder,
            expiry: &mut *expiry,
        };
        match client.patient(|cx| sleep.as_mut().poll(cx)).await {
            Ok(()) => {}
            Err(Unanswered::Expired) => {
                return Err(NotRefreshed::Refused(Status::deadline_exceeded()));
            }
            // There is nothing else that a wait ends with.
            Err(_) => return Err(NotRefreshed::ClientGone),
        }
    }
}
