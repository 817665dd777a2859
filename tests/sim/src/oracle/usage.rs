//! What must hold at every moment: no call hangs, no queue grows, nobody uses a member without leader for long.

use std::time::Duration;

use etcd_proxy_core::time::Instant;

use super::Oracle;
use super::answers::ends_by;
use crate::io::Io;
use crate::members::Members;
use crate::proxy::Proxy;
use crate::situations::Situation;

/// How many deliveries may be waiting.
const QUEUE_MAX: usize = 20_000;

/// Time over which dials are counted.
const EFFORTS_INTERVAL: Duration = Duration::from_secs(5);

/// Since when what is true now has been true.
#[derive(Clone, Debug)]
pub(crate) struct Usage {
    /// Each proxy uses nobody, or this member, which can't do what clients want.
    badly_served: Vec<Option<(Option<usize>, Instant)>>,
    /// Each proxy uses this member.
    in_use: Vec<(Option<usize>, Instant)>,
    /// Each member could do all that clients want.
    fit: Vec<Option<Instant>>,
    /// The last time that the cluster had no leader.
    pub(super) last_leaderless: Option<Instant>,
    /// The last time that something was done to the world.
    disturbed: Instant,
    /// How long it may take a proxy to find a better member when nothing disturbs it.
    finds_within: Duration,
    /// How long a connection in use may go without a new probe, its answers however late.
    probed_within: Duration,
    /// How long establishing a connection may take.
    connects_within: Duration,
    /// How long calls may wait for a connection to a member in use that is well.
    reconnects_within: Duration,
    /// When efforts were last looked at.
    efforts_since: Instant,
    /// Members that each proxy is told of.
    pub(crate) listed: Vec<Vec<usize>>,
}

impl Usage {
    pub(super) fn new(proxies: usize, members: usize) -> Self {
        Self {
            badly_served: vec![None; proxies],
            in_use: vec![(None, Instant::ZERO); proxies],
            fit: vec![None; members],
            last_leaderless: None,
            disturbed: Instant::ZERO,
            finds_within: Duration::MAX,
            probed_within: Duration::MAX,
            connects_within: Duration::MAX,
            reconnects_within: Duration::MAX,
            efforts_since: Instant::ZERO,
            listed: vec![(0..members).collect(); proxies],
        }
    }

    pub(crate) fn set_bounds(
        &mut self,
        finds_within: Duration,
        probed_within: Duration,
        connects_within: Duration,
        reconnects_within: Duration,
    ) {
        self.reconnects_within = reconnects_within;
        self.finds_within = finds_within;
        self.connects_within = connects_within;
        self.probed_within = probed_within;
    }

    pub(crate) fn note_leader(&mut self, now: Instant, exists: bool) {
        if !exists {
            self.last_leaderless = Some(now);
        }
    }

    pub(crate) fn disturb(&mut self, now: Instant) {
        self.disturbed = now;
    }
}

impl Oracle {
    /// Members that can't be used are tried again with growing waits.
    fn no_dial_loops(&mut self, now: Instant) {
        if now - self.usage.efforts_since < EFFORTS_INTERVAL {
            return;
        }
        self.usage.efforts_since = now;
        let before = std::mem::replace(&mut self.efforts_before, self.efforts.clone());
        for (effort, before) in self.efforts.iter().zip(&before) {
            let effort = effort.since(before);
            assert!(
                effort.dials.iter().all(|dials| *dials <= self.dials_max),
                "members were dialled this often in {EFFORTS_INTERVAL:?}: {:?}",
                effort.dials
            );
        }
    }

    /// Looks at everything that no event tells.
    pub(crate) fn look(&mut self, io: &mut Io, members: &Members, proxies: &[Proxy]) {
        for call in &self.open {
            let record = self.record(*call);
            assert!(
                record.direct || io.now <= ends_by(record),
                "{call:?} hangs: {record:?}"
            );
        }
        assert!(
            io.queue.len() <= QUEUE_MAX,
            "{} deliveries are waiting",
            io.queue.len()
        );
        self.no_dial_loops(io.now);
        self.watches_are_served(io);
        self.leasing.look(io);
        for proxy in proxies {
            proxy.watch_is_bounded();
            proxy.lease_is_bounded();
        }
        let usage = &mut self.usage;
        for (member, fit) in usage.fit.iter_mut().enumerate() {
            let since = fit.unwrap_or(io.now);
            let refuses = members.hosts[member].refuses_until > io.now;
            *fit = (members.is_fit(member) && !refuses).then_some(since);
        }
        for (proxy, index) in proxies.iter().zip(0..) {
            let connects_for = proxy.connects_for(io.now);
            assert!(
                connects_for <= usage.connects_within,
                "proxy {index} has been connecting for {connects_for:?}"
            );
            let unprobed_for = proxy.unprobed_for(io.now);
            assert!(
                unprobed_for <= usage.probed_within,
                "proxy {index} hasn't asked for {unprobed_for:?} how the member is that it uses"
            );
            let in_use = proxy.in_use();
            if usage.in_use[index].0 != in_use {
                usage.in_use[index] = (in_use, io.now);
            }
            let chosen = usage.in_use[index].1;
            if let Some(since) = proxy.waits_since()
                && let Some(fit) = in_use.and_then(|member| usage.fit[member])
            {
                io.count(Situation::WaitsThoughFit);
                let waits_for = io.now - since.max(fit).max(chosen).max(usage.disturbed);
                assert!(
                    waits_for <= usage.reconnects_within,
                    "calls wait for {waits_for:?} at proxy {index}, and {in_use:?}, which it uses, is well"
                );
            }
            let badly = in_use.is_none_or(|member| !members.is_fit(member));
            let served = &mut usage.badly_served[index];
            *served = badly.then(|| match *served {
                Some((before, since)) if before == in_use => (in_use, since),
                _ => (in_use, io.now),
            });
            let Some((_, since)) = *served else { continue };
            io.count(match in_use {
                None => Situation::NobodyInUse,
                Some(member) if members.answers(member) => Situation::LeaderlessInUse,
                Some(_) => Situation::SilentInUse,
            });
            let better = usage.listed[index]
                .iter()
                .filter_map(|other| usage.fit[*other])
                .min();
            if let Some(better) = better {
                let since = since.max(better).max(usage.disturbed);
                assert!(
                    io.now - since <= usage.finds_within,
                    "proxy {index} uses {in_use:?}, which can't serve since {since:?}, and others can"
                );
            }
        }
    }
}
