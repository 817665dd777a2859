//! The side that clients see.

pub(crate) mod connection;
mod http1;
mod stranger;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use etcd_proxy_core::class::Class;
use etcd_proxy_core::endpoints::ConnectionId;
use etcd_proxy_core::pool::Client;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

pub(crate) use worker::{Handle, Orders, WorkerGone, join, start};

use crate::grpc::Uploads;
use crate::lease::LeaseRouter;
use crate::metrics::Metrics;
use crate::read::ReadCache;
use crate::settings::{Endpoint, Limits};
use crate::shutdown::Phase;
use crate::upstream::{Connection, Counted, Lane, Reports, Settings, Wish};
use crate::watch::WatchHub;

/// What all connections of one worker thread share.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) lane: Arc<Lane>,
    pub(crate) reports: Reports,
    pub(crate) watch: Arc<WatchHub>,
    pub(crate) lease: Arc<LeaseRouter>,
    pub(crate) reads: Arc<ReadCache>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) endpoints: Arc<[Endpoint]>,
    pub(crate) limits: Limits,
    pub(crate) shutdown: watch::Receiver<Phase>,
    /// Client connections that are open, of every worker.
    pub(crate) connections_open: Arc<[Arc<AtomicUsize>]>,
}

/// One client connection, as its calls see it.
#[derive(Debug)]
pub(crate) struct ClientConnection {
    pub(crate) worker: Arc<Worker>,
    /// No other connection of the process has it.
    pub(crate) number: u64,
    /// What its streams may hold of messages that aren't complete.
    pub(crate) uploads: Uploads,
    /// Where calls go that must all reach the same member.
    pinned: Mutex<Option<Arc<Connection>>>,
    /// Notified when it may have one more call of a class.
    turns: [Arc<Notify>; 3],
}

impl ClientConnection {
    fn new(worker: Arc<Worker>) -> Self {
        // Clients within the process have 0.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            worker,
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            uploads: Uploads::default(),
            pinned: Mutex::new(None),
            turns: Default::default(),
        }
    }

    /// The wish of one of its calls for a connection other than `avoid`.
    pub(crate) fn wish(&self, class: Class, avoid: Option<ConnectionId>) -> Wish<'_> {
        Wish::of_client(class, Client(self.number), &self.turns[class as usize], avoid)
    }

    /// Counts a call as its own.
    pub(crate) fn begin(&self, class: Class) -> Counted {
        self.worker.lane.begin(class, Client(self.number))
    }

    /// The connection that was pinned, while it can be used.
    pub(crate) fn pinned(&self, avoid: Option<ConnectionId>) -> Option<Arc<Connection>> {
        let mut pinned = self.pinned.lock();
        if pinned
            .as_ref()
            .is_some_and(|pinned| pinned.is_closed() || Some(pinned.id()) == avoid)
        {
            *pinned = None;
        }
        pinned.clone()
    }

    /// Keeps calls that must reach one member on this connection's from now on.
    pub(crate) fn pin(&self, connection: &Arc<Connection>) {
        *self.pinned.lock() = Some(connection.clone());
    }
}

/// Counts something as open for as long as it lives.
#[derive(Debug)]
pub(crate) struct Open(Arc<AtomicUsize>);

impl Open {
    pub(crate) fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
