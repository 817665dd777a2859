//! A client and what it must see.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use etcd_proxy_core::watch::{Caller, ClientId, Frame};
use etcd_proxy_proto::etcdserverpb::{
    ResponseHeader, WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest,
    WatchResponse, watch_create_request::FilterType, watch_request::RequestUnion,
};
use etcd_proxy_proto::mvccpb::{Event, event::EventType};
use prost::Message;

use crate::store::{Store, matches, revision_of};

/// A watcher that was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) request: WatchCreateRequest,
    /// The store's revision when it was asked for.
    pub(crate) asked_at: i64,
    /// The first revision that it may, and then must, see. Unknown up to `created_at` + 1 until the first event.
    next: i64,
    created_at: i64,
    /// Events of revision `next` that have come already, in fragments.
    part: usize,
    pub(crate) cancelled: bool,
}

#[derive(Debug)]
pub(crate) struct Client {
    /// The history in which its stream was opened: it sees no other one.
    pub(crate) era: usize,
    pub(crate) id: ClientId,
    pub(crate) caller: Caller,
    /// Sent by the hub, not yet taken.
    pub(crate) outbox: VecDeque<Frame>,
    pub(crate) stopped: bool,
    pub(crate) paused: bool,
    /// Create requests without answer.
    pub(crate) creating: VecDeque<Wanted>,
    pub(crate) watching: BTreeMap<i64, Wanted>,
    pub(crate) revision: i64,
    pub(crate) events: usize,
    pub(crate) manual_progress: Vec<i64>,
    pub(crate) notified: usize,
    pub(crate) compacted: usize,
    pub(crate) refused: Vec<String>,
    pub(crate) frames: Vec<WatchResponse>,
}

impl Client {
    pub(crate) fn new(era: usize, id: ClientId, caller: Caller) -> Self {
        Self {
            era,
            id,
            caller,
            outbox: VecDeque::new(),
            stopped: false,
            paused: false,
            creating: VecDeque::new(),
            watching: BTreeMap::new(),
            revision: 0,
            events: 0,
            manual_progress: Vec::new(),
            notified: 0,
            compacted: 0,
            refused: Vec::new(),
            frames: Vec::new(),
        }
    }

    pub(crate) fn create(&mut self, store: &Store, request: WatchCreateRequest) -> Bytes {
        self.creating.push_back(Wanted {
            request: request.clone(),
            asked_at: store.revision,
            next: 0,
            created_at: 0,
            part: 0,
            cancelled: false,
        });
        message(RequestUnion::CreateRequest(request))
    }

    pub(crate) fn cancel(&mut self, id: i64) -> Bytes {
        if let Some(wanted) = self.watching.get_mut(&id) {
            wanted.cancelled = true;
        }
        message(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: id }))
    }

    pub(crate) fn ask_progress() -> Bytes {
        message(RequestUnion::ProgressRequest(WatchProgressRequest {}))
    }

    pub(crate) fn outbox_bytes(&self) -> usize {
        self.outbox.iter().map(Frame::len).sum()
    }

    /// Looks at a frame as it is put into the outbox. `goes_back` tells whether the store ever does.
    pub(crate) fn see(&mut self, store: &Store, goes_back: bool, frame: &Frame) {
        let mut bytes = frame.head.to_vec();
        bytes.extend_from_slice(&frame.tail);
        assert_eq!(bytes[0], 0, "not compressed");
        let length = u32::from_be_bytes(bytes[1..5].try_into().expect("four bytes"));
        assert_eq!(length as usize, bytes.len() - 5, "the prefix tells the length");
        let response = WatchResponse::decode(&bytes[5..]).expect("the hub writes what can be read");
        let header = response.header.expect("every response has a header");
        if goes_back && response.created && response.canceled {
            // The header is that of the member that refuses, whichever store that has: nothing is promised with it.
            self.look(store, goes_back, &response);
            self.frames.push(response);
            return;
        }
        assert!(header.revision <= store.revision, "the store isn't that far");
        let knows_nothing = response.canceled && header == ResponseHeader::default();
        if response.compact_revision == 0 && !knows_nothing {
            assert_eq!(header.cluster_id, store.cluster, "{response:?}");
            // Those of events tell how far their own watcher is.
            assert!(
                header.revision >= self.revision || !response.events.is_empty(),
                "headers went back"
            );
            self.revision = self.revision.max(header.revision);
        }
        self.look(store, goes_back, &response);
        self.frames.push(response);
    }

    fn look(&mut self, store: &Store, goes_back: bool, response: &WatchResponse) {
        let revision = response.header.map_or(0, |header| header.revision);
        if response.created {
            let mut wanted = self.creating.pop_front().expect("created once, when asked for");
            assert!(response.events.is_empty());
            // Who isn't let in is told of the last revision that anybody was told of, if somebody was.
            let is_new = revision >= wanted.asked_at || response.canceled;
            assert!(
                is_new,
                "the revision is older than the request: {wanted:?} {response:?}"
            );
            if response.canceled {
                assert_eq!(response.watch_id, -1);
                assert!(!response.cancel_reason.is_empty());
                self.refused.push(response.cancel_reason.clone());
                return;
            }
            let asked = wanted.request.watch_id;
            assert!(
                asked == 0 || asked == response.watch_id,
                "the client's choice of id counts"
            );
            wanted.created_at = revision;
            wanted.next = match wanted.request.start_revision {
                0 => wanted.asked_at + 1,
                start => start,
            };
            let before = self.watching.insert(response.watch_id, wanted);
            assert!(before.is_none(), "the id is taken");
        } else if response.canceled {
            let wanted = self.watching.remove(&response.watch_id);
            let wanted = wanted.expect("it is a watcher's");
            if response.compact_revision > 0 {
                // The store that is there may be compacted further; whoever is told looks again, as when his watch ends.
                assert!(goes_back || response.compact_revision <= store.compacted);
                assert!(
                    wanted.next < response.compact_revision,
                    "nothing that it needs is gone: {wanted:?}, {response:?}"
                );
                assert_eq!((revision, response.cancel_reason.as_str()), (0, ""));
                self.compacted += 1;
            } else if response.cancel_reason.is_empty() {
                assert!(wanted.cancelled, "nobody wished it");
            } else {
                self.refused.push(response.cancel_reason.clone());
            }
        } else if response.events.is_empty() {
            if response.watch_id == -1 {
                self.manual_progress.push(revision);
                assert!(self.creating.is_empty() && !self.watching.is_empty());
                for wanted in self.watching.values() {
                    wanted.has_all(store, revision);
                }
            } else {
                self.notified += 1;
                let wanted = &self.watching[&response.watch_id];
                assert!(wanted.request.progress_notify);
                wanted.has_all(store, revision);
            }
        } else {
            self.events += response.events.len();
            let wanted = self.watching.get_mut(&response.watch_id);
            let wanted = wanted.expect("events come after created and before canceled");
            wanted.take(store, response);
            assert!(revision >= wanted.next - 1, "the header is older than its events");
            if !response.fragment {
                wanted.goes_on_behind(store, revision);
            }
        }
    }
}

impl Wanted {
    fn wants(&self, event: &Event) -> bool {
        let filter = match event.r#type() {
            EventType::Put => FilterType::Noput,
            EventType::Delete => FilterType::Nodelete,
        };
        matches(&self.request.key, &self.request.range_end, event)
            && !self.request.filters.contains(&filter.into())
    }

    /// The events that are to come.
    fn to_come<'a>(&self, store: &'a Store) -> Vec<&'a Event> {
        let from = store.log.partition_point(|event| revision_of(event) < self.next);
        let events = store.log[from..].iter().filter(|event| self.wants(event));
        events.skip(self.part).collect()
    }

    /// A watcher from "now" may begin anywhere between its request and its creation, but only there.
    fn may_skip(&self, revision: i64) -> bool {
        self.request.start_revision == 0 && self.next == self.asked_at + 1 && revision <= self.created_at
    }

    fn take(&mut self, store: &Store, response: &WatchResponse) {
        assert!(response.fragment <= self.request.fragment);
        let to_come = self.to_come(store);
        let mut to_come = to_come.into_iter().peekable();
        let first = revision_of(&response.events[0]);
        while to_come
            .next_if(|event| revision_of(event) < first && self.may_skip(revision_of(event)))
            .is_some()
        {}
        let mut last = 0;
        for event in &response.events {
            let mut expected = to_come.next().expect("the event happened, and once").clone();
            let was_compacted = revision_of(event) <= store.compacted && event.prev_kv.is_none();
            if !self.request.prev_kv || was_compacted {
                expected.prev_kv = None;
            }
            assert_eq!(*event, expected, "in order, without a gap: {self:?}");
            last = revision_of(event);
        }
        let is_split = to_come.peek().is_some_and(|event| revision_of(event) == last);
        assert!(!is_split || response.fragment, "a revision was split");
        if is_split {
            let here = response.events.iter().filter(|event| revision_of(event) == last);
            self.part = here.count() + if self.next == last { self.part } else { 0 };
            self.next = last;
        } else {
            self.part = 0;
            self.next = last + 1;
        }
    }

    /// Who is cut off now and goes on behind the revision of the header misses nothing.
    fn goes_on_behind(&self, store: &Store, revision: i64) {
        if let Some(missed) = self.to_come(store).first() {
            assert!(
                revision_of(missed) > revision,
                "whoever goes on behind {revision} misses {missed:?}: {self:?}"
            );
        }
    }

    fn has_all(&self, store: &Store, revision: i64) {
        let missing = self
            .to_come(store)
            .into_iter()
            .find(|event| !self.may_skip(revision_of(event)));
        if let Some(missing) = missing {
            assert!(
                revision_of(missing) > revision,
                "told of progress to {revision}, but {missing:?} hasn't come: {self:?}"
            );
        }
        assert!(self.request.start_revision <= revision, "its start isn't reached");
    }

    /// Whether everything has come.
    pub(crate) fn is_complete(&self, store: &Store) -> bool {
        self.to_come(store).into_iter().all(|event| {
            self.may_skip(revision_of(event)) || revision_of(event) < self.request.start_revision
        })
    }
}

fn message(union: RequestUnion) -> Bytes {
    let request = WatchRequest {
        request_union: Some(union),
    };
    request.encode_to_vec().into()
}
