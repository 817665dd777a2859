//! What the hubs' watches cost members: one watcher for a range, and one more while that catches up.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use etcd_proxy_core::watch::{UpstreamId, UpstreamKind};
use etcd_proxy_proto::etcdserverpb::{WatchRequest, WatchResponse, watch_request::RequestUnion};
use prost::Message as _;

use crate::io::Io;
use crate::situations::Situation;

/// A range, as a request has it.
type Range = (Bytes, Bytes);

/// A hub's Watch call to a member.
#[derive(Debug)]
struct Upstream {
    kind: UpstreamKind,
    watchers: BTreeMap<i64, Range>,
    /// Create requests without answer.
    creating: VecDeque<i64>,
    /// The highest id that was asked for.
    last: Option<i64>,
}

/// The Watch calls of all hubs, and their watchers: those asked for, until they are cancelled.
#[derive(Debug, Default)]
pub(crate) struct Upstreams {
    calls: BTreeMap<(usize, UpstreamId), Upstream>,
    /// How many each hub has of each kind for each range.
    watchers: BTreeMap<(usize, UpstreamKind, Range), u32>,
    /// Create requests, ever.
    pub(crate) creates: u64,
    /// Those that asked for previous pairs.
    pub(crate) prev_creates: u64,
    /// Watch calls with watchers, ever.
    pub(crate) opened: u64,
    /// The most watchers of one kind that there were for one range at once.
    pub(crate) watchers_max: u32,
}

impl Upstreams {
    pub(in crate::oracle) fn opened(&mut self, proxy: usize, id: UpstreamId, kind: UpstreamKind) {
        self.opened += u64::from(kind != UpstreamKind::Leader);
        let upstream = Upstream {
            kind,
            watchers: BTreeMap::new(),
            creating: VecDeque::new(),
            last: None,
        };
        let before = self.calls.insert((proxy, id), upstream);
        assert!(before.is_none(), "{id:?} is opened twice");
    }

    pub(in crate::oracle) fn asked(&mut self, io: &mut Io, proxy: usize, id: UpstreamId, message: Bytes) {
        let upstream = self.calls.get_mut(&(proxy, id));
        let upstream = upstream.unwrap_or_else(|| panic!("{id:?} isn't open, and is sent to"));
        let request = WatchRequest::decode(message).expect("the hub writes what can be read");
        match request.request_union.expect("the hub asks for something") {
            RequestUnion::CreateRequest(request) => {
                assert_ne!(upstream.kind, UpstreamKind::Leader, "{request:?}");
                assert!(request.start_revision >= 0, "{request:?}");
                let is_new = upstream.last.is_none_or(|last| last < request.watch_id);
                assert!(is_new, "an id is used again: {request:?}");
                upstream.last = Some(request.watch_id);
                upstream.creating.push_back(request.watch_id);
                self.creates += 1;
                self.prev_creates += u64::from(request.prev_kv);
                let range = (request.key, request.range_end);
                upstream.watchers.insert(request.watch_id, range.clone());
                let count = self.watchers.entry((proxy, upstream.kind, range)).or_default();
                *count += 1;
                self.watchers_max = self.watchers_max.max(*count);
                io.count(Situation::CheckedOneUpstreamWatcher);
                assert!(
                    *count <= 1,
                    "hub {proxy} has {count} {:?} watchers of {:?}",
                    upstream.kind,
                    upstream.watchers[&request.watch_id]
                );
            }
            RequestUnion::CancelRequest(request) => self.cancelled(proxy, id, request.watch_id),
            RequestUnion::ProgressRequest(_) => {}
        }
    }

    pub(in crate::oracle) fn said(&mut self, proxy: usize, id: UpstreamId, message: Bytes) {
        let response = WatchResponse::decode(message).expect("the model writes what can be read");
        let mut watch_id = response.watch_id;
        if response.created {
            // Requests are answered in their order, and a refusal doesn't tell the id.
            let upstream = self.calls.get_mut(&(proxy, id));
            let asked = upstream.and_then(|upstream| upstream.creating.pop_front());
            watch_id = asked.unwrap_or(watch_id);
        }
        if response.canceled {
            self.cancelled(proxy, id, watch_id);
        }
    }

    pub(in crate::oracle) fn gone(&mut self, proxy: usize, id: UpstreamId) {
        if let Some(upstream) = self.calls.remove(&(proxy, id)) {
            for range in upstream.watchers.into_values() {
                self.take(proxy, upstream.kind, range);
            }
        }
    }

    fn cancelled(&mut self, proxy: usize, id: UpstreamId, watch_id: i64) {
        if let Some(upstream) = self.calls.get_mut(&(proxy, id))
            && let Some(range) = upstream.watchers.remove(&watch_id)
        {
            let kind = upstream.kind;
            self.take(proxy, kind, range);
        }
    }

    fn take(&mut self, proxy: usize, kind: UpstreamKind, range: Range) {
        let key = (proxy, kind, range);
        if let Some(count) = self.watchers.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.watchers.remove(&key);
            }
        }
    }

    /// Watchers that all hubs have of members.
    pub(crate) fn watchers(&self, kind: UpstreamKind) -> usize {
        let calls = self.calls.values().filter(|upstream| upstream.kind == kind);
        calls.map(|upstream| upstream.watchers.len()).sum()
    }

    /// Whether a hub has Watch calls that may have watchers.
    pub(crate) fn watches(&self, proxy: usize) -> bool {
        let mut calls = self.calls.iter();
        calls.any(|((of, _), call)| *of == proxy && call.kind != UpstreamKind::Leader)
    }

    /// Watch calls that are open.
    pub(crate) fn calls(&self) -> usize {
        self.calls.len()
    }
}
