//! The hub in a world of naive servers and clients: what happens next is the caller's choice.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_core::history::{History, Known, Shows, Verdict};
use etcd_proxy_core::time::Instant;
use etcd_proxy_core::watch::{
    Action, Actions, Caller, CheckId, ClientId, Config, Event, Header, Hub, Status, UpstreamId, UpstreamKind,
};
use etcd_proxy_proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use fastrand::Rng;
use prost::Message;

use crate::client::Client;
use crate::server::Stream;
use crate::store::{Store, revision_of};

#[derive(Debug)]
enum Check {
    Revision(Option<Bytes>),
    /// Of a member, whether it has a leader or not.
    OfMember(Option<Bytes>),
    /// With the end of the range.
    Permission(Option<Bytes>, Bytes),
    Header,
}

/// A token that lost its permission, when all that the hub watched was on streams.
#[derive(Debug)]
struct CutOff {
    /// The watchers that there were.
    watchers: BTreeSet<(ClientId, i64)>,
    /// The store's revision when the last of those streams was gone: none of these watchers is told of a later one.
    after: Option<i64>,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) hub: Hub,
    pub(crate) config: Config,
    pub(crate) now: Instant,
    pub(crate) rng: Rng,
    pub(crate) store: Store,
    /// What each member has applied.
    pub(crate) members: Vec<i64>,
    pub(crate) streams: BTreeMap<UpstreamId, Stream>,
    /// What the proxy knows of the store's history.
    pub(crate) history: History,
    /// What the store was before it went back, each time.
    pub(crate) former: Vec<Store>,
    asked: VecDeque<(CheckId, Check, Known)>,
    answers: VecDeque<(CheckId, Result<Header, Status>, Known, bool)>,
    pub(crate) clients: Vec<Client>,
    /// Clients whose streams the hub ended.
    pub(crate) ended: Vec<(Client, Status)>,
    /// Tokens that may not read anything; no token at all is "".
    pub(crate) denied: BTreeSet<Bytes>,
    /// Tokens that may read any key, but no range.
    pub(crate) keys_only: BTreeSet<Bytes>,
    /// Tokens that are valid no more.
    pub(crate) expired: BTreeSet<Bytes>,
    /// What those may not see any more whose permission was taken.
    cut_off: BTreeMap<Bytes, CutOff>,
    /// When a stream was lost for the first time.
    lost_first: Option<Instant>,
    /// Reads and probes fail like this.
    pub(crate) outage: Option<Status>,
    pub(crate) reads: usize,
    pub(crate) probes: usize,
    pub(crate) opened: usize,
    /// The most steps that the hub has done in one event.
    pub(crate) most_steps: u64,
    /// The most actions of one event.
    pub(crate) most_actions: usize,
    /// Everything the hub did, for comparing runs.
    pub(crate) trace: u64,
    /// Print everything.
    pub(crate) is_told: bool,
}

impl World {
    pub(crate) fn new(seed: u64, config: Config, members: usize) -> Self {
        Self {
            hub: Hub::new(config, seed),
            config,
            now: Instant::ZERO,
            rng: Rng::with_seed(seed),
            store: Store::new(),
            members: vec![1; members],
            streams: BTreeMap::new(),
            history: History::new(),
            former: Vec::new(),
            asked: VecDeque::new(),
            answers: VecDeque::new(),
            clients: Vec::new(),
            ended: Vec::new(),
            denied: BTreeSet::new(),
            keys_only: BTreeSet::new(),
            expired: BTreeSet::new(),
            cut_off: BTreeMap::new(),
            lost_first: None,
            outage: None,
            reads: 0,
            probes: 0,
            opened: 0,
            most_steps: 0,
            most_actions: 0,
            trace: 0,
            is_told: false,
        }
    }

    pub(crate) fn open(&mut self, credentials: Option<&'static str>, require_leader: bool) -> usize {
        let credentials = credentials.map(|token| Bytes::from_static(token.as_bytes()));
        let caller = Caller {
            connection: 0,
            credentials,
            require_leader,
        };
        let mut actions = Actions::new();
        let id = self.hub.open(self.now, caller.clone(), &mut actions);
        self.clients.push(Client::new(self.former.len(), id, caller));
        self.carry_out(actions);
        self.clients.len() - 1
    }

    pub(crate) fn send(&mut self, client: usize, message: Bytes) {
        let id = self.clients[client].id;
        self.tell(Event::ClientSent(id, message));
    }

    pub(crate) fn create(&mut self, client: usize, request: WatchCreateRequest) {
        let client_at = &mut self.clients[client];
        let store = self.former.get(client_at.era).unwrap_or(&self.store);
        let message = client_at.create(store, request);
        self.send(client, message);
    }

    pub(crate) fn close(&mut self, client: usize) {
        let client = self.clients.swap_remove(client);
        self.tell(Event::ClientGone(client.id));
    }

    pub(crate) fn tell(&mut self, event: Event) {
        if self.is_told {
            match &event {
                Event::UpstreamSent(id, message) => {
                    eprintln!(
                        "{:?} {id:?} sent {:?}",
                        self.now,
                        WatchResponse::decode(&message[..])
                    );
                }
                other => eprintln!("{:?} {other:?}", self.now),
            }
        }
        let mut actions = Actions::new();
        let before = self.hub.stats().steps;
        self.hub.handle(self.now, event, &mut actions);
        self.most_steps = self.most_steps.max(self.hub.stats().steps - before);
        self.most_actions = self.most_actions.max(actions.len());
        // Before anything goes out.
        self.history.raise(self.hub.history(), self.hub.revision());
        self.carry_out(actions);
    }

    /// The store goes back to what it was: its members start again with that. Whoever was told nothing before has seen
    /// nothing of the former one, so those clients leave.
    pub(crate) fn restore(&mut self, store: Store) {
        while let Some(at) = self.clients.iter().position(|client| client.revision == 0) {
            self.close(at);
        }
        for client in &mut self.clients {
            // The answer may be of what is there now.
            for wanted in &mut client.creating {
                wanted.asked_at = wanted.asked_at.min(store.revision);
            }
        }
        self.former.push(self.store.clone());
        self.restart(store);
    }

    /// All members start again, with this.
    pub(crate) fn restart(&mut self, store: Store) {
        for applied in &mut self.members {
            *applied = store.revision;
        }
        self.store = store;
        for id in self.stream_ids() {
            self.end_stream(id, 14, "etcdserver: server stopped");
        }
    }

    fn carry_out(&mut self, actions: Actions) {
        for action in actions {
            self.note(&action);
            match action {
                Action::Deliver(id, frame) => {
                    let client = self.clients.iter_mut().find(|client| client.id == id);
                    let client = client.expect("nothing is delivered to those who are gone");
                    let before = client.outbox_bytes();
                    // Whoever came before the store went back is told nothing of what it is now.
                    let store = self.former.get(client.era).unwrap_or(&self.store);
                    client.see(store, !self.former.is_empty(), &frame);
                    let response = client.frames.last().expect("just seen");
                    let token = client.caller.credentials.clone().unwrap_or_default();
                    if let Some(cut_off) = self.cut_off.get(&token)
                        && let Some(after) = cut_off.after
                        && cut_off.watchers.contains(&(id, response.watch_id))
                    {
                        let last = response.events.last().map_or(0, revision_of);
                        assert!(
                            last <= after,
                            "{token:?} may see nothing since {after}, and is told {response:?}"
                        );
                    }
                    let is_event = !response.events.is_empty() && !response.fragment;
                    // The last fragment follows the others.
                    let was_split = client
                        .frames
                        .iter()
                        .rev()
                        .nth(1)
                        .is_some_and(|frame| frame.fragment);
                    if is_event && !was_split {
                        assert!(before < self.config.outbox_bytes_max, "the outbox was full");
                    }
                    client.outbox.push_back(frame);
                }
                Action::EndClient(id, status) => {
                    let at = self.clients.iter().position(|client| client.id == id);
                    let client = self.clients.swap_remove(at.expect("it is there"));
                    let is_right = match status.message.as_ref() {
                        "etcdserver: no leader" => client.caller.require_leader,
                        "etcdserver: request timed out" => !client.creating.is_empty(),
                        "the store has gone back to another history" => !self.former.is_empty(),
                        message if message.ends_with("not valid any more") => {
                            client.caller.credentials.is_some()
                        }
                        message if message.ends_with("connection lost") => self
                            .lost_first
                            .is_some_and(|lost| self.now >= lost + self.config.create_timeout),
                        message if message.starts_with("grpc: received message larger") => status.code == 8,
                        _ => status.code == 13,
                    };
                    assert!(is_right, "nothing ends the stream with {status:?}: {client:?}");
                    self.ended.push((client, status));
                }
                Action::PauseClient(id) | Action::ResumeClient(id) => {
                    let client = self.clients.iter_mut().find(|client| client.id == id);
                    let client = client.expect("it is there");
                    let pauses = matches!(action, Action::PauseClient(_));
                    assert_ne!(client.paused, pauses, "nothing changes");
                    client.paused = pauses;
                }
                Action::OpenUpstream {
                    upstream,
                    kind,
                    credentials,
                } => {
                    self.opened += 1;
                    let member = self.rng.usize(..self.members.len());
                    let mut stream = Stream::new(self.store.cluster, member, kind, credentials);
                    stream.batch_max = self.config.batch_revisions_max;
                    assert!(self.streams.insert(upstream, stream).is_none());
                }
                Action::SendUpstream(id, message) => {
                    // A stream that ended meanwhile takes what is sent and does nothing.
                    if let Some(stream) = self.streams.get_mut(&id) {
                        stream.inbox.push_back(message);
                    }
                }
                Action::CloseUpstream(id) => {
                    assert!(self.streams.remove(&id).is_some(), "it is open");
                    self.look_whether_all_are_lost();
                }
                Action::ReadRevision {
                    check,
                    credentials,
                    key,
                    of_member,
                } => {
                    self.reads += 1;
                    // Nobody's own: what is odd about it would be everybody's.
                    assert!(credentials.is_some() || *key == b"\0"[..], "{key:?}");
                    let question = if of_member {
                        Check::OfMember
                    } else {
                        Check::Revision
                    };
                    self.ask(check, question(credentials));
                }
                Action::AskPermission {
                    check,
                    credentials,
                    range_end,
                    ..
                } => {
                    self.probes += 1;
                    self.ask(check, Check::Permission(credentials, range_end));
                }
                Action::ReadHeader(check) => self.ask(check, Check::Header),
            }
        }
    }

    /// Questions on their way.
    pub(crate) fn questions(&self) -> usize {
        self.asked.len() + self.answers.len()
    }

    fn ask(&mut self, id: CheckId, check: Check) {
        let is_new = self.asked.iter().all(|(asked, ..)| *asked != id)
            && self.answers.iter().all(|(asked, ..)| *asked != id);
        assert!(is_new, "a question is on its way once at a time");
        self.asked.push_back((id, check, self.history.known()));
    }

    fn note(&mut self, action: &Action) {
        if self.is_told {
            match action {
                Action::SendUpstream(id, message) => {
                    eprintln!("    to {id:?} {:?}", WatchRequest::decode(&message[..]));
                }
                Action::Deliver(id, frame) => {
                    let bytes = [&frame.head[5..], &frame.tail[..]].concat();
                    eprintln!("    deliver {id:?} {:?}", WatchResponse::decode(&bytes[..]));
                }
                other => eprintln!("    {other:?}"),
            }
        }
        for byte in format!("{action:?}").bytes() {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// The cluster answers one question, but the hub doesn't hear it yet.
    pub(crate) fn answer_check(&mut self) -> bool {
        let Some((id, check, asked)) = self.asked.pop_front() else {
            return false;
        };
        let refusal = match &check {
            Check::Revision(credentials)
            | Check::OfMember(credentials)
            | Check::Permission(credentials, _) => self.refusal(credentials.as_ref()),
            Check::Header => None,
        };
        let is_of_member = matches!(check, Check::OfMember(_));
        let outage = self.outage.as_ref();
        // What a member answers without a quorum. Not what it has when its store has gone back unnoticed: one can't tell that
        // from a lag.
        let knows_store = self.hub.history() == self.former.len() as u64;
        let is_answered = |status: &Status| match check {
            Check::OfMember(_) => status.message.starts_with("etcdserver: "),
            Check::Permission(..) => status.message == "etcdserver: no leader",
            Check::Revision(_) | Check::Header => false,
        };
        let outage = outage.filter(|status| !is_answered(status));
        let answer = if let Some(status) = outage {
            Err(status.clone())
        } else if is_of_member && !knows_store {
            Err(Status::new(14, "no endpoint can be reached"))
        } else if let Some(status) = refusal {
            Err(status)
        } else if let Check::Permission(Some(token), range_end) = &check
            && self.keys_only.contains(token)
            && !range_end.is_empty()
        {
            Err(Status::new(7, "etcdserver: permission denied"))
        } else if matches!(check, Check::Permission(..)) {
            Err(Status::new(
                11,
                "etcdserver: mvcc: required revision is a future revision",
            ))
        } else {
            let revision = if is_of_member {
                let applied = self.rng.choice(&self.members).copied().unwrap_or_default();
                // Those who wait for it may get as old an answer.
                for client in &mut self.clients {
                    for wanted in &mut client.creating {
                        wanted.asked_at = wanted.asked_at.min(applied);
                    }
                }
                applied
            } else {
                self.store.revision
            };
            Ok(Header {
                cluster_id: self.store.cluster,
                member_id: 1,
                revision,
                raft_term: 3,
            })
        };
        let is_newest = matches!(check, Check::Revision(_));
        self.answers.push_back((id, answer, asked, is_newest));
        true
    }

    pub(crate) fn hear_answer(&mut self) -> bool {
        let Some((id, mut answer, asked, is_newest)) = self.answers.pop_front() else {
            return false;
        };
        if let Ok(header) = &answer {
            let shows = Shows {
                cluster_id: header.cluster_id,
                revision: header.revision,
                is_newest,
            };
            match self.history.answered(asked, shows) {
                Verdict::Another => self.tell(Event::History(self.history.known().history)),
                Verdict::Stale => answer = Err(Status::new(14, "of a former history")),
                Verdict::Same | Verdict::Foreign | Verdict::Suspicious => {}
            }
        }
        self.tell(Event::Answered(id, answer));
        true
    }

    /// How a server refuses these credentials, if it does.
    fn refusal(&self, credentials: Option<&Bytes>) -> Option<Status> {
        let token = credentials.map_or(&b""[..], |token| token);
        if self.expired.contains(token) {
            Some(Status::new(16, "etcdserver: invalid auth token"))
        } else if !self.denied.contains(token) {
            None
        } else if credentials.is_none() {
            Some(Status::new(3, "etcdserver: user name is empty"))
        } else {
            Some(Status::new(7, "etcdserver: permission denied"))
        }
    }

    pub(crate) fn stream_ids(&self) -> Vec<UpstreamId> {
        self.streams.keys().copied().collect()
    }

    pub(crate) fn random_stream(&mut self) -> Option<UpstreamId> {
        let ids = self.stream_ids();
        self.rng.choice(ids)
    }

    pub(crate) fn server_step(&mut self, id: UpstreamId) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else {
            return false;
        };
        let credentials = stream.credentials.clone();
        let applied = self.members[stream.member];
        let refusal = self
            .refusal(credentials.as_ref())
            .map(|status| match status.code {
                3 => "rpc error: code = InvalidArgument desc = etcdserver: user name is empty",
                16 => "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token",
                _ => "rpc error: code = PermissionDenied desc = etcdserver: permission denied",
            });
        let stream = self.streams.get_mut(&id).expect("it was there");
        stream.step(applied, refusal)
    }

    pub(crate) fn server_sync(&mut self, id: UpstreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.sync(&self.store, self.members[stream.member]);
        }
    }

    pub(crate) fn server_send(&mut self, id: UpstreamId) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else {
            return false;
        };
        let Some(message) = stream.send(&mut self.rng) else {
            return false;
        };
        self.tell(Event::UpstreamSent(id, message));
        true
    }

    /// A member applies the next revision.
    pub(crate) fn apply(&mut self, member: usize) -> bool {
        if self.members[member] >= self.store.revision {
            return false;
        }
        self.members[member] += 1;
        for stream in self.streams.values_mut().filter(|stream| stream.member == member) {
            stream.applied(&self.store, self.members[member]);
        }
        true
    }

    pub(crate) fn end_stream(&mut self, id: UpstreamId, code: u8, message: &'static str) {
        if self.streams.remove(&id).is_some() {
            self.lost_first.get_or_insert(self.now);
            self.look_whether_all_are_lost();
            self.tell(Event::UpstreamEnded(id, Status::new(code, message)));
        }
    }

    /// The connection of a stream isn't the one in use any more.
    pub(crate) fn supersede_stream(&mut self, id: UpstreamId) {
        self.lost_first.get_or_insert(self.now);
        self.tell(Event::UpstreamSuperseded(id));
        assert!(!self.streams.contains_key(&id), "it has been left");
    }

    /// All streams end.
    pub(crate) fn end_streams(&mut self) {
        for id in self.stream_ids() {
            self.end_stream(id, 14, "restart");
        }
    }

    /// A token loses its permission.
    pub(crate) fn deny(&mut self, token: &'static str) {
        let token = Bytes::from_static(token.as_bytes());
        self.denied.insert(token.clone());
        if self.hub.stats().upstreams != self.streams.len() {
            // What isn't on a stream may have been asked about already.
            return;
        }
        let of_token = |client: &&Client| client.caller.credentials.clone().unwrap_or_default() == token;
        let clients = self.clients.iter().filter(of_token);
        let watchers = clients.flat_map(|client| client.watching.keys().map(|id| (client.id, *id)));
        let cut_off = CutOff {
            watchers: watchers.collect(),
            after: None,
        };
        self.cut_off.insert(token, cut_off);
        self.look_whether_all_are_lost();
    }

    /// A token has its permission again.
    pub(crate) fn permit(&mut self, token: &[u8]) {
        self.denied.remove(token);
        self.cut_off.remove(token);
    }

    fn look_whether_all_are_lost(&mut self) {
        if self
            .streams
            .values()
            .all(|stream| stream.kind == UpstreamKind::Leader)
        {
            let now = self.store.revision;
            for cut_off in self.cut_off.values_mut() {
                cut_off.after.get_or_insert(now);
            }
        }
    }

    /// A client takes a frame.
    pub(crate) fn take(&mut self, client: usize) -> bool {
        let Some(frame) = self.clients[client].outbox.pop_front() else {
            return false;
        };
        let id = self.clients[client].id;
        self.tell(Event::ClientTook(id, frame.len()));
        true
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.hub.next_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.tell(Event::Timeout);
        }
        self.now = end;
    }

    /// The hub does what was too much for the events that brought it.
    pub(crate) fn finish_work(&mut self) -> bool {
        let mut more = false;
        while self.hub.next_timeout().is_some_and(|at| at <= self.now) {
            self.tell(Event::Timeout);
            more = true;
        }
        more
    }

    /// Everybody does what there is to do, without time passing, but for stopped clients.
    pub(crate) fn settle(&mut self) {
        let mut more = true;
        while more {
            more = false;
            for member in 0..self.members.len() {
                while self.apply(member) {}
            }
            while self.answer_check() {
                more = true;
            }
            while self.hear_answer() {
                more = true;
            }
            for id in self.stream_ids() {
                while self.server_step(id) {
                    more = true;
                }
                self.server_sync(id);
                while self.server_send(id) {
                    more = true;
                }
            }
            for client in 0..self.clients.len() {
                // The hub's work may end some meanwhile.
                while self.clients.get(client).is_some_and(|client| !client.stopped) && self.take(client) {
                    more = true;
                }
            }
            more |= self.finish_work();
        }
    }

    /// [`settle`](Self::settle) and time, in turns.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.settle();
        while self.now < end {
            self.pass(Duration::from_millis(20));
            self.settle();
        }
    }

    /// Watchers that servers have, of one kind of stream.
    pub(crate) fn server_watchers(&self, kind: UpstreamKind) -> usize {
        let streams = self.streams.values().filter(|stream| stream.kind == kind);
        streams.map(Stream::watchers).sum()
    }
}
