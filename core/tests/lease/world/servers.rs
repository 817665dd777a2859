//! What the servers do.

use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_core::lease::{ClientId, Event, Status, UpstreamId};
use etcd_proxy_core::time::Instant;
use etcd_proxy_proto::etcdserverpb::LeaseKeepAliveResponse;
use prost::Message;

use super::{What, World};
use crate::server::{Outcome, Token};

impl World {
    /// What the router learns from an answer.
    pub(super) fn learn(&mut self, key: (Token, i64), message: &Bytes) {
        let response = LeaseKeepAliveResponse::decode(&message[..]).expect("it can be read");
        let number = response.header.expect("there is one").revision;
        let sent_at = self.cluster.answered[usize::try_from(number).expect("not negative")].sent_at;
        let ttl = response.ttl;
        match u64::try_from(ttl) {
            Ok(ttl) if ttl > 0 => {
                self.renewed.insert(key, (sent_at, Duration::from_secs(ttl)));
            }
            _ => {
                self.renewed.remove(&key);
            }
        }
    }

    pub(crate) fn end(&mut self, id: UpstreamId, status: Status) {
        self.streams.remove(&id);
        self.flying.retain(|_, stream| *stream != id);
        // Also when the router has closed it.
        self.tell(Event::UpstreamEnded(id, status));
    }

    /// The connection of a stream isn't the one in use any more.
    pub(crate) fn supersede(&mut self, id: UpstreamId) {
        self.tell(Event::UpstreamSuperseded(id));
        assert!(!self.streams.contains_key(&id), "it has been left");
    }

    pub(super) fn take(&mut self, id: ClientId) {
        if let Some(client) = self.clients.get_mut(&id)
            && !client.is_stopped
            && let Some(bytes) = client.outbox.pop_front()
        {
            self.tell(Event::ClientTook(id, bytes));
        }
    }

    pub(crate) fn take_all(&mut self, id: ClientId) {
        while self
            .clients
            .get(&id)
            .is_some_and(|client| !client.outbox.is_empty())
        {
            self.take(id);
        }
    }

    pub(super) fn expire(&mut self, id: i64) {
        let Some(lease) = self.cluster.leases.get(&id).copied() else {
            return;
        };
        if lease.end > self.now {
            self.at(lease.end, What::Expire(id));
            return;
        }
        self.expired += 1;
        if let Some(since) = self.kept.get(&id) {
            let from = Instant::from_nanos(
                lease
                    .end
                    .as_nanos()
                    .saturating_sub(u64::try_from(lease.ttl.as_nanos()).expect("small")),
            );
            let wrong = self.impaired_within(from, lease.end);
            assert!(
                *since > from || wrong >= lease.ttl / 2,
                "{id} died at {:?} though it was kept; only {wrong:?} went wrong",
                self.now
            );
        }
        if !self.is_revoking {
            return;
        }
        // A leader looks twice a second, and revocation takes a moment.
        let half = 500_000_000;
        let look = self.now.as_nanos().div_ceil(half) * half + self.rng.u64(0..200_000_000);
        self.at(Instant::from_nanos(look), What::Revoke(id));
    }

    fn impaired_within(&self, from: Instant, to: Instant) -> Duration {
        let mut sum = Duration::ZERO;
        let mut done = from;
        for (start, end) in &self.impaired {
            let (start, end) = ((*start).max(done), (*end).min(to));
            sum += end - start;
            done = done.max(end);
        }
        sum
    }

    pub(crate) fn revoke(&mut self, lease: i64) {
        self.cluster.leases.remove(&lease);
        self.kept.remove(&lease);
        self.unblock(lease);
    }

    pub(super) fn unblock(&mut self, lease: i64) {
        let ids: Vec<UpstreamId> = self.streams.keys().copied().collect();
        for id in ids {
            let stream = self.streams.get_mut(&id).expect("it is there");
            if stream.blocked_on == Some(lease) {
                stream.blocked_on = None;
                stream.is_working = false;
                self.start(id);
            }
        }
    }

    /// Lets all streams go on that can.
    pub(crate) fn start_all(&mut self) {
        let ids: Vec<UpstreamId> = self.streams.keys().copied().collect();
        for id in ids {
            self.start(id);
        }
    }

    pub(super) fn start(&mut self, id: UpstreamId) {
        let stream = self.streams.get_mut(&id).expect("it is there");
        if !stream.is_working && !stream.inbox.is_empty() {
            stream.is_working = true;
            self.later(self.service, What::Work(id));
        }
    }

    pub(super) fn work(&mut self, id: UpstreamId) {
        self.step += 1;
        let latency = self.latency();
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.is_working = false;
        if self.frozen.contains(&stream.member) || stream.is_over || stream.is_silent {
            return;
        }
        let mut index = 0;
        if self.cluster.is_proxy && !stream.inbox.is_empty() {
            index = self.rng.usize(..stream.inbox.len());
        }
        let Some((message, sent_at)) = stream.inbox.get(index).cloned() else {
            return;
        };
        let (token, arrives) = (stream.token, stream.answers.max(self.now + latency));
        let outcome = self.cluster.work(self.now, self.step, token, &message, sent_at);
        if self.is_told {
            eprintln!("{:?} {id:?} works: {outcome:?}", self.now);
        }
        let stream = self.streams.get_mut(&id).expect("it was there");
        match outcome {
            Outcome::Answer(answer, lease) => {
                stream.inbox.remove(index);
                stream.answers = arrives;
                self.at(arrives, What::Answer(id, answer, lease));
                self.start(id);
                self.check_ghost(token, lease);
            }
            Outcome::Blocked(_) if self.cluster.is_proxy && stream.inbox.len() > 1 => {
                stream.is_working = true;
                self.later(Duration::from_millis(1), What::Work(id));
            }
            Outcome::Blocked(lease) => {
                stream.is_working = true;
                stream.blocked_on = Some(lease);
            }
            Outcome::End(status) => {
                stream.is_over = true;
                self.at(arrives, What::End(id, status));
            }
            Outcome::Later => {
                stream.is_working = true;
                self.later(Duration::from_millis(100), What::Work(id));
            }
            Outcome::Never => {}
        }
    }

    /// A heartbeat is carried out: somebody waits for it, or did so just now.
    fn check_ghost(&self, token: Token, lease: i64) {
        // Or as long as a server waits for a leader.
        let bound = self.config.stall_max.max(self.config.answer_timeout) + Duration::from_secs(1);
        let waited = self.waited.get(&(token, lease)).copied().unwrap_or_default();
        assert!(
            self.is_waited_for(token, lease) || self.now - waited <= bound,
            "{lease} is renewed at {:?}, and nobody has waited since {waited:?}",
            self.now
        );
    }
}

impl World {
    /// From now on something is wrong, for so long and a while in which to recover.
    pub(crate) fn impair(&mut self, time: Duration) {
        let recovery = Duration::from_millis(2500);
        self.impaired.push((self.now, self.now + time + recovery));
    }

    pub(crate) fn end_all(&mut self, message: &'static str) {
        let ids: Vec<UpstreamId> = self.streams.keys().copied().collect();
        for id in ids {
            self.end(id, Status::new(14, message));
        }
    }

    pub(crate) fn end_silent(&mut self) {
        let silent = self.streams.iter().filter(|(_, stream)| stream.is_silent);
        let ids: Vec<UpstreamId> = silent.map(|(id, _)| *id).collect();
        for id in ids {
            self.end(id, Status::new(14, "it was silent"));
        }
    }

    pub(crate) fn lose_leader(&mut self) {
        self.cluster.is_leaderless = true;
        self.later(Duration::from_secs(3), What::Leaderless);
    }

    /// Servers have waited for a leader.
    pub(super) fn leaderless(&mut self) {
        if self.cluster.is_leaderless {
            let required = self.streams.iter().filter(|(_, stream)| stream.require_leader);
            let ids: Vec<UpstreamId> = required.map(|(id, _)| *id).collect();
            for id in ids {
                self.end(id, Status::new(14, "etcdserver: no leader"));
            }
        }
    }

    /// A new leader gives all leases their time again.
    pub(crate) fn find_leader(&mut self) {
        if std::mem::take(&mut self.cluster.is_leaderless) {
            for lease in self.cluster.leases.values_mut() {
                lease.end = lease.end.max(self.now + lease.ttl);
            }
            let leases: Vec<i64> = self.cluster.leases.keys().copied().collect();
            for lease in leases {
                self.unblock(lease);
            }
        }
    }

    /// A server says what nobody has asked for, or nothing sensible.
    pub(crate) fn speak_nonsense(&mut self) {
        let ids: Vec<UpstreamId> = self.streams.keys().copied().collect();
        let Some(id) = self.rng.choice(ids) else {
            return;
        };
        if self.rng.u8(..4) == 0 {
            self.impair(Duration::ZERO);
            self.tell(Event::UpstreamSent(id, b"\x10"[..].into()));
            return;
        }
        let token = self.streams[&id].token;
        let answered = self.cluster.answered.iter();
        let free = answered.filter(|answered| self.flying.get(&(token, answered.lease)) != Some(&id));
        let messages: Vec<Bytes> = free.map(|answered| answered.message.clone()).collect();
        if let Some(message) = self.rng.choice(messages) {
            self.tell(Event::UpstreamSent(id, message));
        }
    }
}
