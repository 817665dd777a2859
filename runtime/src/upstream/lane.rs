//! The connections that a worker's calls go to.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use etcd_proxy_core::class::Class;
use etcd_proxy_core::endpoints::{ConnectionId, Event};
use etcd_proxy_core::pool::{Asker, Choice, Client, Pool, Ticket};
use etcd_proxy_core::time;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::connection::Connection;
use super::control::{Report, Reports};
use crate::rt::{self, Runtime};
use crate::settings::Endpoint;

/// How often a call that waits for a further connection looks whether it may ask for one again.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// A worker's place to find its connections. Set by the control task, read by every call; what is where is the
/// [`Pool`]'s to say.
#[derive(Debug)]
pub(crate) struct Lane {
    pool: Mutex<Pool<Arc<Connection>, Arc<Notify>>>,
    changed: Notify,
    /// The process is ending: nobody needs to wait any more.
    ended: AtomicBool,
    /// No other member than the one in use can be reached.
    alone: AtomicBool,
    /// The worker's number, and who is asked for further connections.
    control: OnceLock<(u32, Reports)>,
    started: Instant,
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            pool: Mutex::default(),
            changed: Notify::new(),
            ended: AtomicBool::new(false),
            alone: AtomicBool::new(false),
            control: OnceLock::new(),
            started: Instant::now(),
        }
    }
}

/// A call that wants a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish<'a> {
    class: Class,
    asker: Asker,
    /// Notified when the client's turn has come.
    turn: Option<&'a Arc<Notify>>,
    avoid: Option<ConnectionId>,
}

impl<'a> Wish<'a> {
    /// A call of a client's, on a connection other than `avoid`. `turn` is the client's, for this class.
    pub(crate) const fn of_client(
        class: Class,
        client: Client,
        turn: &'a Arc<Notify>,
        avoid: Option<ConnectionId>,
    ) -> Self {
        Self {
            class,
            asker: Asker::Client(client),
            turn: Some(turn),
            avoid,
        }
    }

    /// A call of the proxy's own that is soon over.
    pub(crate) const fn of_proxy() -> Self {
        Self {
            class: Class::Prompt,
            asker: Asker::Proxy,
            turn: None,
            avoid: None,
        }
    }

    /// A stream of the proxy's own that stays.
    pub(crate) const fn of_stream(class: Class) -> Self {
        Self {
            class,
            asker: Asker::Stream,
            turn: None,
            avoid: None,
        }
    }
}

/// What a call got.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) connection: Arc<Connection>,
    /// The call is to be counted as its client's when it is opened.
    pub(crate) counted: bool,
}

/// Why a call got no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoConnection {
    /// No member could be reached in time, or none will be as the process is ending.
    NoEndpoint,
    /// Its client has as many calls open as it may have.
    NoTurn,
}

/// One look at the pool.
enum Look<'a> {
    Taken(Taken),
    Wait,
    Turn(Option<Waiting<'a>>),
}

impl Lane {
    /// Tells the lane its worker's number, and who is asked for further connections.
    pub(super) fn set_control(&self, number: u32, reports: Reports) {
        // There is one control task.
        let _ = self.control.set((number, reports));
    }

    /// Replaces the connections; the former ones end when their last calls do.
    pub(super) fn set(&self, main: Option<Arc<Connection>>) {
        let former = self.pool.lock().reset(main);
        for former in former {
            former.withdraw();
        }
        self.changed.notify_waiters();
    }

    /// A further connection that was asked for is there.
    pub(super) fn join(&self, class: Class, connection: Arc<Connection>) {
        self.pool.lock().join(class, connection);
        self.changed.notify_waiters();
    }

    /// A further connection that was asked for can't be had.
    pub(super) fn not_joined(&self, class: Class) {
        self.pool.lock().not_joined(class, self.now());
        self.changed.notify_waiters();
    }

    /// Lets go of further connections that nobody needs. Tells whether there are any left.
    pub(super) fn tidy(&self) -> bool {
        let (left, more) = {
            let mut pool = self.pool.lock();
            (pool.tidy(self.now()), pool.has_further())
        };
        for left in left {
            left.withdraw();
        }
        more
    }

    /// Takes no calls any more; those that wait for a connection give up.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.set(None);
    }

    /// Tells whether there is no other member than the one in use.
    pub(super) fn set_alone(&self, alone: bool) {
        self.alone.store(alone, Ordering::Relaxed);
    }

    /// Whether no other member than the one in use can be reached, as far as is known.
    pub(crate) fn is_alone(&self) -> bool {
        self.alone.load(Ordering::Relaxed)
    }

    /// Whether the process is ending.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// The main connection, if it leads there.
    pub(crate) fn main_to(&self, target: &Endpoint) -> Option<Arc<Connection>> {
        let pool = self.pool.lock();
        pool.main()
            .filter(|main| main.is_open() && main.target() == target)
            .cloned()
    }

    /// Counts a call as its client's.
    pub(crate) fn begin(self: &Arc<Self>, class: Class, client: Client) -> Counted {
        Counted {
            ticket: self.pool.lock().begin(class, client),
            lane: self.clone(),
        }
    }

    /// Completes when new calls go elsewhere, and this connection takes none.
    pub(crate) async fn superseded(&self, connection: ConnectionId) {
        loop {
            let mut changed = core::pin::pin!(self.changed.notified());
            // Listen first, look then: a change in between is not missed.
            changed.as_mut().enable();
            if self.pool.lock().supersedes(connection) {
                return;
            }
            changed.await;
        }
    }

    /// A connection takes no new calls any more, whichever it is.
    pub(super) fn look_again(&self) {
        self.changed.notify_waiters();
    }

    /// A connection that takes the call; waits for one until `deadline`.
    pub(crate) async fn connection<R: Runtime>(
        &self,
        wish: Wish<'_>,
        deadline: Instant,
    ) -> Result<Taken, NoConnection> {
        if let Look::Taken(taken) = self.look(wish, false) {
            return Ok(taken);
        }
        loop {
            let mut changed = core::pin::pin!(self.changed.notified());
            // Listen first, look then: a change in between is not missed.
            changed.as_mut().enable();
            let (until, failure) = match self.look(wish, true) {
                Look::Taken(taken) => return Ok(taken),
                _ if self.has_ended() => return Err(NoConnection::NoEndpoint),
                Look::Turn(_waiting) if let Some(turn) = wish.turn => {
                    let change = async {
                        tokio::select! {
                            () = turn.notified() => {}
                            () = changed => {}
                        }
                    };
                    // Over when the time is.
                    let _ = rt::timeout_at::<R, _>(deadline, change).await;
                    (deadline, NoConnection::NoTurn)
                }
                Look::Wait | Look::Turn(_) => {
                    let until = match wish.class {
                        Class::Prompt => deadline,
                        Class::Bulk | Class::Blocking => deadline.min(Instant::now() + LOOK_AGAIN),
                    };
                    let _ = rt::timeout_at::<R, _>(until, changed).await;
                    (deadline, NoConnection::NoEndpoint)
                }
            };
            if Instant::now() >= until {
                return Err(failure);
            }
        }
    }

    fn look(&self, wish: Wish<'_>, waits: bool) -> Look<'_> {
        let mut pool = self.pool.lock();
        match pool.choose(wish.class, wish.asker, wish.avoid, || self.now()) {
            Choice::Take { link, counted } => Look::Taken(Taken {
                connection: link,
                counted,
            }),
            Choice::Wait => Look::Wait,
            Choice::Turn => Look::Turn(match (wish.asker, wish.turn) {
                (Asker::Client(client), Some(turn)) if waits => Some(Waiting {
                    ticket: pool.wait(wish.class, client, turn.clone()),
                    lane: self,
                }),
                _ => None,
            }),
            Choice::Want => {
                let asked = self.control.get().is_some_and(|(number, reports)| {
                    let wanted = Event::Wanted(*number, wish.class);
                    reports.try_send(Report::Event(wanted)).is_ok()
                });
                if !asked {
                    // The control task is busy; it is asked again.
                    pool.not_asked(wish.class);
                }
                Look::Wait
            }
        }
    }

    fn now(&self) -> time::Instant {
        time::Instant::ZERO + self.started.elapsed()
    }
}

/// Waits for its client's turn for as long as it lives.
struct Waiting<'a> {
    lane: &'a Lane,
    ticket: Ticket,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.lane.pool.lock().stop_waiting(&self.ticket);
    }
}

/// Counts a call as its client's for as long as it lives.
#[derive(Debug)]
pub(crate) struct Counted {
    lane: Arc<Lane>,
    ticket: Ticket,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let turn = self.lane.pool.lock().end(&self.ticket);
        if let Some(turn) = turn {
            turn.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
