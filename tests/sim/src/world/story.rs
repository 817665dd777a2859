//! What happens in a run: faults, calm, the failure of one member, and an end without leftovers.

use std::time::Duration;

use etcd_proxy_core::time::Instant;
use etcd_proxy_model::cluster;

use super::World;
use super::faults::{FaultKind, SLOW};
use crate::oracle::{CALL_MAX, Delivers, Promise};
use crate::proxy::{Holdings, LeaseHoldings, ReadHoldings, WatchHoldings};
use crate::situations::Situation;

/// What is promised of reads when the member in use fails and others are well (with default settings).
const FAILOVER_MAX: Duration = Duration::from_secs(5);

/// How long the cluster may take to have a leader again after all is well.
const ELECTION_MAX: Duration = Duration::from_secs(15);

/// A long enough time for every call that is open to end.
const LAST_CALLS_MAX: Duration = CALL_MAX;

/// How long events may take, and answers on Watch calls, when all is well: opening a call anew, which waits for up to
/// a second after failures, and catching up.
pub(super) const DELIVERY_MAX: Duration = Duration::from_secs(4);

/// How the member in use fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Episode {
    BlackHole,
    Cut,
    Freeze,
    GoAway,
    Goodbye,
    Isolate,
    Kill,
    LoseLeader,
    PowerOff,
    Split,
}

impl Episode {
    const ALL: [Self; 10] = [
        Self::BlackHole,
        Self::Cut,
        Self::Freeze,
        Self::GoAway,
        Self::Goodbye,
        Self::Isolate,
        Self::Kill,
        Self::LoseLeader,
        Self::PowerOff,
        Self::Split,
    ];

    const fn situation(self) -> Situation {
        match self {
            Self::BlackHole => Situation::EpisodeBlackHole,
            Self::Cut => Situation::EpisodeCut,
            Self::Freeze => Situation::EpisodeFreeze,
            Self::GoAway => Situation::EpisodeGoAway,
            Self::Goodbye => Situation::EpisodeGoodbye,
            Self::Isolate => Situation::EpisodeIsolate,
            Self::Kill => Situation::EpisodeKill,
            Self::LoseLeader => Situation::EpisodeLoseLeader,
            Self::PowerOff => Situation::EpisodePowerOff,
            Self::Split => Situation::EpisodeSplit,
        }
    }

    /// Whether it can be survived without another member.
    const fn leaves_member(self) -> bool {
        matches!(self, Self::Cut | Self::GoAway | Self::LoseLeader)
    }
}

impl World {
    /// Lives through a whole run.
    ///
    /// # Panics
    /// When something happens that must not.
    pub fn live(&mut self) {
        self.trouble();
        self.calm();
        for _ in 0..self.io.rng.u8(1..3) {
            self.episode();
        }
        self.end();
    }

    fn trouble(&mut self) {
        for client in &mut self.clients {
            client.member_ids.clone_from(&self.member_ids);
        }
        if self.io.rng.bool() {
            self.settle();
        }
        for number in 0..self.settings.faults_max {
            let pause = self.io.within(self.settings.fault_pause.clone());
            self.run_for(pause);
            self.any_fault();
            if !self.settings.histories.is_empty() {
                self.save();
            }
            if let Some(restart) = self.settings.histories.get(&number).copied() {
                self.fault(FaultKind::History, 0, restart);
            }
        }
        let rest = self.io.within(Duration::ZERO..Duration::from_secs(3));
        self.run_for(rest);
    }

    /// Faults stop. Within a time all proxies must be served by a member that is as good as any, and from then on
    /// every call succeeds.
    fn calm(&mut self) {
        self.heal();
        for client in &mut self.clients {
            client.member_ids.clear();
        }
        // Calls of before end in their own time, and hidden members come back.
        self.settles(Duration::from_secs(3));
        self.promise(true, FAILOVER_MAX);
        self.delivers(DELIVERY_MAX, true);
        let time = self.io.within(Duration::from_millis(500)..Duration::from_secs(2));
        self.run_for(time);
        self.oracle.promise = None;
        self.delivers_no_more();
    }

    fn promise(&mut self, writes: bool, within: Duration) {
        self.oracle.promise = Some(Promise {
            reads_since: self.rested_at,
            since: self.io.now,
            within,
            writes,
        });
    }

    /// From now on what is due on streaming calls comes within this time.
    pub(super) fn delivers(&mut self, within: Duration, calm: bool) {
        let delivers = Delivers {
            since: self.io.now,
            within,
            calm,
        };
        self.oracle.watching.delivers = Some(delivers);
        self.oracle.leasing.serve(self.io.now, Some(delivers));
    }

    /// Nothing is promised any more.
    pub(super) fn delivers_no_more(&mut self) {
        self.oracle.watching.delivers = None;
        self.oracle.leasing.serve(self.io.now, None);
    }

    fn is_at_rest(&self) -> bool {
        let fit = |member: Option<usize>| member.is_some_and(|member| self.members.is_fit(member));
        let is_open = self.settings.auth || !self.members.cluster.committed().auth().enabled();
        is_open
            && self.members.cluster.leader().is_some()
            && (0..self.members.hosts.len()).all(|member| self.members.is_fit(member))
            && self
                .proxies
                .iter()
                .all(|proxy| proxy.rests(&self.io) && fit(proxy.in_use()))
    }

    /// Waits until the world is at rest, and so much longer. What a member was asked before may be carried out only then, when its
    /// connection works again: if that was to have users authenticate, it is waited for once more.
    fn settles(&mut self, longer: Duration) {
        let within = self.finds_within() + ELECTION_MAX;
        self.rests(within);
        self.run_for(longer);
        if !self.is_at_rest() {
            self.rests(within);
        }
    }

    fn rests(&mut self, within: Duration) {
        let began = self.io.now;
        while !self.is_at_rest() {
            self.keep_auth_off();
            self.run_for(Duration::from_millis(20));
            let took = self.io.now - began;
            assert!(
                took <= within,
                "not at rest after {took:?}: leader {:?}, in use {:?}, hosts {:?}",
                self.leader(),
                self.proxies
                    .iter()
                    .map(|proxy| proxy.in_use())
                    .collect::<Vec<_>>(),
                self.members.hosts
            );
        }
        self.rested_at = self.io.now;
        self.io.count(Situation::Rested);
    }

    /// A bound on the time in which a proxy finds a better member once nothing changes any more: the one in use turns
    /// out to be silent or without leader; an attempt that began before runs into its limits; hidden members wait at
    /// their cap and are tried one after the other.
    fn finds_within(&self) -> Duration {
        let config = &self.settings.proxy.endpoints;
        let members = u32::try_from(self.settings.cluster.members).expect("few");
        let silent = config.probe_interval.unwrap_or_default() + config.probe_timeout * 5 / 4;
        let attempt = config.connect_timeout + config.probe_timeout * 5 / 4;
        let hidden = config.backoff_max * 12 / 10;
        let on_the_way = self.settings.latency.end * 12;
        silent + config.challenge_interval + attempt + hidden + config.stagger * members + on_the_way
    }

    /// Tells the oracle what these settings promise.
    pub(super) fn set_bounds(&mut self) {
        // Timers are late, and the oracle looks ten times a second.
        let slack = Duration::from_millis(110);
        let connects_within = self.settings.proxy.endpoints.connect_timeout + slack;
        // SYN is sent again after a second.
        let reconnects_within = self.settings.latency.end * 6 + Duration::from_millis(1_250);
        let (finds_within, probed_within) = (self.finds_within(), self.probed_within());
        self.oracle
            .usage
            .set_bounds(finds_within, probed_within, connects_within, reconnects_within);
    }

    /// A bound on the time between two probes of a connection in use: each waits for the answer of the one before,
    /// which a link may make late for as long as other answers come.
    fn probed_within(&self) -> Duration {
        let config = &self.settings.proxy.endpoints;
        let latest = self.settings.latency.end * 3 * SLOW;
        config.probe_interval.unwrap_or_default() + config.probe_timeout * 3 + latest
    }

    /// The member in use fails while all others are well: reads go on, and soon writes as well.
    pub(super) fn episode(&mut self) {
        let episode = Episode::ALL[self.io.rng.usize(..Episode::ALL.len())];
        let members = self.members.hosts.len();
        if members < 3 && !episode.leaves_member() {
            return;
        }
        let absent = self.absent_member();
        let member = self.proxies[0].in_use().expect("it rests");
        self.io.trace.note(self.io.now, &(episode, member));
        self.io.count(episode.situation());
        self.oracle.usage.disturb(self.io.now);
        let within = match episode {
            // Its end is announced: nobody has to wait for a timeout.
            Episode::GoAway => Duration::from_millis(250) + self.settings.latency.end * 20,
            _ => self.failover_max(),
        };
        self.promise(false, within);
        self.delivers(within + DELIVERY_MAX, false);
        match episode {
            Episode::BlackHole => self.members.set_unreachable(&mut self.io, member, true),
            Episode::Cut => self.cut_all(member),
            Episode::Freeze => self.members.freeze(&mut self.io, member),
            Episode::GoAway => {
                for link in self.proxies[0].serving_links() {
                    let at_once = self.io.rng.bool();
                    self.members.say_goodbye(&mut self.io, link, at_once);
                }
            }
            Episode::Goodbye => self.members.set_says_goodbye(&mut self.io, member, true),
            Episode::Isolate => self.members.fault(&mut self.io, cluster::Fault::Isolate(member)),
            Episode::Kill => self.members.kill(&mut self.io, member),
            Episode::LoseLeader => self.members.fault(&mut self.io, cluster::Fault::LoseLeader),
            Episode::PowerOff => self.members.power_off(&mut self.io, member),
            Episode::Split => self.split(member),
        }
        self.heard();
        self.run_for(within);
        // By now everyone has moved, and there is a leader: nothing may fail any more.
        self.promise(true, within);
        self.run_for(Duration::from_secs(1));
        self.oracle.promise = None;
        self.run_for(DELIVERY_MAX);
        self.delivers_no_more();
        match episode {
            Episode::BlackHole => self.members.set_unreachable(&mut self.io, member, false),
            Episode::Freeze => self.members.thaw(&mut self.io, member),
            Episode::Goodbye => self.members.set_says_goodbye(&mut self.io, member, false),
            Episode::Isolate | Episode::Split => {
                self.members.fault(&mut self.io, cluster::Fault::Heal(member));
            }
            Episode::Kill | Episode::PowerOff => self.members.start(&mut self.io, member),
            Episode::Cut | Episode::GoAway | Episode::LoseLeader => {}
        }
        if let Some(absent) = absent {
            self.members.thaw(&mut self.io, absent);
            self.members.start(&mut self.io, absent);
        }
        self.oracle.usage.disturb(self.io.now);
        self.heard();
        self.settles(Duration::from_secs(3));
    }

    /// Where that leaves enough others, one member that isn't in use is dead or silent all the while, and nobody has
    /// noticed.
    fn absent_member(&mut self) -> Option<usize> {
        let members = self.members.hosts.len();
        let unused = |member: &usize| self.proxies.iter().all(|proxy| proxy.in_use() != Some(*member));
        let unused: Vec<usize> = (0..members).filter(unused).collect();
        if members < 5 || self.io.rng.bool() {
            return None;
        }
        let absent = self.io.rng.choice(unused)?;
        self.io.count(Situation::EpisodeAbsent);
        match self.io.rng.u8(..3) {
            0 => self.members.freeze(&mut self.io, absent),
            1 => self.members.kill(&mut self.io, absent),
            _ => self.members.power_off(&mut self.io, absent),
        }
        self.heard();
        // It may have been the leader.
        self.run_for(self.failover_max());
        self.rested_at = self.io.now;
        Some(absent)
    }

    /// All members lose one another, and after a while all but this one find together again. Reads that began before
    /// that are promised nothing.
    fn split(&mut self, member: usize) {
        self.oracle.promise = None;
        self.delivers_no_more();
        let others = (0..self.members.hosts.len()).filter(|other| *other != member);
        for other in others.clone().chain([member]) {
            self.members.fault(&mut self.io, cluster::Fault::Isolate(other));
        }
        self.heard();
        let time = self.io.within(Duration::from_secs(2)..Duration::from_secs(6));
        self.run_for(time);
        for other in others {
            self.members.fault(&mut self.io, cluster::Fault::Heal(other));
        }
        self.heard();
        self.oracle.usage.disturb(self.io.now);
        self.run_for(self.failover_max());
        self.rested_at = self.io.now;
    }

    /// How long a read may take when one member fails.
    fn failover_max(&self) -> Duration {
        let config = &self.settings.proxy.endpoints;
        let silent = config.probe_interval.unwrap_or_default() + config.probe_timeout * 5 / 4;
        let elected = self.settings.cluster.election_timeout * 3;
        FAILOVER_MAX.min(silent.max(elected) + config.connect_timeout + self.settings.latency.end * 10)
    }

    /// All is well, and clients leave: the world becomes quiet, and nothing is left over.
    fn end(&mut self) {
        for client in &mut self.clients {
            client.stopped = true;
        }
        let give_up = self.io.now + LAST_CALLS_MAX;
        while self.oracle.open_calls() > 0 && self.io.now < give_up {
            self.run_for(Duration::from_millis(50));
        }
        self.oracle.all_ended();
        self.complete_watches();
        self.complete_leases();
        for client in &mut self.clients {
            client.leave(&mut self.io);
        }
        self.heard();
        // Former connections end, hidden members are tried again, late frames arrive.
        self.settles(self.finds_within() + Duration::from_secs(2));
        self.leases_end();
        self.quiet();
        let proxies = self.proxies.len();
        let lanes = self.settings.proxy.endpoints.lanes as usize;
        for proxy in &self.proxies {
            let expected = Holdings {
                calls: 0,
                connections: lanes,
                connecting: 0,
                known: lanes,
                clients: 0,
                machine_connections: lanes,
                watch: WatchHoldings::default(),
                lease: LeaseHoldings::default(),
                read: ReadHoldings::default(),
            };
            assert_eq!(proxy.holds(), expected, "something is left over");
        }
        let links: Vec<_> = self.io.net.iter().collect();
        assert_eq!(
            self.io.net.len(),
            proxies * lanes,
            "connections are left over: {links:#?}"
        );
        assert_eq!(
            self.members.open_connections(),
            proxies * lanes,
            "members keep connections"
        );
        assert_eq!(self.members.open_calls(), 0, "members keep calls");
        assert_eq!(
            (self.members.open_streams(), self.members.cluster.streams()),
            (0, 0),
            "members keep streaming calls"
        );
        assert_eq!(self.oracle.watching.upstreams.calls(), 0, "hubs keep Watch calls");
        assert_eq!(
            self.oracle.leasing.upstreams().1,
            0,
            "routers keep LeaseKeepAlive calls"
        );
        self.oracle
            .settle(self.io.now, self.members.cluster.committed().store());
    }

    /// No dials, and no more probes than agreed.
    fn quiet(&mut self) {
        // An answer to a probe may be on its way now.
        let time = Duration::from_secs(10);
        let began: Instant = self.io.now;
        let before = self.oracle.efforts.clone();
        self.run_for(time);
        let interval = self.settings.proxy.endpoints.probe_interval.unwrap_or(time);
        let lanes = self.settings.proxy.endpoints.lanes;
        let probes = u32::try_from(time.as_nanos() / interval.as_nanos()).expect("few") + 1;
        for (effort, before) in self.oracle.efforts.iter().zip(&before) {
            let effort = effort.since(before);
            let dials: u32 = effort.dials.iter().sum();
            assert!(
                dials == 0 && effort.probes <= probes * lanes,
                "not quiet from {began:?} on: {effort:?}"
            );
            assert!(effort.probes > 0, "nobody is probed from {began:?} on");
        }
        self.io.count(Situation::Quiet);
    }
}
