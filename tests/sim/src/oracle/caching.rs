//! Answers that a proxy gave without asking a member for them: from its cache, or those to other reads.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_core::time::Instant;
use etcd_proxy_proto::etcdserverpb::RangeResponse;
use etcd_proxy_proto::mvccpb::KeyValue;
use prost::Message as _;

use super::histories::Number;
use super::{Oracle, Record};
use crate::delivery::{Answer, CallTag};
use crate::io::Io;
use crate::op::Op;
use crate::settings::Settings;
use crate::situations::Situation;

/// How late timers are, and how long threads take to tell one another.
const SLACK: Duration = Duration::from_millis(10);

/// How long ago may be what a read is shown that has waited for it: nobody's bound or patience is longer.
const CONFIRMED_FOR: Duration = Duration::from_secs(70);

const CANCELLED: u8 = 1;
const DEADLINE_EXCEEDED: u8 = 4;
const UNAVAILABLE: u8 = 14;

/// How a proxy has answered a read that it didn't send.
#[derive(Clone, Debug)]
pub(super) enum Cached {
    /// From its cache, with what is true in this history; in none that it can know of if that is `None`.
    Hit(Bytes, Option<Number>),
    /// With the answer to another read.
    Shared(CallTag, Answer),
}

/// What is known of time, for what may be old.
#[derive(Debug)]
pub(crate) struct Caching {
    staleness_max: Duration,
    /// How long a member that is cut off may take to know it.
    cut_off_max: Duration,
    /// How much members lag, and until when.
    lags: Vec<(Instant, Duration)>,
    /// When authentication was switched on or off.
    auth: Vec<(Instant, bool)>,
    /// By proxy, when it asked for what the cluster has, and what it was told.
    confirmed: Vec<VecDeque<(Instant, i64)>>,
}

impl Caching {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            staleness_max: settings.proxy.read.staleness_max,
            cut_off_max: settings.cluster.election_timeout * 2,
            lags: Vec::new(),
            auth: Vec::new(),
            confirmed: vec![VecDeque::new(); settings.proxies],
        }
    }

    /// A member lags so much until then.
    pub(crate) fn lags(&mut self, until: Instant, lag: Duration) {
        self.lags.push((until, lag));
    }

    pub(super) fn note_auth(&mut self, now: Instant, is_on: bool) {
        if self.auth.last().is_some_and(|(_, last)| *last) != is_on {
            self.auth.push((now, is_on));
        }
    }

    /// What a proxy knows of the cluster was confirmed.
    pub(super) fn note_confirmed(&mut self, now: Instant, proxy: usize, at: Instant, revision: i64) {
        let confirmed = &mut self.confirmed[proxy];
        while confirmed.front().is_some_and(|(at, _)| now - *at > CONFIRMED_FOR) {
            confirmed.pop_front();
        }
        confirmed.push_back((at, revision));
    }

    /// A proxy has noticed that the store has another history: nothing is confirmed of that one.
    pub(super) fn noticed(&mut self, proxy: usize) {
        self.confirmed[proxy].clear();
    }

    /// A serializable read is shown what was confirmed within the bound, or after it began.
    fn is_confirmed(&self, now: Instant, proxy: usize, began: Instant, revision: i64) -> Result<(), String> {
        let serves = |(at, told): &(Instant, i64)| {
            (now.saturating_since(*at) <= self.staleness_max || *at >= began) && *told <= revision
        };
        if self.confirmed[proxy].iter().any(serves) {
            Ok(())
        } else {
            let last = self.confirmed[proxy].iter().map(|(at, _)| *at).max();
            Err(format!("{revision} was confirmed at {last:?} for the last time"))
        }
    }

    /// When the state was there that a serializable read may be shown from a cache now.
    fn oldest(&self, now: Instant) -> Instant {
        let old = self.staleness_max + self.cut_off_max + SLACK;
        let counts = |(until, lag): &&(Instant, Duration)| *until + old + *lag >= now;
        let lag = self.lags.iter().filter(counts).map(|(_, lag)| *lag).max();
        let old = old + lag.unwrap_or_default();
        Instant::ZERO + now.saturating_since(Instant::ZERO).saturating_sub(old)
    }

    /// Whether everybody could read everything at some time since then.
    fn was_open_since(&self, since: Instant) -> bool {
        let (before, after) = self
            .auth
            .split_at(self.auth.partition_point(|(at, _)| *at <= since));
        before.last().is_none_or(|(_, is_on)| !is_on) || after.iter().any(|(_, is_on)| !is_on)
    }
}

impl Oracle {
    /// A proxy answers a read from its cache: with the state at the revision in the header, which isn't too old.
    pub(super) fn hit(&mut self, io: &mut Io, call: CallTag, message: Bytes) {
        let record = self.record(call);
        let proxy = self.histories.proxy_of(record.client);
        let proxy = proxy.expect("who has a cache is a proxy");
        let mut of = None;
        if !self.histories.is_misled(proxy) {
            let response = RangeResponse::decode(&message[..]).expect("the cache writes what can be read");
            let mut reasons = Vec::new();
            of = self.histories.possible(proxy).find(|history| {
                match self.is_true_hit(io.now, record, *history, &response) {
                    Ok(()) => true,
                    Err(why) => {
                        reasons.push(format!("in history {history}: {why}"));
                        false
                    }
                }
            });
            assert!(
                of.is_some(),
                "{call:?} is answered from the cache with {response:?}: {reasons:?}: {record:?}"
            );
            io.count(match record.op {
                Op::Get {
                    serializable: true, ..
                }
                | Op::List {
                    serializable: true, ..
                } => Situation::CheckedHitSerializable,
                _ => Situation::CheckedHitLinearizable,
            });
            if matches!(record.op, Op::Get { revision: 1.., .. }) {
                io.count(Situation::CheckedHitOldRevision);
            }
        }
        self.record_mut(call).cached = Some(Cached::Hit(message, of));
    }

    fn is_true_hit(
        &self,
        now: Instant,
        record: &Record,
        history: Number,
        response: &RangeResponse,
    ) -> Result<(), String> {
        let story = self.histories.of(history);
        let ledger = &story.ledger;
        let header = response.header.as_ref().ok_or("there is no header")?;
        let revision = header.revision;
        if !(1..=ledger.revision()).contains(&revision) {
            return Err(format!("{revision} is to come"));
        }
        let ids = (header.cluster_id, header.member_id);
        if !story.ids.contains(&ids) || header.raft_term == 0 {
            return Err("it is no header of this cluster's".to_owned());
        }
        let (expected, serializable): (Vec<&KeyValue>, bool) = match &record.op {
            Op::Get {
                key,
                serializable,
                revision: at,
            } => {
                let compacted = record.compacted.get(history).copied().unwrap_or_default();
                if *at > 0 && *at < compacted {
                    return Err(format!("it was told before that {compacted} is compacted"));
                }
                let at = if *at > 0 { *at } else { revision };
                (ledger.at(&key.bytes(), at).into_iter().collect(), *serializable)
            }
            Op::List {
                from,
                to,
                serializable,
            } => (ledger.range(&from.bytes(), &to.bytes(), revision), *serializable),
            other => return Err(format!("{other:?} is no read")),
        };
        if !response.kvs.iter().eq(expected.iter().copied()) || response.count != expected.len() as i64 {
            return Err(format!("the log has {expected:?}"));
        }
        self.is_monotonic(record, history, revision)?;
        let since = if serializable {
            let oldest = self.caching.oldest(now);
            let (former, least) = self.histories.committed_at(oldest);
            if former > history {
                return Err(format!("the store has been in history {former} since {oldest:?}"));
            }
            let least = least.min(self.histories.common(former, history));
            if revision < least {
                return Err(format!("the store was at {least} at {oldest:?}"));
            }
            let proxy = self.histories.proxy_of(record.client);
            let proxy = proxy.ok_or("who has a cache is a proxy")?;
            self.caching.is_confirmed(now, proxy, record.began, revision)?;
            oldest
        } else {
            self.is_linearizable(record, history, revision)?;
            record.began
        };
        if !self.caching.was_open_since(since) {
            return Err(format!(
                "nobody may read this without credentials since {since:?}"
            ));
        }
        Ok(())
    }

    /// A proxy keeps an answer for others: it is right up to where the cache has heard of all changes.
    pub(super) fn kept(&mut self, io: &mut Io, call: CallTag, message: &Bytes, watched: i64) {
        let record = self.record(call);
        let proxy = self.histories.proxy_of(record.client);
        let proxy = proxy.expect("who has a cache is a proxy");
        let response = RangeResponse::decode(&message[..]).expect("the cache has read it");
        let revision = response.header.map_or(0, |header| header.revision).max(watched);
        let is_true = |history: Number| {
            let ledger = &self.histories.of(history).ledger;
            let expected: Vec<&KeyValue> = match &record.op {
                Op::Get { key, revision: 0, .. } => ledger.at(&key.bytes(), revision).into_iter().collect(),
                Op::List { from, to, .. } => ledger.range(&from.bytes(), &to.bytes(), revision),
                // What was at a revision stays so.
                _ => return true,
            };
            revision <= ledger.revision() && response.kvs.iter().eq(expected)
        };
        assert!(
            self.histories.is_misled(proxy) || self.histories.possible(proxy).any(is_true),
            "{call:?} is kept with {response:?}, and isn't that at {revision}: {record:?}"
        );
        io.count(Situation::CheckedKept);
    }

    /// An answer to a linearizable read isn't older than what was committed when its client asked.
    pub(super) fn is_linearizable(
        &self,
        record: &Record,
        history: Number,
        revision: i64,
    ) -> Result<(), String> {
        if history < record.history {
            return Err(format!("the store was in history {} before", record.history));
        }
        let least = record
            .committed
            .min(self.histories.common(record.history, history));
        if revision < least {
            return Err(format!("{least} was committed before"));
        }
        Ok(())
    }

    /// An answer to a read isn't older than what any client of its proxy had been shown when its client asked.
    pub(super) fn is_monotonic(&self, record: &Record, history: Number, revision: i64) -> Result<(), String> {
        for (of, shown) in record.shown.iter().enumerate().take(history + 1) {
            let least = (*shown).min(self.histories.common(of, history));
            if revision < least {
                return Err(format!("{least} was shown before"));
            }
        }
        Ok(())
    }

    /// Judges a read that a member has answered.
    pub(super) fn is_read_well(&self, record: &Record, history: Number, revision: i64, serializable: bool) {
        let proxy = self.histories.proxy_of(record.client);
        let mut holds = Ok(());
        if proxy.is_some_and(|proxy| !self.histories.is_misled(proxy)) {
            holds = self.is_monotonic(record, history, revision);
        }
        if !serializable {
            holds = holds.and_then(|()| self.is_linearizable(record, history, revision));
        }
        assert_eq!(holds, Ok(()), "an answer of revision {revision}: {record:?}");
    }

    /// The call that a member has answered so: this one, or the one that it shares with. `None` if no member was asked.
    pub(super) fn answered_by(&mut self, call: CallTag, record: &Record, answer: &Answer) -> Option<CallTag> {
        match &record.cached {
            Some(Cached::Hit(hit, history)) => {
                assert_eq!(
                    answer.as_ref(),
                    Ok(hit),
                    "{call:?} gets what it wasn't answered with"
                );
                if let Some(history) = *history {
                    let response = RangeResponse::decode(&hit[..]).expect("it was read before");
                    let revision = response.header.map_or(0, |header| header.revision);
                    self.is_told(record, history, revision);
                }
                None
            }
            Some(Cached::Shared(leader, shared)) => {
                assert_eq!(answer, shared, "{call:?} gets what it doesn't share");
                let replies = &self.record(*leader).replies;
                // A refusal of the proxy's own is as true as it is for the other one.
                let is_own = answer.is_err() && !replies.iter().any(|(reply, ..)| reply == answer);
                (!is_own).then_some(*leader)
            }
            None => Some(call),
        }
    }

    /// Whether a call is refused as one is that began before reads were promised anything.
    pub(super) fn shares_former_end(&self, record: &Record, answer: &Answer) -> bool {
        let (Some(Cached::Shared(leader, _)), Err(_), Some(promise)) = (&record.cached, answer, self.promise)
        else {
            return false;
        };
        self.record(*leader).began < promise.reads_since
    }

    /// A proxy answers a read with the answer to another one.
    pub(super) fn shared(&mut self, io: &mut Io, call: CallTag, leader: CallTag, answer: Answer) {
        let record = self.record(call);
        if answer.is_ok() {
            io.count(Situation::CheckedShared);
            let since = match record.op {
                Op::Get {
                    serializable: true, ..
                }
                | Op::List {
                    serializable: true, ..
                } => self.caching.oldest(io.now),
                _ => record.began,
            };
            assert!(
                self.caching.was_open_since(since),
                "{call:?} shares an answer, and nobody may read this without credentials since {since:?}: {record:?}"
            );
        }
        if let Err(status) = &answer {
            io.count(Situation::CheckedSharedRefusal);
            let is_serializable = |record: &Record| {
                matches!(
                    record.op,
                    Op::Get {
                        serializable: true,
                        ..
                    } | Op::List {
                        serializable: true,
                        ..
                    }
                )
            };
            assert!(
                ![CANCELLED, DEADLINE_EXCEEDED].contains(&status.code),
                "{call:?} is told what is another call's affair: {status:?}: {record:?}"
            );
            assert!(
                status.code != UNAVAILABLE
                    || !is_serializable(record)
                    || is_serializable(self.record(leader)),
                "{call:?} needs no leader, and is refused as {leader:?} is: {status:?}: {record:?}"
            );
        }
        self.record_mut(call).cached = Some(Cached::Shared(leader, answer));
    }
}
