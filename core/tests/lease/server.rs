//! A naive cluster: leases, who may renew them, and what it answered.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_core::lease::Status;
use etcd_proxy_core::time::Instant;
use etcd_proxy_proto::etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse, ResponseHeader};
use prost::Message;

/// How long a server waits for a leader before it gives up a renewal.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(7);

pub(crate) type Token = Option<&'static str>;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Lease {
    pub(crate) ttl: Duration,
    pub(crate) end: Instant,
}

/// What a server did with a heartbeat. Its number is the revision in the answer's header.
#[derive(Clone, Debug)]
pub(crate) struct Answered {
    pub(crate) lease: i64,
    pub(crate) token: Token,
    /// When the router sent the heartbeat.
    pub(crate) sent_at: Instant,
    /// The step of the world in which it was carried out.
    pub(crate) step: u64,
    pub(crate) message: Bytes,
}

/// A LeaseKeepAlive call, as the server has it.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) member: usize,
    pub(crate) token: Token,
    pub(crate) require_leader: bool,
    pub(crate) is_open: bool,
    pub(crate) opened_at: Instant,
    /// Heartbeats, and when they were sent.
    pub(crate) inbox: std::collections::VecDeque<(Bytes, Instant)>,
    /// Whether it is at work, or waits for a lease to be revoked.
    pub(crate) is_working: bool,
    pub(crate) blocked_on: Option<i64>,
    /// The last messages in both directions arrive then; others follow.
    pub(crate) arrives: Instant,
    pub(crate) answers: Instant,
    /// Nothing comes of it any more, and nobody is told.
    pub(crate) is_silent: bool,
    /// The server has ended it.
    pub(crate) is_over: bool,
}

/// What comes of a heartbeat.
#[derive(Debug)]
pub(crate) enum Outcome {
    Answer(Bytes, i64),
    /// The lease has ended and is about to be revoked.
    Blocked(i64),
    End(Status),
    /// Nothing, ever.
    Never,
    /// It takes a leader, which is waited for.
    Later,
}

#[derive(Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) leases: BTreeMap<i64, Lease>,
    pub(crate) answered: Vec<Answered>,
    /// Who may not renew which lease.
    pub(crate) denied: BTreeSet<(Token, i64)>,
    /// Tokens that aren't valid any more.
    pub(crate) expired: BTreeSet<&'static str>,
    pub(crate) is_leaderless: bool,
    /// Leases whose heartbeats are never answered.
    pub(crate) stuck: BTreeSet<i64>,
    /// It is another proxy: each heartbeat is carried out by itself, in any order.
    pub(crate) is_proxy: bool,
}

impl Cluster {
    pub(crate) fn grant(&mut self, now: Instant, id: i64, seconds: u64) {
        let ttl = Duration::from_secs(seconds);
        self.leases.insert(id, Lease { ttl, end: now + ttl });
    }

    pub(crate) fn work(
        &mut self,
        now: Instant,
        step: u64,
        token: Token,
        message: &Bytes,
        sent_at: Instant,
    ) -> Outcome {
        let request = LeaseKeepAliveRequest::decode(&message[..]).expect("the router sends what can be read");
        let id = request.id;
        if let Some(token) = token
            && self.expired.contains(token)
        {
            return Outcome::End(Status::new(16, "etcdserver: invalid auth token"));
        }
        if self.denied.contains(&(token, id)) {
            return Outcome::End(Status::new(7, "etcdserver: permission denied"));
        }
        if self.stuck.contains(&id) {
            return Outcome::Never;
        }
        if self.is_leaderless {
            if sent_at + REQUEST_TIMEOUT <= now {
                return Outcome::End(Status::new(14, "etcdserver: no leader"));
            }
            return Outcome::Later;
        }
        let ttl = match self.leases.get_mut(&id) {
            None => 0,
            Some(lease) if lease.end <= now => return Outcome::Blocked(id),
            Some(lease) => {
                lease.end = now + lease.ttl;
                i64::try_from(lease.ttl.as_secs()).expect("small")
            }
        };
        let response = LeaseKeepAliveResponse {
            header: Some(ResponseHeader {
                cluster_id: 5,
                member_id: 6,
                revision: i64::try_from(self.answered.len()).expect("small"),
                raft_term: 7,
            }),
            id,
            ttl,
        };
        let message = Bytes::from(response.encode_to_vec());
        self.answered.push(Answered {
            lease: id,
            token,
            sent_at,
            step,
            message: message.clone(),
        });
        Outcome::Answer(message, id)
    }
}
