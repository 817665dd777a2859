//! What clients may have seen, and of which history of the store.

use core::sync::atomic::{AtomicU64, Ordering};

use etcd_proxy_core::history::{History, Known, Shows, Verdict};
use etcd_proxy_core::read::FLOOR_UNKNOWN;
use parking_lot::Mutex;

/// The history that the store has, as far as is known, and the highest revision of it that anybody was shown by this process,
/// in a reply or a watch event, or is about to be.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    history: Mutex<History>,
    /// How many answers were passed on whose revision couldn't be read.
    unread: AtomicU64,
    /// Of so many of them it is known that they showed nothing newer.
    covered: AtomicU64,
}

/// How much had been shown when something began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark(u64);

impl Shown {
    /// To be called before the revision goes out. `history` is the one that it is of: nothing comes of it if that isn't the
    /// store's any more.
    pub(crate) fn raise(&self, history: u64, revision: i64) {
        self.history.lock().raise(history, revision);
    }

    /// To be called before an answer goes out whose revision can't be read, or is of a history that isn't known.
    pub(crate) fn pass_unread(&self) {
        self.unread.fetch_add(1, Ordering::SeqCst);
    }

    /// What is known now, and the revision that nothing may be older than which is shown to who comes now.
    pub(crate) fn floor(&self) -> (Known, i64) {
        // Before the revision is looked at, which is raised before it is said that it covers anything.
        let is_unknown = self.unread.load(Ordering::SeqCst) > self.covered.load(Ordering::SeqCst);
        let known = self.known();
        (known, if is_unknown { FLOOR_UNKNOWN } else { known.revision })
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark(self.unread.load(Ordering::SeqCst))
    }

    /// A linearizable answer has this revision, of this history, and was asked for after the mark: nothing newer was shown before.
    pub(crate) fn learn(&self, Mark(unread): Mark, history: u64, revision: i64) {
        if unread > self.covered.load(Ordering::SeqCst) {
            self.raise(history, revision);
            self.covered.fetch_max(unread, Ordering::SeqCst);
        }
    }

    /// What is known now: to be kept with each question, from before it is sent.
    pub(crate) fn known(&self) -> Known {
        self.history.lock().known()
    }

    /// Whether an answer has to be doubted.
    pub(crate) fn is_doubtful(&self, asked: Known, shows: Shows) -> bool {
        self.history.lock().is_doubtful(asked, shows)
    }

    /// Takes in an answer to a question that was asked when this was known, before it is shown.
    pub(crate) fn answered(&self, asked: Known, shows: Shows) -> Verdict {
        let (verdict, known, before, cluster_id) = {
            let mut history = self.history.lock();
            let before = (history.cluster_id(), history.known().revision);
            let verdict = history.answered(asked, shows);
            (verdict, history.known(), before, history.cluster_id())
        };
        if verdict == Verdict::Another {
            tracing::error!(
                cluster_id = format!("{cluster_id:x}"),
                revision = known.revision,
                former_cluster_id = format!("{:x}", before.0),
                former_revision = before.1,
                "the store has another history than before; nothing of the former one is kept, and watches end"
            );
        }
        verdict
    }
}
