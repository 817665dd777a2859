//! Questions to the cluster: each is on its way once at a time, and answers all who waited when it was sent.
//!
//! A question is shared by those for whom it is the same to the byte. What is odd about one watcher's, a huge key, say,
//! is its own affair; and [turns](super::turns) keep the many of one caller from delaying another's.

use alloc::vec::Vec;

use bytes::Bytes;

use super::Hub;
use super::state::{Check, CheckState, Credentials, Question, Timer, WatcherId};
use super::work::Work;
use crate::grpc::Code;
use crate::history::is_plausible;
use crate::range::KeyRange;
use crate::time::Instant;
use crate::watch::types::{Action, Actions, CheckId, Header, Status};

/// The key that those ask about who have no credentials: they may read all keys or none.
const ANY_KEY: Bytes = Bytes::from_static(b"\0");

/// Of those who wait for a question so many are looked for at once that are gone. If there are more, nobody may need the answer.
const GONE_MAX: usize = 16;

impl Question {
    /// The revision of the store, for somebody who wants to read this range.
    pub(super) fn revision(credentials: Credentials, range: &KeyRange) -> Self {
        let key = match credentials {
            // Whoever may read a range may read its first key.
            Some(_) => range.key().clone(),
            None => ANY_KEY,
        };
        Self::Revision(credentials, key)
    }

    /// Whether a range may be read.
    pub(super) fn permission(credentials: Credentials, range: &KeyRange) -> Self {
        let range = match credentials {
            Some(_) => range.clone(),
            None => KeyRange::new(ANY_KEY, Bytes::new()),
        };
        Self::Permission(credentials, range)
    }

    /// Who asks.
    pub(super) fn credentials(&self) -> &Credentials {
        match self {
            Self::Revision(credentials, _) | Self::Permission(credentials, _) => credentials,
            Self::Header => &None,
        }
    }
}

impl Hub {
    /// Has a watcher wait for the answer to a question that is asked from now on.
    pub(super) fn wonder(&mut self, question: Question, watcher: WatcherId) {
        self.wait_for(question, watcher);
        self.send_questions();
    }

    /// The same, of one of several after whom questions are [sent](Self::send_questions).
    pub(super) fn wait_for(&mut self, question: Question, watcher: WatcherId) {
        let id = self.check(question);
        let next = &mut self.checks[id].next;
        match next.last_mut() {
            Some(last) => last.push(watcher),
            None => next.push(alloc::vec![watcher]),
        }
    }

    /// Asks a question from now on because it is in doubt whether the store is still the same.
    pub(super) fn wonder_about_store(&mut self, question: Question) {
        let id = self.check(question);
        if !core::mem::replace(&mut self.checks[id].store_next, true) {
            self.stats.doubts += 1;
        }
        self.send_questions();
    }

    /// The check of a question. A new one is asked when its turn comes.
    fn check(&mut self, question: Question) -> CheckId {
        let known = self.by_question.get(&question).copied();
        known.unwrap_or_else(|| {
            let id = self.checks.insert(Check {
                question: question.clone(),
                history: self.history,
                state: CheckState::Queued,
                failures: 0,
                losses: 0,
                of_member: false,
                waiting: Vec::new(),
                next: Vec::new(),
                store: false,
                store_next: false,
            });
            self.turns.push(&question, id);
            self.by_question.insert(question, id);
            id
        })
    }

    /// Has a question asked for all who wait for the next time, or forgets it if nobody does.
    pub(super) fn ask(&mut self, id: CheckId) {
        let Some(check) = self.checks.get_mut(id) else {
            return;
        };
        if check.next.is_empty() && !check.store_next {
            self.forget_check(id);
        } else {
            check.state = CheckState::Queued;
            self.turns.push(&check.question, id);
        }
        self.send_questions();
    }

    /// Has a question asked at once that is to be asked of the member alone.
    pub(super) fn ask_member(&mut self, question: &Question) {
        if let Some(id) = self.by_question.get(question).copied() {
            let check = &self.checks[id];
            if check.of_member && check.state == CheckState::Resting {
                self.timers.cancel(Timer::Check(id));
                self.ask(id);
            }
        }
    }

    fn forget_check(&mut self, id: CheckId) {
        if let Some(check) = self.checks.remove(id) {
            self.by_question.remove(&check.question);
            self.timers.cancel(Timer::Check(id));
        }
    }

    /// Begins to send the questions whose turn has come.
    pub(super) fn send_questions(&mut self) {
        if !core::mem::replace(&mut self.is_asking, true) {
            self.begin(Work::Ask);
        }
    }

    /// Sends the question whose turn has come, or forgets it if nobody waits for the answer. Whether there was one.
    pub(super) fn send_next_question(&mut self, actions: &mut Actions) -> bool {
        let Some(id) = self.turns.next() else {
            self.is_asking = false;
            return false;
        };
        let check = &mut self.checks[id];
        // Those who are gone needn't be looked for, as long as somebody waits.
        for _ in 0..GONE_MAX {
            match check.next.last_mut().map(|list| (list.last().copied(), list)) {
                Some((Some(last), list)) if !self.watchers.contains_key(last) => {
                    list.pop();
                }
                Some((None, _)) => {
                    check.next.pop();
                }
                _ => break,
            }
        }
        if check.next.is_empty() && !check.store_next {
            self.forget_check(id);
            return true;
        }
        check.state = CheckState::Sent;
        check.losses = self.losses;
        check.waiting = core::mem::take(&mut check.next);
        // What a member has by itself doesn't tell what store it is.
        check.store = !check.of_member && core::mem::take(&mut check.store_next);
        self.turns.begin(&check.question);
        actions.push(match &check.question {
            Question::Revision(credentials, key) => Action::ReadRevision {
                check: id,
                credentials: credentials.clone(),
                key: key.clone(),
                of_member: check.of_member,
            },
            Question::Header => Action::ReadHeader(id),
            Question::Permission(credentials, range) => Action::AskPermission {
                check: id,
                credentials: credentials.clone(),
                key: range.key().clone(),
                range_end: range.end().clone(),
            },
        });
        true
    }

    pub(super) fn answered(&mut self, now: Instant, id: CheckId, answer: Result<Header, Status>) {
        let Some(check) = self
            .checks
            .get_mut(id)
            .filter(|check| check.state == CheckState::Sent && check.history == self.history)
        else {
            return;
        };
        self.turns.end(&check.question);
        let waiting = core::mem::take(&mut check.waiting);
        let was_about_store = core::mem::take(&mut check.store);
        let was_of_member = core::mem::take(&mut check.of_member);
        let (question, losses) = (check.question.clone(), check.losses);
        let verdict = match Verdict::of(&question, answer) {
            // A header for those who may read nothing is as good, if it is that of the member that refuses them.
            Verdict::Reached(header) if self.is_foreign(header) && question != Question::Header => {
                Verdict::Unknown(OTHER_CLUSTER)
            }
            verdict => verdict,
        };
        let check = &mut self.checks[id];
        if let Verdict::Unknown(status) = verdict {
            check.state = CheckState::Resting;
            check.store_next |= was_about_store;
            let is_of_revision = matches!(question, Question::Revision(..));
            // A server creates watchers whether it has a leader or not. One that has a leader and doesn't answer in time is
            // behind, and what it has is not what is there now.
            let is_leaderless = status.is_no_leader();
            check.of_member = is_of_revision && !was_of_member && !waiting.is_empty() && is_leaderless;
            let failures = check.failures;
            check.failures = failures.saturating_add(u32::from(!check.of_member));
            let wait = self.backoff(failures);
            self.timers.set(Timer::Check(id), now + wait);
            if is_leaderless && !self.leader_clients.is_empty() {
                let waiting = waiting.into_iter().flatten();
                self.begin(Work::Fail(waiting, question, status));
            } else {
                self.checks[id].next.extend(waiting);
                self.ask_member(&question);
            }
            self.send_questions();
            return;
        }
        check.failures = 0;
        if was_about_store {
            self.acquit_all();
        }
        // First the next time, for what now happens may make more wait for it.
        self.ask(id);
        if let Verdict::Reached(header) = &verdict
            && !self.is_foreign(*header)
        {
            self.saw(*header);
        }
        self.begin(Work::Learn {
            waiting: waiting.into_iter().flatten(),
            verdict,
            question,
            losses,
        });
    }
}

/// What an answer with another cluster's id counts as.
const OTHER_CLUSTER: Status = Status::of(Code::Unavailable, "the member is one of another cluster");

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The store has this revision.
    Reached(Header),
    /// It may be read.
    Permitted,
    /// It may not; with the status.
    Refused(Status),
    /// It can't even be asked: a server takes no request for such a key. Its answer ends the call that asked.
    TooLarge(Status),
    /// Nothing: the question has to be asked again.
    Unknown(Status),
}

impl Verdict {
    /// Reads the answer to a question: refusals are those that a server also refuses to create a watcher with.
    fn of(question: &Question, answer: Result<Header, Status>) -> Self {
        match (question, answer) {
            (Question::Revision(..) | Question::Header, Ok(header)) if is_plausible(header.revision) => {
                Self::Reached(header)
            }
            (Question::Revision(..) | Question::Header, Ok(_)) => {
                Self::Unknown(Status::of(Code::Unavailable, "no revision"))
            }
            (Question::Permission(..), Ok(_)) => Self::Permitted,
            (_, Err(status)) => {
                if matches!(question, Question::Permission(..)) && status.is(Code::OutOfRange) {
                    Self::Permitted
                } else if status.is_denial() {
                    Self::Refused(status)
                } else if is_too_large(&status) {
                    Self::TooLarge(status)
                } else {
                    Self::Unknown(status)
                }
            }
        }
    }
}

/// Whether a server, or the way to it, takes no message of such a size.
pub(super) fn is_too_large(status: &Status) -> bool {
    status.is(Code::ResourceExhausted)
        && status
            .message
            .starts_with("grpc: received message larger than max")
}
