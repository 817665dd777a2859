//! The end of all watches: everybody has all there is, and is told so.

use std::time::Duration;

use etcd_proxy_proto::etcdserverpb::{WatchProgressRequest, watch_request::RequestUnion};

use super::World;
use super::story::DELIVERY_MAX;
use crate::proxy::Proxy;
use crate::situations::Situation;

/// How long clients of little room may take to read all there is.
const COMPLETE_MAX: Duration = Duration::from_secs(120);

/// How long progress mostly takes that is asked for, when all is well, besides some round trips.
const PROGRESS_PAUSE: Duration = Duration::from_millis(500);

/// How long it may take: while nothing is written, questions that a member didn't answer must be made up for.
const PROGRESS_MAX: Duration = Duration::from_secs(4);

impl World {
    /// All clients read, and nothing is written any more: they get all there is, and are told of progress if they ask.
    pub(super) fn complete_watches(&mut self) {
        for client in &mut self.clients {
            client.reads_all(&mut self.io);
        }
        self.heard();
        self.delivers(DELIVERY_MAX, true);
        let give_up = self.io.now + COMPLETE_MAX;
        while !self.oracle.watches_are_complete() {
            assert!(
                self.io.now < give_up,
                "there is still something to come: {}",
                self.oracle.incomplete_watch()
            );
            self.run_for(Duration::from_millis(50));
        }
        if self.settings.proxy.watch.trusts_progress {
            self.progress_watches();
            self.watches_are_in_step();
        }
        self.io.count(Situation::CheckedWatchesComplete);
        for proxy in &self.proxies {
            let stats = proxy.watch_stats();
            let live = u64::try_from(stats.live_sources).expect("few");
            let watchers = u64::try_from(stats.watchers).expect("few");
            for (situation, times) in [
                (Situation::HubBehind, stats.lagged),
                (Situation::HubCatchUp, stats.catch_ups),
                (Situation::HubFromHistory, stats.late_frames),
                (Situation::HubResumed, stats.resumes),
                (Situation::HubShared, watchers.saturating_sub(live)),
            ] {
                self.io.counts.add_many(situation, times);
            }
        }
        self.delivers_no_more();
    }

    /// Nobody is behind, and nothing catches up any more.
    fn watches_are_in_step(&mut self) {
        let in_step = |proxy: &Proxy| {
            let stats = proxy.watch_stats();
            (stats.behind, stats.catch_up_sources) == (0, 0)
        };
        let give_up = self.io.now + PROGRESS_MAX;
        while !self.proxies.iter().all(in_step) {
            assert!(
                self.io.now < give_up,
                "somebody is behind: {:#?}",
                self.proxies.iter().map(Proxy::hub).collect::<Vec<_>>()
            );
            self.run_for(PROGRESS_PAUSE);
        }
    }

    /// Every Watch call that may be told of progress is, if it asks for it as Kubernetes does: again and again.
    fn progress_watches(&mut self) {
        let asking = self.oracle.may_progress();
        let mut asking: Vec<_> = asking
            .into_iter()
            .filter(|(tag, _)| self.clients[tag.client].may_ask(*tag))
            .collect();
        let began = self.io.now;
        let now = self.oracle.revision();
        while !asking.is_empty() {
            for (tag, _) in &asking {
                let request = RequestUnion::ProgressRequest(WatchProgressRequest {});
                self.clients[tag.client].watch_ask(&mut self.io, *tag, Some(request));
            }
            self.heard();
            self.run_for(PROGRESS_PAUSE + self.settings.latency.end * 10);
            asking.retain(|(tag, told)| {
                let is_told = self
                    .oracle
                    .progress_since(*tag, *told)
                    .is_some_and(|told| told >= now);
                if is_told {
                    self.io.count(Situation::CheckedWatchesProgress);
                }
                !is_told
            });
            // What a client cancelled in the meantime isn't told of any more.
            let may = self.oracle.may_progress();
            asking.retain(|(tag, _)| may.iter().any(|(other, _)| other == tag));
            if let Some((tag, _)) = asking.first() {
                assert!(
                    self.io.now - began < PROGRESS_MAX,
                    "{tag:?} isn't told of progress: {:?} {:#?}",
                    self.oracle.watched(*tag),
                    self.proxies.iter().map(Proxy::hub).collect::<Vec<_>>()
                );
            }
        }
    }
}
