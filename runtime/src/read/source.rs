//! The watch of what is cached: a client of the watch hub's, so that it goes on whatever happens to members and streams.

use core::convert::Infallible;
use core::time::Duration;
use std::sync::Arc;

use bytes::Bytes;
use etcd_proxy_core::range::KeyRange;
use etcd_proxy_core::read::{Event, Scope, WatchId};
use etcd_proxy_core::watch::Hub;
use etcd_proxy_proto::etcdserverpb::watch_request::RequestUnion;
use etcd_proxy_proto::etcdserverpb::{WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse};
use prost::Message as _;
use tokio::sync::{Notify, oneshot};

use super::ReadCache;
use crate::rt::{self, Runtime};
use crate::streams::InnerClient;
use crate::upstream::Uplink;

/// How long to wait before the watch is opened again after the hub has ended it. Doubled from one failure to the next: it
/// fails for as long as the cluster asks for credentials.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Messages that are handled before other tasks have their turn.
const MESSAGES_AT_ONCE: usize = 64;

/// What the cache keeps of its watch. The watch ends when this is dropped.
#[derive(Debug)]
pub(super) struct Control {
    watch: WatchId,
    progress: Arc<Notify>,
    _open: oneshot::Sender<Infallible>,
}

impl Control {
    pub(super) fn is(&self, watch: WatchId) -> bool {
        self.watch == watch
    }

    pub(super) fn ask_progress(&self) {
        self.progress.notify_one();
    }
}

/// What the task of the watch gets.
#[derive(Debug)]
pub(crate) struct Orders {
    watch: WatchId,
    progress: Arc<Notify>,
    closed: oneshot::Receiver<Infallible>,
}

/// Both ends of a watch.
pub(super) fn orders(watch: WatchId) -> (Control, Orders) {
    let (open, closed) = oneshot::channel();
    let progress = Arc::new(Notify::new());
    let control = Control {
        watch,
        progress: progress.clone(),
        _open: open,
    };
    let orders = Orders {
        watch,
        progress,
        closed,
    };
    (control, orders)
}

/// Watches until the cache closes the watch.
pub(super) async fn run<R: Runtime>(cache: Arc<ReadCache>, uplink: Arc<Uplink>, mut orders: Orders) {
    let ranges = match cache.scope() {
        Scope::Everything => vec![KeyRange::everything()],
        Scope::Ranges(ranges) => ranges.clone(),
        Scope::Nothing => return,
    };
    super::learn_trust::<R>(&cache, &uplink).await;
    let mut pause = PAUSE_MIN;
    loop {
        let ended = tokio::select! {
            // Dropped, as there is nothing to send.
            _ = &mut orders.closed => return,
            ended = watch(&cache, &orders.progress, orders.watch, &ranges) => ended,
        };
        let reason = &*ended.reason;
        if ended.had_started {
            tracing::info!(reason, "the watch of the read cache has ended; it starts again");
            cache.tell(Event::WatchLost(orders.watch));
            pause = PAUSE_MIN;
        } else {
            tracing::debug!(reason, "the watch of the read cache can't start; it tries again");
            pause = (pause * 2).min(PAUSE_MAX);
        }
        tokio::select! {
            _ = &mut orders.closed => return,
            () = rt::sleep::<R>(pause) => {}
        }
    }
}

/// How a watch has ended.
struct Ended {
    had_started: bool,
    reason: String,
}

/// Tells the cache what the hub tells, until that ends it.
async fn watch(cache: &ReadCache, progress: &Notify, watch: WatchId, ranges: &[KeyRange]) -> Ended {
    let mut client = InnerClient::<Hub>::open(cache.hub.clone());
    for range in ranges {
        client.send(request(RequestUnion::CreateRequest(WatchCreateRequest {
            key: range.key().clone(),
            range_end: range.end().clone(),
            progress_notify: true,
            ..WatchCreateRequest::default()
        })));
    }
    let mut to_create = ranges.len();
    let ended = |to_create, reason| Ended {
        had_started: to_create == 0,
        reason,
    };
    // What each watcher is complete from: its events come after this.
    let mut started = 0;
    let mut messages = 0;
    loop {
        messages += 1;
        if messages % MESSAGES_AT_ONCE == 0 {
            rt::yield_now().await;
        }
        let message = tokio::select! {
            message = client.next() => message,
            () = progress.notified() => {
                client.send(request(RequestUnion::ProgressRequest(WatchProgressRequest {})));
                continue;
            }
        };
        let response = match message {
            Ok(message) => WatchResponse::decode(message),
            Err(status) => return ended(to_create, status.message.into_owned()),
        };
        let Ok(response) = response else {
            return ended(to_create, "the hub sent what can't be read".to_owned());
        };
        let revision = response.header.map_or(0, |header| header.revision);
        if response.canceled {
            let reason = match response.compact_revision {
                0 => response.cancel_reason,
                compacted => format!("compacted at revision {compacted}"),
            };
            return ended(to_create, reason);
        }
        let event = if response.created {
            to_create -= 1;
            started = started.max(revision);
            if to_create > 0 {
                continue;
            }
            Event::WatchStarted {
                watch,
                revision: started,
            }
        } else if let Some(last) = response
            .events
            .iter()
            .filter_map(|event| event.kv.as_ref())
            .last()
        {
            Event::WatchChanged {
                watch,
                revision: last.mod_revision,
                keys: response
                    .events
                    .into_iter()
                    .filter_map(|event| Some(event.kv?.key))
                    .collect(),
            }
        } else if response.watch_id == -1 || ranges.len() == 1 {
            Event::WatchProgressed { watch, revision }
        } else {
            // Of one watcher alone.
            continue;
        };
        cache.tell(event);
    }
}

fn request(union: RequestUnion) -> Bytes {
    let request = WatchRequest {
        request_union: Some(union),
    };
    request.encode_to_vec().into()
}
