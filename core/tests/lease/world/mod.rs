//! The router in a world of naive servers and clients. Every action becomes something that happens later.

mod actions;
mod servers;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_core::lease::{
    Actions, Caller, ClientId, Config, Event, Heartbeat, Router, Status, UpstreamId,
};
use etcd_proxy_core::time::Instant;
use etcd_proxy_proto::etcdserverpb::LeaseKeepAliveRequest;
use fastrand::Rng;
use prost::Message;

use crate::agenda::Entry;
use crate::client::{Client, heartbeat};
use crate::server::{Cluster, Stream, Token};

/// What happens at some time.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// Somebody outside acts; see `sim.rs`.
    Act(usize),
    Answer(UpstreamId, Bytes, i64),
    Arrive(UpstreamId, Bytes, Instant),
    End(UpstreamId, Status),
    Expire(i64),
    Fault,
    /// The leader has been missing for as long as a server waits.
    Leaderless,
    Opened(UpstreamId),
    Revoke(i64),
    Take(ClientId),
    /// The end of all faults.
    Undo,
    Work(UpstreamId),
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) router: Router,
    pub(crate) config: Config,
    pub(crate) now: Instant,
    pub(crate) step: u64,
    pub(crate) rng: Rng,
    heap: BinaryHeap<Reverse<Entry<What>>>,
    pub(crate) cluster: Cluster,
    pub(crate) streams: BTreeMap<UpstreamId, Stream>,
    pub(crate) clients: BTreeMap<ClientId, Client>,
    /// Clients whose streams the router ended.
    pub(crate) ended: Vec<(Client, Status)>,
    /// The member that new streams go to.
    pub(crate) member: usize,
    pub(crate) frozen: BTreeSet<usize>,
    /// No member can be reached.
    pub(crate) is_down: bool,
    /// Longest way from here to there, in microseconds.
    pub(crate) latency: u64,
    /// How long a server takes for a heartbeat.
    pub(crate) service: Duration,
    /// Heartbeats on their way, by whose they are.
    flying: BTreeMap<(Token, i64), UpstreamId>,
    /// When somebody last waited for a lease who doesn't now.
    waited: BTreeMap<(Token, i64), Instant>,
    /// What the router knows of renewals.
    renewed: BTreeMap<(Token, i64), (Instant, Duration)>,
    /// Times when something was wrong, with a while to recover.
    pub(crate) impaired: Vec<(Instant, Instant)>,
    /// Leases with a client that never stops, since when.
    pub(crate) kept: BTreeMap<i64, Instant>,
    /// Client connections so far.
    pub(crate) connections: u64,
    pub(crate) opened: usize,
    pub(crate) sent: BTreeMap<i64, usize>,
    /// What was sent, the last of it.
    pub(crate) last_sent: Bytes,
    /// Leases that end are not revoked.
    pub(crate) is_revoking: bool,
    pub(crate) expired: usize,
    /// Everything the router did, for comparing runs.
    pub(crate) trace: u64,
    /// Print everything.
    pub(crate) is_told: bool,
}

impl World {
    pub(crate) fn new(seed: u64, config: Config) -> Self {
        Self {
            router: Router::new(config, seed),
            config,
            now: Instant::ZERO,
            step: 0,
            rng: Rng::with_seed(seed),
            heap: BinaryHeap::new(),
            cluster: Cluster::default(),
            streams: BTreeMap::new(),
            clients: BTreeMap::new(),
            ended: Vec::new(),
            member: 0,
            frozen: BTreeSet::new(),
            is_down: false,
            latency: 1000,
            service: Duration::from_micros(5),
            flying: BTreeMap::new(),
            waited: BTreeMap::new(),
            renewed: BTreeMap::new(),
            impaired: Vec::new(),
            kept: BTreeMap::new(),
            connections: 0,
            opened: 0,
            sent: BTreeMap::new(),
            last_sent: Bytes::new(),
            is_revoking: true,
            expired: 0,
            trace: 0,
            is_told: false,
        }
    }

    pub(crate) fn later(&mut self, after: Duration, what: What) {
        self.at(self.now + after, what);
    }

    pub(super) fn at(&mut self, at: Instant, what: What) {
        self.step += 1;
        let number = self.step;
        self.heap.push(Reverse(Entry { at, number, what }));
    }

    pub(super) fn latency(&mut self) -> Duration {
        Duration::from_micros(self.rng.u64(self.latency / 2..=self.latency))
    }

    pub(crate) fn grant(&mut self, id: i64, seconds: u64) {
        self.cluster.grant(self.now, id, seconds);
        self.later(Duration::from_secs(seconds), What::Expire(id));
    }

    /// A client with a connection of its own.
    pub(crate) fn open(&mut self, token: Token, require_leader: bool) -> ClientId {
        self.connections += 1;
        self.open_on(self.connections, token, require_leader)
    }

    pub(crate) fn open_on(&mut self, connection: u64, token: Token, require_leader: bool) -> ClientId {
        let caller = Caller {
            connection,
            credentials: token.map(|token| Bytes::from_static(token.as_bytes())),
            require_leader,
        };
        let mut actions = Actions::new();
        let id = self.router.open(self.now, caller, &mut actions);
        self.clients
            .insert(id, Client::new(connection, token, require_leader));
        self.carry_out(actions);
        id
    }

    /// A client heartbeats, as soon as it may.
    pub(crate) fn beat(&mut self, id: ClientId, lease: i64) {
        self.send(id, heartbeat(lease));
    }

    pub(crate) fn send(&mut self, id: ClientId, message: Bytes) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.pending.push_back(message);
            self.flush(id);
        }
    }

    pub(super) fn flush(&mut self, id: ClientId) {
        while let Some(client) = self.clients.get_mut(&id)
            && !client.is_paused
            && let Some(message) = client.pending.pop_front()
        {
            self.step += 1;
            match LeaseKeepAliveRequest::decode(&message[..]) {
                Ok(request) => client.ask(self.now, self.step, request.id),
                Err(_) => client.sent_nonsense = true,
            }
            self.tell(Event::ClientSent(id, Heartbeat::read(message)));
        }
    }

    pub(crate) fn half_close(&mut self, id: ClientId) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.is_half_closed = true;
            self.tell(Event::ClientHalfClosed(id));
        }
    }

    pub(crate) fn close(&mut self, id: ClientId) {
        if let Some(client) = self.clients.remove(&id) {
            self.leaves(&client);
            self.tell(Event::ClientGone(id));
        }
    }

    pub(super) fn leaves(&mut self, client: &Client) {
        for lease in client.asked.keys() {
            self.waited.insert((client.token, *lease), self.now);
        }
    }

    pub(crate) fn tell(&mut self, event: Event) {
        if self.is_told {
            eprintln!("{:?} {event:?}", self.now);
        }
        let mut actions = Actions::new();
        self.router.handle(self.now, event, &mut actions);
        self.carry_out(actions);
    }

    /// The next thing that happens until then, if it is somebody's outside.
    pub(crate) fn next(&mut self, until: Instant) -> Option<What> {
        loop {
            let at = self.heap.peek().map(|Reverse(entry)| entry.at);
            let timeout = self.router.next_timeout().map(|at| at.max(self.now));
            let first = at.into_iter().chain(timeout).min().filter(|at| *at <= until);
            let Some(first) = first else {
                self.now = until;
                return None;
            };
            self.now = first;
            if at != Some(first) {
                self.tell(Event::Timeout);
                self.check_waits();
                continue;
            }
            let Reverse(entry) = self.heap.pop().expect("just seen");
            match entry.what {
                what @ (What::Act(_) | What::Fault | What::Undo) => {
                    return Some(what);
                }
                what => self.happen(what),
            }
        }
    }

    /// Lets time pass, when nobody acts.
    pub(crate) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.next(until).is_some() {}
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Act(_) | What::Fault | What::Undo => {}
            What::Answer(id, message, lease) => {
                if let Some(stream) = self.streams.get(&id) {
                    let key = (stream.token, lease);
                    if self.flying.get(&key) == Some(&id) {
                        self.flying.remove(&key);
                        self.learn(key, &message);
                    }
                }
                // Also when the router has closed the stream.
                self.tell(Event::UpstreamSent(id, message));
            }
            What::Arrive(id, message, sent_at) => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.inbox.push_back((message, sent_at));
                    self.start(id);
                }
            }
            What::End(id, status) => self.end(id, status),
            What::Expire(lease) => self.expire(lease),
            What::Leaderless => self.leaderless(),
            What::Opened(id) => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.is_open = true;
                    stream.opened_at = self.now;
                }
                self.tell(Event::UpstreamOpened(id));
            }
            What::Revoke(id) => match self.cluster.leases.get(&id).map(|lease| lease.end) {
                // A new leader gave it more time.
                Some(end) if end > self.now => self.at(end, What::Expire(id)),
                _ => {
                    self.cluster.leases.remove(&id);
                    self.unblock(id);
                }
            },
            What::Take(id) => self.take(id),
            What::Work(id) => self.work(id),
        }
    }
}
