//! What is committed, and what follows where it is applied.

use super::types::Member;
use super::{Cluster, Timer};
use crate::error::Error;
use crate::lease::Deadlines;
use crate::state::{Command, Entry, Response};

impl Cluster {
    /// Applies and answers until nothing is left that can be done now.
    pub(super) fn settle(&mut self) {
        loop {
            let mut changed = false;
            for member in 0..self.nodes.len() {
                while self.apply_next(member) {
                    changed = true;
                }
            }
            self.retry_leases();
            if !changed {
                break;
            }
        }
        let applied = self.nodes.iter().map(|node| node.applied).min();
        self.log.trim(applied.unwrap_or(0));
        if self.nodes.len() == 1 && self.nodes[0].lag.is_zero() && self.nodes[0].applied == self.log.last() {
            self.truth = None;
        }
        self.arm_leases();
    }

    /// Adds an entry to the log. The leader must be in reach of more than half of the members.
    pub(super) fn commit(&mut self, entry: Entry) -> u64 {
        let index = self.log.last() + 1;
        if let Some(truth) = &mut self.truth {
            // Whoever asked gets the answer of the member that was asked.
            let _ = truth.apply(index, &entry);
        }
        for member in 0..self.nodes.len() {
            if self.is_linked(member) {
                self.nodes[member].received = index;
            }
        }
        self.log.push(self.now, entry)
    }

    /// Applies the next entry on a member, with everything that follows from it. False if there is none, or not yet.
    fn apply_next(&mut self, member: Member) -> bool {
        let now = self.now;
        let node = &mut self.nodes[member];
        if !node.is_running() || node.applied >= node.received {
            return false;
        }
        let index = node.applied + 1;
        let Some(committed) = self.log.get(index) else {
            return self.install_snapshot(member);
        };
        let due = committed.at + node.lag;
        if due > now {
            self.timers.set(Timer::Apply(member), due);
            return false;
        }
        if let Command::Compact(_) = committed.entry.command {
            // Streams that nothing concerned for a while have to know what they didn't miss.
            self.pump_all(member);
        }
        let (Some(committed), node) = (self.log.get(index), &mut self.nodes[member]) else {
            return false;
        };
        let revision = node.state.store().revision();
        let result = node.state.apply(index, &committed.entry);
        node.applied = index;
        match (&committed.entry.command, &result) {
            (Command::Auth(request), Ok(Response::Auth(response))) => {
                node.tokens.applied(now, request, &Ok(response.clone()));
            }
            (Command::LeaseGrant(_), Ok(Response::LeaseGrant(response))) => {
                if let Some(deadlines) = &mut node.deadlines {
                    deadlines.granted(now, response.id, response.ttl);
                }
            }
            (Command::LeaseRevoke(_) | Command::LeaseExpire(_), Ok(_)) => {
                let id = match &committed.entry.command {
                    Command::LeaseRevoke(request) => request.id,
                    Command::LeaseExpire(id) => *id,
                    _ => 0,
                };
                if let Some(deadlines) = &mut node.deadlines {
                    deadlines.revoked(id);
                }
            }
            // A leader's lessor begins with the first entry of its term.
            (Command::NoOp, _) if node.lead == Some(member) => {
                let extension = self.config.election_timeout;
                node.deadlines = Some(Deadlines::promoted(now, extension, node.state.leases()));
            }
            _ => {}
        }
        self.applied_entry(member, index, revision, result);
        true
    }

    /// What follows from a member's having applied an entry. `revision` was the store's before.
    fn applied_entry(&mut self, member: Member, index: u64, revision: i64, result: Result<Response, Error>) {
        if let Some(serial) = self.nodes[member].proposed.remove(&index) {
            self.answer_applied(serial, result);
        }
        self.resume_after(member);
        let node = &self.nodes[member];
        let changes = node.state.store().log_from(revision.saturating_add(1));
        for stream in node.interest.concerned(changes.map(|change| &change.kv.key)) {
            self.pump(stream);
        }
    }

    /// Gives a member that lacks entries which are no longer there all that is committed. False if nobody can, now.
    fn install_snapshot(&mut self, member: Member) -> bool {
        if self.leader().is_none() || !self.is_linked(member) {
            return false;
        }
        let (state, last, now) = (self.committed().clone(), self.log.last(), self.now);
        let node = &mut self.nodes[member];
        node.state = state;
        node.received = last;
        node.applied = last;
        if node.lead == Some(member) {
            let extension = self.config.election_timeout;
            node.deadlines = Some(Deadlines::promoted(now, extension, node.state.leases()));
        }
        // Calls whose entries were in between get no answer but a timeout.
        node.proposed = node.proposed.split_off(&(last + 1));
        self.resume_after(member);
        self.pump_all(member);
        true
    }

    fn pump_all(&mut self, member: Member) {
        for stream in self.nodes[member].interest.all() {
            self.pump(stream);
        }
    }
}
