//! Whether the cluster asks for credentials.

use super::Cache;
use super::state::Auth;
use crate::read::types::Actions;
use crate::time::Instant;

impl Cache {
    /// It does.
    pub(super) fn denied(&mut self, now: Instant, actions: &mut Actions) {
        self.stats.denied += 1;
        self.auth_epoch += 1;
        if self.auth != Auth::On {
            self.auth = Auth::On;
            self.flush(now, actions);
        }
    }

    /// It may do so from now on.
    pub(super) fn unsure(&mut self, now: Instant, actions: &mut Actions) {
        if self.auth == Auth::Off {
            self.auth = Auth::Unproven;
        }
        self.auth_epoch += 1;
        self.flush(now, actions);
    }

    /// It didn't for a read that began in this epoch. Only a linearizable one proves anything: a member that is behind
    /// doesn't know yet that auth was switched on.
    pub(super) const fn prove(&mut self, epoch: u64, linearizable: bool) {
        if matches!(self.auth, Auth::Off) || epoch != self.auth_epoch {
            return;
        }
        if linearizable {
            self.auth = Auth::Off;
        } else {
            self.wants_proof = true;
        }
    }
}
