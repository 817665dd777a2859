//! A state machine of the core or the model that many tasks share: behind a lock, with a clock and a timer.

use core::task::Waker;
use core::time::Duration;
use std::time::Instant;

use etcd_proxy_core::time;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::rt::{self, Runtime};

/// How many timeouts may follow from one event at once. More come from the timer, so a machine that never came to rest
/// would be slow, not stuck; and one that has much to do in portions lets others have their turn.
const TIMEOUTS_AT_ONCE: usize = 4;

/// How long the timer rests when it finds itself due again.
const PAUSE: Duration = Duration::from_millis(1);

/// A state machine, and what its actions are carried out on.
pub(crate) trait Machine {
    /// What an event leads to once the lock is free.
    type After: After;

    /// When [`Machine::timeout`] must come next.
    fn next_timeout(&self) -> Option<time::Instant>;

    /// Tells the machine that its time has come.
    fn timeout(&mut self, now: time::Instant, after: &mut Self::After);
}

/// What is done when the lock is free: nobody is woken under it.
pub(crate) trait After: Default {
    /// Does it.
    fn finish(self);
}

impl After for Vec<Waker> {
    fn finish(self) {
        for waker in self {
            waker.wake();
        }
    }
}

/// A machine that is shared.
#[derive(Debug)]
pub(crate) struct Shared<M> {
    started: Instant,
    state: Mutex<State<M>>,
    /// The next timeout has moved ahead of the one that the timer waits for.
    sooner: Notify,
    /// The machine has panicked.
    failed: Notify,
}

#[derive(Debug)]
struct State<M> {
    machine: M,
    /// What the timer waits for.
    armed: Option<time::Instant>,
}

impl<M: Machine> Shared<M> {
    pub(crate) fn new(machine: M) -> Self {
        let state = State { machine, armed: None };
        Self {
            started: Instant::now(),
            state: Mutex::new(state),
            sooner: Notify::new(),
            failed: Notify::new(),
        }
    }

    /// The machine's time.
    pub(crate) fn now(&self) -> time::Instant {
        time::Instant::ZERO + self.started.elapsed()
    }

    /// Does something with the machine, and then what that leads to.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut M, time::Instant, &mut M::After) -> T) -> T {
        let _failure = TellFailure(&self.failed);
        let mut after = M::After::default();
        let (result, sooner) = {
            let mut state = self.state.lock();
            let State { machine, armed } = &mut *state;
            // Read under the lock, so that events are in the order of their times.
            let now = self.now();
            let result = act(machine, now, &mut after);
            for _ in 0..TIMEOUTS_AT_ONCE {
                if machine.next_timeout().is_none_or(|due| due > now) {
                    break;
                }
                machine.timeout(now, &mut after);
            }
            let next = machine.next_timeout();
            let sooner = next.is_some_and(|next| armed.is_none_or(|armed| next < armed));
            if sooner {
                *armed = next;
            }
            (result, sooner)
        };
        if sooner {
            self.sooner.notify_one();
        }
        after.finish();
        result
    }

    /// Does something that the machine needn't know of, or looks at it.
    pub(crate) fn quietly<T>(&self, act: impl FnOnce(&mut M) -> T) -> T {
        act(&mut self.state.lock().machine)
    }

    /// Tells the machine when its time has come. Never returns.
    pub(crate) async fn run_timer<R: Runtime>(&self) {
        let mut rested = self.started;
        loop {
            let due = {
                let mut state = self.state.lock();
                state.armed = state.machine.next_timeout();
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
                        self.with(|_, _, _| ());
                        rested = Instant::now() + PAUSE;
                    }
                }
            }
        }
    }

    /// Completes when the machine has panicked: there is nothing left to serve.
    pub(crate) async fn failed(&self) {
        self.failed.notified().await;
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
