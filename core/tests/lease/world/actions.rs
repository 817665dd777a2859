//! What the router does, and what must be true of it.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_core::lease::{Action, Actions, ClientId, Status, UpstreamId};
use etcd_proxy_core::time::Instant;
use etcd_proxy_proto::etcdserverpb::LeaseKeepAliveRequest;
use prost::Message;

use super::{What, World};
use crate::client::Client;
use crate::server::{Stream, Token};

impl World {
    pub(super) fn carry_out(&mut self, actions: Actions) {
        let mut resumed = VecDeque::new();
        for action in actions {
            self.note(&action);
            match action {
                Action::Deliver(id, frame) => self.deliver(id, &frame),
                Action::EndClient(id, status) => {
                    let client = self.clients.remove(&id).expect("it is there");
                    client.check_end(&status);
                    let is_denied = |lease: &i64| self.cluster.denied.contains(&(client.token, *lease));
                    if status.code == 7 {
                        assert!(
                            client.asked.keys().any(is_denied),
                            "refused for another: {client:?}"
                        );
                    }
                    self.check_timeout(&client, &status);
                    self.leaves(&client);
                    self.ended.push((client, status));
                }
                Action::PauseClient(id) | Action::ResumeClient(id) => {
                    let pauses = matches!(action, Action::PauseClient(_));
                    let client = self.clients.get_mut(&id).expect("it is there");
                    assert_ne!(client.is_paused, pauses, "nothing changes");
                    client.is_paused = pauses;
                    resumed.push_back(id);
                }
                Action::OpenUpstream {
                    upstream,
                    credentials,
                    require_leader,
                } => self.open_upstream(upstream, credentials, require_leader),
                Action::SendUpstream(id, message) => self.send_upstream(id, message),
                Action::CloseUpstream(id) => {
                    assert!(self.streams.remove(&id).is_some(), "it is open");
                    self.flying.retain(|_, stream| *stream != id);
                }
            }
        }
        for id in resumed {
            self.flush(id);
        }
    }

    fn deliver(&mut self, id: ClientId, frame: &Bytes) {
        let client = self
            .clients
            .get_mut(&id)
            .expect("nothing is delivered to those who are gone");
        let lease = client.see(self.now, &self.cluster.answered, frame, self.config.share_within);
        let key = (client.token, lease);
        if !client.is_stopped {
            self.later(Duration::from_micros(100), What::Take(id));
        }
        self.waited.insert(key, self.now);
    }

    fn open_upstream(&mut self, id: UpstreamId, credentials: Option<Bytes>, require_leader: bool) {
        self.opened += 1;
        let token = credentials.map(|token| match &token[..] {
            b"one" => "one",
            _ => "two",
        });
        let stream = Stream {
            member: self.member,
            token,
            require_leader,
            is_open: false,
            opened_at: self.now,
            inbox: VecDeque::new(),
            is_working: false,
            blocked_on: None,
            arrives: self.now,
            answers: self.now,
            is_silent: false,
            is_over: false,
        };
        assert!(self.streams.insert(id, stream).is_none());
        if self.is_down {
            let status = Status::new(14, "no member can be reached");
            self.later(Duration::from_millis(300), What::End(id, status));
            return;
        }
        let wait = self.latency();
        self.later(wait, What::Opened(id));
        if self.cluster.is_leaderless && require_leader {
            self.streams.get_mut(&id).expect("just opened").is_over = true;
            let status = Status::new(14, "etcdserver: no leader");
            self.later(wait * 3, What::End(id, status));
        }
    }

    fn send_upstream(&mut self, id: UpstreamId, message: Bytes) {
        let lease = LeaseKeepAliveRequest::decode(&message[..])
            .expect("it can be read")
            .id;
        let latency = self.latency();
        let stream = self.streams.get_mut(&id).expect("it is open");
        assert!(stream.is_open, "it waits until the stream is open");
        let token = stream.token;
        let arrives = stream.arrives.max(self.now + latency);
        stream.arrives = arrives;
        assert!(self.is_waited_for(token, lease), "heartbeats aren't invented");
        let before = self.flying.insert((token, lease), id);
        assert_eq!(before, None, "one heartbeat of a lease at a time");
        *self.sent.entry(lease).or_default() += 1;
        self.last_sent = message.clone();
        self.at(arrives, What::Arrive(id, message, self.now));
    }

    pub(super) fn is_waited_for(&self, token: Token, lease: i64) -> bool {
        let mut clients = self.clients.values().filter(|client| client.token == token);
        clients.any(|client| client.asked.contains_key(&lease))
    }

    /// Until when a request must be waited for, and until when it may be.
    fn deadlines(&self, token: Token, lease: i64, asked: Instant) -> (Instant, Instant) {
        let longest = self.config.answer_timeout;
        let (least, most) = match self.renewed.get(&(token, lease)) {
            Some((at, ttl)) => {
                let end = *at + *ttl;
                let forgotten = asked > end || self.config.leases_max < 100;
                let least = asked + longest.min(*ttl);
                let known = if forgotten { least } else { least.max(end) };
                (known, end.max(asked + longest))
            }
            None => (asked + longest, asked + longest),
        };
        let bound = asked + self.config.wait_max;
        (least.min(bound), most.min(bound))
    }

    fn check_timeout(&self, client: &Client, status: &Status) {
        if status.code != 14 || (client.require_leader && self.cluster.is_leaderless) {
            return;
        }
        let mut asked = client
            .asked
            .iter()
            .flat_map(|(lease, asks)| asks.iter().map(|ask| (*lease, ask.at)));
        let is_over = asked.any(|(lease, at)| self.deadlines(client.token, lease, at).0 <= self.now);
        let recently = |(_, to): &(Instant, Instant)| *to + Duration::from_secs(1) >= self.now;
        let leader_lost = status.message == "etcdserver: no leader"
            && client.require_leader
            && self.impaired.iter().any(recently);
        // A server doesn't wait for a leader any longer, for who has waited for about as long as that.
        let asked = client.asked.values().flatten();
        let waited = asked.map(|ask| self.now - ask.at).max().unwrap_or_default();
        let leader_lost = leader_lost
            || status.message == "etcdserver: no leader"
                && self.cluster.is_leaderless
                && waited >= self.config.answer_timeout / 2;
        assert!(
            is_over || leader_lost,
            "an answer could still be in time: {:?} {client:?}",
            self.now
        );
    }

    /// Nobody waits for longer than an answer may be in time.
    pub(crate) fn check_waits(&self) {
        for client in self.clients.values() {
            for (lease, asks) in &client.asked {
                for ask in asks {
                    let (_, most) = self.deadlines(client.token, *lease, ask.at);
                    assert!(
                        self.now <= most,
                        "{lease} waits too long at {:?}: {client:?}",
                        self.now
                    );
                }
            }
        }
    }

    fn note(&mut self, action: &Action) {
        let text = format!("{action:?}");
        if self.is_told {
            eprintln!("    {text}");
        }
        for byte in text.bytes() {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
