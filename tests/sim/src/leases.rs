//! The leases of a client and its LeaseKeepAlive calls, and what it does with them at random.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_core::rpc::Rpc;
use etcd_proxy_model::status::Status;
use etcd_proxy_proto::etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use prost::Message as _;

use crate::client::{Client, Target};
use crate::delivery::{Delivery, Frame, LeaseTag, Opening, Reason, Step, StreamNo};
use crate::io::{Identity, Io, LeaseNote, Note};
use crate::net::Side;
use crate::op::{Key, Op};
use crate::oracle::Oracle;

/// Settings of what a client does with leases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Time between two things that it does; `None`: it does only what it is told to.
    pub pause: Option<Range<Duration>>,
    /// Most LeaseKeepAlive calls open at a time.
    pub calls_max: usize,
    /// Most leases that it has at a time, about.
    pub leases_max: usize,
    /// Longest TTL that it asks for, in seconds.
    pub ttl_max: i64,
    /// Answers that it has room for.
    pub window: u32,
    /// How often it stops reading, in percent of what it does.
    pub stops_percent: u8,
    /// Share of LeaseKeepAlive calls with `hasleader`, in percent.
    pub require_leader_percent: u8,
    /// Share of LeaseKeepAlive calls whose token may read some of the keys only, in percent. They matter where users
    /// must authenticate.
    pub reader_percent: u8,
}

impl Config {
    /// It does only what it is told to.
    #[must_use]
    pub const fn scripted() -> Self {
        Self {
            pause: None,
            calls_max: usize::MAX,
            leases_max: usize::MAX,
            ttl_max: i64::MAX,
            window: 16,
            stops_percent: 0,
            require_leader_percent: 0,
            reader_percent: 0,
        }
    }
}

/// The leases of a client.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    open: BTreeMap<StreamNo, Call>,
    last: u32,
    /// Leases that it has asked for, ever.
    asked_for: i64,
    /// Those that it has, and their TTLs in seconds.
    owned: BTreeMap<i64, i64>,
    /// Those that it keeps alive as clientv3 does: with a heartbeat every third of the TTL, on another call when one
    /// has ended.
    kept: BTreeMap<i64, Option<LeaseTag>>,
}

/// A LeaseKeepAlive call.
#[derive(Debug)]
struct Call {
    tag: LeaseTag,
    identity: Identity,
    half_closed: bool,
    /// Heartbeats to be sent one by one, each as soon as the one before is answered, and for which lease.
    again: Option<(i64, u32)>,
    /// It reads nothing for now.
    stopped: bool,
    unread: VecDeque<Bytes>,
    /// How it ended, behind what is unread.
    ended: Option<Status>,
}

/// A lease that there never is.
const UNKNOWN: i64 = 4_711;

/// Keys that end with leases come after all others.
const LEASED_KEYS: u8 = 200;

fn note(io: &mut Io, lease: LeaseTag, what: LeaseNote) {
    io.notes.push(Note::Lease { lease, what });
}

impl Client {
    /// Begins a LeaseKeepAlive call.
    pub(crate) fn open_lease_call(
        &mut self,
        io: &mut Io,
        identity: Identity,
        require_leader: bool,
    ) -> LeaseTag {
        let Target::Proxy(proxy) = self.config.target else {
            panic!("heartbeats go through a proxy");
        };
        self.leases.last += 1;
        let tag = LeaseTag {
            client: self.index(),
            number: self.leases.last,
        };
        let token = match identity {
            Identity::Anonymous => None,
            Identity::Reader => self.reader_token.clone(),
            Identity::Root => self.token.clone(),
        };
        let opening = Opening {
            rpc: Rpc::LeaseKeepAlive,
            tag: Some(tag),
            token: token.clone(),
            require_leader,
            window: self.config.lease.window,
        };
        let call = Call {
            tag,
            identity,
            half_closed: false,
            again: None,
            stopped: false,
            unread: VecDeque::new(),
            ended: None,
        };
        let stream = self.next_stream();
        self.leases.open.insert(stream, call);
        let opened = LeaseNote::Opened {
            proxy,
            token,
            require_leader,
        };
        note(io, tag, opened);
        let link = self.link().expect("only connected clients make calls");
        io.send(link, Side::Dialler, Frame::Open(stream, Rc::new(opening)));
        tag
    }

    fn lease_stream(&self, tag: LeaseTag) -> Option<StreamNo> {
        let found = self.leases.open.iter().find(|(_, call)| call.tag == tag);
        found.map(|(stream, _)| *stream)
    }

    /// A LeaseKeepAlive call that is open and not half-closed.
    fn beating(&mut self, tag: LeaseTag) -> Option<(StreamNo, &mut Call)> {
        let stream = self.lease_stream(tag)?;
        let call = self.leases.open.get_mut(&stream)?;
        (!call.half_closed).then_some((stream, call))
    }

    /// Sends a heartbeat.
    pub(crate) fn beat(&mut self, io: &mut Io, tag: LeaseTag, lease: i64) {
        let Some((stream, _)) = self.beating(tag) else {
            return;
        };
        note(io, tag, LeaseNote::Asked(lease));
        let request = LeaseKeepAliveRequest { id: lease };
        self.send(io, Frame::Message(stream, request.encode_to_vec().into()));
    }

    /// Sends so many heartbeats, each when the one before is answered.
    pub(crate) fn beat_in_loop(&mut self, io: &mut Io, tag: LeaseTag, lease: i64, times: u32) {
        if let Some((_, call)) = self.beating(tag) {
            call.again = times.checked_sub(1).map(|left| (lease, left));
            self.beat(io, tag, lease);
        }
    }

    /// Sends what isn't a heartbeat.
    pub(crate) fn lease_nonsense(&mut self, io: &mut Io, tag: LeaseTag) {
        let Some((stream, _)) = self.beating(tag) else {
            return;
        };
        note(io, tag, LeaseNote::AskedNonsense);
        self.send(io, Frame::Message(stream, Bytes::from_static(b"\x0a\xff")));
    }

    /// Sends nothing more on a LeaseKeepAlive call.
    pub(crate) fn lease_half_close(&mut self, io: &mut Io, tag: LeaseTag) {
        let Some((stream, call)) = self.beating(tag) else {
            return;
        };
        call.half_closed = true;
        note(io, tag, LeaseNote::HalfClosed);
        self.send(io, Frame::HalfClose(stream));
    }

    /// Ends a LeaseKeepAlive call.
    pub(crate) fn lease_close(&mut self, io: &mut Io, tag: LeaseTag) {
        let Some(stream) = self.lease_stream(tag) else {
            return;
        };
        self.leases.open.remove(&stream);
        note(io, tag, LeaseNote::Gone);
        self.send(io, Frame::Reset(stream, Reason::Cancel));
    }

    /// Reads nothing on a LeaseKeepAlive call, or again.
    pub(crate) fn lease_reads(&mut self, io: &mut Io, tag: LeaseTag, reads: bool) {
        let Some(stream) = self.lease_stream(tag) else {
            return;
        };
        let Some(call) = self.leases.open.get_mut(&stream) else {
            return;
        };
        if call.stopped == reads {
            call.stopped = !reads;
            note(io, tag, LeaseNote::Reads(reads));
            self.read_lease(io, stream);
        }
    }

    /// All LeaseKeepAlive calls are gone with the connection.
    pub(crate) fn leases_gone(&mut self, io: &mut Io) {
        for call in std::mem::take(&mut self.leases.open).into_values() {
            note(io, call.tag, LeaseNote::Gone);
        }
    }

    /// Every LeaseKeepAlive call is read again.
    pub(crate) fn reads_all_leases(&mut self, io: &mut Io) {
        for tag in self.lease_tags() {
            self.lease_reads(io, tag, true);
        }
    }

    /// Keeps no lease alive any more.
    pub(crate) fn keeps_none(&mut self) {
        self.leases.kept.clear();
        for call in self.leases.open.values_mut() {
            call.again = None;
        }
    }

    fn lease_tags(&self) -> Vec<LeaseTag> {
        self.leases.open.values().map(|call| call.tag).collect()
    }

    /// Something comes on a stream; nothing if it isn't one that is open.
    pub(crate) fn lease_frame(&mut self, io: &mut Io, stream: StreamNo, frame: Frame) {
        let Some(call) = self.leases.open.get_mut(&stream) else {
            return;
        };
        match frame {
            Frame::Message(_, message) => call.unread.push_back(message),
            Frame::End(_, status) => call.ended = Some(status),
            other => panic!("a LeaseKeepAlive call isn't sent {other:?}"),
        }
        self.read_lease(io, stream);
    }

    fn read_lease(&mut self, io: &mut Io, stream: StreamNo) {
        while let Some(call) = self.leases.open.get_mut(&stream)
            && !call.stopped
        {
            let tag = call.tag;
            if let Some(message) = call.unread.pop_front() {
                let response = LeaseKeepAliveResponse::decode(message.clone());
                let LeaseKeepAliveResponse { id, ttl, .. } = response.expect("a member wrote it");
                let again = call.again.take_if(|(lease, _)| *lease == id);
                note(io, tag, LeaseNote::Told(message));
                self.send(io, Frame::Window(stream, 1));
                if ttl <= 0 {
                    self.leases.owned.remove(&id);
                    self.leases.kept.remove(&id);
                }
                if let Some((lease, times)) = again.filter(|(_, left)| *left > 0) {
                    self.beat_in_loop(io, tag, lease, times);
                }
            } else if let Some(status) = call.ended.take() {
                let identity = call.identity;
                self.leases.open.remove(&stream);
                if matches!(status.code, 3 | 16) {
                    self.wants_token(identity);
                }
                note(io, tag, LeaseNote::Ended(status));
            } else {
                return;
            }
        }
    }

    /// A lease was granted.
    pub(crate) fn has_lease(&mut self, lease: i64, ttl: i64) {
        self.leases.owned.insert(lease, ttl);
    }

    /// Keeps a lease that it has alive from now on, on this call as long as there is it.
    pub(crate) fn keep(&mut self, io: &mut Io, tag: LeaseTag, lease: i64) {
        if self.leases.kept.insert(lease, Some(tag)).is_none() {
            self.keep_step(io, lease);
        }
    }

    /// The next heartbeat of a lease that it keeps alive.
    pub(crate) fn keep_step(&mut self, io: &mut Io, lease: i64) {
        let Some(ttl) = self.leases.owned.get(&lease).copied() else {
            self.leases.kept.remove(&lease);
            return;
        };
        let Some(mut tag) = self.leases.kept.get(&lease).copied() else {
            return;
        };
        if self.is_connected() {
            tag = tag.filter(|tag| self.beating(*tag).is_some());
            let tag = tag.unwrap_or_else(|| self.any_lease_call(io));
            self.leases.kept.insert(lease, Some(tag));
            self.beat(io, tag, lease);
        }
        let wait = Duration::from_millis(u64::try_from(ttl).unwrap_or(1) * 1_000 / 3);
        io.after(wait, Delivery::Client(self.index(), Step::Beat(lease)));
    }

    /// A new call, as anybody.
    fn any_lease_call(&mut self, io: &mut Io) -> LeaseTag {
        let config = &self.config.lease;
        let identity = match io.rng.u8(..100) {
            0..2 => Identity::Anonymous,
            other if other < 2 + config.reader_percent => Identity::Reader,
            _ => Identity::Root,
        };
        let require_leader = io.chance(config.require_leader_percent);
        self.open_lease_call(io, identity, require_leader)
    }

    /// Does something, and will again.
    pub(crate) fn lease_step(&mut self, io: &mut Io, oracle: &mut Oracle) {
        let Some(pause) = self.config.lease.pause.clone().filter(|_| !self.stopped) else {
            return;
        };
        let pause = io.within(pause);
        io.after(pause, Delivery::Client(self.index(), Step::Lease));
        if !self.is_connected() {
            return;
        }
        let (owned, calls) = (self.leases.owned.len(), self.leases.open.len());
        if owned == 0 || owned < self.config.lease.leases_max && io.chance(15) {
            let ttl = io.rng.i64(1..=self.config.lease.ttl_max);
            let op = self.grant(ttl);
            self.call(io, oracle, op, None, false);
        }
        if calls == 0 || calls < self.config.lease.calls_max && io.chance(10) {
            self.any_lease_call(io);
        }
        let tag = io.rng.choice(self.lease_tags()).expect("there is one");
        if io.chance(self.config.lease.stops_percent) {
            self.lease_reads(io, tag, false);
            let most = if io.chance(80) { 600 } else { 6_000 };
            let time = io.within(Duration::from_millis(20)..Duration::from_millis(most));
            let step = Step::ReadLeaseOn(tag);
            return io.after(time, Delivery::Client(self.index(), step));
        }
        self.do_anything(io, oracle, tag);
    }

    /// A lease that nobody has asked for before.
    pub(crate) fn grant(&mut self, ttl: i64) -> Op {
        self.leases.asked_for += 1;
        let own = i64::try_from(self.index()).expect("few") + 1;
        Op::LeaseGrant {
            lease: own * 10_000 + self.leases.asked_for,
            ttl,
        }
    }

    fn do_anything(&mut self, io: &mut Io, oracle: &mut Oracle, tag: LeaseTag) {
        let own = io.rng.choice(self.leases.owned.keys().copied());
        match io.rng.u8(..100) {
            0..35 => {
                let lease = self.any_lease(io, oracle);
                self.beat(io, tag, lease);
            }
            35..47 => {
                for _ in 0..io.rng.u8(2..12) {
                    let lease = self.any_lease(io, oracle);
                    self.beat(io, tag, lease);
                }
            }
            47..55 => {
                let (lease, times) = (self.any_lease(io, oracle), io.rng.u32(2..12));
                self.beat_in_loop(io, tag, lease, times);
            }
            55..72 => {
                if let Some(lease) = own {
                    self.keep(io, tag, lease);
                }
            }
            // It goes silent, and stays connected.
            72..77 => {
                if let Some(lease) = own {
                    self.leases.kept.remove(&lease);
                }
            }
            77..87 => {
                let tag = self.any_lease_call(io);
                let lease = self.any_lease(io, oracle);
                self.beat(io, tag, lease);
                self.lease_half_close(io, tag);
            }
            87..90 => self.lease_half_close(io, tag),
            90..94 => self.lease_close(io, tag),
            94 => self.lease_nonsense(io, tag),
            95..97 => {
                if let Some(lease) = own {
                    self.leases.owned.remove(&lease);
                    self.call(io, oracle, Op::LeaseRevoke { lease }, None, false);
                }
            }
            _ => {
                if let Some(lease) = own {
                    let key = Key(LEASED_KEYS + io.rng.u8(..4));
                    self.call(io, oracle, Op::PutLeased { key, lease }, None, false);
                }
            }
        }
    }

    /// Mostly one of its own.
    fn any_lease(&self, io: &mut Io, oracle: &Oracle) -> i64 {
        let own = io.rng.choice(self.leases.owned.keys().copied());
        let other = io.rng.choice(oracle.leasing.alive());
        match io.rng.u8(..20) {
            0 => UNKNOWN,
            1 => -1,
            2..5 => other.unwrap_or(0),
            _ => own.unwrap_or(UNKNOWN),
        }
    }
}

/// The first thing that a client does with leases comes some time after its start.
pub(crate) fn first_lease_step(io: &mut Io, index: usize, config: &Config) {
    if let Some(pause) = config.pause.clone() {
        let wait = io.within(pause);
        io.after(wait, Delivery::Client(index, Step::Lease));
    }
}
