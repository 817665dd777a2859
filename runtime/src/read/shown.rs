//! What clients may have seen, and of which history of the store.

use etcd_proxy_core::history::{History, Known, Shows, Verdict};
use parking_lot::Mutex;

/// The history that the store has, as far as is known, and the highest revision of it that anybody was shown by this process,
/// in a reply or a watch event, or is about to be.
#[derive(Debug, Default)]
pub(crate) struct Shown(Mutex<History>);

impl Shown {
    /// To be called before the revision goes out. `history` is the one that it is of: nothing comes of it if that isn't the
    /// store's any more.
    pub(crate) fn raise(&self, history: u64, revision: i64) {
        self.0.lock().raise(history, revision);
    }

    /// What is known now: to be kept with each question, from before it is sent.
    pub(crate) fn known(&self) -> Known {
        self.0.lock().known()
    }

    /// Whether an answer has to be doubted.
    pub(crate) fn is_doubtful(&self, asked: Known, shows: Shows) -> bool {
        self.0.lock().is_doubtful(asked, shows)
    }

    /// Takes in an answer to a question that was asked when this was known, before it is shown.
    pub(crate) fn answered(&self, asked: Known, shows: Shows) -> Verdict {
        let (verdict, known, before, cluster_id) = {
            let mut history = self.0.lock();
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
