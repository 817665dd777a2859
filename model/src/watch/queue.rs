//! What waits to be sent on a stream.

use alloc::collections::VecDeque;
use alloc::string::String;

use etcd_proxy_proto::etcdserverpb::{ResponseHeader, WatchResponse};
use etcd_proxy_proto::mvccpb::Event;

use super::{Settings, fragment, watcher};
use crate::store::Store;

/// Control responses (created, canceled) that a server holds before it reads no more requests (etcd: 128).
const CONTROLS_MAX: usize = 128;

/// Responses in the order in which they came up. Those that answer requests don't count against the space that there
/// is for the others.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    waiting: VecDeque<Outgoing>,
    /// How many of them answer requests.
    controls: usize,
    /// What is left of a response that was split.
    fragments: VecDeque<WatchResponse>,
    buffer_max: usize,
    response_bytes_max: usize,
}

/// A response, but for its header and previous values.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    response: WatchResponse,
    /// For the header.
    revision: i64,
    prev_kv: bool,
    fragment: bool,
    /// Whether it answers a request.
    control: bool,
}

impl Queue {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            waiting: VecDeque::new(),
            controls: 0,
            fragments: VecDeque::new(),
            buffer_max: settings.buffer_max,
            response_bytes_max: settings.response_bytes_max,
        }
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.controls >= CONTROLS_MAX
    }

    /// Whether a response that nobody asked for fits in.
    pub(super) fn has_space(&self) -> bool {
        self.waiting.len() - self.controls < self.buffer_max
    }

    pub(super) fn push(&mut self, outgoing: Outgoing) {
        if outgoing.control {
            self.controls += 1;
        }
        self.waiting.push_back(outgoing);
    }

    /// The next response, complete; of one that must be split, the next fragment.
    pub(super) fn pop(&mut self, store: &Store, header: &ResponseHeader) -> Option<WatchResponse> {
        if let Some(fragment) = self.fragments.pop_front() {
            return Some(fragment);
        }
        let Outgoing {
            mut response,
            revision,
            prev_kv,
            fragment,
            control,
        } = self.waiting.pop_front()?;
        if control {
            self.controls -= 1;
        }
        response.header = Some(ResponseHeader { revision, ..*header });
        if prev_kv {
            for event in &mut response.events {
                watcher::add_previous(event, store);
            }
        }
        if !fragment {
            return Some(response);
        }
        self.fragments = fragment::split(response, self.response_bytes_max);
        self.fragments.pop_front()
    }
}

impl Outgoing {
    fn new(response: WatchResponse, revision: i64) -> Self {
        Self {
            response,
            revision,
            prev_kv: false,
            fragment: false,
            control: false,
        }
    }

    /// The answer to a create request; the reason is why it is refused, or empty.
    pub(super) fn created(watch_id: i64, cancel_reason: String, revision: i64) -> Self {
        let response = WatchResponse {
            watch_id,
            created: true,
            canceled: !cancel_reason.is_empty(),
            cancel_reason,
            ..WatchResponse::default()
        };
        Self {
            control: true,
            ..Self::new(response, revision)
        }
    }

    /// The answer to a cancel request.
    pub(super) fn canceled(watch_id: i64, revision: i64) -> Self {
        let response = WatchResponse {
            watch_id,
            canceled: true,
            ..WatchResponse::default()
        };
        Self {
            control: true,
            ..Self::new(response, revision)
        }
    }

    /// The end of a watcher whose history is gone. etcd leaves the revision and the reason out.
    pub(super) fn compacted(watch_id: i64, compact_revision: i64) -> Self {
        let response = WatchResponse {
            watch_id,
            canceled: true,
            compact_revision,
            ..WatchResponse::default()
        };
        Self::new(response, 0)
    }

    pub(super) fn events(
        watch_id: i64,
        events: impl IntoIterator<Item = Event>,
        revision: i64,
        watcher: &watcher::Watcher,
    ) -> Self {
        let response = WatchResponse {
            watch_id,
            events: events.into_iter().collect(),
            ..WatchResponse::default()
        };
        Self {
            prev_kv: watcher.prev_kv,
            fragment: watcher.fragment,
            ..Self::new(response, revision)
        }
    }

    pub(super) fn progress(watch_id: i64, revision: i64) -> Self {
        let response = WatchResponse {
            watch_id,
            ..WatchResponse::default()
        };
        Self::new(response, revision)
    }
}
