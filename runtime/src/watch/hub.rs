//! The core's watch hub, shared by all threads of the process: what its actions are carried out on.

use core::task::Waker;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use etcd_proxy_core::grpc::MESSAGE_PREFIX_LEN;
use etcd_proxy_core::time;
use etcd_proxy_core::watch::{
    Action, Actions, Caller, ClientId, Config, Event, Hub, Stats, Status, UpstreamId,
};
use prometheus::{Histogram, HistogramOpts};
use slotmap::SecondaryMap;
use tokio::sync::mpsc;

use super::checks::Check;
use super::outbox::Outbox;
use super::upstream::Open;
use crate::machine::{self, Machine, Shared};
use crate::rt::Runtime;

/// Upper bounds of the times that deliveries wait, in seconds.
const DELIVERY_BUCKETS: [f64; 12] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 10.0,
];

/// An order of the hub's to one of the workers. There are never more of them than upstream streams and questions
/// that the hub allows, so their mailboxes need no bound of their own.
#[derive(Debug)]
pub(crate) enum Order {
    /// Open an upstream stream.
    Open(Open),
    /// Ask the cluster something.
    Check(Check),
}

/// The hub. There is one in a process.
#[derive(Debug)]
pub(crate) struct WatchHub {
    shared: Shared<State>,
    /// How long what was for clients has waited here, in seconds.
    delivery: Histogram,
}

/// What is put in for a client and its stream's end.
pub(super) type ClientOutbox = Outbox<Status>;

/// What is put in for a member, and that the stream is to be reset.
pub(super) type UpstreamOutbox = Outbox<()>;

#[derive(Debug)]
struct State {
    hub: Hub,
    /// Empty between events; kept for its capacity.
    actions: Actions,
    clients: SecondaryMap<ClientId, Arc<ClientOutbox>>,
    upstreams: SecondaryMap<UpstreamId, Arc<UpstreamOutbox>>,
    /// Where orders go: each to the next worker.
    workers: Vec<mpsc::UnboundedSender<Order>>,
    next_worker: usize,
    /// Set while the hub is at work, so it stays set if that panics: what is left is not to be trusted.
    at_work: bool,
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

impl WatchHub {
    /// A hub whose orders go to these workers, of which there is at least one.
    pub(crate) fn new(config: Config, seed: u64, workers: Vec<mpsc::UnboundedSender<Order>>) -> Self {
        let buckets = HistogramOpts::new(
            "etcd_proxy_watch_delivery_duration_seconds",
            "How long responses to watch clients have waited in the proxy before they went to the connection.",
        )
        .buckets(DELIVERY_BUCKETS.to_vec());
        let shared = Shared::new(State {
            hub: Hub::new(config, seed),
            actions: Actions::new(),
            clients: SecondaryMap::new(),
            upstreams: SecondaryMap::new(),
            workers,
            next_worker: 0,
            at_work: false,
        });
        Self {
            shared,
            delivery: Histogram::with_opts(buckets).expect("the name and the buckets are valid"),
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

    /// A client has opened a Watch call.
    pub(super) fn open(&self, caller: Caller) -> (ClientId, Arc<ClientOutbox>) {
        let outbox = Arc::new(ClientOutbox::new());
        let client = self.shared.with(|state, now, after| {
            let client = state
                .at_work(|hub, actions| hub.open(now, caller, actions))
                .unwrap_or_default();
            state.clients.insert(client, outbox.clone());
            state.carry_out(now, after);
            client
        });
        (client, outbox)
    }

    /// Something has happened.
    pub(super) fn handle(&self, event: Event) {
        self.shared
            .with(|state, now, after| state.handle(now, event, after));
    }

    /// Counters and gauges.
    pub(crate) fn stats(&self) -> Stats {
        self.shared.quietly(|state| state.hub.stats())
    }

    /// Tells the hub when its time has come. Never returns.
    pub(crate) async fn run_timer<R: Runtime>(&self) {
        self.shared.run_timer::<R>().await;
    }

    /// Completes when the hub has panicked: watches can't be served any more.
    pub(crate) async fn failed(&self) {
        self.shared.failed().await;
    }
}

impl Machine for State {
    type After = After;

    fn next_timeout(&self) -> Option<time::Instant> {
        self.hub.next_timeout()
    }

    fn timeout(&mut self, now: time::Instant, after: &mut After) {
        self.handle(now, Event::Timeout, after);
    }
}

impl State {
    fn handle(&mut self, now: time::Instant, event: Event, after: &mut After) {
        match &event {
            Event::ClientGone(client) => drop(self.clients.remove(*client)),
            Event::UpstreamEnded(upstream, _) => drop(self.upstreams.remove(*upstream)),
            _ => {}
        }
        self.at_work(|hub, actions| hub.handle(now, event, actions));
        self.carry_out(now, after);
    }

    /// Has the hub do something, unless it has failed.
    fn at_work<T>(&mut self, act: impl FnOnce(&mut Hub, &mut Actions) -> T) -> Option<T> {
        if self.at_work {
            return None;
        }
        self.at_work = true;
        let result = act(&mut self.hub, &mut self.actions);
        self.at_work = false;
        Some(result)
    }

    /// Carries out what the hub wants, as far as it must be done in order.
    fn carry_out(&mut self, now: time::Instant, after: &mut After) {
        let mut actions = core::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            after.wakers.extend(self.act(now, action, &mut after.orders));
        }
        self.actions = actions;
    }

    fn act(
        &mut self,
        now: time::Instant,
        action: Action,
        orders: &mut Vec<(mpsc::UnboundedSender<Order>, Order)>,
    ) -> Option<Waker> {
        // What belongs to nobody any more was given up meanwhile.
        let order = match action {
            Action::Deliver(client, frame) => {
                return self.clients.get(client)?.push(now, frame.head, frame.tail);
            }
            Action::EndClient(client, status) => return self.clients.remove(client)?.end(status),
            Action::PauseClient(client) => return self.clients.get(client)?.pause(true),
            Action::ResumeClient(client) => return self.clients.get(client)?.pause(false),
            Action::SendUpstream(upstream, message) => {
                return self
                    .upstreams
                    .get(upstream)?
                    .push(now, framed(&message), Bytes::new());
            }
            Action::CloseUpstream(upstream) => return self.upstreams.remove(upstream)?.end(()),
            Action::OpenUpstream {
                upstream,
                kind,
                credentials,
            } => {
                let outbox = Arc::new(UpstreamOutbox::new());
                self.upstreams.insert(upstream, outbox.clone());
                Order::Open(Open {
                    upstream,
                    kind,
                    credentials,
                    outbox,
                })
            }
            Action::ReadRevision {
                check,
                credentials,
                key,
            } => Order::Check(Check::revision(check, credentials, key)),
            Action::AskPermission {
                check,
                credentials,
                key,
                range_end,
            } => Order::Check(Check::permission(check, credentials, key, range_end)),
            Action::ReadHeader(check) => Order::Check(Check::header(check)),
        };
        self.next_worker = (self.next_worker + 1) % self.workers.len();
        orders.push((self.workers[self.next_worker].clone(), order));
        None
    }
}

/// A message behind its prefix.
fn framed(message: &Bytes) -> Bytes {
    let mut framed = BytesMut::with_capacity(MESSAGE_PREFIX_LEN + message.len());
    framed.put_u8(0);
    // What the hub asks for is as long as a client's request at most.
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.freeze()
}
