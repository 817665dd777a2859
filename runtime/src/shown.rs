//! What clients may have seen, shared by all threads.

use etcd_proxy_core::history::{Known, Verdict};
use etcd_proxy_core::read::HighestShownRevision;
use parking_lot::Mutex;

/// The highest revision that any client was shown, behind its lock.
#[derive(Debug, Default)]
pub(crate) struct Shown(Mutex<HighestShownRevision>);

impl Shown {
    /// Takes in a revision before it goes out. `history` is the one that it is of.
    pub(crate) fn raise(&self, history: u64, revision: i64) {
        self.0.lock().raise(history, revision);
    }

    /// What is known now: to be kept with each question, from before it is sent.
    pub(crate) fn known(&self) -> Known {
        self.0.lock().known()
    }

    /// Looks at it, or changes it, at once.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut HighestShownRevision) -> T) -> T {
        act(&mut self.0.lock())
    }

    /// Judges an answer, and tells of another history in the log.
    pub(crate) fn judge(&self, judge: impl FnOnce(&mut HighestShownRevision) -> Verdict) -> Verdict {
        let (verdict, before, after) = self.with(|shown| {
            let state = |shown: &HighestShownRevision| (shown.cluster_id(), shown.known().revision);
            let before = state(shown);
            (judge(shown), before, state(shown))
        });
        if verdict == Verdict::Another {
            tracing::error!(
                cluster_id = format!("{:x}", after.0),
                revision = after.1,
                former_cluster_id = format!("{:x}", before.0),
                former_revision = before.1,
                "the store has another history than before; nothing of the former one is kept, and watches end"
            );
        }
        verdict
    }
}
