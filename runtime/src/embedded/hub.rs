//! The cluster behind a lock, what its clients wait for, and the clock that drives it.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use core::time::Duration;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use etcd_proxy_core::time;
use etcd_proxy_model::cluster::{Action, Actions, CallId, Cluster, Config, Event, Metadata, StreamId};
use etcd_proxy_model::status::Status;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::rt::{self, Runtime};

/// Messages that a stream may have on their way to its client: the credit that the model gets at first.
pub(super) const CREDIT: u32 = 32;

/// How many timeouts may follow from one event at once. More come from the timer, so a model that never came to rest
/// would be slow, not stuck.
const TIMEOUTS_AT_ONCE: usize = 16;

/// How long the timer rests when it finds itself due again.
const PAUSE: Duration = Duration::from_millis(1);

/// The one member: there is no other.
const MEMBER: usize = 0;

/// The etcd that all calls of all connections reach.
#[derive(Debug)]
pub(super) struct Hub {
    started: Instant,
    state: Mutex<State>,
    /// The next timeout has moved ahead of the one that the timer waits for.
    sooner: Notify,
    /// The model has panicked.
    failed: Notify,
}

#[derive(Debug)]
struct State {
    cluster: Cluster,
    /// Empty between events; kept for its capacity.
    actions: Actions,
    calls: HashMap<CallId, Waiting>,
    streams: HashMap<StreamId, Outbox>,
    /// Calls and streams are numbered together.
    next_id: u64,
    /// What the timer waits for.
    armed: Option<time::Instant>,
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
        Self {
            started: Instant::now(),
            state: Mutex::new(State {
                cluster: Cluster::new(time::Instant::ZERO, config),
                actions: Actions::new(),
                calls: HashMap::new(),
                streams: HashMap::new(),
                next_id: 0,
                armed: None,
                at_work: false,
            }),
            sooner: Notify::new(),
            failed: Notify::new(),
        }
    }

    /// Makes a unary call.
    pub(super) fn call(self: &Arc<Self>, path: String, metadata: Metadata, message: Bytes) -> Call {
        let call = self.with(|state, now, wakers| {
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
        let stream = self.with(|state, now, wakers| {
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
        let mut rested = self.started;
        loop {
            let due = {
                let mut state = self.state.lock();
                state.armed = state.cluster.next_timeout();
                state.armed
            };
            // A time beyond what the clock can show doesn't come.
            let due = due.and_then(|due| {
                self.started
                    .checked_add(due.saturating_since(time::Instant::ZERO))
            });
            let sooner = self.sooner.notified();
            match due {
                None => sooner.await,
                Some(due) => {
                    if rt::timeout_at::<R, _>(due.max(rested), sooner).await == Err(rt::Elapsed) {
                        self.with(State::handle_timeouts);
                        rested = Instant::now() + PAUSE;
                    }
                }
            }
        }
    }

    /// Completes when the model has panicked: there is nothing left to serve.
    pub(super) async fn failed(&self) {
        self.failed.notified().await;
    }

    /// Does something with the state, and wakes whoever got something by it once the lock is free.
    fn with<T>(&self, act: impl FnOnce(&mut State, time::Instant, &mut Vec<Waker>) -> T) -> T {
        let _failure = TellFailure(&self.failed);
        let mut wakers = Vec::new();
        let (result, sooner) = {
            let mut state = self.state.lock();
            // Read under the lock, so that events are in the order of their times.
            let now = time::Instant::ZERO + self.started.elapsed();
            let result = act(&mut state, now, &mut wakers);
            let next = state.cluster.next_timeout();
            let sooner = next.is_some_and(|next| state.armed.is_none_or(|armed| next < armed));
            if sooner {
                state.armed = next;
            }
            (result, sooner)
        };
        if sooner {
            self.sooner.notify_one();
        }
        for waker in wakers {
            waker.wake();
        }
        result
    }
}

/// Tells of a panic while it lives.
struct TellFailure<'a>(&'a Notify);

impl Drop for TellFailure<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.notify_one();
        }
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn handle(&mut self, now: time::Instant, event: Event, wakers: &mut Vec<Waker>) {
        self.step(now, event, wakers);
        self.handle_timeouts(now, wakers);
    }

    fn handle_timeouts(&mut self, now: time::Instant, wakers: &mut Vec<Waker>) {
        for _ in 0..TIMEOUTS_AT_ONCE {
            if self.cluster.next_timeout().is_none_or(|due| due > now) {
                break;
            }
            self.step(now, Event::Timeout, wakers);
        }
    }

    fn step(&mut self, now: time::Instant, event: Event, wakers: &mut Vec<Waker>) {
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
        let result = {
            let mut state = self.hub.state.lock();
            match state.calls.remove(&self.call) {
                Some(Waiting::Answered(result)) => result,
                Some(Waiting::For(_)) => {
                    let waiting = Waiting::For(Some(cx.waker().clone()));
                    state.calls.insert(self.call, waiting);
                    return Poll::Pending;
                }
                // Polled again after its end: it has nothing more to say.
                None => return Poll::Pending,
            }
        };
        self.answered = true;
        Poll::Ready(result)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        self.hub.with(|state, now, wakers| {
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
        self.hub.with(|state, now, wakers| {
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
        let mut state = self.hub.state.lock();
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
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.hub.with(|state, now, wakers| {
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
