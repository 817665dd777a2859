//! A store that goes back, and how the proxy notices.

use std::cmp::Reverse;

use etcd_proxy_core::history::{Known, Shows, Verdict};
use etcd_proxy_core::read::{Event, Header, Status};

use super::{What, World, ms};
use crate::cluster::CLUSTER_ID;

impl World {
    /// The store becomes again what it was in this state.
    pub(crate) fn go_back(&mut self, index: usize) {
        self.step += 1;
        self.era += 1;
        (self.back_at, self.back_step) = (self.now, self.step);
        self.cluster.states.truncate(index + 1);
        let revision = self.cluster.last().revision;
        self.cluster.changed.retain(|changed, _| *changed <= revision);
        for applied in &mut self.cluster.applied {
            applied.retain(|(_, state)| *state < index);
            applied.push((self.now, index));
        }
        // Answers on their way are lost with the members that gave them.
        let lost = || Status::new(14, "connection lost");
        for Reverse(mut entry) in core::mem::take(&mut self.heap) {
            entry.what = match entry.what {
                What::Apply(..) => continue,
                What::ReadReply(reader, _) => What::ReadReply(reader, Err(lost())),
                What::CheckReply(id, ..) => What::CheckReply(id, Err(lost()), None),
                What::WriteReply(own, ..) => What::WriteTimeout(own),
                what => what,
            };
            self.heap.push(Reverse(entry));
        }
        // What was shown and couldn't be read is gone, and nothing tells.
        self.floor = self.floor.min(self.history.known().revision.max(revision));
        let after = ms(self.back_rng.u64(..1500));
        self.later(after, What::HubNotices);
        if !self.is_unnoticed() {
            // Nothing that was seen is gone.
            return self.break_watch(ms(1));
        }
        // The stream is gone; the hub has it opened again and asks, unless somebody is told before.
        self.stream.is_open = false;
        self.stream.generation += 1;
    }

    /// Whether the proxy knows more than the store has.
    pub(crate) fn is_unnoticed(&self) -> bool {
        self.history.known().revision > self.cluster.last().revision
    }

    pub(super) fn notice(&mut self) {
        if self.is_unnoticed() {
            let _ = self.judge(self.history.known(), self.cluster.last().revision, true);
        }
    }

    /// What follows from an answer, before anything else does.
    pub(super) fn judge(&mut self, asked: Known, revision: i64, is_newest: bool) -> Verdict {
        let shows = Shows {
            cluster_id: CLUSTER_ID,
            revision,
            is_newest,
        };
        let was_unnoticed = self.is_unnoticed();
        let verdict = self.history.answered(asked, shows);
        if verdict == Verdict::Same {
            self.floor = self.floor.max(revision);
        }
        if verdict == Verdict::Another {
            self.floor = revision;
            assert!(was_unnoticed, "{shows:?} is taken for another history");
            self.told.compacted = 0;
            self.tell(Event::History(self.history.known().history));
            // The hub ends its client's watch.
            if let Some(watch) = self.stream.watch {
                let generation = self.stream.generation;
                self.later(ms(1), What::WatchLost(generation, watch));
            }
        }
        verdict
    }

    /// A check as the shell tells it: one that may be of another history is followed by one that decides.
    pub(super) fn judged_check(
        &mut self,
        asked: Known,
        is_newest: bool,
        result: Result<Header, Status>,
    ) -> Result<Header, Status> {
        let header = result?;
        let former = || Err(Status::new(14, "of a former history"));
        match self.judge(asked, header.revision, is_newest) {
            Verdict::Another | Verdict::Same => Ok(header),
            Verdict::Stale => former(),
            Verdict::Foreign | Verdict::Suspicious if self.faults.is_down || self.faults.is_leaderless => {
                former()
            }
            Verdict::Foreign | Verdict::Suspicious => {
                let known = self.history.known();
                match self.judge(known, self.cluster.last().revision, true) {
                    Verdict::Same => Ok(header),
                    _ => former(),
                }
            }
        }
    }
}
