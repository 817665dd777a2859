//! Calls with one request message and one response message: the request is read to its end first, so that it can
//! be sent again, and the answer is held back until it is complete or too large to hold, so that another one can
//! take its place.

use core::future::{Future as _, poll_fn};
use core::task::Poll;
use core::time::Duration;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use etcd_proxy_core::endpoints::ConnectionId;
use etcd_proxy_core::grpc::{MESSAGE_PREFIX_LEN, MessageLimit, MessageTooLarge, Status, message_prefix};
use etcd_proxy_core::read::{CacheRole, CacheTicket, is_plain};
use etcd_proxy_core::retry::{Attempts, CONNECTION_LOST, Failure, Ruling};
use etcd_proxy_core::rpc::{Member, Rpc};
use h2::{Reason, RecvStream};
use http::Request;

use super::cached::{self, Looked, NotRefreshed};
use super::conclusion::Conclusion;
use super::deadline::{Expired, Expiry};
use super::exchange::{Answer, Client, Payload, Unanswered, attempt, trailers};
use super::head::Head;
use super::{Call, NoAttempt, elsewhere, leader};
use crate::grpc::{Responder, code_of};
use crate::read::HeldTicket;
use crate::rt::{self, Runtime};

/// How long a client that has sent its message may take for its half-close before the call goes on without it.
const HALF_CLOSE_PATIENCE: Duration = Duration::from_millis(20);

/// Handles a unary call to its end.
pub(super) async fn forward<R: Runtime>(call: Call, request: Request<RecvStream>, mut responder: Responder) {
    let conclusion = handle::<R>(call, request, &mut responder).await;
    conclusion.give(responder).await;
}

/// What the client gets: of the cache, or of a member.
async fn handle<R: Runtime>(
    mut call: Call,
    request: Request<RecvStream>,
    responder: &mut Responder,
) -> Conclusion {
    let reads = call.client.worker.reads.clone();
    let role = role(call.rpc, &request);
    let (parts, mut body) = request.into_parts();
    let limit = MessageLimit::new(call.client.worker.limits.request_bytes_max);
    let mut expiry = Expiry::<R>::new(call.deadline);
    let payload = match expiry.bound(collect::<R>(&mut body, limit)).await {
        Err(Expired) => return Conclusion::Status(Status::deadline_exceeded()),
        Ok(Ok(payload)) => payload,
        Ok(Err(Incomplete::TooLarge(too_large))) => return Conclusion::Status(too_large.status()),
        Ok(Err(Incomplete::ClientGone)) => return Conclusion::Nothing,
        Ok(Err(Incomplete::Trailers)) => return Conclusion::Reset(Reason::PROTOCOL_ERROR),
    };
    responder.record.received(payload.data.len() as u64);
    let message = message_of(&payload.data);
    call.class = call.rpc.class().class(message.as_deref());
    let mut attempts = Attempts::of(call.rpc, message.as_deref());
    let ticket = match (role, message) {
        (CacheRole::Read, Some(message)) if !reads.is_off() => {
            let mut client = Client {
                responder: &mut *responder,
                expiry: &mut expiry,
            };
            let floor = CacheTicket::floor_of(&message, reads.floor());
            let since = Instant::now();
            let looked = cached::look_up(&reads, &message, &mut client).await;
            call.waits_since = Some(since);
            match looked {
                Ok(Looked::Forward(ticket)) => {
                    let floor = floor.after_wait(reads.floor());
                    HeldTicket::of_read(&reads, ticket, floor, call.rpc, &message)
                }
                Ok(Looked::Answer(data)) => return Conclusion::Answer(cached::answer(data, &parts.headers)),
                Ok(Looked::Refused(status)) => {
                    return Conclusion::Answer(cached::refusal(&status, &parts.headers));
                }
                Err(Unanswered::Expired) => return Conclusion::Status(Status::deadline_exceeded()),
                // There is nothing else that a wait for the cache ends with.
                Err(_) => return Conclusion::Nothing,
            }
        }
        (role, message) => HeldTicket::of(&reads, role, call.rpc, message.as_ref()),
    };
    let head = Head::new(parts);
    let mut failed_on: Option<ConnectionId> = None;
    loop {
        let (connection, request) = match call.next::<R>(&head, failed_on, &mut *responder).await {
            Ok(next) => next,
            Err(NoAttempt::Refused(status)) => return refused(ticket, status),
            Err(NoAttempt::ClientGone) => return Conclusion::Nothing,
        };
        let mut client = Client {
            responder: &mut *responder,
            expiry: &mut expiry,
        };
        let (failure, answer) = match attempt(&call, &connection, request, &payload, &mut client).await {
            Ok(answer)
                if status(&answer).is_some_and(|code| attempts.is_failure(code))
                    && !call.must_do(&answer) =>
            {
                call.client.worker.uplink.doubt::<R>(&connection);
                (Failure::Unavailable, Some(answer))
            }
            Ok(answer) => {
                let answer = leader::redirect(&call, &connection, &head, &payload, &mut client, answer).await;
                drop(connection);
                return conclude(call, (&head, &payload), ticket, answer, responder, expiry).await;
            }
            Err(Unanswered::Failed(failure)) => (failure, None),
            Err(Unanswered::Reset(reason)) => return Conclusion::Reset(reason),
            Err(Unanswered::TooLarge(too_large)) => return refused(ticket, too_large.status()),
            Err(Unanswered::Expired) => {
                call.ended_unanswered::<R>(&connection);
                return Conclusion::Status(Status::deadline_exceeded());
            }
            Err(Unanswered::ClientGone) => {
                call.ended_unanswered::<R>(&connection);
                return Conclusion::Nothing;
            }
        };
        let (pause, elsewhere) = match (
            attempts.rule(failure, call.deadline.left(), &mut call.rng),
            answer,
        ) {
            (Ruling::Again { pause, elsewhere }, _) => (pause, elsewhere),
            (Ruling::Forward, Some(answer)) => {
                cached::tell(ticket, &answer);
                return Conclusion::Answer(answer);
            }
            // Only an answer is ever ruled to be forwarded.
            (Ruling::Forward, None) => return refused(ticket, CONNECTION_LOST),
            (Ruling::Refuse(status), _) => return refused(ticket, status),
        };
        failed_on = elsewhere.then_some(connection.id());
        if !pause.is_zero() && !wait::<R>(pause, responder).await {
            return Conclusion::Nothing;
        }
        if failure == Failure::Unavailable
            && attempts.wants_another_member()
            && call.rpc.member() == Member::Any
        {
            let mut client = Client {
                responder: &mut *responder,
                expiry: &mut expiry,
            };
            let other = elsewhere::ask(&mut call, &connection, &head, &payload, &mut client).await;
            if let Some(answer) = other {
                drop(connection);
                return conclude(call, (&head, &payload), ticket, answer, responder, expiry).await;
            }
        }
    }
}

/// What a call is to the cache.
fn role(rpc: Rpc, request: &Request<RecvStream>) -> CacheRole {
    CacheRole::of(rpc, || {
        let headers = request.headers().iter();
        let headers = headers.map(|(name, value)| (name.as_str(), value.as_bytes()));
        is_plain(request.method() == http::Method::POST, headers)
    })
}

/// The conclusion with an answer, or with a newer one than that if it is older than what was shown.
async fn conclude<R: Runtime>(
    mut call: Call,
    (head, payload): (&Head, &Payload),
    ticket: HeldTicket,
    mut answer: Answer,
    responder: &mut Responder,
    mut expiry: Expiry<R>,
) -> Conclusion {
    if cached::is_old(&ticket, &answer) {
        let refreshed = cached::refreshed(&mut call, head, payload, &ticket, responder, &mut expiry).await;
        answer = match refreshed {
            Ok(answer) => answer,
            Err(NotRefreshed::Refused(status)) => return Conclusion::Status(status),
            Err(NotRefreshed::ClientGone) => return Conclusion::Nothing,
        };
    }
    cached::tell(ticket, &answer);
    Conclusion::Answer(answer)
}

/// The conclusion of a call that no member has answered.
fn refused(ticket: HeldTicket, status: Status) -> Conclusion {
    ticket.refused(&status);
    Conclusion::Status(status)
}

/// Why a request isn't there as a whole.
enum Incomplete {
    /// Its message is larger than allowed.
    TooLarge(MessageTooLarge),
    /// The client has cancelled the call or is gone.
    ClientGone,
    /// Trailers came with it. gRPC has none in this direction: an etcd server ends the connection.
    Trailers,
}

/// Reads a request to the end of its first message.
///
/// A server answers a unary call when it has that, and looks at nothing behind it: neither does what is forwarded have
/// more. Nearly always the end of the request comes along; a little time is left for it, so that a client whose request
/// ends in another way is told so.
async fn collect<R: Runtime>(body: &mut RecvStream, mut limit: MessageLimit) -> Result<Payload, Incomplete> {
    let only_head = body.is_end_stream();
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while limit.messages() == 0 {
        let Some(chunk) = body.data().await else { break };
        let chunk = take(body, chunk)?;
        limit.check(&chunk).map_err(Incomplete::TooLarge)?;
        if first.is_empty() {
            first = chunk;
        } else {
            if rest.is_empty() {
                rest.extend_from_slice(&first);
            }
            rest.extend_from_slice(&chunk);
        }
    }
    let mut data = joined(first, rest);
    if limit.messages() > 0 {
        data.truncate(first_message(&data));
    }
    if !body.is_end_stream() {
        let end = rt::timeout_at::<R, _>(Instant::now() + HALF_CLOSE_PATIENCE, end(body));
        end.await.unwrap_or(Ok(()))?;
    }
    Ok(Payload { data, only_head })
}

/// Waits for the end of a request, or for more than the one message that is looked at.
async fn end(body: &mut RecvStream) -> Result<(), Incomplete> {
    while let Some(chunk) = body.data().await {
        if !take(body, chunk)?.is_empty() {
            return Ok(());
        }
    }
    match body.trailers().await {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err(Incomplete::Trailers),
        Err(_) => Err(Incomplete::ClientGone),
    }
}

/// A chunk, given back to flow control.
fn take(body: &mut RecvStream, chunk: Result<Bytes, h2::Error>) -> Result<Bytes, Incomplete> {
    let chunk = chunk.map_err(|_| Incomplete::ClientGone)?;
    let released = body.flow_control().release_capacity(chunk.len());
    released.map_err(|_| Incomplete::ClientGone)?;
    Ok(chunk)
}

/// How long the first message is that data begins with, its prefix included. All of it is there.
fn first_message(data: &[u8]) -> usize {
    let length = data[1..MESSAGE_PREFIX_LEN]
        .iter()
        .fold(0, |length, byte| length << 8 | usize::from(*byte));
    MESSAGE_PREFIX_LEN + length
}

/// All that was read: the first chunk alone, which is the rule, or everything copied together.
fn joined(first: Bytes, rest: BytesMut) -> Bytes {
    if rest.is_empty() { first } else { rest.freeze() }
}

/// The one message of a request, if that is what it is, and not compressed.
fn message_of(data: &Bytes) -> Option<Bytes> {
    let message = data.slice(MESSAGE_PREFIX_LEN.min(data.len())..);
    (data.starts_with(&message_prefix(message.len()))).then_some(message)
}

/// Waits, unless the client goes away before. Tells whether it is still there.
async fn wait<R: Runtime>(pause: Duration, responder: &mut Responder) -> bool {
    let mut sleep = core::pin::pin!(rt::sleep::<R>(pause));
    poll_fn(|cx| match responder.poll_reset(cx) {
        Poll::Ready(_) => Poll::Ready(false),
        Poll::Pending => sleep.as_mut().poll(cx).map(|()| true),
    })
    .await
}

/// The gRPC status code of an answer; `None` if it has none that a server would send.
pub(super) fn status(answer: &Answer) -> Option<u8> {
    code_of(trailers(answer)?)
}
