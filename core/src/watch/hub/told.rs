//! What a stream's answers say of its sources: a server doesn't tell which of them it knew when it answered.

/// When a source was created: both numbers only grow from one to the next on a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Created {
    /// The revision of the store, at least.
    pub(super) revision: i64,
    /// The last question for progress that was sent before it was known to be created.
    pub(super) asked_before: u64,
}

impl Created {
    /// The later one in each respect.
    pub(super) fn max(self, other: Self) -> Self {
        Self {
            revision: self.revision.max(other.revision),
            asked_before: self.asked_before.max(other.asked_before),
        }
    }
}

/// The last answer of a stream to a question for progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// Its sources have had all events up to this revision, if the server knew them when it was asked.
    pub(super) revision: i64,
    /// The question that it is for, or an earlier one.
    pub(super) question: u64,
}

impl Told {
    /// Whether it is certain that the server knew a source by then: that was created before the question, or at a lower
    /// revision.
    pub(super) const fn covers(self, created: Created) -> bool {
        self.revision > created.revision || self.question > created.asked_before
    }
}

/// What an answer to a progress request needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProgressWish {
    /// Streams must have been asked at this number of the hub's questions or later.
    pub(super) asked: u64,
}
