//! Reads from the cache of the core: what a call is to the cache, and what the cache wants done.
//!
//! ```text
//!  Range ──► forward ──► admit ─► Hit: answered at once
//!                        │      ─► Wait ──► resolved by whoever brings what it waits for
//!                        │      ─► Forward ──► member ──► complete
//!  Put … ──► forward ──► admit ──► member ──► complete
//!
//!  orders to a worker: the watch of what is cached, which is a client of the watch hub's; checks
//! ```
//!
//! The cache is one for all threads, behind a lock, and what it decides, and is told, is decided in the core. [`Shown`] is what clients may have seen, from whatever source: the
//! cache shows nothing older.

mod source;
#[cfg(test)]
mod tests;
mod ticket;

use core::task::{Context, Poll, Waker};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use etcd_proxy_core::grpc::Status;
use etcd_proxy_core::history::{Known, Shows, Verdict};
use etcd_proxy_core::read::{
    Action, Actions, Admission, AnotherHistory, Answer, Asked, Cache, CacheEffect, CacheTicket, CheckId,
    Event, Floor, ReadOutcome, ReadTicket, Reply, Resolution, Reveals, Scope, WaiterId,
};
use etcd_proxy_core::time;
use tokio::sync::mpsc;

pub(crate) use ticket::HeldTicket;

use self::source::{Control, Orders};
use crate::lease::LeaseRouter;
use crate::machine::{self, Machine, Shared};
use crate::rt::{self, Runtime};
use crate::shown::Shown;
use crate::upstream::{CHECK_PATIENCE, Judge, Question, Uplink, Wish, trusts_progress};
use crate::watch::WatchHub;

/// An order of the cache's to one of the workers. There are never more of them than one watch and the few checks that
/// the cache has open, so their mailboxes need no bound of their own.
#[derive(Debug)]
pub(crate) enum Order {
    Check { check: CheckId, linearizable: bool },
    Watch(Orders),
}

impl Order {
    /// Carries the order out on the current thread.
    pub(crate) fn carry_out<R: Runtime>(self, cache: Arc<ReadCache>, uplink: Arc<Uplink>) {
        match self {
            Self::Check { check, linearizable } => {
                rt::spawn::<R>(run_check::<R>(cache, uplink, check, linearizable))
            }
            Self::Watch(orders) => rt::spawn::<R>(source::run::<R>(cache, uplink, orders)),
        }
    }
}

/// Asks the cluster for its revision, and tells the cache.
async fn run_check<R: Runtime>(
    cache: Arc<ReadCache>,
    uplink: Arc<Uplink>,
    check: CheckId,
    linearizable: bool,
) {
    learn_trust::<R>(&cache, &uplink).await;
    let question = Question::revision(None, Bytes::from_static(b"\0"), linearizable);
    let asked = cache.asks();
    let answer = question.ask::<R>(&uplink).await;
    if linearizable && let Ok(header) = &answer {
        cache.learn(asked, header.revision);
    }
    cache.tell(Event::Checked(check, answer));
}

/// Tells the cache whether the member in use tells the truth about the progress of watches.
async fn learn_trust<R: Runtime>(cache: &ReadCache, uplink: &Uplink) {
    let until = Instant::now() + CHECK_PATIENCE;
    let Ok(taken) = uplink.lane.connection::<R>(Wish::of_proxy(), until).await else {
        return;
    };
    if let Some(trusted) = trusts_progress::<R>(&taken.connection, until).await {
        cache.tell(Event::LinearizableTrusted(trusted));
    }
}

/// The cache, shared by all threads.
#[derive(Debug)]
pub(crate) struct ReadCache {
    shared: Shared<State>,
    shown: Arc<Shown>,
    /// What is watched.
    scope: Scope,
    hub: Arc<WatchHub>,
    router: Arc<LeaseRouter>,
}

#[derive(Debug)]
struct State {
    cache: Cache,
    /// Empty between events; kept for its capacity.
    actions: Actions,
    waiting: HashMap<WaiterId, Slot>,
    watch: Option<Control>,
    workers: Vec<mpsc::UnboundedSender<Order>>,
    next_worker: usize,
    /// Set while the machine is at work, so it stays set if that panics: what is left is not to be trusted.
    at_work: bool,
}

/// A read that waits.
#[derive(Debug)]
enum Slot {
    Open(Option<Waker>),
    Resolved(Resolution),
}

/// What is done when the lock is free.
#[derive(Default)]
struct After {
    wakers: Vec<Waker>,
    orders: Vec<(mpsc::UnboundedSender<Order>, Order)>,
}

impl machine::After for After {
    fn finish(self) {
        for (worker, order) in self.orders {
            // A worker is gone only when the process is ending.
            let _ = worker.send(order);
        }
        self.wakers.finish();
    }
}

/// What becomes of a read.
pub(crate) enum Admitted {
    Answer(Answer),
    /// The same answer as another read's, without prefix, or its refusal.
    Shared(Result<Bytes, Status>),
    Forward(Option<ReadTicket>),
    Wait(Waiting),
}

impl ReadCache {
    /// A cache whose orders go to these workers, of which there is at least one.
    pub(crate) fn new(
        cache: Cache,
        scope: Scope,
        shown: Arc<Shown>,
        hub: Arc<WatchHub>,
        router: Arc<LeaseRouter>,
        workers: Vec<mpsc::UnboundedSender<Order>>,
    ) -> Self {
        let shared = Shared::new(State {
            cache,
            actions: Vec::new(),
            waiting: HashMap::new(),
            watch: None,
            workers,
            next_worker: 0,
            at_work: false,
        });
        Self {
            shared,
            shown,
            scope,
            hub,
            router,
        }
    }

    /// What is watched.
    pub(crate) fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Whether there is anything to admit.
    pub(crate) fn is_off(&self) -> bool {
        self.scope == Scope::Nothing
    }

    /// A read without credentials: an encoded `RangeRequest`.
    pub(crate) fn read(self: &Arc<Self>, request: &Bytes) -> Admitted {
        let floor = self.floor();
        let admission = self.shared.with(|state, now, after| {
            let admission = state.at_work(|cache, actions| {
                bring_to(cache, now, floor.known, actions);
                cache.admit_read(now, request, floor.revision, actions)
            });
            if let Some(Admission::Wait(waiter)) = &admission {
                state.waiting.insert(*waiter, Slot::Open(None));
            }
            state.carry_out(after);
            admission
        });
        match admission {
            Some(Admission::Hit(answer)) => {
                self.shown.raise(answer.history, answer.revision);
                Admitted::Answer(answer)
            }
            Some(Admission::Forward(ticket)) => Admitted::Forward(Some(ticket)),
            Some(Admission::Wait(waiter)) => Admitted::Wait(Waiting {
                cache: self.clone(),
                waiter,
            }),
            Some(Admission::Bypass(_)) | None => Admitted::Forward(None),
        }
    }

    /// A read that was forwarded has ended.
    fn complete_read(&self, ticket: ReadTicket, outcome: ReadOutcome) {
        self.shared.with(|state, now, after| {
            state.at_work(|cache, actions| cache.complete_read(now, ticket, outcome, actions));
            state.carry_out(after);
        });
    }

    /// Tells the cache what follows from a call.
    fn carry_out(&self, effect: CacheEffect) {
        match effect {
            CacheEffect::AuthMayHaveChanged => self.tell(Event::AuthMayHaveChanged),
            CacheEffect::Compacted(asked, revision) => self.compacted(asked, revision),
            CacheEffect::Completed(ticket, outcome) => self.complete_read(ticket, outcome),
            CacheEffect::Nothing => {}
            CacheEffect::Written(keys, revision) => {
                self.shared
                    .with(|state, _, _| state.at_work(|cache, _| cache.written(&keys, revision)));
            }
        }
    }

    /// A compaction was answered that was asked for when this was known.
    fn compacted(&self, asked: Known, revision: i64) {
        let Some(compacted) = self.shown.with(|shown| shown.compacted(asked, revision)) else {
            return;
        };
        self.hub
            .tell(|hub, now, actions| hub.handle(now, compacted.for_hub(), actions));
        self.shared
            .with(|state, _, _| state.at_work(|cache, _| compacted.tell(cache)));
    }

    /// Tells the cache what has happened.
    pub(crate) fn tell(&self, event: Event) {
        let known = self.shown.known();
        self.shared.with(|state, now, after| {
            state.at_work(|cache, actions| bring_to(cache, now, known, actions));
            state.handle(now, event, after);
        });
    }

    /// What nothing may be older than which is shown to who comes now.
    pub(crate) fn floor(&self) -> Floor {
        self.shown.with(|shown| shown.floor())
    }

    /// What an answer shows that passes by as bytes, before it goes out, in the history that its call came in.
    pub(crate) fn show(&self, history: u64, revision: i64) {
        self.shown.raise(history, revision);
    }

    /// An answer is about to go out whose revision can't be read.
    pub(crate) fn show_unread(&self) {
        self.shown.with(|shown| shown.pass_unread());
    }

    /// To be taken before a linearizable read is sent.
    fn asks(&self) -> Asked {
        self.shown.with(|shown| shown.asks())
    }

    /// A linearizable read was answered with this revision.
    fn learn(&self, asked: Asked, revision: i64) {
        self.shown.with(|shown| shown.learn(asked, revision));
    }

    /// What clients have been shown, and of which history: to be kept with each question.
    pub(crate) fn known(&self) -> Known {
        self.shown.known()
    }

    fn is_old(&self, ticket: &CacheTicket, reply: &Reply<'_>) -> bool {
        self.shown.with(|shown| ticket.is_old(reply, shown))
    }

    /// Takes in what an answer shows, to a question that was asked when this was known. To be called before it goes out, or
    /// anything follows from it.
    pub(crate) fn judge(&self, asked: Known, shows: Shows) -> Verdict {
        self.follow(self.shown.judge(|shown| shown.answered(asked, shows)))
    }

    /// Takes in what an answer shows that a client is about to get.
    fn judge_reply(&self, asked: Known, reveals: Reveals) -> Verdict {
        self.follow(self.shown.judge(|shown| shown.reveals(asked, reveals)))
    }

    /// Takes in an answer that has all that was committed when it was asked for.
    fn judge_newest(&self, asked: Asked, shows: Shows) -> Verdict {
        self.follow(self.shown.judge(|shown| shown.answered_newest(asked, shows)))
    }

    /// Tells the machines of another history.
    fn follow(&self, verdict: Verdict) -> Verdict {
        if verdict == Verdict::Another {
            let another = AnotherHistory(self.shown.known().history);
            self.hub
                .tell(|hub, now, actions| hub.handle(now, another.for_hub(), actions));
            self.router
                .tell(|router, now, actions| router.handle(now, another.for_router(), actions));
            self.tell(another.for_cache());
        }
        verdict
    }

    /// Looks at the machine.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Cache) -> T) -> T {
        self.shared.quietly(|state| look(&state.cache))
    }

    /// How long ago something was, by the machine's clock.
    pub(crate) fn since(&self, then: time::Instant) -> core::time::Duration {
        self.shared.now().saturating_since(then)
    }

    /// Tells the machine when its time has come. Never returns.
    pub(crate) async fn run_timer<R: Runtime>(&self) {
        self.shared.run_timer::<R>().await;
    }

    /// Completes when the machine has panicked: reads can't be served any more.
    pub(crate) async fn failed(&self) {
        self.shared.failed().await;
    }
}

impl Judge for ReadCache {
    fn known(&self) -> Known {
        self.known()
    }

    fn judge(&self, asked: Known, shows: Shows) -> Verdict {
        self.judge(asked, shows)
    }
}

impl Machine for State {
    type After = After;

    fn next_timeout(&self) -> Option<time::Instant> {
        self.cache.next_timeout()
    }

    fn timeout(&mut self, now: time::Instant, after: &mut After) {
        self.handle(now, Event::Timeout, after);
    }
}

impl State {
    fn handle(&mut self, now: time::Instant, event: Event, after: &mut After) {
        self.at_work(|cache, actions| cache.handle(now, event, actions));
        self.carry_out(after);
    }

    /// Has the machine do something, unless it has failed.
    fn at_work<T>(&mut self, act: impl FnOnce(&mut Cache, &mut Actions) -> T) -> Option<T> {
        if self.at_work {
            return None;
        }
        self.at_work = true;
        let result = act(&mut self.cache, &mut self.actions);
        self.at_work = false;
        Some(result)
    }

    fn carry_out(&mut self, after: &mut After) {
        let mut actions = core::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            let order = match action {
                Action::AskProgress(watch) => {
                    if let Some(control) = self.watch.as_ref().filter(|control| control.is(watch)) {
                        control.ask_progress();
                    }
                    continue;
                }
                Action::Check { check, linearizable } => Order::Check { check, linearizable },
                Action::CloseWatch(watch) => {
                    self.watch.take_if(|control| control.is(watch));
                    continue;
                }
                Action::OpenWatch(watch) => {
                    let (control, orders) = source::orders(watch);
                    self.watch = Some(control);
                    Order::Watch(orders)
                }
                Action::Resolve(waiter, resolution) => {
                    // It is there until its read has taken the resolution or has given up, and then it is cancelled.
                    if let Some(slot) = self.waiting.get_mut(&waiter)
                        && let Slot::Open(waker) = core::mem::replace(slot, Slot::Resolved(resolution))
                    {
                        after.wakers.extend(waker);
                    }
                    continue;
                }
            };
            self.next_worker = (self.next_worker + 1) % self.workers.len();
            after.orders.push((self.workers[self.next_worker].clone(), order));
        }
        self.actions = actions;
    }
}

/// The cache learns of another history before anything that is of it.
fn bring_to(cache: &mut Cache, now: time::Instant, known: Known, actions: &mut Actions) {
    if cache.history() < known.history {
        cache.handle(now, Event::History(known.history), actions);
    }
}

/// A read that waits for the cache. Given up when it is dropped.
pub(crate) struct Waiting {
    cache: Arc<ReadCache>,
    waiter: WaiterId,
}

impl Waiting {
    /// What becomes of it; never [`Admitted::Wait`].
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Admitted> {
        let resolution = self.cache.shared.quietly(|state| {
            match state.waiting.get_mut(&self.waiter) {
                Some(Slot::Open(waker)) => {
                    waker
                        .get_or_insert_with(|| cx.waker().clone())
                        .clone_from(cx.waker());
                    return Poll::Pending;
                }
                Some(Slot::Resolved(_)) => {}
                // The machine has failed.
                None => return Poll::Ready(None),
            }
            match state.waiting.remove(&self.waiter) {
                Some(Slot::Resolved(resolution)) => Poll::Ready(Some(resolution)),
                Some(Slot::Open(_)) | None => Poll::Ready(None),
            }
        });
        resolution.map(|resolution| match resolution {
            Some(Resolution::Answer(answer)) => {
                self.cache.shown.raise(answer.history, answer.revision);
                Admitted::Answer(answer)
            }
            Some(Resolution::Shared(shared)) => Admitted::Shared(shared),
            Some(Resolution::Forward(ticket)) => Admitted::Forward(Some(ticket)),
            None => Admitted::Forward(None),
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let (cache, waiter) = (&self.cache, self.waiter);
        cache.shared.with(|state, now, after| {
            match state.waiting.remove(&waiter) {
                Some(Slot::Open(_)) => {
                    state.at_work(|cache, actions| cache.cancel(now, waiter, actions));
                }
                Some(Slot::Resolved(Resolution::Forward(ticket))) => {
                    let outcome = ReadOutcome::Abandoned;
                    state.at_work(|cache, actions| cache.complete_read(now, ticket, outcome, actions));
                }
                Some(Slot::Resolved(_)) | None => return,
            }
            state.carry_out(after);
        });
    }
}
