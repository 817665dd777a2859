//! How far all watchers together have come.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// Counts deliveries per event.
#[derive(Debug)]
pub(super) struct Progress {
    watchers: usize,
    state: Mutex<State>,
    advanced: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Events that every watcher has, from the first on without a gap.
    complete: u64,
    /// Deliveries of the events after those.
    deliveries: VecDeque<usize>,
}

impl Progress {
    pub(super) fn new(watchers: usize) -> Self {
        Self {
            watchers,
            state: Mutex::default(),
            advanced: Notify::new(),
        }
    }

    /// One more watcher has this event; called once per watcher and event.
    pub(super) fn delivered(&self, sequence: u64) {
        let mut state = self.state();
        let Some(index) = sequence.checked_sub(state.complete) else {
            return;
        };
        let index = index as usize;
        if state.deliveries.len() <= index {
            state.deliveries.resize(index + 1, 0);
        }
        state.deliveries[index] += 1;
        let before = state.complete;
        while state.deliveries.front() == Some(&self.watchers) {
            state.deliveries.pop_front();
            state.complete += 1;
        }
        if state.complete > before {
            self.advanced.notify_one();
        }
    }

    /// Waits until every watcher has the first `events` events. One caller at a time.
    pub(super) async fn wait_for(&self, events: u64) {
        while self.state().complete < events {
            self.advanced.notified().await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_event_is_complete_when_all_have_it_and_all_before() {
        let progress = Progress::new(2);
        progress.wait_for(0).await;
        for (sequence, complete) in [(0, 0), (1, 0), (1, 0), (2, 0), (0, 2), (2, 3), (0, 3)] {
            progress.delivered(sequence);
            assert_eq!(progress.state().complete, complete);
        }
        progress.wait_for(3).await;
    }
}
