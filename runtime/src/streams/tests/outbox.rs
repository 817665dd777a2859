use core::task::Waker;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use super::super::outbox::{Found, Outbox};
use super::*;

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// An outbox and the task that empties it.
struct Task {
    outbox: Outbox<&'static str>,
    woken: Arc<Woken>,
}

impl Task {
    fn new() -> Self {
        Self {
            outbox: Outbox::new(),
            woken: Arc::default(),
        }
    }

    fn push(&self, millis: u64, head: &'static [u8], tail: &'static [u8]) {
        let now = Instant::ZERO + Duration::from_millis(millis);
        wake(
            self.outbox
                .push(now, Bytes::from_static(head), Bytes::from_static(tail)),
        );
    }

    /// Looks with room for chunks, or without.
    fn look(&self, has_room: bool) -> (Found<&'static str>, Vec<Bytes>) {
        let waker = Waker::from(self.woken.clone());
        let mut chunks = VecDeque::new();
        let found = self.outbox.look(
            &mut core::task::Context::from_waker(&waker),
            has_room.then_some(&mut chunks),
        );
        (found, chunks.into())
    }

    fn woken(&self) -> usize {
        self.woken.0.swap(0, Ordering::Relaxed)
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[test]
fn small_chunks_are_gathered_and_large_ones_are_not_copied() {
    static LARGE: [u8; 4097] = [7; 4097];
    let task = Task::new();
    task.push(0, b"a", b"b");
    task.push(0, b"c", b"");
    task.push(0, &LARGE, b"d");
    task.push(0, b"e", b"");
    let (_, chunks) = task.look(true);
    assert_eq!(chunks, [&b"a"[..], b"bc", &LARGE, b"de"]);
    assert_eq!(chunks[2].as_ptr(), LARGE.as_ptr());
}

#[test]
fn the_end_follows_the_last_chunk_and_nothing_follows_the_end() {
    let task = Task::new();
    task.push(1, b"a", b"");
    wake(task.outbox.end("over"));
    wake(task.outbox.end("over again"));
    task.push(2, b"b", b"");
    let (found, chunks) = task.look(false);
    assert_eq!(
        (found.chunks, found.end, chunks.len()),
        (None, None, 0),
        "there is no room"
    );
    let (found, chunks) = task.look(true);
    assert_eq!(chunks, [&b"a"[..]]);
    assert_eq!(found.end, Some("over"));
}

#[test]
fn the_wait_of_the_first_chunk_counts() {
    let task = Task::new();
    task.push(5, b"a", b"");
    task.push(9, b"b", b"");
    let (found, _) = task.look(true);
    assert_eq!(found.chunks, Some(Instant::ZERO + Duration::from_millis(5)));
    assert_eq!(task.look(true).0.chunks, None);
    task.push(11, b"c", b"");
    let (found, _) = task.look(true);
    assert_eq!(found.chunks, Some(Instant::ZERO + Duration::from_millis(11)));
}

#[test]
fn a_task_is_woken_once_and_not_for_what_it_cant_use() {
    let task = Task::new();
    task.look(true);
    task.push(0, b"a", b"");
    task.push(0, b"b", b"");
    assert_eq!(task.woken(), 1);
    // Its client has no room: more chunks are no news, the end and a pause are.
    task.look(false);
    task.push(0, b"c", b"");
    assert_eq!(task.woken(), 0);
    wake(task.outbox.pause(true));
    assert_eq!(task.woken(), 1);
    assert!(task.look(false).0.is_paused);
    wake(task.outbox.end("over"));
    assert_eq!(task.woken(), 1);
}
