//! Checks: how new the store is, and whether one may still read it without credentials.

use alloc::vec::Vec;

use super::state::{Auth, Check, Pending, Place, Timer};
use super::{Cache, PENDING_MAX};
use crate::read::types::{Action, Actions, CheckId, FLOOR_UNKNOWN, Header, Status, WaiterId};
use crate::time::Instant;

impl Cache {
    /// Starts a check in good time before reads would have to wait for it.
    pub(super) fn keep_fresh(&mut self, now: Instant, actions: &mut Actions) {
        let soon = self.config.staleness_max / 2;
        let is_fresh = self.confirmed.is_some_and(|at| now - at <= soon);
        let is_checking = [&self.check, &self.linearizable_check].into_iter().flatten();
        let is_pending = |at: Instant| now - at <= soon;
        if !is_fresh
            && is_checking.count() == 0
            && now >= self.checks_not_before
            && !self
                .pending
                .iter()
                .any(|pending| pending.is_wanted && is_pending(pending.at))
        {
            self.send_check(now, false, actions);
        }
    }

    /// Whether it makes sense to wait for a confirmation.
    pub(super) fn may_wait_for_check(&self, now: Instant) -> bool {
        now >= self.checks_not_before && !self.is_late(now, self.check.as_ref())
    }

    /// Whether it makes sense to wait for a linearizable check.
    pub(super) fn may_wait_for_linearizable_check(&self, now: Instant) -> bool {
        now >= self.checks_not_before && !self.is_late(now, self.linearizable_check.as_ref())
    }

    fn is_late(&self, now: Instant, check: Option<&Check>) -> bool {
        check.is_some_and(|check| now - check.sent_at > self.config.wait_max)
    }

    /// Sends the checks that somebody waits for.
    pub(super) fn start_checks(&mut self, now: Instant, actions: &mut Actions) {
        if self.linearizable_check.is_none() {
            let waits = |id: &WaiterId| {
                self.waiters
                    .get(*id)
                    .is_some_and(|waiter| waiter.place == Place::Check)
            };
            self.check_next.retain(waits);
            let is_proof_wanted = core::mem::take(&mut self.wants_proof) && self.auth != Auth::Off;
            let is_held = self.batch >= self.config.batch_min
                && now < self.batch_until
                && self.check_next.len() < self.batch - self.batch / 8;
            if is_held && !self.check_next.is_empty() && !is_proof_wanted {
                self.timers.set(Timer::Batch, self.batch_until);
            } else if !self.check_next.is_empty() || (is_proof_wanted && now >= self.checks_not_before) {
                self.send_check(now, true, actions);
            }
        }
        if !self.fresh.is_empty() && self.check.is_none() && self.linearizable_check.is_none() {
            let waits = |id: &WaiterId| {
                self.waiters
                    .get(*id)
                    .is_some_and(|waiter| waiter.place == Place::Fresh)
            };
            self.fresh.retain(waits);
            // What they all may be shown when the watch is there. Whatever the bound: what began after a read came is new
            // enough for it.
            let came = |id: &WaiterId| Some(self.waiters.get(*id)?.read.came_at);
            let last = self.fresh.iter().filter_map(came).max();
            let is_pending = |last: Instant| {
                self.pending.iter().any(|Pending { at, is_wanted, .. }| {
                    *is_wanted && (*at >= last || now - *at <= self.config.staleness_max)
                })
            };
            if last.is_some_and(|last| !is_pending(last)) {
                self.send_check(now, false, actions);
            }
        }
    }

    fn send_check(&mut self, now: Instant, linearizable: bool, actions: &mut Actions) {
        self.checks_sent += 1;
        let id = CheckId(self.checks_sent);
        let waiters = if linearizable {
            core::mem::take(&mut self.check_next)
        } else {
            Vec::new()
        };
        let check = Some(Check {
            id,
            sent_at: now,
            auth_epoch: self.auth_epoch,
            waiters,
        });
        if linearizable {
            self.linearizable_check = check;
        } else {
            self.check = check;
        }
        self.timers
            .set(Timer::Check(linearizable), now + self.config.check_timeout);
        self.stats.checks += 1;
        actions.push(Action::Check {
            check: id,
            linearizable,
        });
    }

    pub(super) fn checked(
        &mut self,
        now: Instant,
        id: CheckId,
        result: Result<Header, Status>,
        actions: &mut Actions,
    ) {
        if result.as_ref().is_err_and(Status::is_denial) {
            // Also when nobody waits for it any more.
            self.denied(now, actions);
        }
        let Some((check, linearizable)) = self.take_check(id) else {
            return;
        };
        match result {
            Ok(header) if !self.learn(header) => {
                self.checks_not_before = now + self.config.check_retry;
                self.check_failed(now, linearizable, check.waiters, actions);
            }
            Ok(header) => {
                self.prove(check.auth_epoch, linearizable);
                if linearizable {
                    // Those who wait for the next one would have gone with this one if they had come in time.
                    let all = check.waiters.len() + self.check_next.len();
                    self.batch = all.max(self.batch - self.batch.div_ceil(4));
                    self.batch_until = now + self.config.batch_wait_max;
                }
                for id in check.waiters {
                    if let Some(waiter) = self.waiters.get_mut(id) {
                        waiter.need = waiter.need.max(header.revision);
                        if waiter.read.floor == FLOOR_UNKNOWN {
                            // It began after the read came: so nothing newer was shown before.
                            waiter.read.floor = header.revision;
                        }
                        self.reconsider(now, id, actions);
                    }
                }
                self.confirm(now, check.sent_at, header.revision, true, actions);
            }
            Err(status) => {
                if !status.is_denial() {
                    self.checks_not_before = now + self.config.check_retry;
                }
                self.check_failed(now, linearizable, check.waiters, actions);
            }
        }
    }

    pub(super) fn check_timeout(&mut self, now: Instant, linearizable: bool, actions: &mut Actions) {
        let check = if linearizable {
            self.linearizable_check.take()
        } else {
            self.check.take()
        };
        if let Some(check) = check {
            self.checks_not_before = now + self.config.check_retry;
            self.check_failed(now, linearizable, check.waiters, actions);
        }
    }

    /// Nobody waits for another one in its place.
    fn check_failed(
        &mut self,
        now: Instant,
        linearizable: bool,
        mut waiters: Vec<WaiterId>,
        actions: &mut Actions,
    ) {
        if linearizable {
            waiters.append(&mut self.check_next);
        } else {
            waiters.append(&mut self.fresh);
        }
        for id in waiters {
            if self.waits_for_cache(id) {
                self.stats.fallbacks += 1;
                self.miss(now, id, true, actions);
            }
        }
    }

    fn take_check(&mut self, id: CheckId) -> Option<(Check, bool)> {
        let is_it = |check: &mut Check| check.id == id;
        let (check, linearizable) = if let Some(check) = self.linearizable_check.take_if(is_it) {
            (check, true)
        } else {
            (self.check.take_if(is_it)?, false)
        };
        self.timers.cancel(Timer::Check(linearizable));
        Some((check, linearizable))
    }

    /// The cluster had come to this revision at a time after `at`: if the watch is there, it was in step then.
    pub(super) fn confirm(
        &mut self,
        now: Instant,
        at: Instant,
        revision: i64,
        is_wanted: bool,
        actions: &mut Actions,
    ) {
        if !self.is_up() {
            return;
        }
        if revision > self.watched {
            if self.pending.len() == PENDING_MAX {
                // The others are older, and come true earlier.
                self.pending.pop();
            }
            self.pending.push(Pending {
                at,
                revision,
                is_wanted,
            });
        } else if self.confirmed.is_none_or(|before| before < at) {
            self.confirmed = Some(at);
            self.wake_fresh(now, actions);
        }
    }

    /// The watch has come further.
    pub(super) fn confirm_pending(&mut self) -> bool {
        let before = self.confirmed;
        let watched = self.watched;
        let confirmed = &mut self.confirmed;
        self.pending.retain(|pending| {
            if pending.revision <= watched {
                *confirmed = (*confirmed).max(Some(pending.at));
            }
            pending.revision > watched
        });
        self.confirmed != before
    }

    pub(super) fn wake_fresh(&mut self, now: Instant, actions: &mut Actions) {
        for id in core::mem::take(&mut self.fresh) {
            self.reconsider(now, id, actions);
        }
    }
}
