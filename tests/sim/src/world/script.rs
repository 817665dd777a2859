//! What a scenario may do and see.

use std::time::Duration;

use super::World;
use crate::delivery::{Answer, CallTag};
use crate::op::Op;
use crate::oracle::Outcome;

/// How a call is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// Its deadline, from when it is made.
    pub timeout: Option<Duration>,
    /// `hasleader`.
    pub require_leader: bool,
}

impl World {
    /// A client makes a call. Waits until the client is connected.
    ///
    /// # Panics
    /// When the client isn't connected after ten seconds.
    pub fn call(&mut self, client: usize, op: Op, manner: Manner) -> CallTag {
        self.run_while(Duration::from_secs(10), |world| {
            !world.clients[client].is_connected()
        });
        let Manner {
            timeout,
            require_leader,
        } = manner;
        self.clients[client].call(&mut self.io, &mut self.oracle, op, timeout, require_leader)
    }

    /// A client gives a call up.
    pub fn give_up(&mut self, client: usize, call: CallTag) {
        let step = crate::delivery::Step::GiveUp(call);
        self.clients[client].step(&mut self.io, &mut self.oracle, step);
        self.heard();
    }

    /// How a call ended.
    #[must_use]
    pub fn outcome(&self, call: CallTag) -> &Outcome {
        &self.oracle.record(call).outcome
    }

    /// How often a call was handed to a connection, and how often a member began to work on it.
    #[must_use]
    pub fn attempts(&self, call: CallTag) -> (u32, u32) {
        let record = self.oracle.record(call);
        (record.sent, record.reached)
    }

    /// How long a call took.
    ///
    /// # Panics
    /// When it hasn't ended.
    #[must_use]
    pub fn took(&self, call: CallTag) -> Duration {
        let record = self.oracle.record(call);
        record.ended.expect("it has ended") - record.began
    }

    /// Waits for the answer to a call.
    ///
    /// # Panics
    /// When none comes within this time, or the call ends without one.
    pub fn answer(&mut self, call: CallTag, within: Duration) -> Answer {
        self.run_while(within, |world| *world.outcome(call) == Outcome::Open);
        match self.outcome(call) {
            Outcome::Answered(answer) => answer.clone(),
            other => panic!("{call:?} ended without an answer: {other:?}"),
        }
    }

    /// The member that a proxy uses.
    #[must_use]
    pub fn in_use(&self, proxy: usize) -> Option<usize> {
        self.proxies[proxy].in_use()
    }

    /// The member that leads.
    #[must_use]
    pub fn leader(&self) -> Option<usize> {
        self.members.cluster.leader()
    }

    /// What the cluster calls its members.
    #[must_use]
    pub fn member_ids(&self) -> &[u64] {
        &self.member_ids
    }

    /// Lets the world go on while something holds.
    ///
    /// # Panics
    /// When it still holds after this time.
    pub fn run_while(&mut self, within: Duration, holds: impl Fn(&Self) -> bool) {
        let until = self.io.now + within;
        while holds(self) {
            let next = self.io.queue.next_at().filter(|at| *at <= until);
            let Some(next) = next else {
                panic!("it still holds after {within:?}");
            };
            self.run_until(next);
        }
    }

    /// Waits until every proxy is served by a member that works.
    ///
    /// # Panics
    /// When that takes longer than ten seconds.
    pub fn settle(&mut self) {
        let rests = |world: &Self| world.proxies.iter().all(|proxy| proxy.rests(&world.io));
        self.run_while(Duration::from_secs(10), |world| {
            !rests(world) || world.leader().is_none()
        });
    }
}
