//! Questions of the hub's to the cluster: a revision, or whether somebody may read a range.

use std::sync::Arc;

use etcd_proxy_core::watch::{CheckId, Event};

use super::WatchHub;
use crate::rt::Runtime;
use crate::upstream::{Question, Uplink};

/// A question.
#[derive(Debug)]
pub(crate) struct Check {
    pub(super) id: CheckId,
    pub(super) question: Question,
}

impl Check {
    /// Asks, and tells the hub the answer.
    pub(super) async fn run<R: Runtime>(self, hub: &WatchHub, uplink: &Arc<Uplink>) {
        let answer = self.question.ask::<R>(uplink).await;
        let history = uplink.judge.known().history;
        hub.tell(|hub, now, actions| {
            // Another one may be about to be told by whoever has noticed.
            hub.handle(now, Event::History(history), actions);
            hub.handle(now, Event::Answered(self.id, answer), actions);
        });
    }
}
