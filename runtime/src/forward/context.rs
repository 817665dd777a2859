//! What a call knows of where it came in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use etcd_proxy_core::class::Class;
use etcd_proxy_core::endpoints::ConnectionId;
use etcd_proxy_core::pool::Client;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::grpc::{CallEnds, Uploads};
use crate::lease::LeaseRouter;
use crate::read::ReadCache;
use crate::settings::Limits;
use crate::shutdown::Phase;
use crate::streams::CallerConnection;
use crate::upstream::{Connection, Counted, Uplink, Wish};
use crate::watch::WatchHub;

/// What all calls on one worker thread share.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) uplink: Arc<Uplink>,
    pub(crate) watch: Arc<WatchHub>,
    pub(crate) lease: Arc<LeaseRouter>,
    pub(crate) reads: Arc<ReadCache>,
    pub(crate) limits: Limits,
    pub(crate) shutdown: watch::Receiver<Phase>,
    /// Who is told of each call that has ended.
    pub(crate) call_ends: Option<Arc<dyn CallEnds>>,
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
    pub(crate) fn new(worker: Arc<Worker>) -> Self {
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

    /// The client of this connection, for what is shared fairly among clients.
    pub(crate) const fn id(&self) -> Client {
        Client(self.number)
    }

    /// The wish of one of its calls for a connection other than `avoid`.
    pub(crate) fn wish(&self, class: Class, avoid: Option<ConnectionId>) -> Wish<'_> {
        Wish::of_client(class, self.id(), &self.turns[class as usize], avoid)
    }

    /// Counts a call as its own.
    pub(crate) fn begin(&self, class: Class) -> Counted {
        self.worker.uplink.lane.begin(class, self.id())
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

    /// What counts of it for a call of a machine's.
    pub(super) fn caller(&self) -> CallerConnection<'_> {
        CallerConnection {
            number: self.number,
            uploads: &self.uploads,
            request_bytes_max: self.worker.limits.request_bytes_max,
            shutdown: self.worker.shutdown.clone(),
        }
    }
}
