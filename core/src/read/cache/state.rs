//! What the cache keeps of reads and writes under way, and of checks.

use alloc::boxed::Box;
use alloc::vec::Vec;

use bytes::Bytes;
use slotmap::SlotMap;

use crate::interval::{Link, Node, Span};
use crate::read::request;
use crate::read::types::{CheckId, FLOOR_UNKNOWN, WaiterId, WatchId};
use crate::time::Instant;

/// Why nothing is served, if it is for auth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Auth {
    /// Whoever has no credentials may read everything, as far as is known.
    Off,
    /// The cluster has asked for credentials.
    On,
    /// It may have been switched on.
    Unproven,
}

/// The watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watch {
    Closed,
    /// It is wanted, but isn't complete.
    Opening(WatchId),
    Up(WatchId),
}

impl Watch {
    pub(super) const fn id(self) -> Option<WatchId> {
        match self {
            Self::Closed => None,
            Self::Opening(id) | Self::Up(id) => Some(id),
        }
    }
}

/// A read that was forwarded.
#[derive(Debug)]
pub(super) struct Flight {
    /// Its number among reads that came and reads that were forwarded.
    pub(super) serial: u64,
    pub(super) ident: Box<[u8]>,
    pub(super) hash: u64,
    pub(super) serializable: bool,
    /// What it asks for; 0 for the current one.
    pub(super) revision: i64,
    /// Whether its keys are watched.
    pub(super) in_scope: bool,
    pub(super) began_at: Instant,
    /// How far the watch had come then; 0 if it wasn't complete.
    pub(super) began: i64,
    /// The last revision that touched its keys since then; the highest number if that isn't known.
    pub(super) touched: i64,
    /// The state of auth that it was sent in.
    pub(super) auth_epoch: u64,
    /// The number of the history that it was sent in.
    pub(super) history: u64,
    /// Whether it is one of those that gave up waiting for the cache.
    pub(super) is_fallback: bool,
    /// Whether the one before was refused in a way that isn't for all who ask the same.
    pub(super) after_refusal: bool,
    /// Reads that wait for its answer.
    pub(super) joined: Vec<WaiterId>,
    /// Reads that wait for the next one's.
    pub(super) next: Vec<WaiterId>,
    pub(super) link: Link,
}

impl Flight {
    /// Its keys, if it is for events to touch them.
    pub(super) fn touchable(&self) -> Option<Span<'_>> {
        let is_touchable = self.in_scope && self.revision == 0;
        request::span_of(&self.ident).filter(|_| is_touchable)
    }

    /// Memory it takes.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + self.ident.len()
    }
}

impl Node for Flight {
    fn span(&self) -> Span<'_> {
        self.touchable().expect("no other is in the tree")
    }

    fn link(&self) -> &Link {
        &self.link
    }

    fn link_mut(&mut self) -> &mut Link {
        &mut self.link
    }
}

/// A read, as far as it isn't in the request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Read {
    /// Its number among reads that came and reads that were forwarded.
    pub(super) serial: u64,
    pub(super) hash: u64,
    pub(super) serializable: bool,
    /// What it asks for; 0 for the current one.
    pub(super) revision: i64,
    /// Whether its keys are watched.
    pub(super) in_scope: bool,
    /// It is shown nothing older.
    pub(super) floor: i64,
    pub(super) came_at: Instant,
}

impl Read {
    /// What is known of its floor.
    pub(super) const fn need(&self) -> i64 {
        if self.floor == FLOOR_UNKNOWN {
            0
        } else {
            self.floor
        }
    }
}

/// A read that waits.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) read: Read,
    pub(super) request: Bytes,
    /// What it is shown must have this revision, or a later one.
    pub(super) need: i64,
    pub(super) place: Place,
}

/// What a read waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A check that begins after it came.
    Check,
    /// Another read.
    Flight,
    /// A confirmation.
    Fresh,
    /// Its turn, as too many have fallen back.
    Queue,
    /// That the watch has come to this revision.
    Revision(i64),
}

impl Place {
    /// Whether it waits for the cache, for which it has no patience.
    pub(super) const fn is_cache(self) -> bool {
        matches!(self, Self::Check | Self::Fresh | Self::Revision(_))
    }
}

/// A check under way.
#[derive(Debug)]
pub(super) struct Check {
    pub(super) id: CheckId,
    pub(super) sent_at: Instant,
    pub(super) auth_epoch: u64,
    /// Reads that came before it was sent, and wait for it.
    pub(super) waiters: Vec<WaiterId>,
}

/// The watch will have been in step at a time when it comes to a revision.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub(super) at: Instant,
    pub(super) revision: i64,
    /// Whether somebody asked for it.
    pub(super) is_wanted: bool,
}

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// The next linearizable check may be sent.
    Batch,
    /// A check stays without answer; whether it is a linearizable one.
    Check(bool),
    /// There may have been no read for long.
    Idle,
    /// A question for progress stays without answer.
    Progress,
}

/// Adds to a list from which those who are gone aren't taken at once.
pub(super) fn enlist(list: &mut Vec<WaiterId>, waiters: &SlotMap<WaiterId, Waiter>, id: WaiterId) {
    if list.len() == list.capacity() && list.len() >= 16 {
        list.retain(|other| waiters.contains_key(*other));
    }
    list.push(id);
}
