//! Clients: each with a connection, and calls that it makes at random or is told to make.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_proto::etcdserverpb::LeaseGrantResponse;
use prost::Message as _;

use crate::delivery::{Answer, CallTag, Delivery, Frame, Reason, Request, Step, StreamNo};
use crate::io::Identity;
use crate::io::{Io, Note, within};
use crate::leases::{self, Leases};
use crate::net::{LinkId, Peer, Side};
use crate::op::{self, Key, Odd, Op};
use crate::oracle::Oracle;
use crate::watches::{self, Watches};

/// What a member says to a token that it doesn't know.
const INVALID_TOKEN: &str = "etcdserver: invalid auth token";

/// How long a client without a proxy waits for an answer: nobody else notices when its member is gone.
const DIRECT_PATIENCE: Duration = Duration::from_secs(15);

/// How long a client waits before it dials again.
const REDIAL_PAUSE: Duration = Duration::from_millis(40);

/// Whom a client talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A proxy, by its number.
    Proxy(usize),
    /// A member, by its number.
    Member(usize),
}

/// Settings of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Whom it talks to.
    pub target: Target,
    /// Time between two calls; `None`: it makes only those it is told to.
    pub pause: Option<Range<Duration>>,
    /// Most calls open at a time.
    pub calls_max: usize,
    /// Number of keys it uses.
    pub keys: u8,
    /// Share of writes, in percent.
    pub writes_percent: u8,
    /// Share of reads that are serializable, in percent.
    pub serializable_percent: u8,
    /// Share of calls with a deadline, in percent.
    pub deadlines_percent: u8,
    /// Share of calls that it gives up early, in percent.
    pub gives_up_percent: u8,
    /// Whether it waits for an answer even after its deadline; other clients give up then.
    pub patient: bool,
    /// Share of calls with `hasleader`, in percent.
    pub require_leader_percent: u8,
    /// Share of calls that a server refuses, in percent.
    pub odd_percent: u8,
    /// What it does with Watch calls.
    pub watch: watches::Config,
    /// What it does with leases.
    pub lease: leases::Config,
}

impl Config {
    /// A client of a proxy that makes only the calls it is told to.
    #[must_use]
    pub const fn scripted(proxy: usize) -> Self {
        Self {
            target: Target::Proxy(proxy),
            pause: None,
            calls_max: usize::MAX,
            keys: 8,
            writes_percent: 0,
            serializable_percent: 0,
            deadlines_percent: 0,
            gives_up_percent: 0,
            patient: true,
            require_leader_percent: 0,
            odd_percent: 0,
            watch: watches::Config::scripted(),
            lease: leases::Config::scripted(),
        }
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Client {
    index: usize,
    pub(crate) config: Config,
    link: Option<LinkId>,
    connected: bool,
    next_stream: u32,
    open: BTreeMap<StreamNo, CallTag>,
    /// What it authenticates its calls with.
    pub(crate) token: Option<Bytes>,
    /// What it authenticates some of its Watch calls with.
    pub(crate) reader_token: Option<Bytes>,
    /// It was told that a token is no good: members that restart forget tokens. First for the reader's.
    needs_reader_token: bool,
    needs_token: bool,
    /// The call that will bring it a new one.
    authenticating: Option<CallTag>,
    pub(crate) watches: Watches,
    pub(crate) leases: Leases,
    /// Members that it may make the leader.
    pub(crate) member_ids: Vec<u64>,
    /// It makes no calls of its own any more.
    pub(crate) stopped: bool,
}

impl Client {
    pub(crate) fn new(index: usize, config: Config) -> Self {
        Self {
            index,
            config,
            link: None,
            connected: false,
            next_stream: 0,
            open: BTreeMap::new(),
            token: None,
            reader_token: None,
            needs_reader_token: false,
            needs_token: false,
            authenticating: None,
            watches: Watches::default(),
            leases: Leases::default(),
            member_ids: Vec::new(),
            stopped: false,
        }
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// The number of a new stream.
    pub(crate) fn next_stream(&mut self) -> StreamNo {
        self.next_stream += 1;
        StreamNo(self.next_stream)
    }

    /// It needs another token, if it had one. Where nobody authenticates, nobody begins to, whatever a member says.
    pub(crate) fn wants_token(&mut self, identity: Identity) {
        match identity {
            Identity::Anonymous => {}
            Identity::Reader => self.needs_reader_token |= self.reader_token.is_some(),
            Identity::Root => self.needs_token |= self.token.is_some(),
        }
    }

    fn peer(&self) -> Peer {
        match self.config.target {
            Target::Proxy(proxy) => Peer::Proxy(proxy),
            Target::Member(member) => Peer::Member(member),
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connected
    }

    /// The connection it has.
    pub(crate) fn link(&self) -> Option<LinkId> {
        self.link
    }

    pub(crate) fn dial(&mut self, io: &mut Io) {
        self.link = Some(io.dial(Peer::Client(self.index), self.peer()));
        self.next_stream = 0;
    }

    pub(crate) fn dialled(&mut self, io: &mut Io, oracle: &mut Oracle, link: LinkId, accepted: bool) {
        if self.link != Some(link) {
            return io.close(link, Side::Dialler);
        }
        if accepted {
            self.connected = true;
            oracle.client_links.insert(self.index, link);
        } else {
            io.close(link, Side::Dialler);
            self.gone(io);
        }
    }

    /// Its connection is gone, and with it all calls.
    pub(crate) fn gone(&mut self, io: &mut Io) {
        self.link = None;
        self.connected = false;
        for call in std::mem::take(&mut self.open).into_values() {
            io.notes.push(Note::Abandoned { call });
        }
        self.watches_gone(io);
        self.leases_gone(io);
        io.after(REDIAL_PAUSE, Delivery::Client(self.index, Step::Reconnect));
    }

    /// Closes its connection for good.
    pub(crate) fn leave(&mut self, io: &mut Io) {
        self.stopped = true;
        if let Some(link) = self.link.take() {
            io.close(link, Side::Dialler);
            self.connected = false;
            for call in std::mem::take(&mut self.open).into_values() {
                io.notes.push(Note::Abandoned { call });
            }
            self.watches_gone(io);
            self.leases_gone(io);
        }
    }

    pub(crate) fn step(&mut self, io: &mut Io, oracle: &mut Oracle, step: Step) {
        match step {
            Step::Call => self.next_call(io, oracle),
            Step::GiveUp(call) => self.give_up(io, call),
            Step::Reconnect => {
                if self.link.is_none() && !self.stopped {
                    self.dial(io);
                }
            }
            Step::Watch => self.watch_step(io, oracle),
            Step::ReadOn(watch) => self.watch_reads(io, watch, true),
            Step::Lease => self.lease_step(io, oracle),
            Step::Beat(lease) => self.keep_step(io, lease),
            Step::ReadLeaseOn(lease) => self.lease_reads(io, lease, true),
        }
    }

    fn next_call(&mut self, io: &mut Io, oracle: &mut Oracle) {
        let Some(pause) = self.config.pause.clone().filter(|_| !self.stopped) else {
            return;
        };
        let pause = io.within(pause);
        io.after(pause, Delivery::Client(self.index, Step::Call));
        if !self.connected || self.open.len() >= self.config.calls_max {
            return;
        }
        let op = if std::mem::take(&mut self.needs_token) {
            Op::Authenticate { reader: false }
        } else if std::mem::take(&mut self.needs_reader_token) {
            Op::Authenticate { reader: true }
        } else {
            self.any_op(io, oracle)
        };
        // A server waits for ever for the new leader to lead.
        let endless = matches!(op, Op::MoveLeader { .. });
        let timeout = (endless || io.chance(self.config.deadlines_percent)).then(|| {
            let most = if io.chance(50) { 300 } else { 8_000 };
            io.within(Duration::from_millis(5)..Duration::from_millis(most))
        });
        let require_leader = io.chance(self.config.require_leader_percent);
        let call = self.call(io, oracle, op, timeout, require_leader);
        if io.chance(self.config.gives_up_percent) {
            let wait = io.within(Duration::ZERO..Duration::from_millis(400));
            io.after(wait, Delivery::Client(self.index, Step::GiveUp(call)));
        }
    }

    /// Makes a call.
    pub(crate) fn call(
        &mut self,
        io: &mut Io,
        oracle: &mut Oracle,
        op: Op,
        timeout: Option<Duration>,
        require_leader: bool,
    ) -> CallTag {
        let direct = matches!(self.config.target, Target::Member(_));
        let rpc = op.rpc();
        let authenticates = matches!(op, Op::Authenticate { .. });
        let tag = oracle.began(io.now, self.index, direct, op, timeout, require_leader);
        let message = oracle.record(tag).op.message(tag);
        if authenticates {
            self.authenticating = Some(tag);
        }
        let stream = self.next_stream();
        self.open.insert(stream, tag);
        let request = Request {
            tag,
            rpc,
            // A server judges a bad token before it looks at what is asked.
            token: self.token.clone().filter(|_| !authenticates),
            require_leader,
            timeout,
            message,
        };
        let link = self.link.expect("only connected clients make calls");
        io.send(link, Side::Dialler, Frame::Request(stream, Rc::new(request)));
        let impatience = if direct { Some(DIRECT_PATIENCE) } else { None };
        let impatience = if self.config.patient {
            impatience
        } else {
            timeout.or(impatience)
        };
        if let Some(wait) = impatience {
            io.after(wait, Delivery::Client(self.index, Step::GiveUp(tag)));
        }
        tag
    }

    fn give_up(&mut self, io: &mut Io, call: CallTag) {
        let stream = self
            .open
            .iter()
            .find(|(_, open)| **open == call)
            .map(|(stream, _)| *stream);
        if let (Some(stream), Some(link)) = (stream, self.link) {
            self.open.remove(&stream);
            io.send(link, Side::Dialler, Frame::Reset(stream, Reason::Cancel));
            io.notes.push(Note::Abandoned { call });
        }
    }

    pub(crate) fn frame(&mut self, io: &mut Io, oracle: &Oracle, link: LinkId, frame: Frame) {
        if self.link != Some(link) {
            return;
        }
        match frame {
            Frame::Answer(stream, answer) => {
                if let Some(call) = self.open.remove(&stream) {
                    self.look_at(oracle, call, &answer);
                    io.notes.push(Note::Answered { call, answer });
                }
            }
            // A client of a member itself takes a refusal, or the end of the connection, as the end of the call.
            Frame::Reset(stream, reason) => {
                if let Some(call) = self.open.remove(&stream) {
                    io.notes.push(match reason {
                        Reason::Refused => Note::Abandoned { call },
                        Reason::Cancel | Reason::Internal => Note::AnsweredByReset { call },
                    });
                }
            }
            Frame::GoAway(_) => {
                io.close(link, Side::Dialler);
                self.gone(io);
            }
            Frame::Gone => self.gone(io),
            Frame::Message(stream, _) | Frame::End(stream, _) => {
                if self.is_watch(stream) {
                    self.watch_frame(io, stream, frame);
                } else {
                    self.lease_frame(io, stream, frame);
                }
            }
            // Clients aren't sent these.
            Frame::HalfClose(_)
            | Frame::Open(..)
            | Frame::Ping
            | Frame::Pong
            | Frame::Request(..)
            | Frame::Window(..) => {}
        }
    }

    fn look_at(&mut self, oracle: &Oracle, call: CallTag, answer: &Answer) {
        let authenticating = self
            .authenticating
            .take_if(|authenticating| *authenticating == call);
        match answer {
            Err(status) if status.message == INVALID_TOKEN => self.needs_token = true,
            Ok(message) if authenticating.is_some() => {
                let token = op::token(message.clone());
                if matches!(oracle.record(call).op, Op::Authenticate { reader: true }) {
                    self.reader_token = token;
                } else {
                    self.token = token;
                }
            }
            Ok(message) => {
                if let Op::LeaseGrant { lease, .. } = oracle.record(call).op {
                    let response = LeaseGrantResponse::decode(message.clone());
                    self.has_lease(lease, response.map_or(0, |response| response.ttl));
                }
            }
            _ => {}
        }
    }

    fn any_op(&self, io: &mut Io, oracle: &Oracle) -> Op {
        let key = Key(io.rng.u8(..self.config.keys));
        if io.chance(self.config.odd_percent) {
            return match io.rng.u8(..8) {
                0 => Op::MemberList,
                1 => Op::Compact {
                    revision: oracle.revision() - io.rng.i64(0..50),
                },
                _ => Op::Odd(Odd::any(&mut io.rng)),
            };
        }
        if io.chance(self.config.writes_percent) {
            return match io.rng.u8(..9) {
                8 => Op::PutMany {
                    from: key,
                    count: io.rng.u8(2..5),
                },
                0 | 1 => Op::Delete { key },
                2 | 3 => {
                    let modified = oracle.modified(key);
                    let right = io.chance(80);
                    let modified = if right { modified } else { modified + 1 };
                    Op::PutIf { key, modified }
                }
                _ => Op::Put { key },
            };
        }
        let serializable = io.chance(self.config.serializable_percent);
        match io.rng.u8(..20) {
            0 => match io.rng.u8(..6) {
                0 if !self.member_ids.is_empty() => Op::MoveLeader {
                    to: self.member_ids[io.rng.usize(..self.member_ids.len())],
                },
                0..=2 => Op::Status,
                _ => Op::HashKv,
            },
            1 | 4 if oracle.revision() > 1 => {
                let revision = oracle.revision() - io.rng.i64(0..oracle.revision().min(30));
                Op::Get {
                    key,
                    serializable,
                    // Mostly one that was read before.
                    revision: (revision - 1) / 16 * 16 + 1,
                }
            }
            2 | 3 => Op::List {
                from: Key(0),
                to: key,
                serializable,
            },
            _ => Op::Get {
                key,
                serializable,
                revision: 0,
            },
        }
    }
}

/// The first call of a client comes some time after its start.
pub(crate) fn first_step(io: &mut Io, index: usize, config: &Config) {
    if let Some(pause) = config.pause.clone() {
        let wait = within(&mut io.rng, pause);
        io.after(wait, Delivery::Client(index, Step::Call));
    }
    watches::first_watch_step(io, index, &config.watch);
    leases::first_lease_step(io, index, &config.lease);
}
