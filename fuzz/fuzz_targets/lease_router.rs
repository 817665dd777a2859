//! The lease router among clients and servers that may say anything: nothing makes it panic, grow, send a heartbeat that
//! nobody waits for, or tell a client what no server said since it asked, and in the end nothing stays.
#![no_main]

#[path = "lease_router/grammar.rs"]
mod grammar;
#[path = "lease_router/wire.rs"]
mod wire;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_core::lease::{
    Action, Actions, Caller, ClientId, Config, Event, Heartbeat, Router, Stats, Status, UpstreamId,
};
use etcd_proxy_core::time::Instant;
use libfuzzer_sys::fuzz_target;

use grammar::{Input, LEASES, NO_LEADER, STATUSES, Settings, Step, TOKENS, TTLS, one_of};

const CLIENTS_MAX: usize = 8;

/// The shortest TTL of a lease that is renewed.
const TTL_MIN: Duration = Duration::from_secs(1);

fuzz_target!(|input: Input| {
    let mut driver = Driver::new(&input);
    for step in input.steps {
        driver.step(step);
    }
    driver.finish();
});

type Token = Option<Bytes>;

/// A heartbeat that a client waits for.
#[derive(Debug)]
struct Want {
    lease: i64,
    since: Instant,
    number: u64,
}

#[derive(Debug)]
struct Client {
    id: ClientId,
    connection: u8,
    token: Token,
    require_leader: bool,
    wants: VecDeque<Want>,
    queued: usize,
    is_paused: bool,
    is_half_closed: bool,
    /// It has sent what may be anything.
    is_odd: bool,
}

/// A heartbeat that was sent.
#[derive(Clone, Debug)]
struct Sent {
    lease: i64,
    at: Instant,
    number: u64,
}

#[derive(Debug)]
struct Stream {
    token: Token,
    is_open: bool,
    in_flight: Vec<Sent>,
}

struct Driver {
    router: Router,
    config: Config,
    now: Instant,
    clients: Vec<Client>,
    streams: BTreeMap<UpstreamId, Stream>,
    /// The last answer about each lease, and the heartbeat that it is to.
    said: BTreeMap<(Token, i64), (Sent, Bytes)>,
    /// How streams have ended.
    endings: BTreeSet<(u8, String)>,
    /// Servers have said what may be an answer, or clients what may be a heartbeat.
    has_lied: bool,
    /// Numbers heartbeats, of clients and sent ones.
    number: u64,
    gone_clients: Vec<ClientId>,
    gone_streams: Vec<UpstreamId>,
}

impl Driver {
    fn new(input: &Input) -> Self {
        let config = config(&input.settings);
        Self {
            router: Router::new(config, input.seed),
            config,
            now: Instant::ZERO,
            clients: Vec::new(),
            streams: BTreeMap::new(),
            said: BTreeMap::new(),
            endings: BTreeSet::new(),
            has_lied: false,
            number: 0,
            gone_clients: Vec::new(),
            gone_streams: Vec::new(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Open {
                connection,
                token,
                require_leader,
            } => self.open(connection % 3, token, require_leader),
            Step::Beat {
                client,
                lease,
                padding,
            } => self.beat(client, one_of(&LEASES, lease), padding),
            Step::ClientRaw { client, message } => {
                if let Some(client) = pick(self.clients.len(), client) {
                    let client = &mut self.clients[client];
                    if !client.is_paused && !client.is_half_closed {
                        client.is_odd = true;
                        let id = client.id;
                        self.tell(Event::ClientSent(id, Heartbeat::read(message.into())));
                        // It may have been a heartbeat, for whatever lease.
                        self.has_lied |= self.clients.iter().any(|client| client.id == id);
                    }
                }
            }
            Step::ClientTook { client, bytes } => self.client_took(client, bytes.into()),
            Step::ClientTookAll(client) => self.client_took(client, usize::MAX),
            Step::ClientHalfClosed(client) => {
                if let Some(index) = pick(self.clients.len(), client) {
                    self.clients[index].is_half_closed = true;
                    self.tell(Event::ClientHalfClosed(self.clients[index].id));
                }
            }
            Step::ClientGone(client) => {
                if let Some(index) = pick(self.clients.len(), client) {
                    self.client_gone(index);
                }
            }
            Step::UpstreamOpened(upstream) => {
                if let Some(id) = self.stream(upstream) {
                    self.opened(id);
                }
            }
            Step::Answer {
                upstream,
                out_of_order,
                ttl,
            } => self.answer(upstream, out_of_order.unwrap_or(0), one_of(&TTLS, ttl)),
            Step::Stray { upstream, lease, ttl } => {
                self.stray(upstream, one_of(&LEASES, lease), one_of(&TTLS, ttl))
            }
            Step::UpstreamSuperseded(upstream) => {
                if let Some(id) = self.stream(upstream) {
                    self.tell(Event::UpstreamSuperseded(id));
                    assert!(!self.streams.contains_key(&id), "it has been left");
                }
            }
            Step::UpstreamRaw { upstream, message } => {
                if let Some(id) = self.stream(upstream) {
                    self.has_lied = true;
                    self.tell(Event::UpstreamSent(id, message.into()));
                }
            }
            Step::UpstreamEnded { upstream, ending } => {
                if let Some(id) = self.stream(upstream) {
                    self.ended(id, one_of(&STATUSES, ending));
                }
            }
            Step::Stale { which, kind } => {
                if let Some(event) = self.stale(which, kind) {
                    self.tell(event);
                }
            }
            Step::Timeout { late_us } => {
                if let Some(due) = self.router.next_timeout().filter(|due| *due < FAR) {
                    self.now = self.now.max(due) + Duration::from_micros(late_us.into());
                    self.tell(Event::Timeout);
                }
            }
            Step::Wait { ms } => {
                let until = self.now + Duration::from_millis(ms.into());
                let due = self.router.next_timeout().unwrap_or(until);
                self.now = until.min(due).max(self.now);
            }
        }
    }

    fn open(&mut self, connection: u8, token: u8, require_leader: bool) {
        if self.clients.len() >= CLIENTS_MAX {
            return;
        }
        let token = one_of(&TOKENS, token).map(|token| Bytes::from_static(token.as_bytes()));
        let caller = Caller {
            connection: connection.into(),
            credentials: token.clone(),
            require_leader,
        };
        let mut actions = Actions::new();
        let id = self.router.open(self.now, caller, &mut actions);
        assert!(!self.gone_clients.contains(&id));
        self.clients.push(Client {
            id,
            connection,
            token,
            require_leader,
            wants: VecDeque::new(),
            queued: 0,
            is_paused: false,
            is_half_closed: false,
            is_odd: false,
        });
        self.carry_out(actions);
        self.check();
    }

    fn beat(&mut self, client: u8, lease: i64, padding: bool) {
        let Some(client) = pick(self.clients.len(), client) else {
            return;
        };
        let client = &mut self.clients[client];
        if client.is_paused || client.is_half_closed {
            return;
        }
        self.number += 1;
        client.wants.push_back(Want {
            lease,
            since: self.now,
            number: self.number,
        });
        let event = Event::ClientSent(client.id, Heartbeat::read(wire::heartbeat(lease, padding).into()));
        self.tell(event);
    }

    fn client_took(&mut self, client: u8, bytes: usize) {
        let Some(client) = pick(self.clients.len(), client) else {
            return;
        };
        let client = &mut self.clients[client];
        let bytes = bytes.min(client.queued);
        client.queued -= bytes;
        let event = Event::ClientTook(client.id, bytes);
        self.tell(event);
    }

    fn client_gone(&mut self, index: usize) {
        let client = self.clients.swap_remove(index);
        self.gone_clients.push(client.id);
        self.tell(Event::ClientGone(client.id));
    }

    fn opened(&mut self, id: UpstreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.is_open = true;
            self.tell(Event::UpstreamOpened(id));
        }
    }

    fn answer(&mut self, upstream: u8, which: u8, ttl: i64) {
        let Some(id) = self.stream(upstream) else { return };
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let Some(index) = pick(stream.in_flight.len(), which) else {
            return;
        };
        let sent = stream.in_flight.remove(index);
        let token = stream.token.clone();
        self.number += 1;
        let message = Bytes::from(wire::answer(self.number, sent.lease, ttl));
        self.said.insert((token, sent.lease), (sent, message.clone()));
        self.tell(Event::UpstreamSent(id, message));
    }

    fn stray(&mut self, upstream: u8, lease: i64, ttl: i64) {
        let Some(id) = self.stream(upstream) else { return };
        if self.streams[&id].in_flight.iter().any(|sent| sent.lease == lease) {
            return;
        }
        self.number += 1;
        let message = Bytes::from(wire::answer(self.number, lease, ttl));
        let strays = self.router.stats().strays;
        self.tell(Event::UpstreamSent(id, message));
        assert!(self.has_lied || self.router.stats().strays == strays + 1);
    }

    fn ended(&mut self, id: UpstreamId, (code, message): (u8, &'static str)) {
        if self.streams.remove(&id).is_some() {
            self.gone_streams.push(id);
            self.endings.insert((code, message.to_owned()));
            self.tell(Event::UpstreamEnded(id, Status::new(code, message)));
        }
    }

    fn stale(&self, which: u8, kind: u8) -> Option<Event> {
        let client = || Some(self.gone_clients[pick(self.gone_clients.len(), which)?]);
        let stream = || Some(self.gone_streams[pick(self.gone_streams.len(), which)?]);
        Some(match kind % 8 {
            0 => Event::ClientSent(client()?, Heartbeat::read(wire::heartbeat(1, false).into())),
            1 => Event::ClientHalfClosed(client()?),
            2 => Event::ClientTook(client()?, 100),
            3 => Event::ClientGone(client()?),
            4 => Event::UpstreamSent(stream()?, wire::answer(0, 1, 1).into()),
            5 => Event::UpstreamEnded(stream()?, Status::new(NO_LEADER.0, NO_LEADER.1)),
            6 => Event::UpstreamSuperseded(stream()?),
            _ => Event::UpstreamOpened(stream()?),
        })
    }

    fn stream(&self, which: u8) -> Option<UpstreamId> {
        let index = pick(self.streams.len(), which)?;
        self.streams.keys().nth(index).copied()
    }

    fn tell(&mut self, event: Event) {
        let mut actions = Actions::new();
        self.router.handle(self.now, event, &mut actions);
        self.carry_out(actions);
        self.check();
    }

    fn client(&mut self, id: ClientId) -> &mut Client {
        let client = self.clients.iter_mut().find(|client| client.id == id);
        client.expect("a client that is there")
    }

    fn carry_out(&mut self, actions: Actions) {
        for action in actions {
            match action {
                Action::Deliver(id, frame) => self.delivered(id, &frame),
                Action::EndClient(id, status) => self.client_ended(id, &status),
                Action::PauseClient(id) => {
                    assert!(!std::mem::replace(&mut self.client(id).is_paused, true));
                }
                Action::ResumeClient(id) => {
                    assert!(std::mem::replace(&mut self.client(id).is_paused, false));
                }
                Action::OpenUpstream {
                    upstream,
                    credentials,
                    ..
                } => {
                    assert!(!self.gone_streams.contains(&upstream));
                    let stream = Stream {
                        token: credentials,
                        is_open: false,
                        in_flight: Vec::new(),
                    };
                    assert!(self.streams.insert(upstream, stream).is_none());
                }
                Action::SendUpstream(id, message) => self.sent(id, &message),
                Action::CloseUpstream(id) => {
                    assert!(self.streams.remove(&id).is_some(), "it is open");
                    self.gone_streams.push(id);
                }
            }
        }
    }

    /// A client is answered once, in its order for each lease, with what a server said to a heartbeat that was sent
    /// after it had asked.
    fn delivered(&mut self, id: ClientId, frame: &Bytes) {
        let (prefix, message) = frame.split_at(5);
        let length = u32::try_from(message.len()).expect("it is short").to_be_bytes();
        assert_eq!(prefix, [0, length[0], length[1], length[2], length[3]]);
        let (now, has_lied, within) = (self.now, self.has_lied, self.config.share_within);
        let client = self.client(id);
        client.queued += frame.len();
        if client.is_odd || has_lied {
            return;
        }
        let (lease, ttl) = wire::read(message);
        let position = client.wants.iter().position(|want| want.lease == lease);
        let want = client
            .wants
            .remove(position.expect("it waits for that"))
            .expect("there");
        let key = (client.token.clone(), lease);
        let (sent, said) = self.said.get(&key).expect("a server has said something");
        assert_eq!(said, message);
        let is_shared = || ttl > 0 && within.is_some_and(|within| now - sent.at <= within);
        assert!(want.number < sent.number || is_shared(), "{want:?} {sent:?}");
    }

    fn client_ended(&mut self, id: ClientId, status: &Status) {
        let index = self.clients.iter().position(|client| client.id == id);
        let client = self.clients.swap_remove(index.expect("it is there"));
        self.gone_clients.push(id);
        if client.is_odd || self.has_lied {
            return;
        }
        let least = self.config.answer_timeout.min(TTL_MIN).min(self.config.wait_max);
        let waited = || client.wants.iter().any(|want| self.now - want.since >= least);
        let was_said = self
            .endings
            .contains(&(status.code, status.message.clone().into_owned()));
        let is_right = match (status.code, &*status.message) {
            (0, _) => client.is_half_closed && client.wants.is_empty(),
            (14, "etcdserver: request timed out") => waited(),
            (14, "etcdserver: no leader") => was_said && (client.require_leader || waited()),
            (1 | 13 | 14, _) => false,
            _ => was_said && !client.wants.is_empty(),
        };
        assert!(is_right, "{status:?} {client:?}");
    }

    /// A heartbeat is sent on an open stream, while somebody waits for it, and none for its lease is on its way.
    fn sent(&mut self, id: UpstreamId, message: &[u8]) {
        self.number += 1;
        let stream = self.streams.get(&id).expect("it is there");
        assert!(stream.is_open);
        let token = stream.token.clone();
        let mut group = self.clients.iter().filter(|client| client.token == token);
        let has_lied = self.has_lied || group.clone().any(|client| client.is_odd);
        let lease = if has_lied { 1 } else { wire::lease_of(message) };
        if !has_lied {
            assert!(group.any(|client| client.wants.iter().any(|want| want.lease == lease)));
            let mut streams = self.streams.values().filter(|stream| stream.token == token);
            assert!(!streams.any(|stream| stream.in_flight.iter().any(|sent| sent.lease == lease)));
        }
        let sent = Sent {
            lease,
            at: self.now,
            number: self.number,
        };
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.in_flight.push(sent);
        }
    }

    /// What holds after each event.
    fn check(&self) {
        let (stats, config) = (self.router.stats(), &self.config);
        let queued: usize = self.clients.iter().map(|client| client.queued).sum();
        assert_eq!(stats.outbox_bytes, queued);
        assert_eq!(stats.clients, self.clients.len());
        assert_eq!(stats.upstreams, self.streams.len());
        assert!(stats.heartbeats_out <= stats.heartbeats_in + stats.resent);
        // Three tokens, and a lane for each of three kinds of heartbeats.
        assert!(self.streams.len() <= 3 * (2 * config.streams_max + config.alone_max));
        if self.has_lied {
            return;
        }
        let in_flight: usize = self.streams.values().map(|stream| stream.in_flight.len()).sum();
        for stream in self.streams.values() {
            assert!(stream.in_flight.len() <= config.in_flight_max);
        }
        let mut wanted = 0;
        for client in self.clients.iter().filter(|client| !client.is_odd) {
            assert!(client.wants.len() <= config.requests_max);
            wanted += client.wants.len();
            let same = || {
                self.clients
                    .iter()
                    .filter(|other| other.connection == client.connection)
            };
            let waiting: usize = same().map(|client| client.wants.len()).sum();
            // Each that is read from again may send one more.
            let most = config.connection_requests_max + same().count();
            assert!(waiting <= most || same().any(|client| client.is_odd));
        }
        if self.clients.iter().all(|client| !client.is_odd) {
            assert!(
                stats.leases <= config.leases_max + wanted + in_flight,
                "{stats:?}"
            );
        }
    }

    /// Servers say nothing any more, so that nobody has anything to wait for; then everybody goes.
    fn finish(mut self) {
        let end = self.now + self.config.wait_max + Duration::from_secs(1);
        self.settle(end);
        for client in self.clients.iter().filter(|client| !client.is_odd) {
            assert!(
                client.wants.is_empty() || self.has_lied,
                "without answer: {client:?}"
            );
        }
        while !self.clients.is_empty() {
            self.client_gone(0);
        }
        self.settle(FAR);
        let stats = self.router.stats();
        let left = Stats {
            clients: stats.clients,
            upstreams: stats.upstreams,
            outbox_bytes: stats.outbox_bytes,
            ..Stats::default()
        };
        assert_eq!(left, Stats::default(), "something stays");
        // Leases that live for ever are remembered for ever.
        let due = self.router.next_timeout();
        assert!(
            due.is_none_or(|due| due >= FAR),
            "a timer stays: {:#?}",
            self.router
        );
        assert!(due.is_some() || stats.leases == 0, "{:#?}", self.router);
    }

    /// Time passes, clients take what they are sent. Servers are silent.
    fn settle(&mut self, end: Instant) {
        let mut still = 0;
        loop {
            while let Some(index) = self.clients.iter().position(|client| client.queued > 0) {
                self.client_took(u8::try_from(index).expect("few"), usize::MAX);
            }
            let opening = self.streams.iter().find(|(_, stream)| !stream.is_open);
            if let Some((&id, _)) = opening {
                self.opened(id);
                continue;
            }
            let Some(at) = self.router.next_timeout().filter(|at| *at < end) else {
                break;
            };
            still = if at > self.now { 0 } else { still + 1 };
            assert!(still < 1000, "time stands still: {:#?}", self.router);
            self.now = self.now.max(at);
            self.tell(Event::Timeout);
        }
        self.now = self.now.max(end.min(self.now + Duration::from_secs(1)));
    }
}

/// Longer than anything lasts, but a lease whose TTL is longer than a life.
const FAR: Instant = Instant::from_nanos(1 << 62);

fn config(settings: &Settings) -> Config {
    let ms = Duration::from_millis;
    Config {
        requests_max: one_of(&[1, 3, 100], settings.requests),
        connection_requests_max: one_of(&[1, 4, 1000], settings.connection_requests),
        all_requests_max: one_of(&[1, 30, 1000], settings.connection_requests),
        outbox_bytes_max: one_of(&[1, 60, 100_000], settings.outbox),
        in_flight_max: one_of(&[1, 2, 100], settings.in_flight),
        streams_max: one_of(&[1, 2, 3], settings.streams),
        alone_max: one_of(&[1, 2], settings.alone),
        leases_max: one_of(&[0, 1, 3, 100], settings.leases),
        careful: ms(one_of(&[1, 3_000], settings.careful)),
        answer_timeout: ms(one_of(&[300, 1_500], settings.answer_timeout)),
        wait_max: ms(9_000),
        linger: ms(200),
        leader_grace: ms(700),
        share_within: one_of(&[None, None, Some(ms(0)), Some(ms(150))], settings.share),
        ..Config::default()
    }
}

fn pick(count: usize, which: u8) -> Option<usize> {
    usize::from(which).checked_rem(count)
}
