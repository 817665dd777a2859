//! The watch of what is cached: a client of the watch hub's, so that it goes on whatever happens to members and streams.

use core::convert::Infallible;
use std::sync::Arc;

use etcd_proxy_core::read::{Feed, FeedEnd, FeedStep, WatchId};
use etcd_proxy_core::watch::Hub;
use tokio::sync::{Notify, oneshot};

use super::ReadCache;
use crate::rt::{self, Runtime};
use crate::streams::InnerClient;
use crate::upstream::Uplink;

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
    let Some(mut feed) = Feed::new(orders.watch, cache.scope(), rt::random_seed()) else {
        return;
    };
    super::learn_trust::<R>(&cache, &uplink).await;
    loop {
        let reason = tokio::select! {
            // Dropped, as there is nothing to send.
            _ = &mut orders.closed => return,
            reason = watch(&cache, &orders.progress, &mut feed) => reason,
        };
        let FeedEnd { tell, pause } = feed.ended();
        if let Some(event) = tell {
            tracing::info!(reason, "the watch of the read cache has ended; it starts again");
            cache.tell(event);
        } else {
            tracing::debug!(reason, "the watch of the read cache can't start; it tries again");
        }
        tokio::select! {
            _ = &mut orders.closed => return,
            () = rt::sleep::<R>(pause) => {}
        }
    }
}

/// Tells the cache what the hub tells, until that ends it. Gives the reason.
async fn watch(cache: &ReadCache, progress: &Notify, feed: &mut Feed) -> String {
    let mut client = InnerClient::<Hub>::open(cache.hub.clone());
    for request in feed.opened() {
        client.send(request);
    }
    let mut messages = 0;
    loop {
        messages += 1;
        if messages % MESSAGES_AT_ONCE == 0 {
            rt::yield_now().await;
        }
        let message = tokio::select! {
            message = client.next() => message,
            () = progress.notified() => {
                client.send(Feed::ask_progress());
                continue;
            }
        };
        match message.map(|message| feed.received(&message)) {
            Ok(FeedStep::Tell(event)) => cache.tell(event),
            Ok(FeedStep::Nothing) => {}
            Ok(FeedStep::End(reason)) => return reason,
            Err(status) => return status.message.into_owned(),
        }
    }
}
