//! Bytes on their way from the hub, which any thread may drive, to the one task that sends them.
//!
//! The hub's side puts in and never waits; what bounds an outbox is the hub's business, which is told what has left.
//! The task's side takes out all there is. Wake-ups are handed to whoever puts in, so that they can be done
//! once the hub's own lock is free.

use core::task::{Context, Waker};
use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use etcd_proxy_core::time::Instant;

use super::lock::Mutex;

/// Chunks up to this many bytes are copied together: one large write costs less than many small ones.
const GATHERED_BYTES_MAX: usize = 4 * 1024;

/// See the [module documentation](self). `E` says how it ended.
#[derive(Debug)]
pub(super) struct Outbox<E> {
    state: Mutex<State<E>>,
}

#[derive(Debug)]
struct State<E> {
    chunks: VecDeque<Bytes>,
    /// What is being copied together, behind `chunks`.
    gathered: BytesMut,
    /// Since when there are chunks.
    since: Option<Instant>,
    /// What follows the last chunk.
    end: Option<E>,
    /// The task is to read no more requests.
    is_paused: bool,
    /// Whether the task can do something with chunks.
    wants_chunks: bool,
    waker: Option<Waker>,
}

/// What the task finds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found<E> {
    /// Chunks were taken, of which the first came at this time.
    pub(super) chunks: Option<Instant>,
    /// It has ended, and all chunks were taken.
    pub(super) end: Option<E>,
    /// No more requests are to be read for now.
    pub(super) is_paused: bool,
}

impl<E> Outbox<E> {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                chunks: VecDeque::new(),
                gathered: BytesMut::new(),
                since: None,
                end: None,
                is_paused: false,
                wants_chunks: true,
                waker: None,
            }),
        }
    }

    /// Puts a message in, which may be in two parts. Nothing follows the end.
    #[must_use]
    pub(super) fn push(&self, now: Instant, head: Bytes, tail: Bytes) -> Option<Waker> {
        let mut state = self.state.lock();
        if state.end.is_some() {
            return None;
        }
        state.since.get_or_insert(now);
        state.put(head);
        state.put(tail);
        if state.wants_chunks {
            state.waker.take()
        } else {
            None
        }
    }

    /// Puts the end in.
    #[must_use]
    pub(super) fn end(&self, end: E) -> Option<Waker> {
        let mut state = self.state.lock();
        state.end.get_or_insert(end);
        state.waker.take()
    }

    /// Tells the task to read no more requests, or to go on.
    #[must_use]
    pub(super) fn pause(&self, is_paused: bool) -> Option<Waker> {
        let mut state = self.state.lock();
        state.is_paused = is_paused;
        state.waker.take()
    }

    /// Takes all chunks, if there is somewhere to put them, and the end once there are no chunks. The task is woken
    /// when there is more: chunks only if it took these.
    pub(super) fn look(&self, cx: &mut Context<'_>, into: Option<&mut VecDeque<Bytes>>) -> Found<E> {
        let mut state = self.state.lock();
        if !state
            .waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            state.waker = Some(cx.waker().clone());
        }
        state.wants_chunks = into.is_some();
        let mut found = Found {
            chunks: None,
            end: None,
            is_paused: state.is_paused,
        };
        if let Some(into) = into {
            state.finish_gathering();
            found.chunks = state.since.take();
            if into.is_empty() {
                core::mem::swap(into, &mut state.chunks);
            } else {
                into.append(&mut state.chunks);
            }
            found.end = state.end.take();
        }
        found
    }
}

impl<E> State<E> {
    fn put(&mut self, chunk: Bytes) {
        if chunk.is_empty() {
            return;
        }
        if chunk.len() > GATHERED_BYTES_MAX {
            self.finish_gathering();
            self.chunks.push_back(chunk);
        } else if !self.gathered.is_empty() {
            self.gathered.extend_from_slice(&chunk);
        } else if self.chunks.is_empty() {
            // Often the only one, and shared with other outboxes.
            self.chunks.push_back(chunk);
        } else {
            self.gathered.extend_from_slice(&chunk);
        }
    }

    fn finish_gathering(&mut self) {
        if !self.gathered.is_empty() {
            self.chunks.push_back(self.gathered.split().freeze());
        }
    }
}
