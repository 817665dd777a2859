//! What a tap has seen.

use std::collections::BTreeMap;

use bytes::Bytes;
use etcd_proxy_proto::etcdserverpb::{
    RangeRequest, WatchCreateRequest, WatchRequest, WatchResponse, watch_request::RequestUnion,
};
use prost::Message as _;

/// Counts and requests since the tap was started.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Calls by path.
    pub calls: BTreeMap<String, usize>,
    /// Every KV/Range request.
    pub ranges: Vec<RangeRequest>,
    /// Every request for a watcher, in the order in which they came.
    pub creates: Vec<WatchCreateRequest>,
    /// Requests for the end of a watcher.
    pub cancels: usize,
    /// Watch calls that are open now.
    pub open_watches: usize,
    /// The most Watch calls that were open at a time.
    pub open_watches_peak: usize,
    /// Watch calls that at least one watcher was asked for on.
    pub used_watches: usize,
    /// How often a watcher was asked for while no other request of its call was unanswered: round trips of creating.
    pub rounds: usize,
    /// Bytes of messages that came on Watch calls.
    pub watch_bytes: usize,
}

/// What is known of one Watch call.
#[derive(Debug, Default)]
pub(super) struct WatchCall {
    asked: usize,
    unanswered: usize,
}

impl Record {
    pub(super) fn opened(&mut self) {
        self.open_watches += 1;
        self.open_watches_peak = self.open_watches_peak.max(self.open_watches);
    }

    pub(super) fn ended(&mut self) {
        self.open_watches -= 1;
    }

    /// A message of a client on a call with this path.
    pub(super) fn asked(&mut self, path: &str, call: &mut WatchCall, message: Bytes) {
        if path == "/etcdserverpb.KV/Range" {
            self.ranges.extend(RangeRequest::decode(message));
            return;
        }
        if path != crate::watching::WATCH {
            return;
        }
        match WatchRequest::decode(message)
            .ok()
            .and_then(|request| request.request_union)
        {
            Some(RequestUnion::CreateRequest(create)) => {
                self.creates.push(create);
                self.used_watches += usize::from(call.asked == 0);
                self.rounds += usize::from(call.unanswered == 0);
                call.asked += 1;
                call.unanswered += 1;
            }
            Some(RequestUnion::CancelRequest(_)) => self.cancels += 1,
            Some(RequestUnion::ProgressRequest(_)) | None => {}
        }
    }

    /// A message of the member on a Watch call.
    pub(super) fn told(&mut self, call: &mut WatchCall, message: Bytes) {
        self.watch_bytes += message.len();
        if WatchResponse::decode(message).is_ok_and(|answer| answer.created) {
            call.unanswered = call.unanswered.saturating_sub(1);
        }
    }

    /// Requests for a watcher of exactly this range.
    #[must_use]
    pub fn creates_of(&self, like: &WatchCreateRequest) -> usize {
        let same =
            |create: &&WatchCreateRequest| (&create.key, &create.range_end) == (&like.key, &like.range_end);
        self.creates.iter().filter(same).count()
    }

    /// Calls of a path.
    #[must_use]
    pub fn calls_of(&self, path: &str) -> usize {
        self.calls.get(path).copied().unwrap_or(0)
    }
}
