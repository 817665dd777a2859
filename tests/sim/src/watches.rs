//! The Watch calls of a client, and what it does with them at random.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_core::rpc::Rpc;
use etcd_proxy_model::status::Status;
use etcd_proxy_proto::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
    watch_request::RequestUnion,
};
use prost::Message as _;

use crate::client::Client;
use crate::delivery::{Delivery, Frame, Opening, Reason, Step, StreamNo, WatchTag};
use crate::io::{Identity, Io, Note, WatchNote};
use crate::net::Side;
use crate::op::Key;
use crate::oracle::Oracle;

/// Settings of what a client does with Watch calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Time between two things that it does; `None`: it does only what it is told to.
    pub pause: Option<Range<Duration>>,
    /// Most Watch calls open at a time.
    pub calls_max: usize,
    /// Most watchers of each, about.
    pub watchers_max: usize,
    /// Messages that it has room for.
    pub window: u32,
    /// How often it stops reading, in percent of what it does.
    pub stops_percent: u8,
    /// Share of Watch calls with `hasleader`, in percent.
    pub require_leader_percent: u8,
    /// Share of Watch calls whose token may read some of the keys only, in percent. They matter where users must
    /// authenticate.
    pub reader_percent: u8,
}

impl Config {
    /// It does only what it is told to.
    #[must_use]
    pub const fn scripted() -> Self {
        Self {
            pause: None,
            calls_max: usize::MAX,
            watchers_max: usize::MAX,
            window: 16,
            stops_percent: 0,
            require_leader_percent: 0,
            reader_percent: 0,
        }
    }
}

/// The Watch calls of a client.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    open: BTreeMap<StreamNo, Watch>,
    last: u32,
}

#[derive(Debug)]
struct Watch {
    tag: WatchTag,
    identity: Identity,
    /// Its watchers, as it was told.
    ids: BTreeSet<i64>,
    /// Create requests without answer.
    creating: usize,
    half_closed: bool,
    /// It reads nothing for now.
    stopped: bool,
    unread: VecDeque<Bytes>,
    /// How it ended, behind what is unread.
    ended: Option<Status>,
}

/// What a server says of a token that it doesn't know, in a refusal to create a watcher.
const INVALID_TOKEN: &str = "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token";

/// What a server says of a token from before users or roles changed.
const OLD_REVISION: &str =
    "rpc error: code = InvalidArgument desc = etcdserver: revision of auth store is old";

impl Client {
    /// Begins a Watch call.
    pub(crate) fn open_watch(&mut self, io: &mut Io, identity: Identity, require_leader: bool) -> WatchTag {
        self.watches.last += 1;
        let tag = WatchTag {
            client: self.index(),
            number: self.watches.last,
        };
        let opening = Opening {
            rpc: Rpc::Watch,
            tag: None,
            token: match identity {
                Identity::Anonymous => None,
                Identity::Reader => self.reader_token.clone(),
                Identity::Root => self.token.clone(),
            },
            require_leader,
            window: self.config.watch.window,
        };
        let as_whom = if opening.token.is_none() {
            Identity::Anonymous
        } else {
            identity
        };
        let watch = Watch {
            tag,
            identity,
            ids: BTreeSet::new(),
            creating: 0,
            half_closed: false,
            stopped: false,
            unread: VecDeque::new(),
            ended: None,
        };
        let stream = self.next_stream();
        self.watches.open.insert(stream, watch);
        note(
            io,
            tag,
            WatchNote::Opened {
                as_whom,
                require_leader,
            },
        );
        let link = self.link().expect("only connected clients make calls");
        io.send(link, Side::Dialler, Frame::Open(stream, Rc::new(opening)));
        tag
    }

    fn stream_of(&self, tag: WatchTag) -> Option<StreamNo> {
        let found = self.watches.open.iter().find(|(_, watch)| watch.tag == tag);
        found.map(|(stream, _)| *stream)
    }

    /// Sends a request, or an empty one, on a Watch call that is open.
    pub(crate) fn watch_ask(&mut self, io: &mut Io, tag: WatchTag, union: Option<RequestUnion>) {
        let Some(stream) = self.stream_of(tag) else { return };
        if let Some(watch) = self.watches.open.get_mut(&stream) {
            watch.creating += usize::from(matches!(union, Some(RequestUnion::CreateRequest(_))));
        }
        note(io, tag, WatchNote::Asked(union.clone()));
        let request = WatchRequest { request_union: union };
        let frame = Frame::Message(stream, request.encode_to_vec().into());
        self.send(io, frame);
    }

    /// Sends what isn't a request.
    pub(crate) fn watch_nonsense(&mut self, io: &mut Io, tag: WatchTag) {
        let Some(stream) = self.stream_of(tag) else { return };
        note(io, tag, WatchNote::AskedNonsense);
        self.send(io, Frame::Message(stream, Bytes::from_static(b"\xff\xff")));
    }

    /// Sends nothing more on a Watch call.
    pub(crate) fn watch_half_close(&mut self, io: &mut Io, tag: WatchTag) {
        let Some(stream) = self.stream_of(tag) else { return };
        if let Some(watch) = self.watches.open.get_mut(&stream) {
            watch.half_closed = true;
        }
        self.send(io, Frame::HalfClose(stream));
    }

    /// Ends a Watch call.
    pub(crate) fn watch_close(&mut self, io: &mut Io, tag: WatchTag) {
        let Some(stream) = self.stream_of(tag) else { return };
        self.watches.open.remove(&stream);
        note(io, tag, WatchNote::Gone);
        self.send(io, Frame::Reset(stream, Reason::Cancel));
    }

    /// Reads nothing on a Watch call, or again.
    pub(crate) fn watch_reads(&mut self, io: &mut Io, tag: WatchTag, reads: bool) {
        let Some(stream) = self.stream_of(tag) else { return };
        let Some(watch) = self.watches.open.get_mut(&stream) else {
            return;
        };
        watch.stopped = !reads;
        note(io, tag, WatchNote::Reads(reads));
        self.read_watch(io, stream);
    }

    pub(crate) fn send(&mut self, io: &mut Io, frame: Frame) {
        if let Some(link) = self.link() {
            io.send(link, Side::Dialler, frame);
        }
    }

    /// All Watch calls are gone with the connection.
    pub(crate) fn watches_gone(&mut self, io: &mut Io) {
        for watch in std::mem::take(&mut self.watches.open).into_values() {
            note(io, watch.tag, WatchNote::Gone);
        }
    }

    /// Every Watch call is read again.
    pub(crate) fn reads_all(&mut self, io: &mut Io) {
        for tag in self.watch_tags() {
            self.watch_reads(io, tag, true);
        }
    }

    /// Watch calls that are open.
    pub(crate) fn watch_tags(&self) -> Vec<WatchTag> {
        self.watches.open.values().map(|watch| watch.tag).collect()
    }

    /// Whether something may be sent on a Watch call.
    pub(crate) fn may_ask(&self, tag: WatchTag) -> bool {
        self.stream_of(tag)
            .is_some_and(|stream| !self.watches.open[&stream].half_closed)
    }

    /// Whether a stream is a Watch call.
    pub(crate) fn is_watch(&self, stream: StreamNo) -> bool {
        self.watches.open.contains_key(&stream)
    }

    /// Something comes on a Watch call.
    pub(crate) fn watch_frame(&mut self, io: &mut Io, stream: StreamNo, frame: Frame) {
        let Some(watch) = self.watches.open.get_mut(&stream) else {
            return;
        };
        match frame {
            Frame::Message(_, message) => watch.unread.push_back(message),
            Frame::End(_, status) => watch.ended = Some(status),
            other => panic!("a Watch call isn't sent {other:?}"),
        }
        self.read_watch(io, stream);
    }

    fn read_watch(&mut self, io: &mut Io, stream: StreamNo) {
        while let Some(watch) = self.watches.open.get_mut(&stream)
            && !watch.stopped
        {
            let tag = watch.tag;
            if let Some(message) = watch.unread.pop_front() {
                let response = WatchResponse::decode(message.clone()).expect("it was written by the hub");
                let reason = watch.learn(&response);
                note(io, tag, WatchNote::Told(message));
                self.send(io, Frame::Window(stream, 1));
                self.look_at_refusal(io, tag, &reason);
            } else if let Some(status) = watch.ended.take() {
                let identity = watch.identity;
                self.watches.open.remove(&stream);
                if status.message.ends_with("not valid any more") {
                    self.wants_token(identity);
                }
                note(io, tag, WatchNote::Ended(status));
            } else {
                return;
            }
        }
    }

    /// A Watch call whose token is no good any more is of no use.
    fn look_at_refusal(&mut self, io: &mut Io, tag: WatchTag, reason: &str) {
        if reason != INVALID_TOKEN && reason != OLD_REVISION {
            return;
        }
        let stream = self.stream_of(tag);
        let identity = stream.map(|stream| self.watches.open[&stream].identity);
        self.wants_token(identity.unwrap_or(Identity::Root));
        self.watch_close(io, tag);
    }

    /// Does something, and will again.
    pub(crate) fn watch_step(&mut self, io: &mut Io, oracle: &Oracle) {
        let Some(pause) = self.config.watch.pause.clone().filter(|_| !self.stopped) else {
            return;
        };
        let pause = io.within(pause);
        io.after(pause, Delivery::Client(self.index(), Step::Watch));
        if !self.is_connected() {
            return;
        }
        let calls = self.watches.open.len();
        if calls == 0 || calls < self.config.watch.calls_max && io.chance(10) {
            let identity = match io.rng.u8(..100) {
                0..4 => Identity::Anonymous,
                other if other < 4 + self.config.watch.reader_percent => Identity::Reader,
                _ => Identity::Root,
            };
            let require_leader = io.chance(self.config.watch.require_leader_percent);
            self.open_watch(io, identity, require_leader);
            return;
        }
        let tags = self.watch_tags();
        let tag = io.rng.choice(tags).expect("there is one");
        if io.chance(self.config.watch.stops_percent) {
            self.watch_reads(io, tag, false);
            let most = if io.chance(80) { 600 } else { 6_000 };
            let time = io.within(Duration::from_millis(20)..Duration::from_millis(most));
            return io.after(time, Delivery::Client(self.index(), Step::ReadOn(tag)));
        }
        if io.chance(3) {
            return self.watch_close(io, tag);
        }
        if self.may_ask(tag) {
            self.ask_anything(io, oracle, tag);
        }
    }

    fn ask_anything(&mut self, io: &mut Io, oracle: &Oracle, tag: WatchTag) {
        let stream = self.stream_of(tag).expect("its caller has just found it");
        let watch = &self.watches.open[&stream];
        let room = self
            .config
            .watch
            .watchers_max
            .saturating_sub(watch.ids.len() + watch.creating);
        match io.rng.u8(..100) {
            0..60 if room > 0 => {
                let request = any_create(io, oracle, self.config.keys);
                let times = if io.chance(10) {
                    io.rng.usize(2..8).min(room)
                } else {
                    1
                };
                for _ in 0..times {
                    self.watch_ask(io, tag, Some(RequestUnion::CreateRequest(request.clone())));
                }
            }
            0..75 => {
                let ids: Vec<i64> = watch.ids.iter().copied().collect();
                let known = io.rng.choice(ids).filter(|_| !io.chance(10));
                let watch_id = known.unwrap_or_else(|| io.rng.i64(-1..8));
                let request = WatchCancelRequest { watch_id };
                self.watch_ask(io, tag, Some(RequestUnion::CancelRequest(request)));
            }
            75..95 => {
                let request = WatchProgressRequest {};
                self.watch_ask(io, tag, Some(RequestUnion::ProgressRequest(request)));
            }
            95..97 => self.watch_half_close(io, tag),
            _ => self.watch_ask(io, tag, None),
        }
    }
}

impl Watch {
    /// Takes in what it is told; answers why a watcher was refused or cancelled.
    fn learn(&mut self, response: &WatchResponse) -> String {
        if response.created {
            self.creating = self.creating.saturating_sub(1);
        }
        if response.canceled {
            self.ids.remove(&response.watch_id);
        } else if response.created {
            self.ids.insert(response.watch_id);
        }
        response.cancel_reason.clone()
    }
}

fn note(io: &mut Io, watch: WatchTag, what: WatchNote) {
    io.notes.push(Note::Watch { watch, what });
}

/// Any request for a watcher. There are few different ranges, so that they meet.
fn any_create(io: &mut Io, oracle: &Oracle, keys: u8) -> WatchCreateRequest {
    let key = |number: u8| Key(number).bytes();
    let all = Bytes::from_static(b"\0");
    let any = io.rng.u8(..keys);
    let (first, end) = match io.rng.u8(..20) {
        0..7 => (key(any), Bytes::new()),
        7..11 => (key(0), key(keys)),
        11..14 => (key(0), key(2)),
        14..16 => (key(1), key(4)),
        16 => (key(any), all),
        17 => (Bytes::new(), all),
        18 => (Bytes::new(), Bytes::new()),
        _ => (key(2), key(1)),
    };
    let now = oracle.revision();
    let start_revision = match io.rng.u8(..20) {
        0..9 => 0,
        9..15 => now - io.rng.i64(0..60).min(now - 1),
        15..17 => 1.max(oracle.compacted() + io.rng.i64(-3..4)),
        17..19 => now + io.rng.i64(1..20),
        _ => -io.rng.i64(1..5),
    };
    let mut filters = Vec::new();
    for filter in 0..2 {
        if io.chance(10) {
            filters.push(filter);
        }
    }
    WatchCreateRequest {
        key: first,
        range_end: end,
        start_revision,
        progress_notify: io.rng.bool(),
        filters,
        prev_kv: io.chance(30),
        watch_id: if io.chance(20) { io.rng.i64(1..6) } else { 0 },
        fragment: io.rng.bool(),
    }
}

/// The first thing that a client does with watches comes some time after its start.
pub(crate) fn first_watch_step(io: &mut Io, index: usize, config: &Config) {
    if let Some(pause) = config.pause.clone() {
        let wait = io.within(pause);
        io.after(wait, Delivery::Client(index, Step::Watch));
    }
}
