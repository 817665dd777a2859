//! Stores that aren't the one that answers were read from.

use super::Cache;
use super::state::{Timer, Watch};
use crate::history::is_plausible;
use crate::read::types::{Actions, Header};
use crate::time::Instant;

impl Cache {
    /// The number of the history that the cache is in.
    #[must_use]
    pub const fn history(&self) -> u64 {
        self.history
    }

    /// Learns who answers; whether that counts. If it is another cluster, or out of its mind, nothing follows from the answer:
    /// [`Event::History`](crate::read::Event::History) tells when another store has taken the place of this one.
    pub(super) const fn learn(&mut self, header: Header) -> bool {
        let known = self.header.cluster_id;
        if !is_plausible(header.revision)
            || (known != 0 && header.cluster_id != 0 && header.cluster_id != known)
        {
            return false;
        }
        if header.raft_term >= self.header.raft_term {
            self.header = header;
        }
        true
    }

    /// Forgets all there is. What is under way will be no entry, and those who wait go to the cluster.
    pub(super) fn another_history(&mut self, now: Instant, number: u64, actions: &mut Actions) {
        if number <= self.history {
            return;
        }
        self.history = number;
        self.stats.histories += 1;
        self.header = Header::default();
        self.compacted = 0;
        if let Watch::Up(id) = self.watch {
            // The hub has ended it, which is told later.
            self.forget_watch(Watch::Opening(id));
        }
        (self.watched, self.started, self.newest_event) = (0, 0, 0);
        // What was shown before is no floor any more.
        for waiter in self.waiters.values_mut() {
            waiter.read.floor = 0;
            waiter.need = 0;
        }
        self.flush(now, actions);
        // Their answers are of the former history, or may be.
        self.check = None;
        self.linearizable_check = None;
        self.timers.cancel(Timer::Check(false));
        self.timers.cancel(Timer::Check(true));
    }
}
