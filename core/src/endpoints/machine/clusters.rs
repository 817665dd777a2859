//! Which cluster endpoints are of: those of two clusters are never used together.

use super::Endpoints;
use crate::endpoints::types::{Action, Actions, CloseCause, ConnectionId, EndpointId, FailureCause, Lane};
use crate::time::Instant;

impl Endpoints {
    /// The endpoints that are known to be of another cluster than the one in use.
    #[must_use]
    pub fn foreign(&self) -> usize {
        self.endpoints
            .values()
            .filter(|endpoint| endpoint.is_foreign)
            .count()
    }

    pub(super) fn identified(&mut self, now: Instant, id: ConnectionId, cluster: u64, actions: &mut Actions) {
        let Some(connection) = self.connections.get(id) else {
            return;
        };
        let (endpoint_id, lane) = (connection.endpoint, connection.lane);
        let Some(endpoint) = self.endpoints.get_mut(endpoint_id) else {
            return;
        };
        endpoint.cluster = Some(cluster);
        if lane == Lane::Candidate {
            // The answer to its probe decides.
            return;
        }
        if self.current() != Some(endpoint_id) {
            return;
        }
        if self.cluster.is_none_or(|ours| ours == cluster) {
            self.cluster = Some(cluster);
            return;
        }
        // Its member was replaced while it was in use. As a candidate it is looked at again.
        let of_endpoint = |connection: &super::Connection| connection.endpoint == endpoint_id;
        self.fail(now, endpoint_id, FailureCause::Foreign, actions);
        self.close_all(of_endpoint, CloseCause::Foreign, actions);
    }

    /// Whether an endpoint that answers is one of the cluster in use; or if not, whether there is nobody left who is, so that
    /// its cluster is the one in use from now on.
    pub(super) fn may_be_used(&mut self, now: Instant, id: EndpointId, actions: &mut Actions) -> bool {
        let theirs = self.endpoints[id].cluster;
        let (Some(ours), Some(theirs)) = (self.cluster, theirs) else {
            return true;
        };
        let was_foreign = core::mem::replace(&mut self.endpoints[id].is_foreign, ours != theirs);
        if ours == theirs {
            return true;
        }
        if !self.all_say(now, theirs) {
            if !was_foreign {
                actions.push(Action::Foreign {
                    endpoint: id,
                    cluster: theirs,
                    ours,
                });
            }
            return false;
        }
        self.cluster = Some(theirs);
        for endpoint in self.endpoints.values_mut() {
            endpoint.is_foreign = endpoint.cluster.is_some_and(|cluster| cluster != theirs);
        }
        actions.push(Action::Followed {
            cluster: theirs,
            former: ours,
        });
        // What is left from before leads to the former one.
        self.close_all(
            |connection| connection.lane != Lane::Candidate,
            CloseCause::Foreign,
            actions,
        );
        true
    }

    /// Whether nothing is in use, and all endpoints say that they are of this cluster but for those that haven't answered for
    /// long.
    fn all_say(&self, now: Instant, cluster: u64) -> bool {
        let agrees = |endpoint: &super::Endpoint| {
            let is_mute = |since: Instant| now >= since + self.config.say;
            endpoint.cluster == Some(cluster) || endpoint.silent_since.is_some_and(is_mute)
        };
        self.current.is_none() && self.endpoints.values().all(agrees)
    }
}
