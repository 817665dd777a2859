//! Who lost his permission sees nothing any more from the next time on that his proxy's Watch calls were lost: directly
//! he would have had to create his watchers anew.

use std::time::Duration;

use etcd_proxy_core::time::Instant;
use etcd_proxy_proto::etcdserverpb::WatchResponse;

use super::watcher::{Watcher, revision_of};
use super::{Watching, may_read};
use crate::client::Target;
use crate::delivery::WatchTag;
use crate::io::{Identity, Io};
use crate::members::Members;
use crate::op::{Key, READABLE_TO};
use crate::settings::Settings;
use crate::situations::Situation;

/// After so long every Watch call that was lost before the permission was taken has been opened again.
const REOPENED_MAX: Duration = Duration::from_secs(3);

/// What is known of the permission of those who may read some of the keys.
#[derive(Debug)]
pub(super) struct Revoked {
    /// Each client's proxy.
    proxies: Vec<Option<usize>>,
    /// Since when no member lets them read anything.
    since: Option<Instant>,
    /// By proxy: the store's revision when all its Watch calls were lost since then.
    lost_at: Vec<Option<i64>>,
}

impl Revoked {
    pub(super) fn new(settings: &Settings) -> Self {
        let proxies = settings.clients.iter().map(|client| match client.target {
            Target::Proxy(proxy) => Some(proxy),
            Target::Member(_) => None,
        });
        Self {
            proxies: proxies.collect(),
            since: None,
            lost_at: vec![None; settings.proxies],
        }
    }

    /// Takes in what members have applied.
    pub(super) fn note_state(&mut self, now: Instant, members: &Members) {
        let (first, end) = (Key(0).bytes(), READABLE_TO.bytes());
        let denies = |member: usize| {
            let state = members.cluster.applied(member);
            state.auth().enabled() && !may_read(state, (&first, &end))
        };
        if (0..members.hosts.len()).all(denies) {
            self.since.get_or_insert(now);
        } else {
            self.since = None;
            self.lost_at.fill(None);
        }
    }
}

impl Watching {
    /// A Watch call of a proxy's is gone.
    pub(in crate::oracle) fn upstream_gone(&mut self, io: &mut Io, revision: i64, proxy: usize) {
        let is_long = |since: Instant| since + REOPENED_MAX <= io.now;
        if !self.revoked.since.is_some_and(is_long) || self.upstreams.watches(proxy) {
            return;
        }
        if self.revoked.lost_at[proxy].is_none() {
            self.revoked.lost_at[proxy] = Some(revision);
            let readers = self
                .open_calls()
                .filter(|(tag, call)| {
                    call.identity == Identity::Reader && self.revoked.proxies[tag.client] == Some(proxy)
                })
                .count();
            io.counts.add_many(Situation::RevokedAndLost, readers as u64);
        }
    }
}

impl Revoked {
    /// The store has another history.
    pub(super) fn restored(&mut self) {
        self.since = None;
        self.lost_at.fill(None);
    }

    /// Events are told to somebody who may see them.
    pub(super) fn may_be_told(
        &self,
        tag: WatchTag,
        identity: Identity,
        watcher: &Watcher,
        response: &WatchResponse,
    ) -> Result<(), String> {
        let lost_at = self.proxies[tag.client].and_then(|proxy| self.lost_at[proxy]);
        let (Some(since), Some(lost_at)) = (self.since, lost_at) else {
            return Ok(());
        };
        if identity == Identity::Reader && watcher.created < since {
            let last = response.events.last().map_or(0, revision_of);
            ensure!(
                last <= lost_at,
                "it may see nothing after {lost_at}, and is told {response:?}"
            );
        }
        Ok(())
    }
}
