//! What one of a worker's calls does at a time, and not again right after it.

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
    /// Turns of which the next one comes no earlier than `every` after the last one.
    pub(crate) fn new(every: Duration) -> Self {
        Self {
            every,
            free_from: Arc::new(Mutex::new(Some(Instant::now()))),
        }
    }

    /// The turn; none if somebody else has it, or had it a moment ago.
    pub(crate) fn take(&self) -> Option<Turn> {
        let mut free_from = self.free_from.lock();
        free_from.take_if(|from| *from <= Instant::now())?;
        Some(Turn(self.clone()))
    }
}

/// A turn. Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn(Turns);

impl Drop for Turn {
    fn drop(&mut self) {
        *self.0.free_from.lock() = Some(Instant::now() + self.0.every);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_not_again_at_once() {
        let turns = Turns::new(Duration::from_secs(3600));
        let first = turns.take().expect("nobody has it");
        assert!(turns.take().is_none(), "somebody has it");
        drop(first);
        assert!(turns.take().is_none(), "somebody had it");
        let turns = Turns::new(Duration::ZERO);
        drop(turns.take().expect("nobody has it"));
        drop(turns.take().expect("there is no wait"));
    }
}
