//! Whose question is sent next. Only so many are on their way at a time, of all callers and of each, and callers take
//! turns: one who has many, or large ones, delays nobody else.

use alloc::collections::{BTreeMap, VecDeque};
use core::ops::Bound;

use super::state::{Credentials, Question};
use crate::watch::types::CheckId;

/// What may be on its way for one caller, in questions of ordinary size.
const EACH_MAX: usize = 128;

/// What may be on its way for all.
const ALL_MAX: usize = 1024;

/// From this size on a question counts for more than one.
const ORDINARY_BYTES: usize = 64 * 1024;

/// See the [module documentation](self).
#[derive(Debug, Default)]
pub(super) struct Turns {
    waiting: BTreeMap<Credentials, VecDeque<CheckId>>,
    on_their_way: BTreeMap<Credentials, usize>,
    total: usize,
    /// Whose turn it was last.
    last: Credentials,
}

impl Turns {
    /// All that there is, one after the other.
    pub(super) fn into_pieces(self) -> impl Iterator<Item = ()> + Send {
        let waiting = self.waiting.into_values().map(drop);
        waiting.chain(self.on_their_way.into_values().map(drop))
    }

    /// Adds a question of somebody's.
    pub(super) fn push(&mut self, question: &Question, id: CheckId) {
        let queue = self.waiting.entry(question.credentials().clone());
        queue.or_default().push_back(id);
    }

    /// Takes the question whose turn it is, if one may be sent. It must [begin](Self::begin) then, or is forgotten.
    pub(super) fn next(&mut self) -> Option<CheckId> {
        if self.total >= ALL_MAX {
            return None;
        }
        let after = (Bound::Excluded(&self.last), Bound::Unbounded);
        let mut callers = self
            .waiting
            .range::<Credentials, _>(after)
            .chain(self.waiting.range(..=&self.last));
        let has_room = |credentials: &Credentials| {
            self.on_their_way.get(credentials).copied().unwrap_or_default() < EACH_MAX
        };
        let (credentials, _) = callers.find(|(credentials, _)| has_room(credentials))?;
        self.last = credentials.clone();
        let queue = self.waiting.get_mut(&self.last)?;
        let id = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&self.last);
        }
        id
    }

    /// A question is sent.
    pub(super) fn begin(&mut self, question: &Question) {
        let weight = weight(question);
        self.total += weight;
        let own = self.on_their_way.entry(question.credentials().clone());
        *own.or_default() += weight;
    }

    /// A question that was sent is answered.
    pub(super) fn end(&mut self, question: &Question) {
        let weight = weight(question);
        self.total -= weight;
        if let Some(own) = self.on_their_way.get_mut(question.credentials()) {
            *own -= weight;
            if *own == 0 {
                self.on_their_way.remove(question.credentials());
            }
        }
    }
}

fn weight(question: &Question) -> usize {
    let bytes = match question {
        Question::Revision(_, key) => key.len(),
        Question::Permission(_, range) => range.key().len() + range.end().len(),
        Question::Header => 0,
    };
    1 + bytes / ORDINARY_BYTES
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use bytes::Bytes;
    use slotmap::SlotMap;

    use super::*;

    fn question(token: &'static str, bytes: usize) -> Question {
        let key = Bytes::from(vec![b'k'; bytes]);
        Question::Revision(Some(Bytes::from_static(token.as_bytes())), key)
    }

    /// Has all sent that may be, and answers whose they are.
    fn send(turns: &mut Turns, checks: &SlotMap<CheckId, Question>) -> Vec<Question> {
        let mut sent = Vec::new();
        while let Some(id) = turns.next() {
            turns.begin(&checks[id]);
            sent.push(checks[id].clone());
        }
        sent
    }

    #[test]
    fn callers_take_turns() {
        let (mut turns, mut checks) = (Turns::default(), SlotMap::<CheckId, Question>::with_key());
        for (token, count) in [("a", 1000), ("b", 3), ("c", 1000)] {
            for _ in 0..count {
                let id = checks.insert(question(token, 5));
                turns.push(&checks[id], id);
            }
        }
        let sent = send(&mut turns, &checks);
        let of = |token| sent.iter().filter(|sent| **sent == question(token, 5)).count();
        assert_eq!((of("a"), of("b"), of("c")), (EACH_MAX, 3, EACH_MAX));
        let last_of_b = sent.iter().rposition(|sent| *sent == question("b", 5));
        assert!(
            last_of_b.is_some_and(|at| at < 9),
            "three turns of three: {last_of_b:?}"
        );
        // For each that is answered one is sent.
        turns.end(&question("c", 5));
        assert_eq!(send(&mut turns, &checks), [question("c", 5)]);
    }

    #[test]
    fn large_questions_count_for_many() {
        let (mut turns, mut checks) = (Turns::default(), SlotMap::<CheckId, Question>::with_key());
        for _ in 0..100 {
            let id = checks.insert(question("a", 2 << 20));
            turns.push(&checks[id], id);
        }
        let sent = send(&mut turns, &checks);
        assert_eq!(sent.len(), 4);
        for sent in &sent {
            turns.end(sent);
        }
        assert_eq!(send(&mut turns, &checks).len(), 4);
        assert!(turns.total > 0);
    }

    #[test]
    fn all_together_are_bounded_and_nothing_stays() {
        let (mut turns, mut checks) = (Turns::default(), SlotMap::<CheckId, Question>::with_key());
        for caller in 0..100 {
            let token = Some(Bytes::from(vec![caller]));
            for _ in 0..100 {
                let id = checks.insert(Question::Revision(token.clone(), Bytes::new()));
                turns.push(&checks[id], id);
            }
        }
        let mut sent = send(&mut turns, &checks);
        assert_eq!(sent.len(), ALL_MAX);
        let mut all = 0;
        while let Some(question) = sent.pop() {
            all += 1;
            turns.end(&question);
            sent.extend(send(&mut turns, &checks));
        }
        assert_eq!(all, 100 * 100);
        assert!(turns.waiting.is_empty() && turns.on_their_way.is_empty() && turns.total == 0);
    }
}
