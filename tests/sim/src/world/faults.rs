//! What can be done to the world, and how it is undone.

use std::time::Duration;

use etcd_proxy_core::rpc::Rpc;
use etcd_proxy_model::cluster;
use etcd_proxy_proto::etcdserverpb::AuthDisableRequest;
use prost::Message as _;

use super::World;
use crate::delivery::{CallTag, Delivery};
use crate::net::{LinkId, Peer, Side};
use crate::op::{self, Op};
use crate::situations::Situation;

macro_rules! kinds {
    ($($name:ident => $situation:ident, $doc:literal;)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum FaultKind {
            $(#[doc = $doc] $name,)*
        }

        impl FaultKind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// What it is called.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// The one of this name, whatever its case.
            ///
            /// # Errors
            /// When there is none.
            pub fn of_name(name: &str) -> Result<Self, String> {
                let mut kinds = Self::ALL.iter();
                let found = kinds.find(|kind| kind.name().eq_ignore_ascii_case(name));
                found.copied().ok_or_else(|| {
                    let names: Vec<&str> = Self::ALL.iter().map(|kind| kind.name()).collect();
                    format!("one of {}", names.join(", "))
                })
            }

            pub(crate) const fn situation(self) -> Situation {
                match self {
                    $(Self::$name => Situation::$situation,)*
                }
            }
        }
    };
}

kinds! {
    BlackHole => FaultBlackHole, "Nothing comes through from or to a member's host.";
    CancelWatcher => FaultCancelWatcher, "A member cancels a watcher, and doesn't say why.";
    ClientLost => FaultClientLost, "A client's connection to its proxy breaks.";
    ClusterGone => FaultClusterGone, "All members are killed.";
    Compact => FaultCompact, "History is compacted.";
    Cut => FaultCut, "A connection to a member breaks.";
    EndWatch => FaultEndWatch, "A member ends a streaming call.";
    Freeze => FaultFreeze, "A member's process gets no CPU.";
    GoAway => FaultGoAway, "A member ends a connection in good order.";
    Goodbye => FaultGoodbye, "A member ends all its connections at once, and every new one.";
    History => FaultHistory, "All members are killed, and start with what the store was at some time.";
    Isolate => FaultIsolate, "A member doesn't reach the others.";
    Kill => FaultKill, "A member's process dies.";
    Lag => FaultLag, "A member applies the log late.";
    LoseLeader => FaultLoseLeader, "The leader resigns.";
    PowerOff => FaultPowerOff, "A member's host loses power.";
    Refuse => FaultRefuse, "A member refuses streams.";
    Replace => FaultReplace, "A proxy is told of fewer members.";
    Reset => FaultReset, "A member resets streams.";
    Revoke => FaultRevoke, "Who may read some of the keys may not any more.";
    Slow => FaultSlow, "All links to a member are slow.";
    SwitchAuth => FaultSwitchAuth, "Users must authenticate for a while.";
    Stall => FaultStall, "One direction of a connection lets nothing through.";
}

/// How a fault is undone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Remedy {
    Start(usize),
    Thaw(usize),
    Reach(usize),
    StayPolite(usize),
    Heal(usize),
    CatchUp(usize),
    Unstall(LinkId, Side),
    SpeedUp(Vec<LinkId>),
    ListAll(usize),
    Permit,
    SwitchAuthOff,
}

/// How long the one who runs the cluster waits for an answer.
const OPERATOR_PATIENCE: Duration = Duration::from_millis(200);

/// Factor of slow links.
pub(super) const SLOW: u32 = 20;

impl World {
    /// Does something of this kind to any member, more likely to one in use.
    pub(super) fn any_fault(&mut self) {
        let kinds = &self.settings.faults;
        if kinds.is_empty() {
            return;
        }
        let mut kind = kinds[self.io.rng.usize(..kinds.len())];
        if self.remedies.values().any(|remedy| *remedy == Remedy::Permit) && self.io.chance(40) {
            // Permissions are asked for again when a Watch call is made anew.
            kind = FaultKind::EndWatch;
        }
        let any = self.io.rng.usize(..self.members.hosts.len());
        let in_use = self.proxies[self.io.rng.usize(..self.proxies.len())].in_use();
        let member = in_use.filter(|_| self.io.chance(60)).unwrap_or(any);
        let most = if self.io.chance(70) { 3_000 } else { 12_000 };
        let time = self
            .io
            .within(Duration::from_millis(10)..Duration::from_millis(most));
        self.fault(kind, member, time);
    }

    /// Does something to a member, or around it, for a while.
    pub fn fault(&mut self, kind: FaultKind, member: usize, time: Duration) {
        self.io.trace.note(self.io.now, &(kind, member, time));
        self.io.count(kind.situation());
        self.oracle.usage.disturb(self.io.now);
        let remedy = match kind {
            FaultKind::Kill => {
                self.members.kill(&mut self.io, member);
                Remedy::Start(member)
            }
            FaultKind::PowerOff => {
                self.members.power_off(&mut self.io, member);
                Remedy::Start(member)
            }
            FaultKind::ClusterGone => {
                for member in 0..self.members.hosts.len() {
                    self.members.kill(&mut self.io, member);
                    self.remedy_after(time, Remedy::Start(member));
                }
                return self.heard();
            }
            FaultKind::History => return self.go_back(time),
            FaultKind::Freeze => {
                self.members.freeze(&mut self.io, member);
                Remedy::Thaw(member)
            }
            FaultKind::BlackHole => {
                self.members.set_unreachable(&mut self.io, member, true);
                Remedy::Reach(member)
            }
            FaultKind::Goodbye => {
                self.members.set_says_goodbye(&mut self.io, member, true);
                Remedy::StayPolite(member)
            }
            FaultKind::Isolate => {
                self.members.fault(&mut self.io, cluster::Fault::Isolate(member));
                Remedy::Heal(member)
            }
            FaultKind::Lag => {
                let lag = self
                    .io
                    .within(Duration::from_millis(5)..Duration::from_millis(4_000));
                self.oracle.caching.lags(self.io.now + time, lag);
                self.members.fault(&mut self.io, cluster::Fault::Lag(member, lag));
                Remedy::CatchUp(member)
            }
            FaultKind::LoseLeader => {
                self.members.fault(&mut self.io, cluster::Fault::LoseLeader);
                return self.heard();
            }
            FaultKind::Refuse => {
                self.members.hosts[member].refuses_until = self.io.now + time;
                self.members.hosts[member].refuses_percent = self.io.rng.u8(20..=100);
                return;
            }
            FaultKind::Reset => {
                self.members.hosts[member].resets_until = self.io.now + time;
                self.members.hosts[member].resets_percent = self.io.rng.u8(10..=100);
                return;
            }
            FaultKind::Slow => {
                let links = self.io.net.links_of(member);
                for link in &links {
                    self.io.slow_down(*link, SLOW);
                }
                Remedy::SpeedUp(links)
            }
            FaultKind::Replace => return self.shorten_list(time),
            FaultKind::ClientLost => return self.lose_client(),
            FaultKind::CancelWatcher => {
                self.members.cancel_any_watcher(&mut self.io, member);
                return self.heard();
            }
            FaultKind::Compact => return self.compact(),
            FaultKind::EndWatch => {
                self.members.end_any_stream(&mut self.io, member);
                return self.heard();
            }
            FaultKind::SwitchAuth => {
                if !self.settings.switches_auth {
                    return;
                }
                if self.io.rng.bool() {
                    self.administer(Op::AuthEnable);
                } else if let Some(member) = self.member_that_answers() {
                    let message = Op::AuthEnable.message(CallTag::PROBE);
                    self.members
                        .operate(&mut self.io, member, Rpc::AuthEnable, None, message);
                }
                Remedy::SwitchAuthOff
            }
            FaultKind::Revoke => {
                if !self.settings.auth {
                    return;
                }
                self.administer(Op::Permit { allowed: false });
                Remedy::Permit
            }
            FaultKind::Cut | FaultKind::GoAway | FaultKind::Stall => {
                return self.link_fault(kind, member, time);
            }
        };
        self.remedy_after(time, remedy);
        self.heard();
    }

    fn link_fault(&mut self, kind: FaultKind, member: usize, time: Duration) {
        let Some(link) = self.any_link(member) else { return };
        match kind {
            FaultKind::Cut => {
                let lost = [self.io.rng.bool(), self.io.rng.bool()];
                self.io.break_link(link, lost);
            }
            FaultKind::GoAway => {
                let at_once = self.io.rng.bool();
                self.members.say_goodbye(&mut self.io, link, at_once);
            }
            _ => {
                let side = Side::BOTH[self.io.rng.usize(..2)];
                self.io.stall(link, side);
                self.remedy_after(time, Remedy::Unstall(link, side));
            }
        }
    }

    /// A connection of a proxy to this member, mostly one that takes calls.
    fn any_link(&mut self, member: usize) -> Option<LinkId> {
        let serving: Vec<LinkId> = self
            .proxies
            .iter()
            .flat_map(|proxy| proxy.serving_links())
            .collect();
        let of_member: Vec<LinkId> = self.io.net.links_of(member);
        let busy: Vec<LinkId> = serving
            .into_iter()
            .filter(|link| of_member.contains(link))
            .collect();
        let choice = if busy.is_empty() || self.io.chance(20) {
            of_member
        } else {
            busy
        };
        self.io.rng.choice(choice)
    }

    fn lose_client(&mut self) {
        let client = self.io.rng.usize(..self.clients.len());
        if let Some(link) = self.clients[client].link() {
            let lost = [self.io.rng.bool(), self.io.rng.bool()];
            self.io.break_link(link, lost);
        }
    }

    /// A client makes a call for the one who runs the cluster.
    fn administer(&mut self, op: Op) {
        let mut clients: Vec<usize> = (0..self.clients.len()).collect();
        self.io.rng.shuffle(&mut clients);
        let connected = |client: &usize| self.clients[*client].is_connected();
        if let Some(client) = clients.into_iter().find(connected) {
            self.clients[client].call(&mut self.io, &mut self.oracle, op, None, false);
        }
    }

    fn member_that_answers(&mut self) -> Option<usize> {
        let members: Vec<usize> = (0..self.members.hosts.len())
            .filter(|member| self.members.answers(*member))
            .collect();
        self.io.rng.choice(members)
    }

    /// Sees to it that nobody need authenticate in the end, where that is switched on at times.
    pub(super) fn keep_auth_off(&mut self) {
        let is_pending = |world: &Self| {
            let mut remedies = world.remedies.values();
            remedies.any(|remedy| *remedy == Remedy::SwitchAuthOff)
        };
        if self.settings.switches_auth
            && self.members.cluster.committed().auth().enabled()
            && !is_pending(self)
        {
            self.switch_auth_off();
        }
    }

    /// Nobody need authenticate any more: a token is asked for, and then that, until it is so.
    fn switch_auth_off(&mut self) {
        if !self.members.cluster.committed().auth().enabled() {
            // It isn't to come later either.
            self.members.operator_gives_up(&mut self.io);
            if self.oracle.is_open(&Op::AuthEnable) {
                self.remedy_after(OPERATOR_PATIENCE, Remedy::SwitchAuthOff);
            }
            return;
        }
        let token = self
            .members
            .operator_told()
            .and_then(Result::ok)
            .and_then(op::token);
        if let Some(member) = self.member_that_answers() {
            let (rpc, message) = match &token {
                Some(_) => (Rpc::AuthDisable, AuthDisableRequest {}.encode_to_vec().into()),
                None => {
                    let ask = Op::Authenticate { reader: false };
                    (Rpc::Authenticate, ask.message(CallTag::PROBE))
                }
            };
            self.members.operate(&mut self.io, member, rpc, token, message);
        }
        self.remedy_after(OPERATOR_PATIENCE, Remedy::SwitchAuthOff);
    }

    fn compact(&mut self) {
        let behind = self.io.rng.i64(0..10);
        let revision = self.oracle.revision() - behind;
        if revision > self.oracle.compacted() {
            self.administer(Op::Compact { revision });
        }
    }

    fn shorten_list(&mut self, time: Duration) {
        let proxy = self.io.rng.usize(..self.proxies.len());
        let mut listed: Vec<usize> = (0..self.members.hosts.len()).collect();
        self.io.rng.shuffle(&mut listed);
        listed.truncate(self.io.rng.usize(1..=listed.len()));
        self.list(proxy, listed);
        self.remedy_after(time, Remedy::ListAll(proxy));
    }

    fn list(&mut self, proxy: usize, listed: Vec<usize>) {
        self.proxies[proxy].replace(&mut self.io, &listed);
        self.oracle.usage.listed[proxy] = listed;
    }

    pub(super) fn remedy_after(&mut self, time: Duration, remedy: Remedy) {
        self.next_remedy += 1;
        self.remedies.insert(self.next_remedy, remedy);
        self.io.after(time, Delivery::Remedy(self.next_remedy));
    }

    pub(super) fn remedy(&mut self, number: u64) {
        if let Some(remedy) = self.remedies.remove(&number) {
            self.apply(remedy);
        }
    }

    fn apply(&mut self, remedy: Remedy) {
        self.io.trace.note(self.io.now, &remedy);
        self.oracle.usage.disturb(self.io.now);
        match remedy {
            Remedy::Start(member) => self.members.start(&mut self.io, member),
            Remedy::Thaw(member) => self.members.thaw(&mut self.io, member),
            Remedy::Reach(member) => self.members.set_unreachable(&mut self.io, member, false),
            Remedy::StayPolite(member) => self.members.set_says_goodbye(&mut self.io, member, false),
            Remedy::Heal(member) => self.members.fault(&mut self.io, cluster::Fault::Heal(member)),
            Remedy::CatchUp(member) => {
                let fault = cluster::Fault::Lag(member, Duration::ZERO);
                self.members.fault(&mut self.io, fault);
            }
            Remedy::Unstall(link, side) => self.io.unstall(link, side),
            Remedy::SpeedUp(links) => {
                for link in links {
                    self.io.slow_down(link, 1);
                }
            }
            Remedy::SwitchAuthOff => self.switch_auth_off(),
            Remedy::Permit => self.administer(Op::Permit { allowed: true }),
            Remedy::ListAll(proxy) => self.list(proxy, (0..self.members.hosts.len()).collect()),
        }
        self.heard();
    }

    /// Everything is well again.
    pub(super) fn heal(&mut self) {
        for remedy in std::mem::take(&mut self.remedies).into_values() {
            self.apply(remedy);
        }
        for host in &mut self.members.hosts {
            host.refuses_until = self.io.now;
            host.resets_until = self.io.now;
        }
    }

    /// All connections of proxies to this member break.
    pub(super) fn cut_all(&mut self, member: usize) {
        for link in self.io.net.links_of(member) {
            if self
                .io
                .net
                .link(link)
                .is_some_and(|link| matches!(link.dialler, Peer::Proxy(_)))
            {
                let lost = [self.io.rng.bool(), self.io.rng.bool()];
                self.io.break_link(link, lost);
            }
        }
    }
}
