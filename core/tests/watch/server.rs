//! Members of a cluster, as far as a Watch call goes: naive, and as unhelpful as real ones may be.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use etcd_proxy_core::watch::UpstreamKind;
use etcd_proxy_proto::etcdserverpb::{
    ResponseHeader, WatchCreateRequest, WatchRequest, WatchResponse, watch_request::RequestUnion,
};
use fastrand::Rng;
use prost::Message;

use crate::store::{Store, matches, revision_of};

#[derive(Debug)]
struct ServerWatcher {
    request: WatchCreateRequest,
    next: i64,
    synced: bool,
}

/// One Watch call, on a member.
#[derive(Debug)]
pub(crate) struct Stream {
    cluster: u64,
    pub(crate) member: usize,
    /// Distinct revisions in one response that catches up (etcd: 1000).
    pub(crate) batch_max: usize,
    pub(crate) kind: UpstreamKind,
    pub(crate) credentials: Option<Bytes>,
    pub(crate) inbox: VecDeque<Bytes>,
    watchers: BTreeMap<i64, ServerWatcher>,
    controls: VecDeque<WatchResponse>,
    events: VecDeque<WatchResponse>,
    /// Creates without prev_kv never give it; for regressions: how many creates asked for it.
    pub(crate) prev_creates: usize,
    pub(crate) creates: usize,
}

impl Stream {
    pub(crate) fn new(cluster: u64, member: usize, kind: UpstreamKind, credentials: Option<Bytes>) -> Self {
        Self {
            cluster,
            member,
            batch_max: 1000,
            kind,
            credentials,
            inbox: VecDeque::new(),
            watchers: BTreeMap::new(),
            controls: VecDeque::new(),
            events: VecDeque::new(),
            prev_creates: 0,
            creates: 0,
        }
    }

    /// Whether it watches this key only.
    pub(crate) fn watches(&self, key: &[u8]) -> bool {
        let mut keys = self.watchers.values().map(|watcher| &watcher.request.key[..]);
        keys.next() == Some(key) && keys.next().is_none()
    }

    pub(crate) fn watchers(&self) -> usize {
        self.watchers.len()
    }

    fn header(&self, revision: i64) -> Option<ResponseHeader> {
        Some(ResponseHeader {
            cluster_id: self.cluster,
            member_id: self.member as u64 + 1,
            revision,
            raft_term: 3,
        })
    }

    /// Takes one request. `applied` is what the member has of the store, `refusal` why nothing may be watched.
    pub(crate) fn step(&mut self, applied: i64, refusal: Option<&str>) -> bool {
        let Some(message) = self.inbox.pop_front() else {
            return false;
        };
        let request = WatchRequest::decode(message).expect("the hub writes what can be read");
        match request.request_union {
            Some(RequestUnion::CreateRequest(request)) => self.create(applied, request, refusal),
            Some(RequestUnion::CancelRequest(request)) => self.cancel(applied, request.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => {
                let is_ready =
                    |watcher: &ServerWatcher| watcher.synced && watcher.request.start_revision <= applied;
                let ready = self.watchers.values().all(is_ready);
                if ready && !self.watchers.is_empty() {
                    self.events.push_back(WatchResponse {
                        header: self.header(applied),
                        watch_id: -1,
                        ..WatchResponse::default()
                    });
                }
            }
            None => {}
        }
        true
    }

    fn cancel(&mut self, applied: i64, watch_id: i64) {
        if self.watchers.remove(&watch_id).is_some() {
            self.controls.push_back(WatchResponse {
                header: self.header(applied),
                watch_id,
                canceled: true,
                ..WatchResponse::default()
            });
        }
    }

    fn create(&mut self, applied: i64, request: WatchCreateRequest, refusal: Option<&str>) {
        assert!(request.start_revision >= 0, "the hub knows where it is");
        self.creates += 1;
        self.prev_creates += usize::from(request.prev_kv);
        let mut response = WatchResponse {
            header: self.header(applied),
            watch_id: request.watch_id,
            created: true,
            ..WatchResponse::default()
        };
        if let Some(refusal) = refusal {
            response.watch_id = -1;
            response.canceled = true;
            response.cancel_reason = refusal.into();
        } else {
            let follows = request.start_revision == 0;
            let watcher = ServerWatcher {
                next: if follows {
                    applied + 1
                } else {
                    request.start_revision
                },
                synced: follows || request.start_revision > applied,
                request,
            };
            let id = watcher.request.watch_id;
            assert!(
                self.watchers.insert(id, watcher).is_none(),
                "ids aren't used twice"
            );
        }
        self.controls.push_back(response);
    }

    /// The member has applied a revision.
    pub(crate) fn applied(&mut self, store: &Store, applied: i64) {
        let ids: Vec<i64> = self.watchers.keys().copied().collect();
        for id in ids {
            let watcher = &mut self.watchers.get_mut(&id).expect("just listed");
            if watcher.synced && watcher.next <= applied {
                self.give(store, id, applied, applied);
            }
        }
    }

    /// Unsynced watchers are caught up by one batch each, or find their history compacted.
    pub(crate) fn sync(&mut self, store: &Store, applied: i64) {
        let ids: Vec<i64> = self.watchers.keys().copied().collect();
        for id in ids {
            let watcher = &self.watchers[&id];
            if watcher.synced {
                continue;
            }
            if watcher.next < store.compacted {
                self.watchers.remove(&id);
                self.events.push_back(WatchResponse {
                    header: self.header(0),
                    watch_id: id,
                    canceled: true,
                    compact_revision: store.compacted,
                    ..WatchResponse::default()
                });
                continue;
            }
            let mut revisions: Vec<i64> = self.matching(store, id, applied).map(revision_of).collect();
            revisions.dedup();
            let to = revisions.get(self.batch_max - 1).copied().unwrap_or(applied);
            self.give(store, id, to, applied);
            let watcher = self.watchers.get_mut(&id).expect("it is there");
            watcher.synced = watcher.next > applied;
        }
    }

    fn matching<'a>(
        &self,
        store: &'a Store,
        id: i64,
        to: i64,
    ) -> impl Iterator<Item = &'a etcd_proxy_proto::mvccpb::Event> + use<'a> {
        let watcher = &self.watchers[&id];
        let (key, end) = (watcher.request.key.clone(), watcher.request.range_end.clone());
        let from = watcher.next;
        store
            .log
            .iter()
            .filter(move |event| (from..=to).contains(&revision_of(event)) && matches(&key, &end, event))
    }

    /// Queues all events up to a revision. The header's revision is the member's, though more may follow.
    fn give(&mut self, store: &Store, id: i64, to: i64, applied: i64) {
        let mut events: Vec<_> = self.matching(store, id, to).cloned().collect();
        let header = self.header(applied);
        let watcher = self.watchers.get_mut(&id).expect("its callers have looked");
        watcher.next = watcher.next.max(to + 1);
        if events.is_empty() {
            return;
        }
        for event in &mut events {
            // It looks for it in the revision before.
            if !watcher.request.prev_kv || revision_of(event) <= store.compacted {
                event.prev_kv = None;
            }
        }
        let fragments = watcher.request.fragment && events.len() > 1 && applied % 3 == 0;
        let size = if fragments { 1 } else { events.len() };
        let mut pieces: VecDeque<_> = events.chunks(size).map(<[_]>::to_vec).collect();
        while let Some(piece) = pieces.pop_front() {
            self.events.push_back(WatchResponse {
                header,
                watch_id: id,
                fragment: !pieces.is_empty(),
                events: piece,
                ..WatchResponse::default()
            });
        }
    }

    /// The server notifies a watcher of progress.
    pub(crate) fn notify(&mut self, applied: i64, rng: &mut Rng) {
        let synced = self.watchers.iter().filter(|(_, watcher)| watcher.synced);
        let ids: Vec<i64> = synced.map(|(id, _)| *id).collect();
        if let Some(id) = rng.choice(ids) {
            self.events.push_back(WatchResponse {
                header: self.header(applied),
                watch_id: id,
                ..WatchResponse::default()
            });
        }
    }

    /// The server ends a watcher, and doesn't say why.
    pub(crate) fn cancel_one(&mut self, applied: i64, rng: &mut Rng) {
        let ids: Vec<i64> = self.watchers.keys().copied().collect();
        if let Some(id) = rng.choice(ids) {
            self.watchers.remove(&id);
            self.events.push_back(WatchResponse {
                header: self.header(applied),
                watch_id: id,
                canceled: true,
                ..WatchResponse::default()
            });
        }
    }

    /// The next response on the wire. Answers to requests and events overtake one another, but a watcher's events
    /// don't overtake its creation.
    pub(crate) fn send(&mut self, rng: &mut Rng) -> Option<Bytes> {
        let blocked = self.events.front().is_some_and(|event| {
            let is_creation =
                |response: &WatchResponse| response.created && response.watch_id == event.watch_id;
            self.controls.iter().any(is_creation)
        });
        let take_control = !self.controls.is_empty() && (self.events.is_empty() || blocked || rng.bool());
        let response = if take_control {
            self.controls.pop_front()
        } else {
            self.events.pop_front()
        };
        response.map(|response| response.encode_to_vec().into())
    }
}
