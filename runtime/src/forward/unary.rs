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
use etcd_proxy_core::retry::{Attempts, CONNECTION_LOST, Failure, Ruling};
use h2::RecvStream;
use h2::server::SendResponse;
use http::Request;

use super::cached::{self, Looked};
use super::deadline::{Expired, Expiry};
use super::exchange::{Answer, Client, Payload, Unanswered, attempt, deliver, trailers};
use super::head::Head;
use super::{Call, NoAttempt, answer, leader, stream};
use crate::read::{Part, Role};
use crate::rt::{self, Runtime};

/// How long a client that has sent its message may take for its half-close before the call goes on without it.
const HALF_CLOSE_PATIENCE: Duration = Duration::from_millis(20);

/// Forwards a unary call.
pub(super) async fn forward<R: Runtime>(
    mut call: Call,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let reads = call.client.worker.reads.clone();
    let role = Role::of(&request, call.method);
    let (parts, mut body) = request.into_parts();
    let path = parts.uri.path();
    let limit = MessageLimit::new(call.client.worker.limits.request_bytes_max);
    let mut expiry = Expiry::<R>::new(call.deadline);
    let payload = match expiry.bound(collect::<R>(&mut body, limit)).await {
        Err(Expired) => return answer::refuse(respond, Status::deadline_exceeded()),
        Ok(Ok(payload)) => payload,
        Ok(Err(Incomplete::Open { data, limit })) => {
            let message = message_of(&data);
            call.class = call.method.class.class(message.as_deref());
            let part = Part::of(&reads, role, path, message.as_ref());
            let request = Request::from_parts(parts, body);
            stream::forward_begun::<R>(call, request, data, limit, respond).await;
            return part.unseen();
        }
        Ok(Err(Incomplete::TooLarge(too_large))) => return answer::refuse(respond, too_large.status()),
        Ok(Err(Incomplete::ClientGone)) => return,
    };
    let message = message_of(&payload.data);
    call.class = call.method.class.class(message.as_deref());
    let part = match (role, message) {
        (Role::Read, Some(message)) if !reads.is_off() => {
            let mut client = Client {
                respond: &mut respond,
                expiry: &mut expiry,
            };
            let asked = reads.known();
            match cached::look_up(&reads, &message, &mut client).await {
                Ok(Looked::Forward(ticket)) => Part::read(&reads, ticket, asked, path, &message),
                Ok(Looked::Answer(data)) => return cached::deliver(data, &parts.headers, respond).await,
                Ok(Looked::Refused(status)) => return cached::refuse(&status, &parts.headers, respond),
                Err(Unanswered::Expired) => return answer::refuse(respond, Status::deadline_exceeded()),
                // There is nothing else that a wait for the cache ends with.
                Err(_) => return,
            }
        }
        (role, message) => Part::of(&reads, role, path, message.as_ref()),
    };
    let head = Head::new(parts);
    let mut attempts = Attempts::new(call.method.repeatable);
    let mut failed_on: Option<ConnectionId> = None;
    loop {
        let (connection, request) = match call.next::<R>(&head, failed_on, &mut respond).await {
            Ok(next) => next,
            Err(NoAttempt::Refused(status)) => return refuse(part, respond, status),
            Err(NoAttempt::ClientGone) => return,
        };
        let mut client = Client {
            respond: &mut respond,
            expiry: &mut expiry,
        };
        let (failure, answer) = match attempt(&call, &connection, request, &payload, &mut client).await {
            Ok(answer) if status(&answer).is_some_and(|code| attempts.is_failure(code)) => {
                call.doubt(&connection);
                (Failure::Unavailable, Some(answer))
            }
            Ok(answer) => {
                let answer = leader::redirect(&call, &connection, &head, &payload, &mut client, answer).await;
                let answer =
                    cached::refreshed(&call, &connection, &head, &payload, &mut client, &part, answer).await;
                cached::tell(part, &answer);
                return deliver(answer, respond).await;
            }
            Err(Unanswered::Failed(failure)) => (failure, None),
            Err(Unanswered::Reset(reason)) => return respond.send_reset(reason),
            Err(Unanswered::TooLarge(too_large)) => return refuse(part, respond, too_large.status()),
            Err(Unanswered::Expired) => return answer::refuse(respond, Status::deadline_exceeded()),
            Err(Unanswered::ClientGone) => return,
        };
        let (pause, elsewhere) = match (
            attempts.rule(failure, call.deadline.left(), &mut call.rng),
            answer,
        ) {
            (Ruling::Again { pause, elsewhere }, _) => (pause, elsewhere),
            (Ruling::Forward, Some(answer)) => {
                cached::tell(part, &answer);
                return deliver(answer, respond).await;
            }
            // Only an answer is ever ruled to be forwarded.
            (Ruling::Forward, None) => return refuse(part, respond, CONNECTION_LOST),
            (Ruling::Refuse(status), _) => return refuse(part, respond, status),
        };
        failed_on = elsewhere.then_some(connection.id());
        drop(connection);
        if !pause.is_zero() && !wait::<R>(pause, &mut respond).await {
            return;
        }
    }
}

/// Refuses a call that no member has answered.
fn refuse(part: Part, respond: SendResponse<Bytes>, status: Status) {
    part.refused(&status);
    answer::refuse(respond, status);
}

/// Why a request isn't there as a whole.
enum Incomplete {
    /// Its message is larger than allowed.
    TooLarge(MessageTooLarge),
    /// The client has cancelled the call or is gone.
    ClientGone,
    /// The message is complete, but the client keeps its direction open.
    Open { data: Bytes, limit: MessageLimit },
}

/// Reads a request to its end.
///
/// A server answers a unary call when it has the message and doesn't wait for the client's half-close. That nearly
/// always comes with the message; a client that keeps it back gets its answer all the same, at the price of the
/// repeats, which need the whole request.
async fn collect<R: Runtime>(body: &mut RecvStream, mut limit: MessageLimit) -> Result<Payload, Incomplete> {
    let only_head = body.is_end_stream();
    let mut whole = false;
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    loop {
        let chunk = if whole && !body.is_end_stream() {
            let until = Instant::now() + HALF_CLOSE_PATIENCE;
            match rt::timeout_at::<R, _>(until, body.data()).await {
                Ok(chunk) => chunk,
                Err(rt::Elapsed) => {
                    return Err(Incomplete::Open {
                        data: joined(first, rest),
                        limit,
                    });
                }
            }
        } else {
            body.data().await
        };
        let Some(chunk) = chunk else { break };
        let chunk = chunk.map_err(|_| Incomplete::ClientGone)?;
        limit.check(&chunk).map_err(Incomplete::TooLarge)?;
        body.flow_control()
            .release_capacity(chunk.len())
            .map_err(|_| Incomplete::ClientGone)?;
        let more = whole && !chunk.is_empty();
        if first.is_empty() {
            first = chunk;
        } else {
            if rest.is_empty() {
                rest.extend_from_slice(&first);
            }
            rest.extend_from_slice(&chunk);
        }
        if more {
            // A second message. It is for the member to judge; reading on could go on for ever.
            return Err(Incomplete::Open {
                data: joined(first, rest),
                limit,
            });
        }
        whole = limit.messages() > 0;
    }
    let trailers = if body.is_end_stream() {
        None
    } else {
        body.trailers().await.map_err(|_| Incomplete::ClientGone)?
    };
    Ok(Payload {
        data: joined(first, rest),
        trailers,
        only_head,
    })
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
async fn wait<R: Runtime>(pause: Duration, respond: &mut SendResponse<Bytes>) -> bool {
    let mut sleep = core::pin::pin!(rt::sleep::<R>(pause));
    poll_fn(|cx| match respond.poll_reset(cx) {
        Poll::Ready(_) => Poll::Ready(false),
        Poll::Pending => sleep.as_mut().poll(cx).map(|()| true),
    })
    .await
}

/// The gRPC status code of an answer; `None` if it has none that a server would send.
fn status(answer: &Answer) -> Option<u8> {
    let status = trailers(answer)?.get(answer::GRPC_STATUS)?;
    status.to_str().ok()?.parse().ok()
}
