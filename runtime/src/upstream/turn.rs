//! What one of a worker's calls does at a time, and not again right after it was in vain.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Whose turn it is.
#[derive(Clone, Debug)]
pub(crate) struct Turns {
    every: Duration,
    /// From when on somebody may have it; `None` while somebody has.
    free_from: Arc<Mutex<Option<Instant>>>,
}

impl Turns {
    /// Turns of which the next one comes no earlier than `every` after one that was in vain.
    pub(crate) fn new(every: Duration) -> Self {
        Self {
            every,
            free_from: Arc::new(Mutex::new(Some(Instant::now()))),
        }
    }

    /// The turn; none if somebody else has it, or it was in vain a moment ago.
    pub(crate) fn take(&self) -> Option<Turn> {
        let mut free_from = self.free_from.lock();
        free_from.take_if(|from| *from <= Instant::now())?;
        Some(Turn {
            turns: self.clone(),
            was_worth_it: false,
        })
    }
}

/// A turn. Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Turns,
    was_worth_it: bool,
}

impl Turn {
    /// It was not in vain, so that the next one needs no wait.
    pub(crate) fn was_worth_it(&mut self) {
        self.was_worth_it = true;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let wait = if self.was_worth_it {
            Duration::ZERO
        } else {
            self.turns.every
        };
        *self.turns.free_from.lock() = Some(Instant::now() + wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_not_again_at_once() {
        let turns = Turns::new(Duration::from_secs(3600));
        let mut first = turns.take().expect("nobody has it");
        assert!(turns.take().is_none(), "somebody has it");
        first.was_worth_it();
        drop(first);
        let second = turns.take().expect("the first wasn't in vain");
        drop(second);
        assert!(turns.take().is_none(), "the second was");
    }
}
