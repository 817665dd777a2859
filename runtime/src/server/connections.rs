//! How many client connections are open, of each worker and of all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The client connections of all workers.
#[derive(Debug)]
pub(crate) struct Connections {
    open: Box<[AtomicUsize]>,
    /// A worker has none left.
    closed: Notify,
}

impl Connections {
    /// Those of so many workers: none.
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            open: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
            closed: Notify::new(),
        }
    }

    /// How many a worker has.
    pub(super) fn of(&self, worker: usize) -> usize {
        self.open[worker].load(Ordering::Relaxed)
    }

    /// A worker has one more.
    pub(super) fn begin(self: &Arc<Self>, worker: usize) -> OpenConnection {
        self.open[worker].fetch_add(1, Ordering::Relaxed);
        OpenConnection {
            connections: self.clone(),
            worker,
        }
    }

    /// Completes when no worker has any.
    pub(super) async fn none_left(&self) {
        loop {
            let mut closed = core::pin::pin!(self.closed.notified());
            // Listen first, look then: an end in between is not missed.
            closed.as_mut().enable();
            if self.open.iter().all(|open| open.load(Ordering::Acquire) == 0) {
                return;
            }
            closed.await;
        }
    }
}

/// Counts as open for as long as it lives.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    connections: Arc<Connections>,
    worker: usize,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let before = self.connections.open[self.worker].fetch_sub(1, Ordering::AcqRel);
        if before == 1 {
            self.connections.closed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use core::pin::pin;
    use core::task::{Context, Waker};
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn whoever_waits_for_the_last_one_is_woken_by_its_end() {
        let connections = Arc::new(Connections::new(2));
        let (one, two) = (connections.begin(0), connections.begin(1));
        let three = connections.begin(1);
        assert_eq!((connections.of(0), connections.of(1)), (1, 2));
        let woken = Arc::<Woken>::default();
        let waker = Waker::from(woken.clone());
        let mut cx = Context::from_waker(&waker);
        let mut none_left = pin!(connections.none_left());
        assert!(none_left.as_mut().poll(&mut cx).is_pending());
        drop(two);
        assert_eq!(woken.0.load(Ordering::Relaxed), 0, "its worker has another one");
        drop(one);
        assert!(none_left.as_mut().poll(&mut cx).is_pending());
        woken.0.store(0, Ordering::Relaxed);
        drop(three);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(none_left.poll(&mut cx).is_ready());
        assert!(pin!(connections.none_left()).poll(&mut cx).is_ready(), "at once");
    }
}
