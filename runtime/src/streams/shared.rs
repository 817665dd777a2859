//! A machine of the core, shared by all threads of the process: what its actions are carried out on.

use core::task::Waker;
use std::sync::Arc;

use bytes::Bytes;
use etcd_proxy_core::grpc::Status;
use etcd_proxy_core::grpc::framed;
use etcd_proxy_core::time;
use etcd_proxy_core::watch::Caller;
use prometheus::{Histogram, HistogramOpts};
use slotmap::SecondaryMap;
use tokio::sync::mpsc;

use super::outbox::Outbox;
use super::upstream::{self, Open};
use super::{Happened, Multiplexer, Wanted};
use crate::machine::{self, Machine, Shared};
use crate::rt::{self, Runtime};
use crate::shown::Shown;
use crate::upstream::{OnBehalf, Uplink};

/// Upper bounds of the times that deliveries wait, in seconds.
const DELIVERY_BUCKETS: [f64; 12] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 10.0,
];

/// An order of a machine's to one of the workers. There are never more of them than upstream streams and questions
/// that the machine allows, so their mailboxes need no bound of their own.
#[derive(Debug)]
pub(crate) enum Order<M: Multiplexer> {
    /// Open an upstream stream.
    Open(Open<M>),
    /// Ask the cluster something.
    Ask(M::Question),
}

impl<M: Multiplexer> Order<M> {
    /// Carries the order out on the current thread.
    pub(crate) fn carry_out<R: Runtime>(self, uplink: Arc<Uplink>, streams: Arc<Streams<M>>) {
        match self {
            Self::Open(open) => rt::spawn::<R>(upstream::run::<R, M>(uplink, streams, open)),
            Self::Ask(question) => {
                rt::spawn::<R>(async move { M::ask::<R>(&streams, &uplink, question).await });
            }
        }
    }
}

/// A machine and the streams of its clients. There is one of each kind in a process.
#[derive(Debug)]
pub(crate) struct Streams<M: Multiplexer> {
    shared: Shared<State<M>>,
    /// How long what was for clients has waited here, in seconds.
    delivery: Histogram,
}

/// What is put in for a client and its stream's end.
pub(super) type ClientOutbox = Outbox<Status>;

/// What is put in for a member, and that the stream is to be reset.
pub(super) type UpstreamOutbox = Outbox<()>;

#[derive(Debug)]
struct State<M: Multiplexer> {
    machine: M,
    /// Empty between events; kept for its capacity.
    actions: Vec<M::Action>,
    clients: SecondaryMap<M::ClientId, Arc<ClientOutbox>>,
    upstreams: SecondaryMap<M::UpstreamId, Arc<UpstreamOutbox>>,
    /// What clients of the whole process have seen.
    shown: Arc<Shown>,
    /// Where orders go: each to the next worker.
    workers: Vec<mpsc::UnboundedSender<Order<M>>>,
    next_worker: usize,
    /// Set while the machine is at work, so it stays set if that panics: what is left is not to be trusted.
    at_work: bool,
}

/// What is done when the lock is free.
struct After<M: Multiplexer> {
    wakers: Vec<Waker>,
    orders: Vec<(mpsc::UnboundedSender<Order<M>>, Order<M>)>,
}

impl<M: Multiplexer> Default for After<M> {
    fn default() -> Self {
        Self {
            wakers: Vec::new(),
            orders: Vec::new(),
        }
    }
}

impl<M: Multiplexer> machine::After for After<M> {
    fn finish(self) {
        for (worker, order) in self.orders {
            // A worker is gone only when the process is ending.
            let _ = worker.send(order);
        }
        self.wakers.finish();
    }
}

impl<M: Multiplexer> Streams<M> {
    /// A machine whose orders go to these workers, of which there is at least one. `name` is the part of its metrics'
    /// names that says whose they are.
    pub(crate) fn new(
        machine: M,
        name: &str,
        shown: Arc<Shown>,
        workers: Vec<mpsc::UnboundedSender<Order<M>>>,
    ) -> Self {
        let options = HistogramOpts::new(
            format!("etcd_proxy_{name}_delivery_duration_seconds"),
            format!(
                "Time that responses to {name} clients have waited in the proxy on the way to the connection."
            ),
        )
        .buckets(DELIVERY_BUCKETS.to_vec());
        let shared = Shared::new(State {
            machine,
            actions: Vec::new(),
            clients: SecondaryMap::new(),
            upstreams: SecondaryMap::new(),
            shown,
            workers,
            next_worker: 0,
            at_work: false,
        });
        Self {
            shared,
            delivery: Histogram::with_opts(options).expect("the name and the buckets are valid"),
        }
    }

    /// What came for a client at this time has left the outbox.
    pub(super) fn observe_delivery(&self, since: time::Instant) {
        let waited = self.shared.now().saturating_since(since);
        self.delivery.observe(waited.as_secs_f64());
    }

    /// How long what was for clients has waited.
    pub(crate) fn delivery(&self) -> &Histogram {
        &self.delivery
    }

    /// A client has opened a call.
    pub(super) fn open(&self, caller: Caller) -> (M::ClientId, Arc<ClientOutbox>) {
        let outbox = Arc::new(ClientOutbox::new());
        let client = self.shared.with(|state, now, after| {
            let client = state.at_work(|machine, actions| machine.open(now, caller, actions));
            let client = client.unwrap_or_default();
            state.clients.insert(client, outbox.clone());
            state.carry_out(now, after);
            client
        });
        (client, outbox)
    }

    /// Something has happened to the streams.
    pub(super) fn handle(&self, happened: Happened<M>) {
        self.shared
            .with(|state, now, after| state.handle(now, happened, after));
    }

    /// Tells the machine something that isn't about streams.
    pub(crate) fn tell(&self, tell: impl FnOnce(&mut M, time::Instant, &mut Vec<M::Action>)) {
        self.shared.with(|state, now, after| {
            state.at_work(|machine, actions| tell(machine, now, actions));
            state.carry_out(now, after);
        });
    }

    /// Looks at the machine.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&M) -> T) -> T {
        self.shared.quietly(|state| look(&state.machine))
    }

    /// Tells the machine when its time has come. Never returns.
    pub(crate) async fn run_timer<R: Runtime>(&self) {
        self.shared.run_timer::<R>().await;
    }

    /// Completes when the machine has panicked: its calls can't be served any more.
    pub(crate) async fn failed(&self) {
        self.shared.failed().await;
    }
}

impl<M: Multiplexer> Machine for State<M> {
    type After = After<M>;

    fn next_timeout(&self) -> Option<time::Instant> {
        self.machine.next_timeout()
    }

    fn timeout(&mut self, now: time::Instant, after: &mut After<M>) {
        self.handle(now, Happened::Timeout, after);
    }
}

impl<M: Multiplexer> State<M> {
    fn handle(&mut self, now: time::Instant, happened: Happened<M>, after: &mut After<M>) {
        match &happened {
            Happened::ClientGone(client) => drop(self.clients.remove(*client)),
            Happened::UpstreamEnded(upstream, _) => drop(self.upstreams.remove(*upstream)),
            _ => {}
        }
        self.at_work(|machine, actions| machine.handle(now, happened, actions));
        self.carry_out(now, after);
    }

    /// Has the machine do something, unless it has failed.
    fn at_work<T>(&mut self, act: impl FnOnce(&mut M, &mut Vec<M::Action>) -> T) -> Option<T> {
        if self.at_work {
            return None;
        }
        self.at_work = true;
        let result = act(&mut self.machine, &mut self.actions);
        self.at_work = false;
        Some(result)
    }

    /// Carries out what the machine wants, as far as it must be done in order.
    fn carry_out(&mut self, now: time::Instant, after: &mut After<M>) {
        let mut actions = core::mem::take(&mut self.actions);
        // Before anything goes out.
        self.shown.raise(self.machine.history(), self.machine.shown());
        for action in actions.drain(..) {
            after
                .wakers
                .extend(self.act(now, M::wanted(action), &mut after.orders));
        }
        self.actions = actions;
    }

    fn act(
        &mut self,
        now: time::Instant,
        wanted: Wanted<M>,
        orders: &mut Vec<(mpsc::UnboundedSender<Order<M>>, Order<M>)>,
    ) -> Option<Waker> {
        // What belongs to nobody any more was given up meanwhile.
        let order = match wanted {
            Wanted::Deliver(client, head, tail) => return self.clients.get(client)?.push(now, head, tail),
            Wanted::EndClient(client, status) => return self.clients.remove(client)?.end(status),
            Wanted::Pause(client, is_paused) => return self.clients.get(client)?.pause(is_paused),
            Wanted::Send(upstream, message) => {
                let outbox = self.upstreams.get(upstream)?;
                return outbox.push(now, framed(&message), Bytes::new());
            }
            Wanted::Close(upstream) => return self.upstreams.remove(upstream)?.end(()),
            Wanted::Open {
                upstream,
                credentials,
                require_leader,
                class,
            } => {
                let outbox = Arc::new(UpstreamOutbox::new());
                self.upstreams.insert(upstream, outbox.clone());
                Order::Open(Open {
                    upstream,
                    on_behalf: OnBehalf {
                        credentials,
                        require_leader,
                    },
                    class,
                    outbox,
                })
            }
            Wanted::Ask(question) => Order::Ask(question),
        };
        self.next_worker = (self.next_worker + 1) % self.workers.len();
        orders.push((self.workers[self.next_worker].clone(), order));
        None
    }
}
