//! Leases: what the log says of them, and the leader's memory of when they end.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::time::Duration;

use bytes::Bytes;
use etcd_proxy_core::time::Instant;

use crate::error::Error;

/// The longest TTL that a server grants, in seconds (etcd: `MaxLeaseTTL`).
pub const TTL_MAX: i64 = 9_000_000_000;

/// How often a leader looks for leases that have ended (etcd's lessor: 500 ms).
pub const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Leases that a leader revokes at most per look (etcd: half of 1000 a second).
pub const REVOCATIONS_MAX: usize = 500;

/// When a leader tries again to revoke a lease that is still there (etcd: 3 s).
const REVOCATION_RETRY: Duration = Duration::from_secs(3);

/// The smallest TTL that a server grants, in seconds: one and a half election timeouts, rounded up.
#[must_use]
pub fn ttl_min(election_timeout: Duration) -> i64 {
    // etcd counts in ticks of a tenth of the timeout, 15 of them; the difference shows only for timeouts that
    // ten does not divide.
    let nanos = election_timeout.as_nanos().saturating_mul(3) / 2;
    i64::try_from(nanos.div_ceil(1_000_000_000))
        .unwrap_or(TTL_MAX)
        .clamp(1, TTL_MAX)
}

/// A lease as every member knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Time to live, in seconds, as granted.
    pub ttl: i64,
    /// The keys that end with it.
    pub keys: BTreeSet<Bytes>,
}

/// The leases of the replicated state, by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leases {
    leases: BTreeMap<i64, Lease>,
    by_key: BTreeMap<Bytes, i64>,
}

impl Leases {
    /// The lease with this id.
    #[must_use]
    pub fn get(&self, id: i64) -> Option<&Lease> {
        self.leases.get(&id)
    }

    /// All leases, by ascending id.
    pub fn iter(&self) -> impl Iterator<Item = (i64, &Lease)> {
        self.leases.iter().map(|(id, lease)| (*id, lease))
    }

    /// The lease that a key ends with.
    #[must_use]
    pub fn of_key(&self, key: &[u8]) -> Option<i64> {
        self.by_key.get(key).copied()
    }

    /// Adds a lease. `ttl` is what was asked for, `ttl_min` what a server grants at least; answers what is granted.
    pub(crate) fn grant(&mut self, id: i64, ttl: i64, ttl_min: i64) -> Result<i64, Error> {
        if id == 0 {
            return Err(Error::LeaseNotFound);
        }
        if ttl > TTL_MAX {
            return Err(Error::LeaseTtlTooLarge);
        }
        if self.leases.contains_key(&id) {
            return Err(Error::LeaseExists);
        }
        let ttl = ttl.max(ttl_min);
        self.leases.insert(
            id,
            Lease {
                ttl,
                keys: BTreeSet::new(),
            },
        );
        Ok(ttl)
    }

    /// Removes a lease; its keys are the caller's to delete.
    pub(crate) fn remove(&mut self, id: i64) -> Option<Lease> {
        let lease = self.leases.remove(&id)?;
        for key in &lease.keys {
            self.by_key.remove(key);
        }
        Some(lease)
    }

    /// Makes `key` end with the lease `id` (0: with none) and with no other.
    pub(crate) fn attach(&mut self, key: &Bytes, id: i64) {
        if let Some(old) = self.by_key.get(key).copied() {
            if old == id {
                return;
            }
            self.by_key.remove(key);
            if let Some(lease) = self.leases.get_mut(&old) {
                lease.keys.remove(key);
            }
        }
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.insert(key.clone());
            self.by_key.insert(key.clone(), id);
        }
    }
}

/// What became of a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The lease lives for this many seconds from now on.
    Renewed(i64),
    /// The lease has ended but is not revoked yet. A server answers once the revocation is applied, with TTL 0.
    Ending,
    /// There is no such lease; a server answers with TTL 0.
    Unknown,
}

/// When leases end: what only the leader keeps, in memory. A new leader gives every lease its whole TTL anew.
#[derive(Clone, Debug, Default)]
pub struct Deadlines {
    ends: BTreeMap<i64, Instant>,
    /// When to revoke: the end, or later if a revocation was proposed already.
    queue: BTreeSet<(Instant, i64)>,
    queued: BTreeMap<i64, Instant>,
    /// The last look for leases that have ended.
    checked: Option<Instant>,
}

impl Deadlines {
    /// A member becomes leader: every lease gets its whole TTL and `extension` (etcd: the election timeout).
    #[must_use]
    pub fn promoted(now: Instant, extension: Duration, leases: &Leases) -> Self {
        let mut deadlines = Self::default();
        for (id, lease) in leases.iter() {
            deadlines.set(id, now + extension + seconds(lease.ttl));
        }
        deadlines
    }

    /// A lease was granted, as the leader applied it.
    pub fn granted(&mut self, now: Instant, id: i64, ttl: i64) {
        self.set(id, now + seconds(ttl));
    }

    /// A lease was revoked, as the leader applied it.
    pub fn revoked(&mut self, id: i64) {
        self.ends.remove(&id);
        if let Some(at) = self.queued.remove(&id) {
            self.queue.remove(&(at, id));
        }
    }

    /// A heartbeat reached the leader.
    pub fn renew(&mut self, now: Instant, id: i64, leases: &Leases) -> Renewal {
        let (Some(lease), Some(end)) = (leases.get(id), self.ends.get(&id)) else {
            return Renewal::Unknown;
        };
        if *end <= now {
            return Renewal::Ending;
        }
        self.set(id, now + seconds(lease.ttl));
        Renewal::Renewed(lease.ttl)
    }

    /// Whole seconds that a lease has left: 0 if it has ended but is not revoked yet, None if there is no such lease.
    #[must_use]
    pub fn remaining(&self, now: Instant, id: i64) -> Option<i64> {
        let end = self.ends.get(&id)?;
        i64::try_from((*end - now).as_secs()).ok()
    }

    /// All leases, by their end, then by id: the order in which the leader lists them.
    #[must_use]
    pub fn by_end(&self) -> Vec<i64> {
        let mut ends: Vec<_> = self.ends.iter().map(|(id, end)| (*end, *id)).collect();
        ends.sort_unstable();
        ends.into_iter().map(|(_, id)| id).collect()
    }

    /// When to call [`Self::expired`] next: at a multiple of [`CHECK_INTERVAL`] since the start of time.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let (at, _) = self.queue.first()?;
        let due = look_from(*at);
        Some(self.checked.map_or(due, |checked| due.max(look_after(checked))))
    }

    /// The leases to revoke now, at most [`REVOCATIONS_MAX`], the earliest first. One that isn't revoked
    /// three seconds later is named again.
    #[must_use]
    pub fn expired(&mut self, now: Instant) -> Vec<i64> {
        self.checked = Some(now);
        let due = self.queue.iter().take_while(|(at, _)| *at <= now);
        let expired: Vec<i64> = due.map(|(_, id)| *id).take(REVOCATIONS_MAX).collect();
        for id in &expired {
            self.enqueue(*id, now + REVOCATION_RETRY);
        }
        expired
    }

    fn set(&mut self, id: i64, end: Instant) {
        self.ends.insert(id, end);
        self.enqueue(id, end);
    }

    fn enqueue(&mut self, id: i64, at: Instant) {
        if let Some(old) = self.queued.insert(id, at) {
            self.queue.remove(&(old, id));
        }
        self.queue.insert((at, id));
    }
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl).unwrap_or(0))
}

/// The first look at or after an instant.
fn look_from(at: Instant) -> Instant {
    let interval = CHECK_INTERVAL.as_nanos() as u64;
    Instant::from_nanos(at.as_nanos().div_ceil(interval).saturating_mul(interval))
}

/// The first look after the one at `checked`.
fn look_after(checked: Instant) -> Instant {
    look_from(checked + Duration::from_nanos(1))
}

#[cfg(test)]
mod tests;
