//! Members that answer their probes and don't serve: one that hears the others and isn't heard by them tells of a leader and
//! answers no write. Calls that fail or go unanswered raise the suspicion; their reason may lie in the call, whoever made it, so
//! reads of the proxy's own decide.

use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use etcd_proxy_core::endpoints::{ConnectionId, Event};
use etcd_proxy_core::rpc::OTHER_CONNECT_TIMEOUT;

use super::question::is_unavailable;
use super::{Connection, Report, Settings, UNPROBED_KEEPALIVE, Uplink, cluster_of};
use crate::rt::{self, Runtime};
use crate::settings::Endpoint;

/// How long a worker doesn't ask again whether the member in use serves.
pub(super) const SETTLED_FOR: Duration = Duration::from_secs(1);

impl Uplink {
    /// A member answered UNAVAILABLE: worth a look at it. Lost when the control task is busy; there will be more.
    pub(crate) fn doubt<R: Runtime>(self: &Arc<Self>, member: &Arc<Connection>) {
        self.look_at(member);
        self.suspect::<R>(member);
    }

    /// A member hasn't answered a question of the proxy's own in time.
    pub(super) fn is_silent<R: Runtime>(self: &Arc<Self>, member: &Arc<Connection>) {
        self.look_at(member);
        self.settle::<R>(member, true);
    }

    fn look_at(&self, member: &Connection) {
        let doubt = Event::Doubt(member.id());
        let _ = self.reports.try_send(Report::Event(doubt));
    }

    /// Finds out, beside the calls, whether a member serves that has refused some or left them unanswered. If it doesn't and
    /// another one does, it loses its place.
    pub(crate) fn suspect<R: Runtime>(self: &Arc<Self>, member: &Arc<Connection>) {
        self.settle::<R>(member, false);
    }

    fn settle<R: Runtime>(self: &Arc<Self>, member: &Arc<Connection>, is_known: bool) {
        if self.lane.is_alone() || self.endpoints.len() < 2 {
            return;
        }
        let Some(turn) = self.turns.suspicion.take() else {
            return;
        };
        let (uplink, member) = (self.clone(), member.clone());
        rt::spawn::<R>(async move {
            if is_known || is_unavailable::<R>(&member).await {
                uplink.try_others::<R>(&member).await;
            }
            drop(turn);
        });
    }

    async fn try_others<R: Runtime>(&self, member: &Connection) {
        for target in self.others(member) {
            if self.serves::<R>(target, member).await {
                // Nobody listens any more once the process is ending.
                let outdone = Event::Outdone(member.id());
                let _ = self.reports.send(Report::Event(outdone)).await;
                return;
            }
        }
    }

    /// Whether another member of the cluster in use answers what that one doesn't.
    async fn serves<R: Runtime>(&self, target: &Endpoint, member: &Connection) -> bool {
        let until = Instant::now() + OTHER_CONNECT_TIMEOUT;
        let Some(other) = self.reach::<R>(target, until).await else {
            return false;
        };
        let serves = self.is_of_cluster_of::<R>(&other, member).await && !is_unavailable::<R>(&other).await;
        other.close();
        serves
    }

    /// The endpoints but that of one member.
    pub(crate) fn others(&self, member: &Connection) -> impl Iterator<Item = &Endpoint> {
        self.endpoints
            .iter()
            .filter(move |target| *target != member.target())
    }

    /// A connection to another member than the one in use, for one call.
    pub(crate) async fn reach<R: Runtime>(
        &self,
        target: &Endpoint,
        until: Instant,
    ) -> Option<Arc<Connection>> {
        let settings = Settings {
            // It is known to no probe.
            keepalive: Some(UNPROBED_KEEPALIVE),
            keepalive_without_calls: false,
            ..Settings::clone(&self.settings)
        };
        // An id that no machine knows: events about it change nothing.
        let open = Connection::open::<R>(ConnectionId::default(), target.clone(), &settings);
        let (connection, driver) = rt::timeout_at::<R, _>(until, open).await.ok()?.ok()?;
        rt::spawn::<R>(async move {
            driver.run(|| ()).await;
        });
        Some(connection)
    }

    /// Whether another member is of the same cluster, as far as that one's is known.
    pub(crate) async fn is_of_cluster_of<R: Runtime>(
        &self,
        other: &Arc<Connection>,
        member: &Connection,
    ) -> bool {
        let ours = member.known_cluster();
        ours.is_none() || cluster_of::<R>(other).await.ok().flatten() == ours
    }
}

#[cfg(test)]
mod tests;
