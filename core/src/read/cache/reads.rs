//! Reads as they come, and those who wait for the cache.

use bytes::Bytes;

use super::Cache;
use super::state::{Auth, Place, Read, Waiter, enlist};
use crate::interval::Span;
use crate::read::reply;
use crate::read::request::{self, identify};
use crate::read::types::{Actions, Admission, Answer, FLOOR_UNKNOWN, Reason, Resolution, Scope, WaiterId};
use crate::time::Instant;

/// What the cache has for a read.
#[derive(Debug)]
pub(super) enum Found {
    /// The answer.
    Answer(Answer),
    /// An answer, but the watch must come further before it is known to be right.
    Behind,
    /// Nothing.
    Nothing,
    /// An answer that may be too old.
    Stale,
}

impl Cache {
    /// A read without credentials: a `RangeRequest` without its gRPC prefix, and the highest revision that the proxy has shown
    /// to anybody, in an answer or in a watch, or [`FLOOR_UNKNOWN`]. A read with credentials isn't for the cache.
    ///
    /// The request is kept for as long as the read waits, so it should be no part of a much larger buffer.
    pub fn admit_read(
        &mut self,
        now: Instant,
        request: &Bytes,
        floor: i64,
        actions: &mut Actions,
    ) -> Admission {
        if self.config.scope == Scope::Nothing {
            return self.bypass(Reason::Off);
        }
        let terms = match identify(request, &mut self.ident) {
            Ok(terms) => terms,
            Err(reason) => return self.bypass(reason),
        };
        if self.ident.len() > self.config.bytes_max / 64 {
            return self.bypass(Reason::TooLarge);
        }
        let read = Read {
            serial: self.next_serial(),
            hash: self.key.hash(&self.ident),
            serializable: terms.serializable,
            revision: terms.revision,
            in_scope: self.is_in_scope(),
            floor,
            came_at: now,
        };
        if read.in_scope {
            self.last_read = now;
            self.open_watch(now, actions);
        }
        let reason = if !read.in_scope {
            Some(Reason::OutOfScope)
        } else if !self.is_up() {
            Some(Reason::WatchDown)
        } else if self.auth != Auth::Off {
            self.wants_proof |= self.auth == Auth::Unproven;
            Some(Reason::Auth)
        } else {
            None
        };
        let admission = if let Some(reason) = reason {
            self.count(reason);
            self.share(now, read, request)
        } else if read.serializable && floor == FLOOR_UNKNOWN {
            if !self.has(&read) {
                self.share(now, read, request)
            } else if self.is_stuck() || !self.may_wait_for_linearizable_check(now) {
                self.fall_back_at_once(now, read, request)
            } else {
                self.wait(now, read, request, Place::Check)
            }
        } else if read.serializable {
            match self.look_up(now, &read, floor) {
                Found::Answer(answer) => {
                    self.stats.hits_serializable += 1;
                    self.keep_fresh(now, actions);
                    return Admission::Hit(answer);
                }
                Found::Nothing => self.share(now, read, request),
                Found::Behind if self.is_stuck() => self.fall_back_at_once(now, read, request),
                Found::Behind => self.wait(now, read, request, Place::Revision(floor)),
                Found::Stale if self.is_stuck() || !self.may_wait_for_check(now) => {
                    self.fall_back_at_once(now, read, request)
                }
                Found::Stale => self.wait(now, read, request, Place::Fresh),
            }
        } else if !self.config.linearizable || !self.trusts_progress || read.revision > 0 || !self.has(&read)
        {
            self.share(now, read, request)
        } else if self.is_stuck() || !self.may_wait_for_linearizable_check(now) {
            self.fall_back_at_once(now, read, request)
        } else {
            self.wait(now, read, request, Place::Check)
        };
        self.settle(now, actions);
        admission
    }

    pub(super) fn bypass(&mut self, reason: Reason) -> Admission {
        self.count(reason);
        Admission::Bypass(reason)
    }

    /// Whether the keys of the read at hand are watched.
    fn is_in_scope(&self) -> bool {
        match &self.config.scope {
            Scope::Everything => true,
            Scope::Nothing => false,
            Scope::Ranges(ranges) => request::span_of(&self.ident).is_none_or(|span| {
                let mut watched = ranges.iter().filter_map(Span::of_range);
                watched.any(|range| span.is_within(range))
            }),
        }
    }

    fn has(&self, read: &Read) -> bool {
        self.store.find(read.hash, &self.ident).is_some()
    }

    /// Whether the watch is known to take longer than reads can wait.
    fn is_stuck(&self) -> bool {
        self.watched < self.stuck
    }

    /// What there is for the read at hand, if its answer must have at least this revision.
    fn look_up(&mut self, now: Instant, read: &Read, need: i64) -> Found {
        if !self.is_serving() {
            return Found::Nothing;
        }
        let Some(id) = self.store.find(read.hash, &self.ident) else {
            return Found::Nothing;
        };
        let entry = self.store.entry(id);
        let (began, is_fixed) = (entry.began, entry.is_fixed());
        let is_recent = |at: Instant| now - at <= self.config.staleness_max;
        if is_fixed && !began.is_some_and(is_recent) {
            self.store.remove(id);
            return Found::Nothing;
        }
        let shown = entry.at.max(self.watched);
        if shown < need {
            return Found::Behind;
        }
        // Whatever the bound: what was true after the read came is new enough for it.
        let is_fresh = |at: Instant| is_recent(at) || at >= read.came_at;
        let is_young = !is_fixed && began.is_some_and(is_fresh);
        if read.serializable && !is_young && !self.confirmed.is_some_and(is_fresh) {
            return Found::Stale;
        }
        let answer = reply::answer(self.header_at(shown), self.history, &entry.body);
        self.store.count_hit(id);
        Found::Answer(answer)
    }

    /// Has a read wait for the cache.
    fn wait(&mut self, now: Instant, read: Read, request: &Bytes, place: Place) -> Admission {
        if self.waiters.len() >= self.config.waiters_max {
            return self.bypass(Reason::Busy);
        }
        let id = self.waiters.insert(Waiter {
            read,
            request: request.clone(),
            need: read.need(),
            place: Place::Flight,
        });
        self.deadlines.push_back((now + self.config.wait_max, id));
        self.park(id, place);
        Admission::Wait(id)
    }

    /// Puts a read where it waits for the cache.
    pub(super) fn park(&mut self, id: WaiterId, place: Place) {
        let Some(waiter) = self.waiters.get_mut(id) else {
            return;
        };
        if let Place::Revision(revision) = waiter.place {
            self.by_revision.remove(&(revision, id));
        }
        waiter.place = place;
        match place {
            Place::Revision(revision) => {
                self.by_revision.insert((revision, id));
            }
            Place::Check => enlist(&mut self.check_next, &self.waiters, id),
            Place::Fresh => enlist(&mut self.fresh, &self.waiters, id),
            Place::Flight | Place::Queue => {}
        }
    }

    /// Looks again for what a read waits for, as that may be there now.
    pub(super) fn reconsider(&mut self, now: Instant, id: WaiterId, actions: &mut Actions) {
        // It may have lost patience since it was put where it is looked for.
        let Some(waiter) = self.waiters.get(id).filter(|waiter| waiter.place.is_cache()) else {
            return;
        };
        let (read, need) = (waiter.read, waiter.need);
        identify(&waiter.request, &mut self.ident).expect("it was read before");
        match self.look_up(now, &read, need) {
            Found::Answer(answer) => {
                if read.serializable {
                    self.stats.hits_serializable += 1;
                } else {
                    self.stats.hits_linearizable += 1;
                }
                self.resolve(id, Resolution::Answer(answer), actions);
            }
            Found::Behind => self.park(id, Place::Revision(need)),
            Found::Nothing => self.miss(now, id, false, actions),
            Found::Stale => self.park(id, Place::Fresh),
        }
    }

    /// A read has waited for the cache as long as it may.
    pub(super) fn lose_patience(&mut self, now: Instant, id: WaiterId, actions: &mut Actions) {
        let Some(waiter) = self.waiters.get(id) else {
            return;
        };
        match waiter.place {
            Place::Revision(revision) => self.stuck = self.stuck.max(revision),
            Place::Fresh => {
                let pending = self.pending.iter().map(|pending| pending.revision).min();
                self.stuck = self.stuck.max(pending.unwrap_or(0));
            }
            Place::Check | Place::Flight | Place::Queue => {}
        }
        self.stats.fallbacks += 1;
        self.miss(now, id, true, actions);
    }
}
