//! Calls on their way through: from a client's stream to a member's and back, as bytes.
//!
//! Nothing is decoded. What is looked at: the path (which decides how the call may be handled), the
//! `grpc-timeout`, the length prefixes of messages, and the `grpc-status` of an answer.

mod cached;
mod conclusion;
mod context;
mod deadline;
mod elsewhere;
mod exchange;
mod head;
mod leader;
mod observer;
mod pump;
mod stream;
#[cfg(test)]
mod tests;
mod unary;

use core::future::{Future as _, poll_fn};
use core::task::Poll;
use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use etcd_proxy_core::class::Class;
use etcd_proxy_core::endpoints::{ConnectionId, Event};
use etcd_proxy_core::grpc::header::{CLIENT_API_VERSION, GRPC_MESSAGE};
use etcd_proxy_core::grpc::{Code, Status};
use etcd_proxy_core::retry::{self, no_endpoint, no_turn, patience};
use etcd_proxy_core::rpc::{Rpc, Shape};
use fastrand::Rng;
use h2::client::ResponseFuture;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::Request;

pub(crate) use self::context::{ClientConnection, Worker};
use self::deadline::Deadline;
use self::exchange::Answer;
use crate::grpc::{
    Head, INVALID_CLIENT_API_VERSION, Record, Responder, SERVER_STOPPED, path_of, too_many_headers,
};
use crate::rt::Runtime;
use crate::streams;
use crate::upstream::{CHECK_PATIENCE, Connection, NoConnection, OpenCall, Refused, Report};

/// Headers that a request may have: far more than any client sends, and few enough to add some to them.
const HEADERS_MAX: usize = 16 * 1024;

/// What a call that has waited for another one's answer has left at least to wait for a member.
const PATIENCE_MIN: Duration = Duration::from_millis(250);

/// Handles one call from its request's head to the end of its answer.
pub(crate) async fn forward<R: Runtime>(
    client: Arc<ClientConnection>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) {
    let rpc = Rpc::of_path(path_of(request.uri()));
    let responder = Responder::new(respond, Record::new(rpc, client.worker.call_ends.clone()));
    let deadline = Deadline::of(request.headers());
    let call = Call {
        client,
        rpc,
        deadline,
        rng: Rng::with_seed(seed(&responder)),
        class: rpc.class().class(None),
        counted: false,
        attempted: false,
        pinned_now: false,
        waits_since: None,
    };
    if request.headers().len() > HEADERS_MAX {
        return responder.answer_with(too_many_headers());
    }
    if request.method() == http::Method::CONNECT {
        // It has no path to forward.
        return responder.refuse(&Status::of(Code::Internal, "CONNECT is not a gRPC request"));
    }
    let version = request.headers().get(CLIENT_API_VERSION);
    if version.is_some_and(|version| core::str::from_utf8(version.as_bytes()).is_err()) {
        return responder.refuse(&INVALID_CLIENT_API_VERSION);
    }
    // What a member would refuse is for a member to refuse, and a compressed stream goes through as it is.
    let worker = &call.client.worker;
    if matches!(rpc, Rpc::Watch | Rpc::LeaseKeepAlive)
        && let Ok(head) = Head::of(rpc, &request)
    {
        let client = &call.client;
        return if rpc == Rpc::Watch {
            streams::serve::<R, _>(client.caller(), worker.watch.clone(), head, request, responder).await
        } else {
            streams::serve::<R, _>(client.caller(), worker.lease.clone(), head, request, responder).await
        };
    }
    match rpc.shape() {
        // On the heap, so that calls which last, and are handled above, don't carry the room that these need.
        Shape::Unary => Box::pin(unary::forward::<R>(call, request, responder)).await,
        Shape::Stream | Shape::Endless => Box::pin(stream::forward::<R>(call, request, responder)).await,
    }
}

/// Jitter needs no secrets: calls only must not wait in step.
fn seed(responder: &Responder) -> u64 {
    u64::from(responder.stream_id())
}

/// One call.
struct Call {
    client: Arc<ClientConnection>,
    rpc: Rpc,
    deadline: Deadline,
    rng: Rng,
    /// What kind of call it is to others.
    class: Class,
    /// It is to be counted as its client's when it is opened.
    counted: bool,
    /// An attempt was made before.
    attempted: bool,
    /// This call is the one that its client connection's [`Member::Same`](etcd_proxy_core::rpc::Member::Same) calls follow.
    pinned_now: bool,
    /// Since when it has waited for the answer to another one, before it was to be sent itself.
    waits_since: Option<Instant>,
}

impl Call {
    /// A connection for the next attempt, other than `avoid`, and the head of the request for it.
    ///
    /// # Errors
    /// When there is none in time, or the client doesn't want one any more.
    async fn next<R: Runtime>(
        &mut self,
        head: &head::Head,
        avoid: Option<ConnectionId>,
        responder: &mut Responder,
    ) -> Result<(Arc<Connection>, Request<()>), NoAttempt> {
        let connection = {
            let mut connection = core::pin::pin!(self.connection::<R>(avoid));
            poll_fn(|cx| match connection.as_mut().poll(cx) {
                Poll::Ready(connection) => Poll::Ready(connection.map_err(NoAttempt::Refused)),
                Poll::Pending => responder.poll_reset(cx).map(|_| Err(NoAttempt::ClientGone)),
            })
            .await?
        };
        let first = !core::mem::replace(&mut self.attempted, true);
        // What is left of the deadline after a wait; otherwise what the client sent, byte for byte.
        let request = if first && !self.deadline.has_shrunk() {
            head.first(&connection)
        } else {
            head.again(&connection, self.deadline)
        };
        Ok((connection, request))
    }

    /// A connection other than `avoid`.
    ///
    /// # Errors
    /// The status for the client, when there is none in time.
    async fn connection<R: Runtime>(
        &mut self,
        avoid: Option<ConnectionId>,
    ) -> Result<Arc<Connection>, Status> {
        let uplink = &self.client.worker.uplink;
        let sticky = self.rpc.member().is_sticky();
        let pinned = if sticky { self.client.pinned(avoid) } else { None };
        self.counted = false;
        if let Some(pinned) = &pinned
            && (self.class == Class::Prompt || uplink.lane.main_to(pinned.target()).is_none())
        {
            return Ok(pinned.clone());
        }
        let (now, patience) = (
            Instant::now(),
            patience(uplink.settings.dial_timeout, self.deadline.left()),
        );
        // The one that it has waited for may have waited for a member all the time.
        let waited = self
            .waits_since
            .take()
            .map_or(Duration::ZERO, |since| now - since);
        let until = now + patience.saturating_sub(waited).max(patience.min(PATIENCE_MIN));
        let taken = match uplink
            .lane
            .connection::<R>(self.client.wish(self.class, avoid), until)
            .await
        {
            Ok(taken) => taken,
            Err(_) if uplink.lane.has_ended() => return Err(SERVER_STOPPED),
            Err(NoConnection::NoEndpoint) => return Err(no_endpoint(self.deadline.left())),
            Err(NoConnection::NoTurn) => return Err(no_turn(self.deadline.left())),
        };
        match pinned {
            // The worker has gone to another member meanwhile.
            Some(pinned) if pinned.target() != taken.connection.target() => return Ok(pinned),
            Some(_) => {}
            None if sticky => {
                let main = uplink.lane.main_to(taken.connection.target());
                self.client.pin(main.as_ref().unwrap_or(&taken.connection));
                self.pinned_now = true;
            }
            None => {}
        }
        self.counted = taken.counted;
        Ok(taken.connection)
    }

    /// Opens the call on a connection.
    fn open(
        &self,
        connection: &Arc<Connection>,
        head: Request<()>,
        end_of_stream: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>, OpenCall), Refused> {
        let (response, stream, mut open) = connection.open_call(head, end_of_stream)?;
        if self.counted {
            open.count(self.client.begin(self.class));
        }
        Ok((response, stream, open))
    }

    /// Whether an answer is given to the client though it is UNAVAILABLE: for being a learner, of the only member that can be
    /// reached.
    fn must_do(&self, answer: &Answer) -> bool {
        let is_learners = || {
            let message = exchange::trailers(answer).and_then(|trailers| trailers.get(GRPC_MESSAGE));
            message.is_some_and(|message| retry::is_learners(message.as_bytes()))
        };
        self.client.worker.uplink.lane.is_alone() && is_learners()
    }

    /// The connection takes no new calls: it is to be replaced.
    async fn refused(&self, connection: &Connection) {
        if connection.refuses() {
            self.report(Event::Draining(connection.id())).await;
        }
    }

    async fn report(&self, event: Event) {
        // Nobody listens any more once the process is ending.
        let _ = self.client.worker.uplink.reports.send(Report::Event(event)).await;
    }

    /// Raises a suspicion against the member of a call that has ended without an answer, if the call waited for longer than one
    /// takes.
    fn ended_unanswered<R: Runtime>(&self, connection: &Arc<Connection>) {
        let waited = self.deadline.elapsed();
        if self.class != Class::Blocking && waited.is_some_and(|waited| waited >= CHECK_PATIENCE) {
            self.client.worker.uplink.suspect::<R>(connection);
        }
    }
}

/// Why no attempt can be made.
enum NoAttempt {
    /// The client is to be told this.
    Refused(Status),
    /// The client has cancelled the call or is gone.
    ClientGone,
}

/// What an error on a member's stream means for the call on it.
enum StreamFailure {
    /// The member didn't process the call, and takes no more on this connection.
    LeftOut,
    /// The member didn't process the call.
    Refused,
    /// The member ended this stream, and said why.
    Reset(Reason),
    /// The connection is gone.
    ConnectionLost,
}

impl StreamFailure {
    fn of(error: &h2::Error) -> Self {
        match error.reason() {
            Some(Reason::REFUSED_STREAM) if error.is_reset() && error.is_remote() => Self::Refused,
            // `h2` fails a stream with the peer's GOAWAY only if the peer left it out: RFC 9113, section 6.8.
            Some(_) if error.is_go_away() && error.is_remote() => Self::LeftOut,
            Some(reason) if error.is_reset() => Self::Reset(reason),
            _ => Self::ConnectionLost,
        }
    }
}
