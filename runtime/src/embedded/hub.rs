//! The cluster behind a lock, what its clients wait for, and the clock that drives it.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use etcd_proxy_core::time;
use etcd_proxy_model::cluster::{Action, Actions, CallId, Cluster, Config, Event, Metadata, StreamId};
use etcd_proxy_model::status::Status;

use crate::machine::{Machine, Shared};
use crate::rt::Runtime;

/// Messages that a stream may have on their way to its client: the credit that the model gets at first.
pub(super) const CREDIT: u32 = 32;

/// The one member: there is no other.
const MEMBER: usize = 0;

/// The etcd that all calls of all connections reach.
#[derive(Debug)]
pub(super) struct Hub(Shared<State>);

#[derive(Debug)]
struct State {
    cluster: Cluster,
    /// Empty between events; kept for its capacity.
    actions: Actions,
    calls: HashMap<CallId, Waiting>,
    streams: HashMap<StreamId, Outbox>,
    /// Calls and streams are numbered together.
    next_id: u64,
    /// Set while the model is at work, so it stays set if that panics: what is left is not to be trusted.
    at_work: bool,
}

/// A unary call.
#[derive(Debug)]
enum Waiting {
    For(Option<Waker>),
    Answered(Result<Bytes, Status>),
}

/// What a stream's client is to get. Holds at most [`CREDIT`] messages.
#[derive(Debug, Default)]
struct Outbox {
    messages: VecDeque<Bytes>,
    end: Option<Status>,
    waker: Option<Waker>,
}

impl Hub {
    pub(super) fn new(config: Config) -> Self {
        Self(Shared::new(State {
            cluster: Cluster::new(time::Instant::ZERO, config),
            actions: Actions::new(),
            calls: HashMap::new(),
            streams: HashMap::new(),
            next_id: 0,
            at_work: false,
        }))
    }

    /// Makes a unary call.
    pub(super) fn call(self: &Arc<Self>, path: String, metadata: Metadata, message: Bytes) -> Call {
        let call = self.0.with(|state, now, wakers| {
            let call = CallId(state.number());
            state.calls.insert(call, Waiting::For(None));
            let event = Event::Call {
                call,
                member: MEMBER,
                path,
                metadata,
                message,
            };
            state.handle(now, event, wakers);
            call
        });
        Call {
            hub: self.clone(),
            call,
            answered: false,
        }
    }

    /// Opens a stream.
    pub(super) fn open(self: &Arc<Self>, path: String, metadata: Metadata) -> Stream {
        let stream = self.0.with(|state, now, wakers| {
            let stream = StreamId(state.number());
            state.streams.insert(stream, Outbox::default());
            let event = Event::Open {
                stream,
                member: MEMBER,
                path,
                metadata,
                credit: CREDIT,
            };
            state.handle(now, event, wakers);
            stream
        });
        Stream {
            hub: self.clone(),
            stream,
        }
    }

    /// Tells the model when its time has come. Never returns.
    pub(super) async fn run_timer<R: Runtime>(&self) {
        self.0.run_timer::<R>().await;
    }

    /// Completes when the model has panicked: there is nothing left to serve.
    pub(super) async fn failed(&self) {
        self.0.failed().await;
    }
}

impl Machine for State {
    type After = Vec<Waker>;

    fn next_timeout(&self) -> Option<time::Instant> {
        self.cluster.next_timeout()
    }

    fn timeout(&mut self, now: time::Instant, after: &mut Vec<Waker>) {
        self.handle(now, Event::Timeout, after);
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn handle(&mut self, now: time::Instant, event: Event, wakers: &mut Vec<Waker>) {
        if self.at_work {
            return;
        }
        self.at_work = true;
        self.cluster.handle(now, event, &mut self.actions);
        self.at_work = false;
        for action in self.actions.drain(..) {
            // What belongs to nobody any more was given up by its client.
            match action {
                Action::Reply { call, result } => {
                    if let Some(waiting) = self.calls.get_mut(&call)
                        && let Waiting::For(Some(waker)) =
                            core::mem::replace(waiting, Waiting::Answered(result))
                    {
                        wakers.push(waker);
                    }
                }
                Action::Send { stream, message } => {
                    if let Some(outbox) = self.streams.get_mut(&stream) {
                        outbox.messages.push_back(message);
                        wakers.extend(outbox.waker.take());
                    }
                }
                Action::End { stream, status } => {
                    if let Some(outbox) = self.streams.get_mut(&stream) {
                        outbox.end = Some(status);
                        wakers.extend(outbox.waker.take());
                    }
                }
            }
        }
    }
}

/// A unary call that was made; completes with its answer. Dropped before, it is cancelled.
#[derive(Debug)]
pub(super) struct Call {
    hub: Arc<Hub>,
    call: CallId,
    answered: bool,
}

impl Future for Call {
    type Output = Result<Bytes, Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = self.hub.0.quietly(|state| match state.calls.remove(&self.call) {
            Some(Waiting::Answered(result)) => Poll::Ready(result),
            Some(Waiting::For(_)) => {
                let waiting = Waiting::For(Some(cx.waker().clone()));
                state.calls.insert(self.call, waiting);
                Poll::Pending
            }
            // Polled again after its end: it has nothing more to say.
            None => Poll::Pending,
        });
        self.answered = result.is_ready();
        result
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        self.hub.0.with(|state, now, wakers| {
            if let Some(Waiting::For(_)) = state.calls.remove(&self.call) {
                state.handle(now, Event::CancelCall(self.call), wakers);
            }
        });
    }
}

/// A stream that was opened. Dropped before its end, it is reset.
#[derive(Debug)]
pub(super) struct Stream {
    hub: Arc<Hub>,
    stream: StreamId,
}

impl Stream {
    /// A message of the client.
    pub(super) fn message(&self, message: Bytes) {
        let stream = self.stream;
        self.event(Event::Message { stream, message });
    }

    /// The client sends no more.
    pub(super) fn half_close(&self) {
        self.event(Event::HalfClose(self.stream));
    }

    /// So many messages have left for the client.
    pub(super) fn sent(&self, messages: u32) {
        let stream = self.stream;
        self.event(Event::Credit { stream, messages });
    }

    fn event(&self, event: Event) {
        self.hub.0.with(|state, now, wakers| {
            // Once the model has ended a stream it knows nothing of it.
            let ended = state
                .streams
                .get(&self.stream)
                .is_none_or(|outbox| outbox.end.is_some());
            if !ended {
                state.handle(now, event, wakers);
            }
        });
    }

    /// Takes what there is for the client: messages, or the end when there is nothing before it.
    pub(super) fn poll_take(
        &self,
        cx: &mut Context<'_>,
        messages: &mut VecDeque<Bytes>,
    ) -> Poll<Option<Status>> {
        self.hub.0.quietly(|state| {
            let Some(outbox) = state.streams.get_mut(&self.stream) else {
                return Poll::Pending;
            };
            if !outbox.messages.is_empty() {
                messages.append(&mut outbox.messages);
                return Poll::Ready(None);
            }
            if let Some(status) = &outbox.end {
                return Poll::Ready(Some(status.clone()));
            }
            outbox.waker = Some(cx.waker().clone());
            Poll::Pending
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.hub.0.with(|state, now, wakers| {
            if let Some(outbox) = state.streams.remove(&self.stream)
                && outbox.end.is_none()
            {
                state.handle(now, Event::Reset(self.stream), wakers);
            }
        });
    }
}

#[cfg(test)]
mod tests;
