//! The connection that a worker's calls go to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use etcd_proxy_core::endpoints::ConnectionId;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::connection::Connection;
use crate::rt::{self, Runtime};

/// A worker's place to find its connection. Set by the control task, read by every call.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    serving: Mutex<Option<Arc<Connection>>>,
    changed: Notify,
    /// The process is ending: nobody needs to wait any more.
    ended: AtomicBool,
}

/// No member could be reached in time, or none will be as the process is ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoEndpoint;

impl Lane {
    /// Replaces the connection; the former one ends when its last call does.
    pub(super) fn set(&self, connection: Option<Arc<Connection>>) {
        let former = core::mem::replace(&mut *self.serving.lock(), connection);
        if let Some(former) = former {
            former.withdraw();
        }
        self.changed.notify_waiters();
    }

    /// Takes no calls any more; those that wait for a connection give up.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.set(None);
    }

    /// Whether the process is ending.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    fn usable(&self, avoid: Option<ConnectionId>) -> Option<Arc<Connection>> {
        let serving = self.serving.lock();
        serving
            .as_ref()
            .filter(|connection| connection.is_open() && Some(connection.id()) != avoid)
            .cloned()
    }

    /// Completes when calls go to another connection than this one.
    pub(crate) async fn superseded(&self, connection: ConnectionId) {
        loop {
            let mut changed = core::pin::pin!(self.changed.notified());
            // Listen first, look then: a change in between is not missed.
            changed.as_mut().enable();
            if self.usable(Some(connection)).is_some() {
                return;
            }
            changed.await;
        }
    }

    /// A connection that takes calls, other than `avoid`; waits for one until `deadline`.
    pub(crate) async fn connection<R: Runtime>(
        &self,
        avoid: Option<ConnectionId>,
        deadline: Instant,
    ) -> Result<Arc<Connection>, NoEndpoint> {
        if let Some(connection) = self.usable(avoid) {
            return Ok(connection);
        }
        rt::timeout_at::<R, _>(deadline, async {
            loop {
                let mut changed = core::pin::pin!(self.changed.notified());
                // Listen first, look then: a change in between is not missed.
                changed.as_mut().enable();
                if let Some(connection) = self.usable(avoid) {
                    return Ok(connection);
                }
                if self.has_ended() {
                    return Err(NoEndpoint);
                }
                changed.await;
            }
        })
        .await
        .unwrap_or(Err(NoEndpoint))
    }
}
