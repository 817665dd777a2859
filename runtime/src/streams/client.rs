//! A client's call: its requests go to the machine, what the machine has for it goes out as fast as it reads.

use core::future::{Future, poll_fn};
use core::task::{Context, Poll};
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use etcd_proxy_core::grpc::Status;
use etcd_proxy_core::watch::Caller;
use h2::RecvStream;
use http::Request;
use tokio::sync::watch;

use super::shared::{ClientOutbox, Streams};
use super::{Happened, Multiplexer};
use crate::grpc::{Answer, End, Expiry, Head, Messages, Requests, Responder, SERVER_STOPPED, Uploads};
use crate::rt::Runtime;
use crate::shutdown::Phase;

/// Requests and outbox contents that are handled before other calls have their turn.
const ROUNDS_AT_ONCE: usize = 64;

/// What has left is told to the machine in portions of at least this many bytes, and when there is nothing left to send.
const PORTION_BYTES: usize = 64 * 1024;

/// The connection of a caller, as far as it counts for one of its calls.
pub(crate) struct CallerConnection<'a> {
    /// No other connection of the process has it.
    pub(crate) number: u64,
    /// What its streams may hold of messages that aren't complete.
    pub(crate) uploads: &'a Uploads,
    /// Largest message, in bytes.
    pub(crate) request_bytes_max: u64,
    pub(crate) shutdown: watch::Receiver<Phase>,
}

/// Serves a call to its end.
pub(crate) async fn serve<R: Runtime, M: Multiplexer>(
    mut client: CallerConnection<'_>,
    streams: Arc<Streams<M>>,
    head: Head,
    request: Request<RecvStream>,
    responder: Responder,
) {
    let caller = Caller {
        connection: client.number,
        credentials: head.token.clone(),
        require_leader: head.require_leader,
    };
    let mut expiry = Expiry::<R>::new(head.deadline);
    let messages = Messages::new(client.request_bytes_max);
    let mut call = Call {
        stream: Stream::open(streams, caller),
        requests: Requests::new(request.into_body(), messages, client.uploads),
        answer: Answer::Waiting { responder, head },
        chunks: VecDeque::new(),
        left: 0,
        ended: None,
    };
    let mut stopped = core::pin::pin!(client.shutdown.wait_for(|phase| *phase == Phase::Draining));
    let end = poll_fn(|cx| {
        if let Poll::Ready(end) = call.poll(cx) {
            return Poll::Ready(end);
        }
        if call.answer.poll_reset(cx).is_ready() {
            return Poll::Ready(End::ClientGone);
        }
        if expiry.poll(cx).is_ready() {
            return Poll::Ready(End::Expired);
        }
        stopped.as_mut().poll(cx).map(|_| End::Status(SERVER_STOPPED))
    })
    .await;
    // The machine does nothing more for it, whatever the client does.
    drop(call.stream);
    call.answer.finish(end, call.requests.bytes());
}

/// A client's stream, as the machine knows it.
pub(super) struct Stream<M: Multiplexer> {
    streams: Arc<Streams<M>>,
    pub(super) id: M::ClientId,
    pub(super) outbox: Arc<ClientOutbox>,
}

impl<M: Multiplexer> Stream<M> {
    pub(super) fn open(streams: Arc<Streams<M>>, caller: Caller) -> Self {
        let (id, outbox) = streams.open(caller);
        Self { streams, id, outbox }
    }

    pub(super) fn tell(&self, happened: Happened<M>) {
        self.streams.handle(happened);
    }
}

impl<M: Multiplexer> Drop for Stream<M> {
    fn drop(&mut self) {
        self.tell(Happened::ClientGone(self.id));
    }
}

struct Call<M: Multiplexer> {
    stream: Stream<M>,
    requests: Requests,
    answer: Answer,
    /// Taken from the outbox, for `h2` to take as the client's window allows.
    chunks: VecDeque<Bytes>,
    /// Bytes that have left, and that the machine hasn't been told of.
    left: usize,
    /// What follows the last chunk.
    ended: Option<Status>,
}

impl<M: Multiplexer> Call<M> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        for _ in 0..ROUNDS_AT_ONCE {
            let sent = self.poll_send(cx);
            if let Poll::Ready(Err(end)) = sent {
                return Poll::Ready(end);
            }
            // As long as the client has no room its outbox fills up, as far as the machine allows.
            let into = sent.is_ready().then_some(&mut self.chunks);
            let found = self.stream.outbox.look(cx, into);
            self.ended = self.ended.take().or(found.end);
            if let Some(since) = found.chunks {
                self.stream.streams.observe_delivery(since);
                continue;
            }
            if self.ended.is_some() && sent.is_ready() {
                continue;
            }
            if found.is_paused {
                return Poll::Pending;
            }
            match self.requests.poll(cx) {
                Poll::Ready(Ok(Some(message))) => {
                    let request = M::read(message);
                    self.stream.tell(Happened::ClientSent(self.stream.id, request));
                }
                Poll::Ready(Ok(None)) => self.stream.tell(Happened::ClientHalfClosed(self.stream.id)),
                Poll::Ready(Err(end)) => return Poll::Ready(end),
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Hands over what was taken from the outbox. Pending when the client has no room.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        while let Some(chunk) = self.chunks.front_mut() {
            let before = chunk.len();
            let Poll::Ready(sent) = self.answer.poll_send(cx, chunk) else {
                self.tell_left(1);
                return Poll::Pending;
            };
            if sent.is_err() {
                return Poll::Ready(Err(End::ClientGone));
            }
            self.left += before - chunk.len();
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
            self.tell_left(PORTION_BYTES);
        }
        self.tell_left(1);
        match self.ended.take() {
            Some(status) => Poll::Ready(Err(End::Status(status))),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Tells the machine what has left, if it is so much at least.
    fn tell_left(&mut self, portion: usize) {
        if self.left >= portion {
            let left = core::mem::take(&mut self.left);
            self.stream.tell(Happened::ClientTook(self.stream.id, left));
        }
    }
}
