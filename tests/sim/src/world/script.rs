//! What a scenario may do and see.

use std::time::Duration;

use etcd_proxy_core::rpc::Rpc;
use etcd_proxy_core::watch::{Stats, UpstreamKind};
use etcd_proxy_model::status::Status;
use etcd_proxy_proto::etcdserverpb::{WatchResponse, watch_request::RequestUnion};

use super::World;
use crate::delivery::{Answer, CallTag, WatchTag};
use crate::io::Identity;
use crate::op::Op;
use crate::oracle::Outcome;
use crate::situations::Situation;

/// How a call is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// Its deadline, from when it is made.
    pub timeout: Option<Duration>,
    /// `hasleader`.
    pub require_leader: bool,
}

/// What watches cost the members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchCost {
    /// Watchers that are caught up, or nearly.
    pub live: usize,
    /// Watchers that catch up.
    pub catching_up: usize,
    /// Create requests so far.
    pub creates: u64,
    /// Those that asked for previous pairs.
    pub prev_creates: u64,
    /// Watch calls made so far, but for those that only watch the leader.
    pub calls: u64,
}

impl World {
    /// A client makes a call. Waits until the client is connected.
    ///
    /// # Panics
    /// When the client isn't connected after ten seconds.
    pub fn call(&mut self, client: usize, op: Op, manner: Manner) -> CallTag {
        self.run_while(Duration::from_secs(10), |world| {
            !world.clients[client].is_connected()
        });
        let Manner {
            timeout,
            require_leader,
        } = manner;
        self.clients[client].call(&mut self.io, &mut self.oracle, op, timeout, require_leader)
    }

    /// A client gives a call up.
    pub fn give_up(&mut self, client: usize, call: CallTag) {
        let step = crate::delivery::Step::GiveUp(call);
        self.clients[client].step(&mut self.io, &mut self.oracle, step);
        self.heard();
    }

    /// How a call ended.
    #[must_use]
    pub fn outcome(&self, call: CallTag) -> &Outcome {
        &self.oracle.record(call).outcome
    }

    /// How often a call was handed to a connection, and how often a member began to work on it.
    #[must_use]
    pub fn attempts(&self, call: CallTag) -> (u32, u32) {
        let record = self.oracle.record(call);
        (record.sent, record.reached)
    }

    /// How long a call took.
    ///
    /// # Panics
    /// When it hasn't ended.
    #[must_use]
    pub fn took(&self, call: CallTag) -> Duration {
        let record = self.oracle.record(call);
        record.ended.expect("it has ended") - record.began
    }

    /// Waits for the answer to a call.
    ///
    /// # Panics
    /// When none comes within this time, or the call ends without one.
    pub fn answer(&mut self, call: CallTag, within: Duration) -> Answer {
        self.run_while(within, |world| *world.outcome(call) == Outcome::Open);
        match self.outcome(call) {
            Outcome::Answered(answer) => answer.clone(),
            other => panic!("{call:?} ended without an answer: {other:?}"),
        }
    }

    /// A client makes a Watch call. Waits until the client is connected.
    ///
    /// # Panics
    /// When the client isn't connected after ten seconds.
    pub fn watch(&mut self, client: usize, identity: Identity, require_leader: bool) -> WatchTag {
        self.run_while(Duration::from_secs(10), |world| {
            !world.clients[client].is_connected()
        });
        let watch = self.clients[client].open_watch(&mut self.io, identity, require_leader);
        self.heard();
        watch
    }

    /// A client sends a request on a Watch call; `None` is an empty one.
    pub fn ask(&mut self, watch: WatchTag, request: Option<RequestUnion>) {
        self.clients[watch.client].watch_ask(&mut self.io, watch, request);
        self.heard();
    }

    /// A client sends what isn't a request.
    pub fn ask_nonsense(&mut self, watch: WatchTag) {
        self.clients[watch.client].watch_nonsense(&mut self.io, watch);
        self.heard();
    }

    /// A client sends nothing more on a Watch call.
    pub fn half_close(&mut self, watch: WatchTag) {
        self.clients[watch.client].watch_half_close(&mut self.io, watch);
    }

    /// A client reads nothing on a Watch call for now, or reads again.
    pub fn reads(&mut self, watch: WatchTag, reads: bool) {
        self.clients[watch.client].watch_reads(&mut self.io, watch, reads);
        self.heard();
    }

    /// What a client was told on a Watch call.
    #[must_use]
    pub fn told(&self, watch: WatchTag) -> &[WatchResponse] {
        &self.oracle.watched(watch).told
    }

    /// How a Watch call ended: with a status, or by its client.
    #[must_use]
    pub fn ended(&self, watch: WatchTag) -> Option<&Option<Status>> {
        self.oracle.watched(watch).ended.as_ref()
    }

    /// Whether all clients that read have been told all that they asked for.
    #[must_use]
    pub fn is_complete(&mut self) -> bool {
        self.oracle.watches_are_complete()
    }

    /// Lets the world go on until all clients have been told all that they asked for.
    ///
    /// # Panics
    /// When that takes longer than this.
    pub fn complete(&mut self, within: Duration) {
        let until = self.io.now + within;
        while !self.is_complete() {
            assert!(
                self.io.now < until,
                "after {within:?} there is still something to come: {}",
                self.oracle.incomplete_watch()
            );
            self.run_for(Duration::from_millis(10));
        }
    }

    /// What a proxy's watch hub counts.
    #[must_use]
    pub fn watch_stats(&self, proxy: usize) -> Stats {
        self.proxies[proxy].watch_stats()
    }

    /// What all watches cost the members so far.
    #[must_use]
    pub fn watch_cost(&self) -> WatchCost {
        let upstreams = &self.oracle.watching.upstreams;
        WatchCost {
            live: upstreams.watchers(UpstreamKind::Live),
            catching_up: upstreams.watchers(UpstreamKind::CatchUp),
            creates: upstreams.creates,
            prev_creates: upstreams.prev_creates,
            calls: upstreams.opened,
        }
    }

    /// How often proxies' hubs have asked members for a revision or a permission.
    #[must_use]
    pub fn questions(&self) -> (u64, u64) {
        let of = |situation| self.io.counts.of(situation);
        (
            of(Situation::WatchRevisionRead),
            of(Situation::WatchPermissionAsked),
        )
    }

    /// A member ends all its Watch calls with this status. Tells how many.
    pub fn end_watches(&mut self, member: usize, code: u8, message: &'static str) -> usize {
        let ended = self
            .members
            .end_streams(&mut self.io, member, Rpc::Watch, &Status::new(code, message));
        self.heard();
        ended
    }

    /// The last revision that was committed.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.oracle.revision()
    }

    /// The member that a proxy uses.
    #[must_use]
    pub fn in_use(&self, proxy: usize) -> Option<usize> {
        self.proxies[proxy].in_use()
    }

    /// The member that leads.
    #[must_use]
    pub fn leader(&self) -> Option<usize> {
        self.members.cluster.leader()
    }

    /// What the cluster calls its members.
    #[must_use]
    pub fn member_ids(&self) -> &[u64] {
        &self.member_ids
    }

    /// Lets the world go on while something holds.
    ///
    /// # Panics
    /// When it still holds after this time.
    pub fn run_while(&mut self, within: Duration, holds: impl Fn(&Self) -> bool) {
        let until = self.io.now + within;
        while holds(self) {
            let next = self.io.queue.next_at().filter(|at| *at <= until);
            let Some(next) = next else {
                panic!("it still holds after {within:?}");
            };
            self.run_until(next);
        }
    }

    /// Waits until every proxy is served by a member that works.
    ///
    /// # Panics
    /// When that takes longer than ten seconds.
    pub fn settle(&mut self) {
        let rests = |world: &Self| world.proxies.iter().all(|proxy| proxy.rests(&world.io));
        self.run_while(Duration::from_secs(10), |world| {
            !rests(world) || world.leader().is_none()
        });
    }
}
