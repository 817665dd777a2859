//! The store goes back: to what it was before, or to nothing, perhaps as a new cluster.

use std::time::Duration;

use etcd_proxy_model::state::State;
use fastrand::Rng;

use super::World;
use super::faults::Remedy;
use crate::settings::Settings;
use crate::situations::Situation;

/// Former states that are kept.
const KEPT_MAX: usize = 6;

/// What the store was, and where chance comes from: of its own, so that other seeds stay what they were.
#[derive(Debug)]
pub(super) struct Past {
    rng: Rng,
    /// Before anybody wrote anything.
    beginning: State,
    /// Former states of the history that the store has now.
    saved: Vec<State>,
}

impl Past {
    pub(super) fn new(settings: &Settings, beginning: &State) -> Self {
        Self {
            rng: Rng::with_seed(settings.seed ^ 0x6869_7374_6f72_7921),
            beginning: beginning.clone(),
            saved: Vec::new(),
        }
    }
}

impl World {
    /// Keeps what the store is now, to go back there some day.
    pub fn save(&mut self) {
        let past = &mut self.past;
        if past.saved.len() == KEPT_MAX {
            let gone = past.rng.usize(..KEPT_MAX);
            past.saved.remove(gone);
        }
        past.saved.push(self.members.cluster.committed().clone());
    }

    /// The store goes back somewhere.
    pub(super) fn go_back(&mut self, time: Duration) {
        let rng = &mut self.past.rng;
        // Mostly not the last one: a store that lost little soon has as much as before, and nobody can tell.
        let kept = self.past.saved.len();
        let former = (kept > 0).then(|| rng.usize(..kept).min(rng.usize(..kept)));
        let (is_new, wipes) = (rng.u8(..3) == 0, rng.u8(..6) == 0);
        let saved = match former {
            Some(former) if !wipes => self.past.saved[former].clone(),
            _ => self.past.beginning.clone(),
        };
        self.restore(&saved, is_new, time);
    }

    /// The store goes back to the last [saved](Self::save) state, as another cluster or as the same one.
    ///
    /// # Panics
    /// When none is there.
    pub fn restore_last(&mut self, is_new: bool) {
        let saved = self.past.saved.last().expect("something was saved").clone();
        self.restore(&saved, is_new, Duration::from_millis(1));
    }

    /// All members are killed, and hold this when they start, each within this time.
    fn restore(&mut self, saved: &State, is_new: bool, within: Duration) {
        let (now, then) = (self.oracle.revision(), saved.store().revision());
        self.io.count(if is_new {
            Situation::HistoryNewCluster
        } else if then == now {
            Situation::HistoryKept
        } else if then == self.past.beginning.store().revision() {
            Situation::HistoryWiped
        } else {
            Situation::HistoryRestored
        });
        for member in 0..self.members.hosts.len() {
            self.members.kill(&mut self.io, member);
        }
        // What members have said until now is of the history that ends.
        self.heard();
        self.members.cluster.restore(saved, is_new);
        let compacted = saved.store().compacted();
        self.oracle.restored(&mut self.io, &self.members, then, compacted);
        self.past.saved = vec![saved.clone()];
        self.member_ids.clear();
        for member in 0..self.members.hosts.len() {
            self.member_ids.push(self.members.cluster.ids(member).1);
            let most = within.max(Duration::from_micros(2));
            let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
            let wait = Duration::from_micros(self.past.rng.u64(1..micros));
            self.remedy_after(wait, Remedy::Start(member));
        }
        for client in &mut self.clients {
            if !client.member_ids.is_empty() {
                client.member_ids.clone_from(&self.member_ids);
            }
        }
        if self.settings.switches_auth {
            // It may be the time when it was on.
            self.remedy_after(within, Remedy::SwitchAuthOff);
        }
        if self.settings.auth {
            // It may be the time when somebody had lost it.
            self.remedy_after(within, Remedy::Permit);
        }
        self.heard();
    }
}
