//! A client and what it must see.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_core::lease::Status;
use etcd_proxy_core::time::Instant;
use etcd_proxy_proto::etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use prost::Message;

use crate::server::{Answered, Token};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) at: Instant,
    step: u64,
}

/// An answer as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) lease: i64,
    pub(crate) ttl: i64,
    pub(crate) asked: Instant,
    pub(crate) at: Instant,
}

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) connection: u64,
    pub(crate) token: Token,
    pub(crate) require_leader: bool,
    /// Requests without answer, by lease.
    pub(crate) asked: BTreeMap<i64, VecDeque<Ask>>,
    /// What it wants to send and may not.
    pub(crate) pending: VecDeque<Bytes>,
    /// Sizes of what was delivered and not taken.
    pub(crate) outbox: VecDeque<usize>,
    pub(crate) is_stopped: bool,
    pub(crate) is_paused: bool,
    pub(crate) is_half_closed: bool,
    pub(crate) sent_nonsense: bool,
    pub(crate) seen: Vec<Seen>,
}

pub(crate) fn heartbeat(id: i64) -> Bytes {
    LeaseKeepAliveRequest { id }.encode_to_vec().into()
}

impl Client {
    pub(crate) fn new(connection: u64, token: Token, require_leader: bool) -> Self {
        Self {
            connection,
            token,
            require_leader,
            asked: BTreeMap::new(),
            pending: VecDeque::new(),
            outbox: VecDeque::new(),
            is_stopped: false,
            is_paused: false,
            is_half_closed: false,
            sent_nonsense: false,
            seen: Vec::new(),
        }
    }

    pub(crate) fn ask(&mut self, now: Instant, step: u64, lease: i64) {
        self.asked
            .entry(lease)
            .or_default()
            .push_back(Ask { at: now, step });
    }

    pub(crate) fn waits(&self) -> usize {
        self.asked.values().map(VecDeque::len).sum()
    }

    /// The oldest request without answer.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.asked.values().flatten().map(|ask| ask.at).min()
    }

    /// Looks at an answer as it is put into the outbox.
    pub(crate) fn see(
        &mut self,
        now: Instant,
        answered: &[Answered],
        frame: &Bytes,
        share_within: Option<Duration>,
    ) -> i64 {
        assert_eq!(frame[0], 0, "not compressed");
        let length = u32::from_be_bytes(frame[1..5].try_into().expect("four bytes"));
        assert_eq!(length as usize, frame.len() - 5, "the prefix tells the length");
        let response = LeaseKeepAliveResponse::decode(&frame[5..]).expect("as the server sent it");
        let number = response.header.expect("there is one").revision;
        let origin = &answered[usize::try_from(number).expect("not negative")];
        assert_eq!(origin.message, frame[5..], "not a byte is changed");
        assert_eq!(origin.token, self.token, "renewed by somebody else's right");
        let lease = origin.lease;
        let asks = self
            .asked
            .get_mut(&lease)
            .expect("nothing is answered but requests");
        let ask = asks.pop_front().expect("each request is answered once");
        if asks.is_empty() {
            self.asked.remove(&lease);
        }
        let is_shared = share_within.is_some_and(|within| ask.at - origin.sent_at <= within);
        assert!(
            origin.step > ask.step || is_shared,
            "the renewal is older than the request"
        );
        self.seen.push(Seen {
            lease,
            ttl: response.ttl,
            asked: ask.at,
            at: now,
        });
        self.outbox.push_back(frame.len());
        lease
    }

    /// Whether the stream may end like this, as far as the client can tell.
    pub(crate) fn check_end(&self, status: &Status) {
        let is_right = match status.code {
            0 => self.is_half_closed && self.asked.is_empty(),
            13 => {
                self.sent_nonsense
                    && status
                        .message
                        .starts_with("grpc: failed to unmarshal the received message: ")
            }
            14 if status.message == "etcdserver: no leader" => self.require_leader || !self.asked.is_empty(),
            14 => status.message == "etcdserver: request timed out" && !self.asked.is_empty(),
            7 | 16 | 2 | 5 => !self.asked.is_empty(),
            _ => false,
        };
        assert!(is_right, "nothing ends the stream with {status:?}: {self:?}");
    }
}
