//! Who reaches whom, who leads, and what becomes of what a leader is given.

use alloc::vec::Vec;
use core::time::Duration;

use super::call::Stage;
use super::types::Member;
use super::{Cluster, Process, Serial, Timer};
use crate::error::Error;
use crate::state::{Command, Entry};

/// What a member gives to the leader.
#[derive(Debug)]
pub(super) struct Proposal {
    pub(super) entry: Entry,
    /// The call that it came from.
    pub(super) call: Option<Serial>,
}

impl Cluster {
    /// Whether a member takes part: it runs, and the others that take part reach it.
    pub(super) fn is_linked(&self, member: Member) -> bool {
        let node = &self.nodes[member];
        // A single member has nobody to be cut off from.
        node.is_running() && (!node.isolated || self.nodes.len() == 1)
    }

    pub(super) fn has_quorum(&self) -> bool {
        let linked = (0..self.nodes.len())
            .filter(|member| self.is_linked(*member))
            .count();
        linked * 2 > self.nodes.len()
    }

    /// Whether what one member sends gets to the other, at once or once it is thawed.
    pub(super) fn is_connected(&self, from: Member, to: Member) -> bool {
        let up = |member: Member| self.nodes[member].process != Process::Crashed;
        let links = |member: Member| up(member) && !self.nodes[member].isolated;
        if from == to {
            up(from)
        } else {
            links(from) && links(to)
        }
    }

    /// Whether a linearizable read can be confirmed for a member now.
    pub(super) fn can_confirm(&self, member: Member) -> bool {
        let leader = self.leader();
        leader.is_some() && leader == self.nodes[member].lead && self.is_linked(member)
    }

    /// Draws conclusions from a change of processes, links or leadership.
    pub(super) fn review(&mut self) {
        let (now, leader, quorum) = (self.now, self.leader(), self.has_quorum());
        for member in 0..self.nodes.len() {
            let linked = self.is_linked(member);
            let node = &mut self.nodes[member];
            node.linked = if linked { node.linked.or(Some(now)) } else { None };
            if !node.is_running() {
                self.cancel_forgetting(member);
            } else if linked && leader.is_some() {
                self.cancel_forgetting(member);
                self.follow(member, leader);
            } else if linked && quorum {
                // The election makes it forget.
                self.cancel_forgetting(member);
            } else if node.lead.is_some() && !node.is_forgetting {
                node.is_forgetting = true;
                let after = self.election_delay(Duration::ZERO);
                self.timers.set(Timer::ForgetLeader(member), now + after);
            }
        }
        if quorum && leader.is_none() {
            if !self.is_electing {
                self.is_electing = true;
                let after = self.election_delay(self.vote_time());
                self.timers.set(Timer::Campaign, now + after);
            }
        } else {
            self.is_electing = false;
            self.timers.cancel(Timer::Campaign);
            self.timers.cancel(Timer::Elected);
        }
        if leader.is_some() {
            for Proposal { entry, call } in core::mem::take(&mut self.uncommitted) {
                self.commit_for(entry, call);
            }
        }
        self.retry_leaderless();
    }

    /// One to two election timeouts, less what is left for something else.
    fn election_delay(&mut self, less: Duration) -> Duration {
        let timeout = u64::try_from(self.config.election_timeout.as_nanos()).unwrap_or(u64::MAX / 2);
        let less = u64::try_from(less.as_nanos()).unwrap_or(0);
        let extra = self.random.u64(..timeout.saturating_sub(less).max(1));
        Duration::from_nanos(timeout.saturating_add(extra))
    }

    /// How long members are without a leader while they vote, when they lost one that others replace.
    fn vote_time(&self) -> Duration {
        self.config.election_timeout / 20
    }

    fn cancel_forgetting(&mut self, member: Member) {
        if core::mem::take(&mut self.nodes[member].is_forgetting) {
            self.timers.cancel(Timer::ForgetLeader(member));
        }
    }

    /// A member hears from a leader.
    fn follow(&mut self, member: Member, leader: Option<Member>) {
        let last = self.log.last();
        let node = &mut self.nodes[member];
        node.term = self.term;
        node.received = last;
        if node.lead == leader {
            return;
        }
        node.lead = leader;
        if leader != Some(member) {
            node.deadlines = None;
        }
        self.timers.cancel(Timer::LeaderlessStreams(member));
        // Reads that wait for a leader's word fail when there is a new one; proposals go to it.
        let waiting: Vec<_> = self.nodes[member].leaderless.iter().copied().collect();
        for serial in waiting {
            if self
                .calls
                .get(&serial)
                .is_some_and(|call| call.stage == Stage::ReadIndex)
            {
                self.reply(serial, Err(Error::LeaderChanged.status()));
            }
        }
    }

    /// Calls that wait for a leader go on where there is one.
    fn retry_leaderless(&mut self) {
        for member in 0..self.nodes.len() {
            if !self.nodes[member].is_running() || self.nodes[member].leaderless.is_empty() {
                continue;
            }
            let waiting: Vec<_> = self.nodes[member].leaderless.iter().copied().collect();
            for serial in waiting {
                self.retry_call(serial);
            }
        }
    }

    /// A member knows no leader any more.
    fn forget(&mut self, member: Member) {
        let node = &mut self.nodes[member];
        if node.lead.take().is_none() {
            return;
        }
        node.deadlines = None;
        self.timers.set(
            Timer::LeaderlessStreams(member),
            self.now + self.config.election_timeout * 3,
        );
    }

    /// [`Timer::ForgetLeader`]: a member that is cut off gives its leader up, or its own leadership.
    pub(super) fn forget_leader(&mut self, member: Member) {
        self.nodes[member].is_forgetting = false;
        self.forget(member);
        if self.leader == Some(member) {
            self.resign();
        }
        self.review();
    }

    /// The leader leads no more.
    pub(super) fn resign(&mut self) {
        self.leader = None;
        // Another one overwrites what it was given.
        self.uncommitted.clear();
    }

    /// [`Timer::Campaign`].
    pub(super) fn campaign(&mut self) {
        for member in 0..self.nodes.len() {
            if self.is_linked(member) {
                self.forget(member);
            }
        }
        self.timers.set(Timer::Elected, self.now + self.vote_time());
    }

    /// [`Timer::Elected`].
    pub(super) fn elected(&mut self) {
        self.is_electing = false;
        // Only who has everything that is committed can be elected. Of any majority, one has.
        let last = self.log.last();
        let fit = |member: &Member| self.is_linked(*member) && self.nodes[*member].received == last;
        let candidates: Vec<_> = (0..self.nodes.len()).filter(fit).collect();
        let leader = self.random.choice(&candidates).copied();
        self.lead(leader.expect("what is committed reached a majority, and so a member of every other one"));
    }

    fn lead(&mut self, leader: Member) {
        self.resign();
        self.term += 1;
        self.leader = Some(leader);
        self.nodes[leader].elected = Some(self.now);
        self.nodes[leader].deadlines = None;
        self.commit(Entry {
            user: None,
            command: Command::NoOp,
        });
        self.review();
    }

    /// Leadership goes to another member without an election timeout, if that is possible now.
    pub(super) fn transfer_leadership(&mut self, to: Member) {
        if self.leader().is_some_and(|leader| leader != to) && self.is_linked(to) {
            self.lead(to);
        }
    }

    /// [`Fault::LoseLeader`](super::Fault::LoseLeader).
    pub(super) fn lose_leader(&mut self) {
        if self.leader().is_none() {
            return;
        }
        self.resign();
        for member in 0..self.nodes.len() {
            if self.is_linked(member) {
                self.forget(member);
            }
        }
        self.review();
    }

    /// Gives an entry to the leader that a member knows. Nothing may come of it.
    pub(super) fn propose(&mut self, from: Member, entry: Entry, call: Option<Serial>) {
        let lead = self.nodes[from].lead;
        if self.can_confirm(from) {
            self.commit_for(entry, call);
        } else if lead.is_some_and(|lead| self.leader == Some(lead) && self.is_connected(from, lead)) {
            self.uncommitted.push(Proposal { entry, call });
        }
    }

    fn commit_for(&mut self, entry: Entry, call: Option<Serial>) {
        let index = self.commit(entry);
        if let Some(serial) = call
            && let Some(call) = self.calls.get_mut(&serial)
        {
            let member = call.member;
            call.index = index;
            self.nodes[member].proposed.insert(index, serial);
        }
    }
}
