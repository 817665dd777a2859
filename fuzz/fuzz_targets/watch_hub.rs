//! The watch hub among clients and servers that may say anything: nothing makes it panic, grow, or give a client what
//! it mustn't see, and in the end nothing stays.
#![no_main]

#[path = "watch_hub/client.rs"]
mod client;
#[path = "watch_hub/grammar.rs"]
mod grammar;
#[path = "watch_hub/server.rs"]
mod server;
#[path = "watch_hub/wire.rs"]
mod wire;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_core::time::Instant;
use etcd_proxy_core::watch::{
    Action, Actions, Caller, CheckId, ClientId, Config, Event, Header, Hub, Stats, Status, UpstreamId,
    UpstreamKind,
};
use libfuzzer_sys::fuzz_target;

use client::{Client, Wanted};
use grammar::{Answer, Input, Request, Revision, STATUSES, Settings, Step, TOKENS, one_of};
use server::Stream;

fuzz_target!(|input: Input| {
    let mut driver = Driver::new(&input);
    for step in input.steps {
        driver.step(step);
    }
    driver.finish();
});

struct Driver {
    hub: Hub,
    config: Config,
    now: Instant,
    /// The store's, as long as nobody lies.
    revision: i64,
    clients: Vec<Client>,
    streams: BTreeMap<UpstreamId, Stream>,
    /// Questions without answer.
    checks: VecDeque<CheckId>,
    /// Servers have said what none says, perhaps of keys that weren't asked for.
    has_lied: bool,
    gone_clients: Vec<ClientId>,
    gone_streams: Vec<UpstreamId>,
    gone_checks: Vec<CheckId>,
}

impl Driver {
    fn new(input: &Input) -> Self {
        let config = config(&input.settings);
        Self {
            hub: Hub::new(config, input.seed),
            config,
            now: Instant::ZERO,
            revision: 10,
            clients: Vec::new(),
            streams: BTreeMap::new(),
            checks: VecDeque::new(),
            has_lied: false,
            gone_clients: Vec::new(),
            gone_streams: Vec::new(),
            gone_checks: Vec::new(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Open {
                token,
                require_leader,
            } => self.open(token, require_leader),
            Step::ClientSent { client, request } => self.client_sent(client, &request),
            Step::ClientRaw { client, message } => self.client_raw(client, message),
            Step::ClientTook { client, bytes } => {
                if let Some(index) = pick(&self.clients, client) {
                    self.client_took(index, bytes.into());
                }
            }
            Step::ClientTookAll(client) => {
                if let Some(index) = pick(&self.clients, client) {
                    self.client_took(index, usize::MAX);
                }
            }
            Step::ClientHalfClosed(client) => {
                if let Some(index) = pick(&self.clients, client) {
                    self.tell(Event::ClientHalfClosed(self.clients[index].id));
                }
            }
            Step::ClientGone(client) => {
                if let Some(index) = pick(&self.clients, client) {
                    self.client_gone(index);
                }
            }
            Step::Answer { which, answer } => {
                if let Some(index) = pick_of(self.checks.len(), which) {
                    let answer = self.answer(&answer);
                    self.answered(index, answer);
                }
            }
            Step::Put {
                upstream,
                key,
                delete,
                bytes,
            } => self.put(upstream, key, delete, bytes),
            Step::ServerAgain(upstream) => {
                if let Some(id) = self.stream(upstream)
                    && let Some(message) = self.streams[&id].said.clone()
                {
                    self.has_lied = true;
                    self.upstream_sent(id, message);
                }
            }
            Step::ServerCreated(upstream) => self.server_created(upstream),
            Step::ServerProgress(upstream) => self.server_progress(upstream),
            Step::UpstreamSent { upstream, response } => {
                if let Some(id) = self.stream(upstream) {
                    self.has_lied = true;
                    let message = self.response(id, &response);
                    self.upstream_sent(id, message);
                }
            }
            Step::UpstreamRaw { upstream, message } => {
                if let Some(id) = self.stream(upstream) {
                    self.has_lied = true;
                    self.upstream_sent(id, message);
                }
            }
            Step::UpstreamEnded { upstream, ending } => {
                if let Some(id) = self.stream(upstream) {
                    self.streams.remove(&id);
                    self.gone_streams.push(id);
                    self.tell(Event::UpstreamEnded(id, status(ending)));
                }
            }
            Step::UpstreamSuperseded(upstream) => {
                if let Some(id) = self.stream(upstream) {
                    self.tell(Event::UpstreamSuperseded(id));
                    assert!(!self.streams.contains_key(&id), "it has been left");
                }
            }
            Step::ProgressTrusted { upstream, trusted } => {
                if let Some(id) = self.stream(upstream) {
                    self.tell(Event::ProgressTrusted(id, trusted));
                }
            }
            Step::Stale { which, kind } => {
                if let Some(event) = self.stale(which, kind) {
                    self.tell(event);
                }
            }
            Step::Timeout { late_us } => {
                if let Some(at) = self.hub.next_timeout() {
                    self.now = self.now.max(at + Duration::from_micros(late_us.into()));
                    self.tell(Event::Timeout);
                }
            }
            Step::Wait { ms } => {
                let until = self.now + Duration::from_millis(ms.into());
                let at = self.hub.next_timeout();
                self.now = at.map_or(until, |at| at.max(self.now).min(until));
            }
        }
    }

    fn open(&mut self, token: u8, require_leader: bool) {
        if self.clients.len() >= CLIENTS_MAX {
            return;
        }
        let caller = Caller {
            connection: 0,
            credentials: one_of(&TOKENS, token).map(|token| Bytes::from_static(token.as_bytes())),
            require_leader,
        };
        let mut actions = Actions::new();
        let id = self.hub.open(self.now, caller, &mut actions);
        assert!(!self.gone_clients.contains(&id));
        self.clients.push(Client::new(id));
        self.carry_out(actions);
        self.check();
    }

    fn client_sent(&mut self, client: u8, request: &Request) {
        let Some(index) = pick(&self.clients, client) else {
            return;
        };
        let client = &mut self.clients[index];
        if client.is_paused {
            return;
        }
        if let Request::Create(create) = request {
            client.creating.push_back(Wanted::of(create, self.revision));
        }
        let event = Event::ClientSent(client.id, request.encode(self.revision).into());
        self.tell(event);
    }

    fn client_raw(&mut self, client: u8, message: Vec<u8>) {
        let Some(index) = pick(&self.clients, client) else {
            return;
        };
        let client = &mut self.clients[index];
        if !client.is_paused {
            client.is_odd = true;
            let event = Event::ClientSent(client.id, message.into());
            self.tell(event);
        }
    }

    fn client_took(&mut self, index: usize, bytes: usize) {
        let client = &mut self.clients[index];
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

    fn answer(&mut self, answer: &Answer) -> Result<Header, Status> {
        match answer {
            Answer::Header(revision) => Ok(Header {
                cluster_id: 77,
                member_id: 1,
                revision: self.resolve(*revision),
                raft_term: 3,
            }),
            Answer::Status(which) => Err(status(*which)),
        }
    }

    fn answered(&mut self, index: usize, answer: Result<Header, Status>) {
        let id = self.checks.remove(index).expect("its callers have looked");
        self.gone_checks.push(id);
        self.tell(Event::Answered(id, answer));
    }

    fn stale(&self, which: u8, kind: u8) -> Option<Event> {
        let client = || Some(self.gone_clients[pick(&self.gone_clients, which)?]);
        let stream = || Some(self.gone_streams[pick(&self.gone_streams, which)?]);
        Some(match kind % 9 {
            0 => Event::ClientSent(client()?, Bytes::from_static(b"\x1a\0")),
            1 => Event::ClientHalfClosed(client()?),
            2 => Event::ClientTook(client()?, 100),
            3 => Event::ClientGone(client()?),
            4 => Event::UpstreamSent(stream()?, Bytes::from_static(b"\x10\x01\x18\x01")),
            5 => Event::UpstreamEnded(stream()?, status(6)),
            6 => Event::ProgressTrusted(stream()?, true),
            7 => Event::UpstreamSuperseded(stream()?),
            _ => {
                let id = self.gone_checks[pick(&self.gone_checks, which)?];
                // One that is asked again isn't gone.
                if self.checks.contains(&id) {
                    return None;
                }
                Event::Answered(id, Err(status(6)))
            }
        })
    }

    fn stream(&self, which: u8) -> Option<UpstreamId> {
        let index = pick_of(self.streams.len(), which)?;
        self.streams.keys().nth(index).copied()
    }

    fn resolve(&mut self, revision: Revision) -> i64 {
        match revision {
            Revision::Back(by) => self.revision.saturating_sub((by % 8).into()),
            Revision::Next(by) => {
                self.revision = self.revision.saturating_add((by % 4).into());
                self.revision
            }
            Revision::Raw(revision) => revision,
        }
    }

    fn tell(&mut self, event: Event) {
        let mut actions = Actions::new();
        self.hub.handle(self.now, event, &mut actions);
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
                Action::Deliver(id, frame) => {
                    let outbox_max = self.outbox_max();
                    let has_lied = self.has_lied;
                    self.client(id).see(&frame, outbox_max, has_lied);
                }
                Action::EndClient(id, _) => {
                    let index = self.clients.iter().position(|client| client.id == id);
                    self.clients.swap_remove(index.expect("it is there"));
                    self.gone_clients.push(id);
                }
                Action::PauseClient(id) => {
                    assert!(!std::mem::replace(&mut self.client(id).is_paused, true));
                }
                Action::ResumeClient(id) => {
                    assert!(std::mem::replace(&mut self.client(id).is_paused, false));
                }
                Action::OpenUpstream {
                    upstream,
                    kind,
                    credentials,
                } => {
                    assert!(!self.gone_streams.contains(&upstream));
                    let stream = Stream {
                        kind,
                        credentials,
                        creating: VecDeque::new(),
                        watching: BTreeMap::new(),
                        said: None,
                    };
                    assert!(self.streams.insert(upstream, stream).is_none());
                }
                Action::SendUpstream(id, message) => {
                    let stream = self.streams.get_mut(&id).expect("it is open");
                    stream.take(&message);
                }
                Action::CloseUpstream(id) => {
                    assert!(self.streams.remove(&id).is_some(), "it is open");
                    self.gone_streams.push(id);
                }
                Action::ReadRevision { check, .. }
                | Action::AskPermission { check, .. }
                | Action::ReadHeader(check) => {
                    assert!(!self.checks.contains(&check), "once at a time");
                    self.checks.push_back(check);
                }
            }
        }
    }

    /// How much may wait for a client before it gets no more events.
    fn outbox_max(&self) -> usize {
        let queued: usize = self.clients.iter().map(|client| client.queued).sum();
        let Config {
            outbox_bytes_max: max,
            outbox_bytes_total_max: total_max,
            ..
        } = self.config;
        if queued < total_max / 2 {
            max
        } else {
            // A share of the other half.
            max.min(total_max / 2 / self.clients.len()).max(1)
        }
    }

    /// What holds after each event.
    fn check(&self) {
        let stats = self.hub.stats();
        let config = &self.config;
        let queued: usize = self.clients.iter().map(|client| client.queued).sum();
        assert_eq!(stats.outbox_bytes, queued);
        assert_eq!(stats.clients, self.clients.len());
        assert!(
            stats.watchers <= self.clients.len() * (config.watchers_per_client_max + config.requests_max)
        );
        assert!(stats.live_sources <= stats.watchers && stats.catch_up_sources <= stats.watchers);
        let sources = stats.live_sources + stats.catch_up_sources;
        assert!(
            stats.history_bytes
                <= config
                    .history_bytes_total_max
                    .min(sources * config.history_bytes_max)
        );
        assert!(self.streams.len() <= stats.upstreams);
        let mut streams: BTreeMap<_, usize> = BTreeMap::new();
        for stream in self.streams.values() {
            *streams.entry((stream.kind, &stream.credentials)).or_default() += 1;
            // What a lie answers can't be told.
            if stream.said.is_none() {
                assert!(stream.creating.len() <= config.creates_in_flight_max);
            }
        }
        for ((kind, _), count) in streams {
            let max = match kind {
                UpstreamKind::Live => config.live_streams_max,
                UpstreamKind::CatchUp => config.catch_up_streams_max,
                UpstreamKind::Leader => 1,
            };
            assert!(count <= max, "{count} streams of {kind:?}");
        }
    }

    /// Nobody says anything wrong any more; then everybody goes.
    fn finish(mut self) {
        // Longer than anything may wait for an answer.
        let end = self.now + 2 * self.config.create_timeout;
        self.settle(end);
        for client in self.clients.iter().filter(|client| !client.is_odd) {
            assert!(client.creating.is_empty(), "without answer: {client:?}");
            assert!(!client.is_paused, "it has taken everything: {client:?}");
        }
        while !self.clients.is_empty() {
            self.client_gone(0);
        }
        let end = self.now + Duration::from_secs(3600);
        self.settle(end);
        let stats = self.hub.stats();
        let left = Stats {
            clients: stats.clients,
            watchers: stats.watchers,
            behind: stats.behind,
            live_sources: stats.live_sources,
            catch_up_sources: stats.catch_up_sources,
            upstreams: stats.upstreams,
            outbox_bytes: stats.outbox_bytes,
            history_bytes: stats.history_bytes,
            ..Stats::default()
        };
        assert_eq!(left, Stats::default(), "something stays");
        assert_eq!(self.hub.next_timeout(), None, "a timer stays: {:#?}", self.hub);
        assert!(self.streams.is_empty());
    }

    /// Time passes, clients take what they are sent, and questions are answered. Servers are silent.
    fn settle(&mut self, end: Instant) {
        let mut still = 0;
        loop {
            while !self.checks.is_empty() {
                let answer = self.answer(&Answer::Header(Revision::Next(0)));
                self.answered(0, answer);
            }
            for index in (0..self.clients.len()).rev() {
                // Taking lets more come.
                while self.clients.get(index).is_some_and(|client| client.queued > 0) {
                    self.client_took(index, usize::MAX);
                }
            }
            let Some(at) = self.hub.next_timeout().filter(|at| *at <= end) else {
                break;
            };
            still = if at > self.now { 0 } else { still + 1 };
            assert!(still < 1000, "time stands still: {:#?}", self.hub);
            self.now = self.now.max(at);
            self.tell(Event::Timeout);
        }
        self.now = end;
    }
}

fn config(settings: &Settings) -> Config {
    let ms = Duration::from_millis;
    Config {
        outbox_bytes_max: one_of(&[150, 400, 100_000], settings.outbox),
        unsent_revisions_max: one_of(&[0, 2, 8], settings.outbox.rotate_left(4)),
        batch_revisions_max: one_of(&[1, 4, 1000], settings.history.rotate_left(4)),
        batch_bytes_max: one_of(&[0, 200, 2 << 20], settings.fragment.rotate_left(4)),
        outbox_bytes_total_max: one_of(&[100, 600, 1_000_000], settings.outbox_total),
        requests_max: one_of(&[2, 100], settings.requests),
        watchers_per_client_max: one_of(&[3, 100], settings.watchers),
        history_bytes_max: one_of(&[0, 600, 3000, 100_000], settings.history),
        history_bytes_total_max: one_of(&[1500, 1_000_000], settings.history_total),
        live_streams_max: one_of(&[1, 2, 3], settings.live_streams),
        catch_up_streams_max: one_of(&[1, 2, 3], settings.live_streams.rotate_left(4)),
        catch_ups_per_client_max: one_of(&[1, 3, 100], settings.creates.rotate_left(4)),
        creates_in_flight_max: one_of(&[1, 2, 100], settings.creates),
        narrow_ranges_max: one_of(&[0, 1, 2], settings.narrow_ranges),
        fragment_bytes: one_of(&[0, 60, 100_000], settings.fragment),
        inline_bytes_max: one_of(&[0, 60, 2048], settings.inline),
        create_timeout: ms(1500),
        linger: ms(200),
        position_interval: ms(700),
        progress_notify_interval: ms(500),
        progress_timeout: ms(900),
        trusts_progress: settings.trusts_progress,
        ..Config::default()
    }
}

fn status(which: u8) -> Status {
    let (code, message) = one_of(&STATUSES, which);
    Status::new(code, message)
}

fn pick<T>(list: &[T], which: u8) -> Option<usize> {
    pick_of(list.len(), which)
}

fn pick_of(count: usize, which: u8) -> Option<usize> {
    usize::from(which).checked_rem(count)
}

const CLIENTS_MAX: usize = 6;
