//! A call of the proxy's to a member.

use core::future::{Future as _, poll_fn};
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use etcd_proxy_core::class::Class;
use etcd_proxy_core::endpoints;
use etcd_proxy_core::grpc::{Code, Status};
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};

use super::shared::{Streams, UpstreamOutbox};
use super::{Happened, Multiplexer};
use crate::grpc::{Messages, status_of};
use crate::rt::Runtime;
use crate::upstream::{OnBehalf, OpenCall, Report, Uplink, Wish};

/// Messages of the member that are handled before other tasks have their turn.
const MESSAGES_AT_ONCE: usize = 64;

/// An order to open a call.
#[derive(Debug)]
pub(crate) struct Open<M: Multiplexer> {
    pub(super) upstream: M::UpstreamId,
    pub(super) on_behalf: OnBehalf,
    /// What kind of call it is to others.
    pub(super) class: Class,
    /// What is to be sent.
    pub(super) outbox: Arc<UpstreamOutbox>,
}

/// Opens a call, and tells the machine what comes, to the end.
pub(super) async fn run<R: Runtime, M: Multiplexer>(
    uplink: Arc<Uplink>,
    streams: Arc<Streams<M>>,
    open: Open<M>,
) {
    let upstream = open.upstream;
    // Unless the machine has ended it.
    if let Err(status) = call::<R, M>(&uplink, &streams, open).await {
        tracing::debug!(
            code = status.code,
            message = &*status.message,
            path = M::RPC.path(),
            "a stream to a member has ended"
        );
        streams.handle(Happened::UpstreamEnded(upstream, status));
    }
}

/// # Errors
/// How the call ended, if it wasn't the machine that ended it.
async fn call<R: Runtime, M: Multiplexer>(
    uplink: &Arc<Uplink>,
    streams: &Streams<M>,
    open: Open<M>,
) -> Result<(), Status> {
    let until = Instant::now() + uplink.settings.dial_timeout;
    let wish = Wish::of_stream(open.class);
    let taken = uplink.lane.connection::<R>(wish, until).await;
    let taken = taken.map_err(|_| Status::of(Code::Unavailable, "no endpoint can be reached"))?;
    let connection = taken.connection;
    // What must be known of the member is asked where nothing is in the way.
    let main = uplink.lane.main_to(connection.target());
    M::prepare::<R>(streams, open.upstream, main.as_ref().unwrap_or(&connection)).await;
    drop(main);
    let lost = || Status::of(Code::Unavailable, "connection lost");
    let head = connection.request(M::RPC, &open.on_behalf)?;
    let call = connection.open_call(head, false);
    let (response, stream, guard) = call.map_err(|_| {
        if connection.refuses() {
            // Lost when the control task is busy; then the connection's own driver tells it.
            let draining = endpoints::Event::Draining(connection.id());
            let _ = uplink.reports.try_send(Report::Event(draining));
        }
        lost()
    })?;
    streams.handle(Happened::UpstreamOpened(open.upstream));
    let mut call = Call {
        streams,
        upstream: open.upstream,
        outbox: open.outbox,
        chunks: VecDeque::new(),
        stream,
        answer: Answer::Waiting(response),
        // Members are trusted with what they send here: a message that was refused would come again and again.
        messages: Messages::new(u32::MAX.into()),
        _open: guard,
    };
    let mut superseded = core::pin::pin!(uplink.lane.superseded(connection.id()));
    let mut is_superseded = false;
    let ended = poll_fn(|cx| {
        if !is_superseded && superseded.as_mut().poll(cx).is_ready() {
            is_superseded = true;
            streams.handle(Happened::UpstreamSuperseded(call.upstream));
        }
        call.poll(cx)
    })
    .await;
    if matches!(&ended, Err(status) if status.is(Code::Unavailable)) {
        uplink.doubt::<R>(&connection);
    }
    ended
}

/// A call that is open.
struct Call<'a, M: Multiplexer> {
    streams: &'a Streams<M>,
    upstream: M::UpstreamId,
    outbox: Arc<UpstreamOutbox>,
    /// Taken from the outbox, not yet sent.
    chunks: VecDeque<Bytes>,
    stream: SendStream<Bytes>,
    answer: Answer,
    messages: Messages,
    _open: OpenCall,
}

enum Answer {
    Waiting(ResponseFuture),
    Open(RecvStream),
}

impl<M: Multiplexer> Call<'_, M> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        if let Poll::Ready(ended) = self.poll_send(cx) {
            return Poll::Ready(ended);
        }
        self.poll_answer(cx).map(Err)
    }

    /// Sends what there is. Ready when the machine has ended the call, or it can't be sent.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        loop {
            let found = self.outbox.look(cx, Some(&mut self.chunks));
            if found.end.is_some() {
                self.stream.send_reset(Reason::CANCEL);
                return Poll::Ready(Ok(()));
            }
            let Some(chunk) = self.chunks.front_mut() else {
                return Poll::Pending;
            };
            self.stream.reserve_capacity(chunk.len());
            let mut room = self.stream.capacity();
            if room == 0 {
                match ready!(self.stream.poll_capacity(cx)) {
                    Some(Ok(capacity)) => room = capacity,
                    // The member has ended the stream or is gone: its answer tells.
                    Some(Err(_)) | None => return Poll::Pending,
                }
            }
            let part = chunk.split_to(room.min(chunk.len()));
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
            if self.stream.send_data(part, false).is_err() {
                return Poll::Pending;
            }
        }
    }

    /// Ready with how the member has ended the call.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        if let Answer::Waiting(response) = &mut self.answer {
            match ready!(Pin::new(response).poll(cx)) {
                Ok(response) => {
                    let (parts, body) = response.into_parts();
                    if body.is_end_stream() {
                        return Poll::Ready(status_of(&parts.headers));
                    }
                    if parts.status != http::StatusCode::OK {
                        return Poll::Ready(Status::of(Code::Unavailable, "unexpected HTTP status"));
                    }
                    self.answer = Answer::Open(body);
                }
                Err(error) => return Poll::Ready(broken(&error)),
            }
        }
        let Answer::Open(body) = &mut self.answer else {
            return Poll::Pending;
        };
        for _ in 0..MESSAGES_AT_ONCE {
            match self.messages.next() {
                Ok(Some(message)) => {
                    // Of its own: a machine may keep it, but not the buffer that it was read into.
                    let message = Bytes::copy_from_slice(&message);
                    let happened = Happened::UpstreamSent(self.upstream, message);
                    self.streams.handle(happened);
                    continue;
                }
                Ok(None) => {}
                Err(status) => {
                    self.stream.send_reset(Reason::CANCEL);
                    return Poll::Ready(status);
                }
            }
            match ready!(body.poll_data(cx)) {
                Some(Ok(chunk)) => {
                    // It fails only when the stream has ended and its window means nothing any more.
                    let _ = body.flow_control().release_capacity(chunk.len());
                    self.messages.push(chunk);
                }
                Some(Err(error)) => return Poll::Ready(broken(&error)),
                None => {
                    return match ready!(body.poll_trailers(cx)) {
                        Ok(trailers) => Poll::Ready(status_of(&trailers.unwrap_or_default())),
                        Err(error) => Poll::Ready(broken(&error)),
                    };
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

fn broken(error: &h2::Error) -> Status {
    tracing::debug!(error = %error, "a stream to a member has broken");
    Status::of(Code::Unavailable, "connection lost")
}
