//! The outbox between the watch hub and a client's task, under every interleaving of their steps that loom finds.
//!
//! The source is compiled a second time, with loom's mutex in place of the real one.

use core::future::poll_fn;
use core::task::{Poll, Waker};
use std::collections::VecDeque;

use bytes::Bytes;
use etcd_proxy_core::time::Instant;
use loom::sync::Arc;
use loom::thread;

#[path = "../src/streams/outbox.rs"]
mod outbox;

mod lock {
    #[derive(Debug)]
    pub(super) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(super) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(super) fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }
    }
}

use outbox::Outbox;

/// All interleavings with up to this many switches that a thread didn't ask for: more find nothing new here, and take
/// hours.
const PREEMPTIONS_MAX: usize = 3;

fn check(test: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(PREEMPTIONS_MAX);
    model.check(test);
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Takes everything up to the end.
async fn drain(outbox: &Outbox<u8>) -> (Vec<u8>, u8) {
    let mut taken = VecDeque::new();
    let mut all = Vec::new();
    let end = poll_fn(|cx| {
        loop {
            let found = outbox.look(cx, Some(&mut taken));
            all.extend(taken.drain(..).flatten());
            if let Some(end) = found.end {
                return Poll::Ready(end);
            }
            if found.chunks.is_none() {
                return Poll::Pending;
            }
        }
    })
    .await;
    (all, end)
}

fn push(outbox: &Outbox<u8>, bytes: &'static [u8]) {
    let (head, tail) = bytes.split_at(bytes.len() / 2);
    wake(outbox.push(Instant::ZERO, Bytes::from_static(head), Bytes::from_static(tail)));
}

#[test]
fn everything_comes_in_order_and_then_the_end() {
    check(|| {
        let outbox = Arc::new(Outbox::new());
        let hub = {
            let outbox = outbox.clone();
            thread::spawn(move || {
                push(&outbox, b"ab");
                push(&outbox, b"cd");
                wake(outbox.end(7));
                push(&outbox, b"too late");
            })
        };
        let (all, end) = loom::future::block_on(drain(&outbox));
        assert_eq!((all.as_slice(), end), (&b"abcd"[..], 7));
        hub.join().unwrap();
    });
}

/// Two threads that take turns under the hub's lock wake the task of one client.
#[test]
fn no_wake_up_is_lost_between_two_threads() {
    check(|| {
        let outbox = Arc::new(Outbox::new());
        let hub = Arc::new(loom::sync::Mutex::new(0));
        let threads = [b"a", b"b"].map(|bytes| {
            let (outbox, hub) = (outbox.clone(), hub.clone());
            thread::spawn(move || {
                let wakers = {
                    let mut turns = hub.lock().unwrap();
                    *turns += 1;
                    let pushed = outbox.push(Instant::ZERO, Bytes::from_static(bytes), Bytes::new());
                    let ended = if *turns == 2 { outbox.end(1) } else { None };
                    [pushed, ended]
                };
                wakers.into_iter().for_each(wake);
            })
        });
        let (mut all, end) = loom::future::block_on(drain(&outbox));
        all.sort_unstable();
        assert_eq!((all.as_slice(), end), (&b"ab"[..], 1));
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

/// A task that has no room for chunks isn't woken by them, but it is when it may read requests again.
#[test]
fn a_blocked_task_hears_that_it_may_go_on() {
    check(|| {
        let outbox: Arc<Outbox<u8>> = Arc::new(Outbox::new());
        wake(outbox.pause(true));
        let hub = {
            let outbox = outbox.clone();
            thread::spawn(move || {
                push(&outbox, b"ab");
                wake(outbox.pause(false));
            })
        };
        loom::future::block_on(poll_fn(|cx| {
            if outbox.look(cx, None).is_paused {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        }));
        hub.join().unwrap();
        let mut taken = VecDeque::new();
        loom::future::block_on(poll_fn(|cx| {
            assert!(outbox.look(cx, Some(&mut taken)).chunks.is_some());
            Poll::Ready(())
        }));
        assert_eq!(taken.into_iter().flatten().collect::<Vec<u8>>(), b"ab");
    });
}
