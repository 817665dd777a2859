//! What clients may have seen, and of which history of the store.

use super::types::FLOOR_UNKNOWN;
use crate::history::{History, Known, Shows, Verdict};
use crate::lease;
use crate::read;
use crate::watch;

/// The highest revision that any client was shown by this process, or is about to be shown, in a reply or in a watch event, and
/// the history that it is of.
#[derive(Clone, Debug, Default)]
pub struct HighestShownRevision {
    history: History,
    /// How many answers were passed on whose revision couldn't be read.
    unread: u64,
    /// Of so many of them it is known that they showed nothing newer.
    covered: u64,
}

/// How much had been shown when a linearizable read was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(u64);

/// What was known when a read came, and the revision that its answer may not be older than.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor {
    /// What was known of the store.
    pub known: Known,
    /// The revision, or [`FLOOR_UNKNOWN`]; 0 if the call isn't a read.
    pub revision: i64,
}

impl Floor {
    /// The floor of a linearizable read. A server's answer to that is as new as anything that was shown before it was sent,
    /// so what couldn't be read doesn't count.
    #[must_use]
    pub const fn of_linearizable(self) -> Self {
        Self {
            revision: self.known.revision,
            ..self
        }
    }

    /// The floor of a read that has waited: the one that it came with, or the one of now if it came with none that is known.
    #[must_use]
    pub const fn after_wait(self, now: Self) -> Self {
        if self.revision == FLOOR_UNKNOWN { now } else { self }
    }
}

/// What an answer shows its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reveals {
    /// No revision. There are answers without one.
    Nothing,
    /// This state of the store.
    Revision(Shows),
    /// A state of the store that nobody knows: the answer can't be read.
    Unreadable,
}

/// What a question was asked with that is to tell what is newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What was known of the store.
    pub known: Known,
    /// How much had been shown.
    pub mark: Mark,
}

impl HighestShownRevision {
    /// Takes in a revision before it goes out. `history` is the one that it is of: nothing comes of it if that isn't the store's
    /// any more.
    pub const fn raise(&mut self, history: u64, revision: i64) {
        self.history.raise(history, revision);
    }

    /// Takes in that an answer goes out whose revision can't be read, or is of a history that isn't known.
    pub const fn pass_unread(&mut self) {
        self.unread += 1;
    }

    /// The floor of a serializable read that comes now.
    #[must_use]
    pub const fn floor(&self) -> Floor {
        let known = self.known();
        Floor {
            known,
            revision: if self.unread > self.covered {
                FLOOR_UNKNOWN
            } else {
                known.revision
            },
        }
    }

    /// What must be kept with a question that is to tell what is newest, from before it is sent.
    #[must_use]
    pub const fn asks(&self) -> Asked {
        Asked {
            known: self.known(),
            mark: Mark(self.unread),
        }
    }

    /// Learns that a linearizable read which was sent with `asked` was answered with this revision: nothing newer was shown
    /// before it was sent.
    pub fn learn(&mut self, asked: Asked, revision: i64) {
        let Mark(unread) = asked.mark;
        if unread > self.covered {
            self.raise(asked.known.history, revision);
            self.covered = unread;
        }
    }

    /// What is known now. Must be kept with each question, from before it is sent.
    #[must_use]
    pub const fn known(&self) -> Known {
        self.history.known()
    }

    /// The id of the cluster; 0 if none was seen.
    #[must_use]
    pub const fn cluster_id(&self) -> u64 {
        self.history.cluster_id()
    }

    /// Whether an answer is of another history, or of a member that lags.
    #[must_use]
    pub const fn is_doubtful(&self, asked: Known, shows: Shows) -> bool {
        self.history.is_doubtful(asked, shows)
    }

    /// Judges what an answer shows to a question that was asked when this was known, before it is shown and before anything
    /// follows from it. After [`Verdict::Another`] all machines must be told of the [`AnotherHistory`].
    pub const fn answered(&mut self, asked: Known, shows: Shows) -> Verdict {
        self.history.answered(asked, shows)
    }

    /// Judges an answer that is about to be shown to a client.
    pub const fn reveals(&mut self, asked: Known, reveals: Reveals) -> Verdict {
        let verdict = match reveals {
            Reveals::Nothing => return Verdict::Same,
            Reveals::Revision(shows) => self.answered(asked, shows),
            Reveals::Unreadable => {
                self.pass_unread();
                return Verdict::Same;
            }
        };
        if matches!(verdict, Verdict::Stale) {
            // It may be of the history that the store has now, and nobody knows.
            self.pass_unread();
        }
        verdict
    }

    /// Judges an answer that has all that was committed when it was asked for, and learns from it.
    pub fn answered_newest(&mut self, asked: Asked, shows: Shows) -> Verdict {
        let verdict = self.answered(asked.known, shows);
        if verdict != Verdict::Stale {
            self.learn(asked, shows.revision);
        }
        verdict
    }

    /// The revision up to which all machines must forget what they have, after a compaction that was asked for when this was
    /// known. `None` if the store has another history now.
    #[must_use]
    pub const fn compacted(&self, asked: Known, revision: i64) -> Option<Compacted> {
        if self.known().history == asked.history {
            Some(Compacted(revision))
        } else {
            None
        }
    }
}

/// A compaction that was answered: revisions below this one are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted(pub i64);

impl Compacted {
    /// What the watch hub is told.
    #[must_use]
    pub const fn for_hub(self) -> watch::Event {
        watch::Event::Compacted(self.0)
    }

    /// What the cache is told.
    pub fn tell(self, cache: &mut read::Cache) {
        cache.compacted(self.0);
    }
}

/// Another history than before, by its number. All machines are told, the cache last: it goes on with the hub's watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnotherHistory(pub u64);

impl AnotherHistory {
    /// What the watch hub is told.
    #[must_use]
    pub const fn for_hub(self) -> watch::Event {
        watch::Event::History(self.0)
    }

    /// What the lease router is told.
    #[must_use]
    pub const fn for_router(self) -> lease::Event {
        lease::Event::History(self.0)
    }

    /// What the cache is told.
    #[must_use]
    pub const fn for_cache(self) -> read::Event {
        read::Event::History(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: u64 = 7;

    fn shows(revision: i64, is_newest: bool) -> Shows {
        Shows {
            cluster_id: CLUSTER,
            revision,
            is_newest,
        }
    }

    /// What was shown up to revision 5, of the first history.
    fn at_five() -> HighestShownRevision {
        let mut shown = HighestShownRevision::default();
        assert_eq!(shown.answered(shown.known(), shows(5, true)), Verdict::Same);
        shown
    }

    #[test]
    fn what_cannot_be_read_hides_the_floor_until_a_later_question_is_answered() {
        let mut shown = at_five();
        assert_eq!(shown.floor().revision, 5);
        let early = shown.asks();
        shown.pass_unread();
        assert_eq!(shown.floor().revision, FLOOR_UNKNOWN);
        assert_eq!(shown.floor().of_linearizable().revision, 5);
        let late = shown.asks();
        // It was sent before: it may not have what was shown.
        shown.learn(early, 9);
        assert_eq!(shown.floor().revision, FLOOR_UNKNOWN);
        assert_eq!(shown.known().revision, 5, "nothing was to be learned");
        shown.learn(late, 8);
        assert_eq!(shown.floor().revision, 8);
        // Of two that come in another order the earlier one changes nothing.
        shown.learn(early, 12);
        assert_eq!(shown.floor().revision, 8);
    }

    #[test]
    fn a_wait_may_bring_a_floor() {
        let mut shown = at_five();
        let five = shown.floor();
        shown.pass_unread();
        let unknown = shown.floor();
        shown.raise(0, 6);
        let asked = shown.asks();
        shown.learn(asked, 7);
        let seven = shown.floor();
        assert_eq!(five.after_wait(seven), five);
        assert_eq!(unknown.after_wait(seven), seven);
        assert_eq!(unknown.after_wait(unknown), unknown);
    }

    #[test]
    fn answers_that_are_shown() {
        for (reveals, verdict, floor) in [
            (Reveals::Nothing, Verdict::Same, 5),
            (Reveals::Unreadable, Verdict::Same, FLOOR_UNKNOWN),
            (Reveals::Revision(shows(6, false)), Verdict::Same, 6),
            (Reveals::Revision(shows(4, false)), Verdict::Suspicious, 5),
            (Reveals::Revision(shows(4, true)), Verdict::Another, 4),
            (Reveals::Revision(shows(-1, true)), Verdict::Same, 5),
        ] {
            let mut shown = at_five();
            assert_eq!(shown.reveals(shown.known(), reveals), verdict, "{reveals:?}");
            assert_eq!(shown.floor().revision, floor, "{reveals:?}");
        }
    }

    #[test]
    fn an_answer_of_a_former_history_hides_the_floor() {
        let mut shown = at_five();
        let before = shown.known();
        assert_eq!(shown.answered(before, shows(2, true)), Verdict::Another);
        assert_eq!(shown.floor().revision, 2);
        assert_eq!(
            shown.reveals(before, Reveals::Revision(shows(6, true))),
            Verdict::Stale
        );
        assert_eq!(shown.floor().revision, FLOOR_UNKNOWN);
        shown.raise(before.history, 9);
        assert_eq!(shown.known().revision, 2);
        assert_eq!(shown.compacted(before, 1), None);
        assert_eq!(shown.compacted(shown.known(), 1), Some(Compacted(1)));
    }

    #[test]
    fn what_is_newest_tells_what_was_shown() {
        let mut shown = at_five();
        shown.pass_unread();
        let asked = shown.asks();
        assert_eq!(shown.answered_newest(asked, shows(8, true)), Verdict::Same);
        assert_eq!(shown.floor().revision, 8);
        shown.pass_unread();
        let asked = shown.asks();
        assert_eq!(shown.answered_newest(asked, shows(3, true)), Verdict::Another);
        assert_eq!(shown.floor().revision, 3);
        shown.pass_unread();
        assert_eq!(shown.answered_newest(asked, shows(9, true)), Verdict::Stale);
        assert_eq!(shown.floor().revision, FLOOR_UNKNOWN);
    }
}
