//! Leases: what a scenario may do with them, and their end: first they live for as long as their clients keep them, then
//! no longer.

use std::time::Duration;

use etcd_proxy_core::lease::Stats;
use etcd_proxy_core::rpc::Rpc;
use etcd_proxy_model::status::Status;

use super::World;
use crate::delivery::LeaseTag;
use crate::io::Identity;
use crate::op::Op;
use crate::oracle::{Heartbeats, LeaseTold};
use crate::situations::Situation;
use crate::world::Manner;

/// How long a heartbeat may take when all is well: one that is behind a lease that has ended and isn't revoked yet, or
/// is sent again.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Some TTLs.
const KEPT_FOR: Duration = Duration::from_secs(14);

/// How long clients of little room may take to read all there is.
const COMPLETE_MAX: Duration = Duration::from_secs(60);

/// Longer than the TTL of any lease, and than routers remember them.
const GONE_MAX: Duration = Duration::from_secs(45);

impl World {
    /// A client is granted a lease that lives for so many seconds. Answers its id.
    ///
    /// # Panics
    /// When it isn't granted within ten seconds.
    pub fn grant(&mut self, client: usize, ttl: i64) -> i64 {
        let op = self.clients[client].grant(ttl);
        let Op::LeaseGrant { lease, .. } = op else {
            panic!("a lease is granted with a grant");
        };
        let call = self.call(client, op, Manner::default());
        self.answer(call, Duration::from_secs(10))
            .expect("the cluster is well");
        lease
    }

    /// A client makes a LeaseKeepAlive call. Waits until the client is connected.
    ///
    /// # Panics
    /// When the client isn't connected after ten seconds.
    pub fn keep_alive(&mut self, client: usize, identity: Identity, require_leader: bool) -> LeaseTag {
        self.run_while(Duration::from_secs(10), |world| {
            !world.clients[client].is_connected()
        });
        let call = self.clients[client].open_lease_call(&mut self.io, identity, require_leader);
        self.heard();
        call
    }

    /// A client sends a heartbeat.
    pub fn beat(&mut self, call: LeaseTag, lease: i64) {
        self.clients[call.client].beat(&mut self.io, call, lease);
        self.heard();
    }

    /// A client sends so many heartbeats, each when the one before is answered.
    pub fn beat_in_loop(&mut self, call: LeaseTag, lease: i64, times: u32) {
        self.clients[call.client].beat_in_loop(&mut self.io, call, lease, times);
        self.heard();
    }

    /// A client keeps a lease of its own alive from now on, with a heartbeat every third of the TTL, first on this call
    /// and on another one when that has ended.
    pub fn keep(&mut self, call: LeaseTag, lease: i64) {
        self.clients[call.client].keep(&mut self.io, call, lease);
        self.heard();
    }

    /// A client goes silent: it keeps no lease alive any more, and stays connected.
    pub fn keep_none(&mut self, client: usize) {
        self.clients[client].keeps_none();
    }

    /// A client sends what isn't a heartbeat.
    pub fn beat_nonsense(&mut self, call: LeaseTag) {
        self.clients[call.client].lease_nonsense(&mut self.io, call);
        self.heard();
    }

    /// A client sends nothing more on a LeaseKeepAlive call.
    pub fn half_close_beats(&mut self, call: LeaseTag) {
        self.clients[call.client].lease_half_close(&mut self.io, call);
        self.heard();
    }

    /// A client ends a LeaseKeepAlive call.
    pub fn close_beats(&mut self, call: LeaseTag) {
        self.clients[call.client].lease_close(&mut self.io, call);
        self.heard();
    }

    /// A client reads nothing on a LeaseKeepAlive call for now, or reads again.
    pub fn reads_beats(&mut self, call: LeaseTag, reads: bool) {
        self.clients[call.client].lease_reads(&mut self.io, call, reads);
        self.heard();
    }

    /// What a client was told on a LeaseKeepAlive call.
    #[must_use]
    pub fn answers(&self, call: LeaseTag) -> &[LeaseTold] {
        &self.oracle.leasing.calls[&call].told
    }

    /// How a LeaseKeepAlive call ended: with a status, or by its client.
    #[must_use]
    pub fn beats_ended(&self, call: LeaseTag) -> Option<&Option<Status>> {
        self.oracle.leasing.calls[&call].ended.as_ref()
    }

    /// Leases that there are, by ascending id.
    #[must_use]
    pub fn leases(&self) -> Vec<i64> {
        self.oracle.leasing.alive().collect()
    }

    /// All is well from now on, or perhaps not any more: while it is, no heartbeat may wait for long, leases that are
    /// kept live, and others end in their time.
    pub fn promise_leases(&mut self, all_is_well: bool) {
        if all_is_well {
            self.delivers(ANSWER_MAX, true);
        } else {
            self.delivers_no_more();
        }
    }

    /// Whether every heartbeat is answered that clients with an open call wait for.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.oracle.leasing.is_complete()
    }

    /// Heartbeats of all clients, and LeaseKeepAlive calls to members, so far.
    #[must_use]
    pub fn lease_cost(&self) -> (Heartbeats, u64) {
        (
            self.oracle.leasing.heartbeats(),
            self.oracle.leasing.upstreams().0,
        )
    }

    /// What a proxy's lease router counts.
    #[must_use]
    pub fn lease_stats(&self, proxy: usize) -> Stats {
        self.proxies[proxy].lease_stats()
    }

    /// A member ends all its LeaseKeepAlive calls with this status. Tells how many.
    pub fn end_keep_alives(&mut self, member: usize, code: u8, message: &'static str) -> usize {
        let status = Status::new(code, message);
        let ended = self
            .members
            .end_streams(&mut self.io, member, Rpc::LeaseKeepAlive, &status);
        self.heard();
        ended
    }

    /// All clients read, and only keep alive the leases that they keep: those live on, and others end. Then all
    /// heartbeats are answered.
    pub(super) fn complete_leases(&mut self) {
        for client in &mut self.clients {
            client.reads_all_leases(&mut self.io);
        }
        self.heard();
        // What went wrong before may be in the way for a moment.
        self.run_for(ANSWER_MAX);
        self.delivers(ANSWER_MAX, true);
        self.run_for(KEPT_FOR);
        self.count_kept(Situation::CheckedLeaseKept);
        if self.io.rng.bool() {
            self.delivers_no_more();
            self.episode();
            self.delivers(ANSWER_MAX, true);
            self.run_for(ANSWER_MAX);
            self.count_kept(Situation::CheckedLeaseSurvives);
        }
        for client in &mut self.clients {
            client.keeps_none();
        }
        let give_up = self.io.now + COMPLETE_MAX;
        while !self.oracle.leasing.is_complete() {
            assert!(
                self.io.now < give_up,
                "there are heartbeats without answer: {:#?}",
                self.oracle.leasing
            );
            self.run_for(Duration::from_millis(50));
        }
        self.io.count(Situation::CheckedLeasesComplete);
        for proxy in &self.proxies {
            let stats = proxy.lease_stats();
            for (situation, times) in [
                (Situation::RouterResent, stats.resent),
                (Situation::RouterShared, stats.shared),
                (Situation::RouterStall, stats.stalls),
            ] {
                self.io.counts.add_many(situation, times);
            }
        }
        self.delivers_no_more();
    }

    fn count_kept(&mut self, situation: Situation) {
        let kept = self.oracle.leasing.kept(self.io.now);
        let kept = u64::try_from(kept).expect("few");
        self.io.counts.add_many(situation, kept);
    }

    /// All clients have gone, and so do all leases, each in its time; then routers forget them.
    pub(super) fn leases_end(&mut self) {
        self.delivers(ANSWER_MAX, true);
        let give_up = self.io.now + GONE_MAX;
        let knows = |world: &Self| world.proxies.iter().any(|proxy| proxy.lease_stats().leases > 0);
        while self.oracle.leasing.alive().len() > 0 || knows(self) {
            assert!(
                self.io.now < give_up,
                "there are still leases: {:#?}",
                self.oracle.leasing
            );
            self.run_for(Duration::from_millis(100));
        }
        let heartbeats = self.oracle.leasing.heartbeats();
        assert!(
            heartbeats.sent <= heartbeats.heard + heartbeats.lost,
            "more heartbeats were sent than clients sent: {heartbeats:?}"
        );
        self.delivers_no_more();
    }
}
