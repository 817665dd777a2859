//! Work that is too much for one event: it is done in portions, and other events have their turn between them.
//!
//! Whatever is done for each of a client's watchers, or for each source of a stream, is work: one client may have very many
//! of them, and nobody else should wait for it. It begins in the event that brings it, and is over with it if it is
//! little. Else a timer that is due at once goes on with it. Several works take turns.

use alloc::collections::{btree_map, btree_set, vec_deque};
use alloc::vec::{self, Vec};
use core::iter::Flatten;
use core::ops::Bound;

use super::Hub;
use super::cancels::{Compaction, Denial};
use super::checks::Verdict;
use super::former::Former;
use super::state::{Credentials, Needs, Question, Seen, SourceId, Step, Timer, WatcherId};
use crate::range::KeyRange;
use crate::time::Instant;
use crate::watch::types::{Actions, ClientId, Status, UpstreamId};

/// How much of one work is done before another one has its turn.
const PORTION: u64 = 16;

/// Something that is done for many watchers or sources.
#[derive(Debug)]
pub(super) enum Work {
    /// Watchers of a client that is gone are forgotten.
    Forget {
        created: btree_map::IntoValues<i64, WatcherId>,
        starting: vec_deque::IntoIter<Step>,
    },
    /// Watchers that are starting learn the answer to a question.
    Learn {
        waiting: Flatten<vec::IntoIter<Vec<WatcherId>>>,
        verdict: Verdict,
        question: Question,
        losses: u64,
    },
    /// Watchers wait for a question again that failed for want of a leader, or their clients' streams end.
    Fail(Flatten<vec::IntoIter<Vec<WatcherId>>>, Question, Status),
    /// Questions are sent.
    Ask,
    /// Live streams are asked how far they are: those of whoever follows these credentials.
    AskStreams(Option<Credentials>),
    /// Sources of a lost stream go on elsewhere.
    Lose(UpstreamId),
    /// Clients' streams are ended that have watchers of a source in doubt.
    EndDoubted(SourceId, Seen, u64),
    /// Watchers of a source are cancelled that need what is compacted.
    Compact(Compaction),
    /// Watchers of a source are cancelled that may not see it.
    Deny(Denial),
    /// Catch-ups are begun that a client that is gone was to have.
    CatchUp(btree_set::IntoIter<KeyRange>),
    /// Catch-ups of a client are begun that waited for others to end.
    Resume(ClientId),
    /// Watchers that wait for a catch-up join it: those that follow this one.
    Board(SourceId, Option<Needs>),
    /// Watchers of a catch-up source that is about to begin anew remember how far they are.
    Rewind(SourceId, Seen),
    /// A client's requests are answered.
    Steps(ClientId),
    /// Lagging watchers of a client go on.
    Drain(ClientId),
    /// Lagging watchers of a source that follow this one go on, before it forgets what they need.
    Push(SourceId, Option<WatcherId>),
    /// Watchers of a source that nobody owns any more get others.
    Disown(SourceId),
    /// Create requests of a stream are sent.
    Create(UpstreamId),
    /// Watchers of a catch-up source go over to their live source.
    Merge(SourceId),
    /// The same for all catch-up sources of a stream that follow this one.
    MergeAll(UpstreamId, Option<SourceId>),
    /// Watchers are to be told of progress: those that follow this one, of a source or of all.
    Notify(Option<SourceId>, Option<WatcherId>),
    /// Watchers are told of progress, if it can be told.
    TellWatchers(Option<WatcherId>),
    /// Progress requests are answered, if they can be.
    TellClients(Option<ClientId>),
    /// Sources that were suspect are created again.
    Acquit(btree_set::IntoIter<SourceId>),
    /// What is left of a former history is forgotten.
    Former(Former),
    /// Clients' streams are ended.
    End(btree_set::IntoIter<ClientId>, Status),
}

impl Hub {
    /// Does what the event has left for its end, and a portion of what there is to do besides.
    pub(super) fn settle(&mut self, now: Instant, actions: &mut Actions) {
        self.settle_stirred(now, actions);
        while !self.is_tired()
            && let Some(work) = self.backlog.pop_front()
        {
            let until = self.stats.steps + PORTION;
            if let Some(rest) = self.work(now, work, until, actions) {
                self.backlog.push_back(rest);
            }
            self.settle_stirred(now, actions);
        }
        if !self.backlog.is_empty() || !self.stirred.ranges.is_empty() {
            self.timers.set(Timer::Work, now);
        }
    }

    /// Whether enough was done for one event.
    pub(super) const fn is_tired(&self) -> bool {
        self.stats.steps >= self.tired_at
    }

    /// Begins a work.
    pub(super) fn begin(&mut self, work: Work) {
        self.backlog.push_back(work);
    }

    /// Does a portion of a work, and answers what is left.
    fn work(&mut self, now: Instant, mut work: Work, until: u64, actions: &mut Actions) -> Option<Work> {
        while self.stats.steps < until {
            self.stats.steps += 1;
            if !self.step(now, &mut work, actions) {
                return None;
            }
        }
        Some(work)
    }

    /// Does one step of a work. Whether there may be more to do.
    fn step(&mut self, now: Instant, work: &mut Work, actions: &mut Actions) -> bool {
        match work {
            Work::Forget { created, starting } => {
                let watcher = created.next().or_else(|| {
                    starting.find_map(|step| match step {
                        Step::Create(watcher) => Some(watcher),
                        Step::Cancel(_) => None,
                    })
                });
                let Some(watcher) = watcher else { return false };
                self.remove_watcher(watcher, actions);
                true
            }
            Work::Learn {
                waiting,
                verdict,
                question,
                losses,
            } => {
                let Some(watcher) = waiting.next() else {
                    return false;
                };
                self.learn(now, watcher, verdict, question, *losses, actions);
                true
            }
            Work::Fail(waiting, question, status) => {
                let next = waiting.next();
                match next {
                    Some(watcher) => self.fail_one(watcher, question, status, actions),
                    None => {
                        self.ask_member(question);
                        self.send_questions();
                    }
                }
                next.is_some()
            }
            Work::Ask => self.send_next_question(actions),
            Work::AskStreams(after) => self.ask_next_streams(now, after, actions),
            Work::Lose(upstream) => self.lose_one(now, *upstream, actions),
            Work::EndDoubted(source, seen, losses) => self.end_next_doubted(*source, seen, *losses, actions),
            Work::Compact(work) => self.compact_one(now, work, actions),
            Work::Deny(work) => self.deny_one(now, work, actions),
            Work::CatchUp(ranges) => {
                let next = ranges.next();
                if let Some(range) = &next {
                    self.start_catch_up(range, actions);
                }
                next.is_some()
            }
            Work::Resume(client) => self.resume_one(*client, actions),
            Work::Board(source, after) => self.board_one(now, *source, after, actions),
            Work::Rewind(source, seen) => self.rewind_one(*source, seen, actions),
            Work::Steps(client) => {
                let is_taken = self.take_step(now, *client, actions);
                if !is_taken && let Some(client) = self.clients.get_mut(*client) {
                    client.is_stepping = false;
                }
                is_taken
            }
            Work::Drain(client) => self.drain_one(now, *client, actions),
            Work::Push(source, after) => self.push_next(now, *source, after, actions),
            Work::Disown(source) => self.disown_one(now, *source, actions),
            Work::Create(upstream) => self.send_create(*upstream, actions),
            Work::Merge(source) => self.merge_one(now, *source, actions),
            Work::MergeAll(id, after) => {
                let upstream = self.upstreams.get(*id);
                let next = upstream.and_then(|upstream| next_of(&upstream.sources, *after));
                *after = next;
                match next {
                    Some(next) => self.merge(next),
                    None => {
                        if let Some(upstream) = self.upstreams.get_mut(*id) {
                            upstream.is_merging = false;
                        }
                    }
                }
                next.is_some()
            }
            Work::Notify(source, after) => self.notify_next(now, *source, after),
            Work::TellWatchers(after) => {
                if let Some(next) = next_of(&self.due, *after) {
                    *after = Some(next);
                    self.tell_watcher(next, actions);
                } else {
                    *work = Work::TellClients(None);
                }
                true
            }
            Work::TellClients(after) => {
                let Some(next) = next_of(&self.wishing, *after) else {
                    let again = self.tell_again();
                    if again {
                        *work = Work::TellWatchers(None);
                    }
                    return again;
                };
                *after = Some(next);
                self.tell_client(now, next, actions);
                true
            }
            Work::Acquit(suspects) => {
                let next = suspects.next();
                if let Some(next) = next {
                    self.acquit(now, next);
                }
                next.is_some()
            }
            Work::Former(former) => self.forget_former(former),
            Work::End(clients, status) => {
                let Some(client) = clients.next() else {
                    return false;
                };
                self.end_client(client, status.clone(), actions);
                true
            }
        }
    }
}

/// The first of a set that follows one.
pub(super) fn next_of<T: Copy + Ord>(set: &alloc::collections::BTreeSet<T>, after: Option<T>) -> Option<T> {
    match after {
        None => set.first().copied(),
        Some(after) => {
            let mut rest = set.range((Bound::Excluded(after), Bound::Unbounded));
            rest.next().copied()
        }
    }
}
