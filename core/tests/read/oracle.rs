//! What must be true of every answer.

use std::collections::BTreeMap;

use bytes::Bytes;
use etcd_proxy_core::read::{CheckId, Header, Status};
use etcd_proxy_core::time::Instant;
use etcd_proxy_proto::etcdserverpb::RangeResponse;

use crate::cluster::{CLUSTER_ID, TERM, before};
use crate::world::{Reader, World};

/// What the world keeps for the rules.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// The last step at which the proxy learnt that auth may be on.
    pub(crate) doubt: u64,
    /// When the last read was sent that showed that it isn't.
    pub(crate) proof: u64,
    /// The highest revision that the proxy was told is compacted.
    pub(crate) compacted: i64,
    /// Answers of members, and when the last read was sent that got them.
    replies: BTreeMap<Bytes, u64>,
    failures: Vec<(Status, u64)>,
    pub(crate) hits: u64,
    pub(crate) shared: u64,
    pub(crate) gone: u64,
    pub(crate) checks: u64,
    checks_sent: BTreeMap<CheckId, Instant>,
    /// When a member was asked that had a leader, and the revision that it told.
    pub(crate) confirmed: Vec<(Instant, i64)>,
    pub(crate) progress_asked: u64,
}

impl Told {
    /// A check is sent.
    pub(crate) fn asks(&mut self, check: CheckId, now: Instant) {
        self.checks += 1;
        self.checks_sent.insert(check, now);
    }

    /// A check is over.
    pub(crate) fn check_told(&mut self, check: CheckId, result: &Result<Header, Status>) {
        let sent = self.checks_sent.remove(&check);
        if let (Some(sent), Ok(header)) = (sent, result) {
            self.confirmed.push((sent, header.revision));
        }
    }

    pub(crate) fn replied(&mut self, result: &Result<Bytes, Status>, sent: u64) {
        match result {
            Ok(response) => {
                let last = self.replies.entry(response.clone()).or_default();
                *last = sent.max(*last);
            }
            Err(status) => self.failures.push((status.clone(), sent)),
        }
    }

    /// When the read was sent that was answered so: nothing is shared that no member has sent.
    pub(crate) fn sent_of(&self, result: &Result<Bytes, Status>) -> u64 {
        match result {
            Ok(response) => self.replies[response],
            Err(status) => {
                let mut failures = self.failures.iter().rev();
                failures
                    .find(|(other, _)| other == status)
                    .expect("a member said so")
                    .1
            }
        }
    }
}

impl World {
    /// It is the state of the revision in its header, and the store has been there.
    fn check_truth(&self, reader: usize, response: &RangeResponse) -> i64 {
        let request = &self.readers[reader].request;
        let header = response.header.as_ref().expect("there is one");
        assert!(
            header.revision <= self.cluster.last().revision,
            "a revision to come"
        );
        assert_eq!((header.cluster_id, header.raft_term), (CLUSTER_ID, TERM));
        assert!((1..=3).contains(&header.member_id));
        let shown = if request.revision > 0 {
            request.revision
        } else {
            header.revision
        };
        let truth = self.cluster.at(shown).range(request);
        let answer = RangeResponse {
            header: None,
            ..response.clone()
        };
        assert_eq!(answer, truth, "{request:?} at {}", header.revision);
        header.revision
    }

    /// What had been shown when a read came, if that is still of the history that the store has.
    fn floor_of(&self, reader: &Reader) -> i64 {
        if reader.known.history == self.history.known().history {
            reader.floor
        } else {
            0
        }
    }

    /// A member has answered this very read.
    pub(crate) fn check_forwarded(&self, reader: usize) {
        if self.readers[reader].era < self.era {
            return;
        }
        if let Some(Ok(response)) = &self.readers[reader].response {
            let revision = self.check_truth(reader, response);
            let reader = &self.readers[reader];
            assert!(reader.request.serializable || revision >= reader.committed);
        }
    }

    /// The cache has answered.
    pub(crate) fn check_served(&self, reader: usize, response: &RangeResponse) {
        if self.readers[reader].era < self.era {
            // It came before the store went back.
            return;
        }
        if self.is_unnoticed() && self.readers[reader].request.serializable {
            // As old as it may be, and no older. A linearizable one is of the store that is there.
            assert!(
                self.back_at >= before(self.now, self.config.staleness_max),
                "of a former history"
            );
            return;
        }
        let revision = self.check_truth(reader, response);
        let reader = &self.readers[reader];
        let request = &reader.request;
        assert!(
            !self.is_floor_told || revision >= self.floor_of(reader),
            "{request:?}: {revision} is older than {}",
            self.floor_of(reader)
        );
        // Auth: as far as the proxy can know, nobody needs credentials.
        assert!(
            self.told.doubt == 0 || self.told.proof > self.told.doubt,
            "auth may be on"
        );
        // However little may be old, what was there when the read came is new enough.
        let oldest = before(self.now, self.config.staleness_max).min(reader.came_at);
        if request.serializable {
            // Somebody who had a leader has told so: what a member tells serializable reads that are forwarded doesn't count.
            let mut confirmed = self.told.confirmed.iter().rev();
            let is_confirmed = confirmed.any(|(at, told)| *at >= oldest && *told <= revision);
            assert!(
                is_confirmed,
                "{request:?} at {revision}: not confirmed since {oldest:?}"
            );
            assert!(
                self.cluster.states_since(oldest).any(|state| !state.auth),
                "auth is on"
            );
            let mut members = self.cluster.states_at(oldest);
            if request.revision > 0 {
                assert!(request.revision > self.told.compacted, "it is compacted");
                let mut members = self.cluster.states_since(oldest);
                assert!(
                    members.any(|state| request.revision >= state.compacted),
                    "too old"
                );
            } else {
                let is_newer = members.any(|state| revision >= state.revision);
                assert!(is_newer, "{request:?} at {revision}: too old");
            }
        } else {
            assert_eq!(request.revision, 0, "there is no need to cache that");
            let mut since = self.cluster.states[reader.came_in..].iter();
            assert!(since.any(|state| !state.auth), "auth was on all the time");
            assert!(
                revision >= reader.committed,
                "{request:?} at {revision}, not at {}",
                reader.committed
            );
        }
    }

    /// It was answered with another one's answer, which was sent at this step.
    pub(crate) fn check_shared(&self, reader: usize, result: &Result<RangeResponse, Status>, sent: u64) {
        let one = &self.readers[reader];
        if one.era < self.era {
            return;
        }
        if sent < self.back_step {
            assert!(one.request.serializable, "it was sent before the store went back");
            return;
        }
        assert!(
            sent > one.doubt,
            "it was sent before it was known that auth may be on"
        );
        assert!(one.request.serializable || sent > one.step, "it was sent before");
        let Ok(response) = result else {
            return;
        };
        let revision = self.check_truth(reader, response);
        if one.request.serializable {
            assert!(
                !self.is_floor_told || revision >= self.floor_of(one),
                "older than what was shown"
            );
            let oldest = before(one.came_at, self.config.staleness_max);
            let mut members = self.cluster.states_at(oldest);
            let is_newer = members.any(|state| revision >= state.revision);
            assert!(is_newer, "{one:?} at {revision}: too old");
            assert!(
                self.cluster.states_since(oldest).any(|state| !state.auth),
                "auth is on"
            );
        } else {
            assert!(revision >= one.committed);
        }
    }

    pub(crate) fn check_bounds(&self) {
        let stats = self.cache.stats();
        let config = &self.config;
        assert!(
            stats.bytes + stats.index_bytes <= config.bytes_max.max(4096),
            "{stats:?}"
        );
        assert!(stats.waiters <= config.waiters_max);
        assert!(stats.queued <= config.queue_max.max(1));
        assert_eq!(stats.waiters, self.waiting_count());
        // Reads without a ticket fly as well.
        assert!(stats.flights <= self.flying.len(), "{stats:?}");
    }
}
