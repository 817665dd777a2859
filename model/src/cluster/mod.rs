//! Members that share one log, and the door through which clients and faults reach them.
//!
//! # How it works
//!
//! There is one log and one leader at most that can add to it: one that more than half of the members reach. An entry
//! is committed the moment such a leader gets it, and applied by every member that the leader reaches as soon as that
//! member's [lag](Fault::Lag) allows; a member answers a write when it has applied it, and a linearizable read when it
//! has applied what was committed when the leader confirmed the read. Everything takes no time unless a fault or a lag
//! makes it take some.
//!
//! What members know of one another is each member's own: who is cut off takes its leader for the leader until an
//! election timeout or two have gone by, and a leader that is cut off takes itself for one that long. What such a
//! leader is given may still be committed if it is reached again before another one is elected, and is lost if not.
//! A call that waits for something which doesn't come ends as etcd's does, after its request timeout: five seconds and
//! two election timeouts.
//!
//! Bounds: the log keeps 10,000 entries for members that are behind. What clients send is kept until the member takes
//! it, without a bound: see [`Cluster::backlog`].
//!
//! # What is not covered
//!
//! * These calls answer UNIMPLEMENTED ([`UNCOVERED`]): the services Election and Lock, for which etcdctl's
//!   `elect` and `lock` have no need; MemberAdd, MemberPromote, MemberRemove and MemberUpdate; Downgrade; Hash; Snapshot, as
//!   there is no database to be sent.
//! * Membership: members can't be added, removed, changed or be learners. Names are made up, and peer URLs
//!   where none are given.
//! * Everything of etcd that isn't gRPC: `/health`, `/metrics`, `/version`, the JSON gateway.
//! * TLS and identities of client certificates; the `client-api-version` metadata; compression; the limit of 5,000
//!   committed but unapplied entries is there, other overload (`--quota-backend-bytes`, disk latency) is not.
//! * Database sizes in Status are those of keys and values, and of the pages that a fresh database has. Defragment does nothing. Compactions are done at once,
//!   whether physical or not; there is no automatic compaction.
//! * A [restored](Cluster::restore) cluster's terms and indexes begin anew; here they go on.
//! * Raft itself: terms and indexes grow as they would, but votes, messages and disks aren't simulated; a leader's
//!   entry is either committed at once or not at all. Reads that wait for the leader don't queue behind one another, so
//!   they time out after one request timeout where a server's may take two.
//! * Lease checkpoints (off by default in etcd 3.5): a new leader gives every lease its whole TTL.
//! * The texts of decoding errors, behind `grpc: error unmarshalling request: `.
//! * What is special to `auth`, `lease`, `store` and `watch` stands in the documentation of those modules.

mod answer;
mod apply;
mod call;
mod election;
mod fault;
mod interest;
mod lease;
mod log;
mod node;
mod request;
mod stream;
#[cfg(test)]
mod tests;
mod types;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::time::Duration;

use bytes::Bytes;
use etcd_proxy_core::time::Instant;
use etcd_proxy_core::timer::TimerQueue;
use etcd_proxy_proto::etcdserverpb::ResponseHeader;

pub use self::request::{UNCOVERED, is_stream};
pub use self::types::{Action, Actions, CallId, Config, Event, Fault, Member, Metadata, StreamId};

use self::call::Call;
use self::election::Proposal;
use self::log::Log;
use self::node::{Node, Process, Unread};
use self::stream::Stream;
use crate::auth::{Identity, Tokens};
use crate::error::Error;
use crate::lease::{Deadlines, ttl_min};
use crate::state::State;
use crate::status::Status;

/// What gRPC adds to `--max-request-bytes` for the largest message that a server reads (etcd: 512 KiB).
const OVERHEAD_BYTES: usize = 512 * 1024;

/// A unary call, by its number in the order in which calls came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Serial(u64);

/// What there is to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// A member's lag is over for its next entry.
    Apply(Member),
    /// Members that lost the leader begin an election.
    Campaign,
    /// A call has taken too long.
    Call(Serial),
    /// A leader is elected.
    Elected,
    /// A member that is cut off notices.
    ForgetLeader(Member),
    /// A heartbeat has taken too long.
    KeepAlive(StreamId),
    /// A leader looks for leases that have ended.
    Leases(Member),
    /// A member has been without a leader for too long for streams that require one.
    LeaderlessStreams(Member),
    /// A watch stream has something to do.
    Watch(StreamId),
}

/// An etcd cluster.
#[derive(Debug)]
pub struct Cluster {
    config: Config,
    random: fastrand::Rng,
    id: u64,
    nodes: Vec<Node>,
    /// The leader of the last term, unless it stepped down. Perhaps nobody reaches it.
    leader: Option<Member>,
    term: u64,
    log: Log,
    /// What the leader was given and can't commit for want of others.
    uncommitted: Vec<Proposal>,
    /// What is committed; None if that is what the only member has applied.
    truth: Option<State>,
    calls: BTreeMap<Serial, Call>,
    call_ids: BTreeMap<CallId, Serial>,
    next_call: u64,
    streams: BTreeMap<StreamId, Stream>,
    /// Calls and streams that wait for a leader's lessor.
    asking_leases: BTreeSet<Serial>,
    renewing_leases: BTreeSet<StreamId>,
    is_electing: bool,
    timers: TimerQueue<Timer>,
    /// Of the event that is being handled.
    now: Instant,
    out: Actions,
}

impl Cluster {
    /// A cluster that has just elected its first leader and holds nothing.
    ///
    /// # Panics
    ///
    /// If it has no members or more than 9, or an election timeout of zero.
    #[must_use]
    pub fn new(now: Instant, config: Config) -> Self {
        assert!((1..=9).contains(&config.members), "a cluster has 1 to 9 members");
        assert!(!config.election_timeout.is_zero(), "elections take time");
        let mut random = fastrand::Rng::with_seed(config.seed);
        let id = random.u64(1..);
        let state = State::new(ttl_min(config.election_timeout));
        // Each member joins and says its name, the leader begins its term and sets the cluster's version.
        let last = 2 * config.members as u64 + 2;
        let nodes = (0..config.members).map(|_| {
            Node::new(
                random.u64(1..),
                last,
                state.clone(),
                Tokens::new(config.token_ttl),
            )
        });
        let nodes: Vec<_> = nodes.collect();
        let truth = (config.members > 1).then(|| state.clone());
        let leader = random.usize(..config.members);
        let mut cluster = Self {
            config,
            random,
            id,
            nodes,
            leader: Some(leader),
            term: 2,
            log: Log::new(last),
            uncommitted: Vec::new(),
            truth,
            calls: BTreeMap::new(),
            call_ids: BTreeMap::new(),
            next_call: 0,
            streams: BTreeMap::new(),
            asking_leases: BTreeSet::new(),
            renewing_leases: BTreeSet::new(),
            is_electing: false,
            timers: TimerQueue::default(),
            now,
            out: Actions::new(),
        };
        for node in &mut cluster.nodes {
            node.lead = Some(leader);
            node.term = 2;
        }
        cluster.nodes[leader].deadlines = Some(Deadlines::default());
        cluster
    }

    /// Takes note of an event. Everything that follows from it is pushed to `actions`.
    ///
    /// # Panics
    ///
    /// If the event names a member that isn't there, or a call or a stream that is open already.
    pub fn handle(&mut self, now: Instant, event: Event, actions: &mut Actions) {
        self.now = now;
        match event {
            Event::Timeout => {
                while let Some(timer) = self.timers.pop_due(now) {
                    self.fire(timer);
                    self.settle();
                }
            }
            Event::Fault(fault) => self.fault(fault),
            Event::CancelCall(call) => self.cancel(call),
            Event::Call { member, .. } => self.deliver(member, event),
            Event::Open {
                stream,
                member,
                ref metadata,
                credit,
                ..
            } => {
                if self.nodes[member].process != Process::Crashed {
                    self.register(stream, member, metadata, credit);
                    self.deliver(member, event);
                }
            }
            Event::Reset(stream) => self.reset(stream),
            Event::Message { stream, .. } | Event::HalfClose(stream) | Event::Credit { stream, .. } => {
                if let Some(Stream { member, .. }) = self.streams.get(&stream) {
                    self.deliver(*member, event);
                }
            }
        }
        self.settle();
        actions.append(&mut self.out);
    }

    /// When [`Event::Timeout`] is due next.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.next_timeout()
    }

    /// What the cluster has committed: the truth that an oracle holds answers against.
    #[must_use]
    pub fn committed(&self) -> &State {
        // A single member has applied what is committed, unless it lags; then the truth is kept.
        self.truth.as_ref().unwrap_or(&self.nodes[0].state)
    }

    /// What one member has applied.
    ///
    /// # Panics
    ///
    /// If there is no such member.
    #[must_use]
    pub fn applied(&self, member: Member) -> &State {
        &self.nodes[member].state
    }

    /// The member that leads, if any does: it runs, and more than half of the members reach it.
    #[must_use]
    pub fn leader(&self) -> Option<Member> {
        let leader = self.leader.filter(|leader| self.is_linked(*leader))?;
        self.has_quorum().then_some(leader)
    }

    /// Whether this member runs and knows a leader: what `hasleader` asks. It may not have noticed yet that its leader
    /// is gone.
    ///
    /// # Panics
    ///
    /// If there is no such member.
    #[must_use]
    pub fn has_leader(&self, member: Member) -> bool {
        let node = &self.nodes[member];
        node.is_running() && node.lead.is_some()
    }

    /// The id of the cluster, and the id of a member: what headers say.
    ///
    /// # Panics
    ///
    /// If there is no such member.
    #[must_use]
    pub fn ids(&self, member: Member) -> (u64, u64) {
        (self.id, self.nodes[member].id)
    }

    /// Messages of a stream's client that the member hasn't taken yet, because answers wait for credit or for the
    /// rest of the cluster. Who serves clients that can't be trusted reads no further while this is large.
    #[must_use]
    pub fn backlog(&self, stream: StreamId) -> usize {
        self.streams.get(&stream).map_or(0, Stream::backlog)
    }

    /// Calls that are open.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.call_ids.len()
    }

    /// Streams that are open.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    fn deliver(&mut self, member: Member, event: Event) {
        match self.nodes[member].process {
            Process::Crashed => {}
            Process::Frozen => self.nodes[member].inbox.push_back(Unread {
                event,
                abandoned: false,
            }),
            Process::Running => self.serve(event),
        }
    }

    /// What a running member does with what a client sends.
    fn serve(&mut self, event: Event) {
        match event {
            Event::Call {
                call,
                member,
                path,
                metadata,
                message,
            } => {
                self.accept(Some(call), member, &path, metadata, message);
            }
            Event::Open { stream, path, .. } => self.open(stream, &path),
            Event::Message { stream, message } => self.receive(stream, message),
            Event::HalfClose(stream) => self.half_close(stream),
            Event::Credit { stream, messages } => self.credit(stream, messages),
            // These don't wait for the member.
            Event::CancelCall(_) | Event::Reset(_) | Event::Timeout | Event::Fault(_) => {}
        }
    }

    fn fire(&mut self, timer: Timer) {
        let member = match timer {
            Timer::Campaign => return self.campaign(),
            Timer::Elected => return self.elected(),
            Timer::Apply(member)
            | Timer::ForgetLeader(member)
            | Timer::Leases(member)
            | Timer::LeaderlessStreams(member) => member,
            Timer::Call(serial) => match self.calls.get(&serial) {
                Some(call) => call.member,
                None => return,
            },
            Timer::KeepAlive(stream) | Timer::Watch(stream) => match self.streams.get(&stream) {
                Some(stream) => stream.member,
                None => return,
            },
        };
        if !self.nodes[member].is_running() {
            self.nodes[member].missed.push(timer);
            return;
        }
        match timer {
            // Settling applies what is due.
            Timer::Apply(_) | Timer::Campaign | Timer::Elected => {}
            Timer::Call(serial) => self.call_timeout(serial),
            Timer::ForgetLeader(member) => self.forget_leader(member),
            Timer::KeepAlive(stream) => self.renewal_timeout(stream),
            Timer::Leases(member) => self.expire_leases(member),
            Timer::LeaderlessStreams(member) => self.end_leaderless_streams(member),
            Timer::Watch(stream) => self.pump(stream),
        }
    }

    fn identify(&mut self, member: Member, token: Option<&Bytes>) -> Result<Identity, Error> {
        let node = &mut self.nodes[member];
        node.tokens.identify(
            self.now,
            node.applied,
            node.state.auth(),
            token.map(AsRef::as_ref),
        )
    }

    /// The header of a member's answers.
    fn header(&self, member: Member) -> ResponseHeader {
        let node = &self.nodes[member];
        ResponseHeader {
            cluster_id: self.id,
            member_id: node.id,
            revision: node.state.store().revision(),
            raft_term: node.term,
        }
    }

    /// How long a member tries to get something done (etcd: five seconds and two election timeouts).
    fn request_timeout(&self) -> Duration {
        Duration::from_secs(5).saturating_add(self.config.election_timeout.saturating_mul(2))
    }

    fn check_size(&self, message: &Bytes) -> Result<(), Status> {
        let (size, max) = (
            message.len(),
            self.config.request_bytes_max.saturating_add(OVERHEAD_BYTES),
        );
        if size > max {
            return Err(Status {
                code: 8,
                message: alloc::format!("grpc: received message larger than max ({size} vs. {max})").into(),
            });
        }
        Ok(())
    }
}
