//! Questions to the cluster: each is on its way once at a time, and answers all who waited when it was sent.

use alloc::vec::Vec;

use super::Hub;
use super::state::{Check, Question, Timer, WatcherId};
use crate::time::Instant;
use crate::watch::types::{Action, Actions, CheckId, Header, Status};

impl Hub {
    /// Has a watcher wait for the answer to a question that is asked from now on.
    pub(super) fn wonder(&mut self, question: Question, watcher: WatcherId, actions: &mut Actions) {
        let known = self.by_question.get(&question).copied();
        let id = known.unwrap_or_else(|| {
            let id = self.checks.insert(Check {
                question: question.clone(),
                is_asked: false,
                failures: 0,
                waiting: Vec::new(),
                next: Vec::new(),
            });
            self.by_question.insert(question, id);
            id
        });
        let check = &mut self.checks[id];
        check.next.push(watcher);
        // After a failure its timer asks.
        if !check.is_asked && check.failures == 0 {
            self.ask(id, actions);
        }
    }

    /// Asks a question for all who wait, or forgets it if nobody does.
    pub(super) fn ask(&mut self, id: CheckId, actions: &mut Actions) {
        let Some(check) = self.checks.get_mut(id) else {
            return;
        };
        let watchers = &self.watchers;
        check.next.retain(|watcher| watchers.contains_key(*watcher));
        if check.next.is_empty() {
            self.by_question.remove(&check.question);
            self.checks.remove(id);
            self.timers.cancel(Timer::Check(id));
            return;
        }
        check.is_asked = true;
        check.waiting = core::mem::take(&mut check.next);
        actions.push(match &check.question {
            Question::Revision(credentials, key) => Action::ReadRevision {
                check: id,
                credentials: credentials.clone(),
                key: if key.is_empty() {
                    // Any key does; one that is there for certain in somebody's request.
                    self.watchers[check.waiting[0]].range.key().clone()
                } else {
                    key.clone()
                },
            },
            Question::Header => Action::ReadHeader(id),
            Question::Permission(credentials, range) => Action::AskPermission {
                check: id,
                credentials: credentials.clone(),
                key: range.key().clone(),
                range_end: range.end().clone(),
            },
        });
    }

    pub(super) fn answered(
        &mut self,
        now: Instant,
        id: CheckId,
        answer: Result<Header, Status>,
        actions: &mut Actions,
    ) {
        let Some(check) = self.checks.get_mut(id).filter(|check| check.is_asked) else {
            return;
        };
        check.is_asked = false;
        let waiting = core::mem::take(&mut check.waiting);
        let verdict = Verdict::of(&check.question, answer);
        let question = check.question.clone();
        if let Verdict::Unknown(status) = verdict {
            check.next.splice(0..0, waiting.iter().copied());
            let failures = check.failures;
            check.failures = failures.saturating_add(1);
            let wait = self.backoff(failures);
            self.timers.set(Timer::Check(id), now + wait);
            self.check_failed(now, &waiting, &status, actions);
            return;
        }
        check.failures = 0;
        // First the next time, for what now happens may make more wait for it.
        self.ask(id, actions);
        if let Verdict::Reached(header) = verdict {
            self.saw(header);
        }
        for watcher in waiting {
            self.learn(now, watcher, &verdict, &question, actions);
        }
    }
}

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The store has this revision.
    Reached(Header),
    /// It may be read.
    Permitted,
    /// It may not; with the status.
    Refused(Status),
    /// Nothing: the question has to be asked again.
    Unknown(Status),
}

impl Verdict {
    /// Reads the answer to a question: refusals are those that a server also refuses to create a watcher with.
    fn of(question: &Question, answer: Result<Header, Status>) -> Self {
        match (question, answer) {
            (Question::Revision(..) | Question::Header, Ok(header)) if header.revision > 0 => {
                Self::Reached(header)
            }
            (Question::Revision(..) | Question::Header, Ok(_)) => {
                Self::Unknown(Status::new(UNAVAILABLE, "no revision"))
            }
            (Question::Permission(..), Ok(_)) => Self::Permitted,
            (_, Err(status)) => {
                if matches!(question, Question::Permission(..)) && status.code == OUT_OF_RANGE {
                    Self::Permitted
                } else if is_denial(&status) {
                    Self::Refused(status)
                } else {
                    Self::Unknown(status)
                }
            }
        }
    }
}

/// Whether a status refuses the caller for who it is.
pub(super) fn is_denial(status: &Status) -> bool {
    matches!(
        (status.code, status.message.as_ref()),
        (PERMISSION_DENIED, _)
            | (UNAUTHENTICATED, _)
            | (
                INVALID_ARGUMENT,
                "etcdserver: user name is empty" | "etcdserver: revision of auth store is old"
            )
    )
}

/// gRPC codes.
pub(super) const INVALID_ARGUMENT: u8 = 3;
pub(super) const PERMISSION_DENIED: u8 = 7;
const OUT_OF_RANGE: u8 = 11;
pub(super) const UNAVAILABLE: u8 = 14;
pub(super) const UNAUTHENTICATED: u8 = 16;
