//! Leases: when they began, when they must have ended, and what clients were told of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_core::time::Instant;
use etcd_proxy_model::lease::CHECK_INTERVAL;
use etcd_proxy_proto::etcdserverpb::LeaseKeepAliveResponse;
use prost::Message as _;

use super::Leasing;
use crate::delivery::{CallTag, LeaseTag};
use crate::io::Io;
use crate::members::Members;
use crate::oracle::Oracle;
use crate::settings::Settings;
use crate::situations::Situation;

/// How long a member that takes itself for the leader, because it was cut off or frozen, may tell of leases as they
/// were.
const STALE_MAX: Duration = Duration::from_secs(16);

/// What a heartbeat may take that is on its way when nobody waits for it any more, and our looks at it, when all is
/// well.
const ON_THE_WAY_MAX: Duration = Duration::from_millis(1_500);

/// What a heartbeat may take when all is well again, and the next ones.
const RECOVERY: Duration = Duration::from_secs(2);

/// A lease, from when it was committed. A grant that was held up on its way may bring one to life again.
#[derive(Debug)]
struct Life {
    ttl: Duration,
    since: Instant,
    gone: Option<Instant>,
    /// When somebody last waited for an answer about it.
    asked: Instant,
}

/// What a member answered.
#[derive(Debug)]
struct Renewal {
    /// When the heartbeat reached it.
    reached: Instant,
    at: Instant,
    message: Bytes,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Lives {
    /// The last one is what it is now, or was when it ended.
    lives: BTreeMap<i64, Vec<Life>>,
    alive: Vec<i64>,
    /// Those that somebody has tried to revoke. That may have been held up on its way.
    revoked: BTreeSet<i64>,
    /// Answers of members, by lease.
    renewals: BTreeMap<i64, Vec<Renewal>>,
    election_timeout: Duration,
    leader: Option<usize>,
    /// When there was last a new leader, which gives every lease its whole TTL anew.
    promoted: Instant,
}

impl Lives {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            lives: BTreeMap::new(),
            alive: Vec::new(),
            revoked: BTreeSet::new(),
            renewals: BTreeMap::new(),
            election_timeout: settings.cluster.election_timeout,
            leader: None,
            promoted: Instant::ZERO,
        }
    }

    pub(super) fn alive(&self) -> impl ExactSizeIterator<Item = i64> {
        self.alive.iter().copied()
    }

    pub(super) fn ttl(&self, lease: i64) -> Option<Duration> {
        self.last(lease).map(|life| life.ttl)
    }

    fn last(&self, lease: i64) -> Option<&Life> {
        self.lives.get(&lease)?.last()
    }

    fn last_mut(&mut self, lease: i64) -> Option<&mut Life> {
        self.lives.get_mut(&lease)?.last_mut()
    }

    /// The longest pause between two heartbeats that keep a lease alive.
    pub(super) fn pause_max(&self, lease: i64) -> Duration {
        self.ttl(lease).unwrap_or_default() / 2
    }

    /// Somebody waits for an answer about a lease, or did until now.
    pub(super) fn asked(&mut self, now: Instant, lease: i64) {
        if let Some(life) = self.last_mut(lease) {
            life.asked = now;
        }
    }

    /// What a client is told is what a member answered to a heartbeat that reached it after the client had asked, and
    /// true.
    pub(super) fn told(
        &self,
        io: &mut Io,
        tag: LeaseTag,
        message: &Bytes,
        asked: Instant,
        shared: Duration,
        is_calm: bool,
    ) {
        let response = LeaseKeepAliveResponse::decode(message.clone()).expect("a member wrote it");
        let stale_max = if is_calm { Duration::ZERO } else { STALE_MAX };
        let renewals = self.renewals.get(&response.id).map_or(&[][..], Vec::as_slice);
        let fits = |renewal: &&Renewal| renewal.reached + shared >= asked && renewal.message == *message;
        let renewal = renewals.iter().rev().find(fits);
        let renewal = renewal
            .unwrap_or_else(|| panic!("{tag:?} is told what no member said since it asked: {response:?}"));
        let lives = self.lives.get(&response.id).map_or(&[][..], Vec::as_slice);
        let at = renewal.at;
        let is_true = if response.ttl > 0 {
            io.count(Situation::CheckedLeaseRenewed);
            lives.iter().any(|life| {
                let is_gone = life.gone.is_some_and(|gone| gone + stale_max < at);
                life.ttl.as_secs() == response.ttl.unsigned_abs() && life.since <= at && !is_gone
            })
        } else {
            io.count(Situation::CheckedLeaseUnknown);
            let lived = |life: &Life| life.since + stale_max < at && life.gone.is_none_or(|gone| gone > at);
            response.ttl == 0 && !lives.iter().any(lived)
        };
        assert!(is_true, "{tag:?} is told {response:?} of {lives:?}");
    }

    /// All is well since then: every lease ends when its TTL has passed since somebody last waited for its renewal.
    pub(super) fn none_outlives(&self, io: &Io, calm_since: Instant) {
        for lease in &self.alive {
            let end = self.ends_by(*lease, calm_since);
            assert!(
                io.now <= end,
                "lease {lease} should have ended by {end:?}: {:?}",
                self.lives[lease].last()
            );
        }
    }

    fn ends_by(&self, lease: i64, calm_since: Instant) -> Instant {
        let life = self.last(lease).expect("it is alive");
        let promoted = self.promoted + self.election_timeout;
        let renewed = life.since.max(life.asked).max(promoted).max(calm_since);
        renewed + life.ttl + CHECK_INTERVAL + ON_THE_WAY_MAX
    }
}

impl Leasing {
    /// A member has answered a heartbeat.
    pub(in crate::oracle) fn renewed(&mut self, now: Instant, reached: Instant, message: &Bytes) {
        let response = LeaseKeepAliveResponse::decode(message.clone()).expect("a member wrote it");
        let renewal = Renewal {
            reached,
            at: now,
            message: message.clone(),
        };
        let renewals = self.lives.renewals.entry(response.id).or_default();
        renewals.push(renewal);
    }

    /// A client was told that it has a lease.
    pub(in crate::oracle) fn is_granted(&self, call: CallTag, lease: i64, ttl: i64) {
        assert_eq!(
            self.lives.ttl(lease).map(|ttl| ttl.as_secs()),
            Some(ttl.unsigned_abs()),
            "{call:?} was told of a lease that there isn't"
        );
    }

    /// Somebody asks for the end of a lease.
    pub(in crate::oracle) fn revokes(&mut self, lease: i64) {
        self.lives.revoked.insert(lease);
    }

    /// A client was told that a lease has ended.
    pub(in crate::oracle) fn is_revoked(&self, call: CallTag, lease: i64) {
        let lives = self.lives.lives.get(&lease);
        assert!(
            lives.is_some_and(|lives| lives.iter().any(|life| life.gone.is_some())),
            "{call:?} was told of the end of a lease that lives: {lives:?}"
        );
    }

    /// A client that keeps this lease alive: it has sent heartbeats on a call for a whole TTL and has read all the time,
    /// and less than half of that time something was wrong.
    pub(crate) fn keeper(&self, now: Instant, lease: i64) -> Option<LeaseTag> {
        let ttl = self.lives.ttl(lease)?;
        let from = Instant::from_nanos(
            now.as_nanos()
                .saturating_sub(u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX)),
        );
        if (self.bad_time(from, now) + RECOVERY) * 2 > ttl {
            return None;
        }
        let keeps = |call: &super::Beating| {
            let beats = call.beats.get(&lease);
            call.ended.is_none()
                && call.is_known
                && call.reads_since.is_some_and(|since| since <= from)
                && beats.is_some_and(|(since, last)| *since <= from && *last + ttl / 2 >= now)
        };
        self.live().find(|(_, call)| keeps(call)).map(|(tag, _)| *tag)
    }

    /// The store has gone back: leases that it doesn't have are gone, and some that were gone are there again.
    pub(in crate::oracle) fn restored(&mut self, io: &Io, members: &Members) {
        let leases = members.cluster.committed().leases();
        let lost = std::mem::take(&mut self.lives.alive);
        let (kept, lost): (Vec<i64>, Vec<i64>) = lost.into_iter().partition(|id| leases.get(*id).is_some());
        self.lives.alive = kept;
        for lease in lost {
            if let Some(life) = self.lives.last_mut(lease) {
                life.gone = Some(io.now);
            }
        }
    }

    fn died(&mut self, io: &mut Io, lease: i64) {
        let calm = self.serves.filter(|serves| serves.calm);
        if let Some(life) = self.lives.last_mut(lease) {
            life.gone = Some(io.now);
        }
        let life = self.lives.last(lease).expect("it was alive");
        if self.lives.revoked.contains(&lease) {
            return io.count(Situation::LeaseRevoked);
        }
        io.count(Situation::LeaseExpired);
        assert!(
            io.now - life.since >= life.ttl,
            "lease {lease} ends before its first TTL: {life:?}"
        );
        if let Some(tag) = self.keeper(io.now, lease) {
            panic!(
                "lease {lease} ends, though {tag:?} keeps it: {life:?} {:?}",
                self.calls[&tag]
            );
        }
        if calm.is_some() {
            io.count(Situation::CheckedLeaseEnds);
        }
    }

    /// How many leases live that a client keeps alive.
    pub(crate) fn kept(&self, now: Instant) -> usize {
        let leases = self.lives.alive.iter();
        leases.filter(|lease| self.keeper(now, **lease).is_some()).count()
    }
}

impl Oracle {
    /// Takes in which leases there are.
    pub(in crate::oracle) fn note_leases(&mut self, io: &mut Io, members: &Members) {
        let lives = &mut self.leasing.lives;
        let leader = members.cluster.leader();
        if lives.leader != leader {
            lives.leader = leader;
            lives.promoted = io.now;
        }
        let leases = members.cluster.committed().leases();
        if leases.iter().map(|(id, _)| id).eq(lives.alive.iter().copied()) {
            return;
        }
        for (id, lease) in leases.iter() {
            let life = Life {
                ttl: Duration::from_secs(lease.ttl.unsigned_abs()),
                since: io.now,
                gone: None,
                asked: io.now,
            };
            let known = lives.lives.entry(id).or_default();
            if known.last().is_none_or(|last| last.gone.is_some()) {
                known.push(life);
            }
        }
        let now: Vec<i64> = leases.iter().map(|(id, _)| id).collect();
        let before = std::mem::replace(&mut lives.alive, now.clone());
        for lease in before {
            if !now.contains(&lease) {
                self.leasing.died(io, lease);
            }
        }
    }
}
