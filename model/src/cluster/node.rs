//! One member: its process, its links, what it has applied and whom it takes for the leader.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;

use etcd_proxy_core::time::Instant;

use super::call::Stage;
use super::interest::Interest;
use super::types::{Event, Member};
use super::{Serial, Timer};
use crate::auth::Tokens;
use crate::lease::Deadlines;
use crate::state::State;

/// What became of a member's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Process {
    Crashed,
    Frozen,
    Running,
}

/// What reached a member while it was frozen.
#[derive(Debug)]
pub(super) struct Unread {
    pub(super) event: Event,
    /// Whether the client has left meanwhile, which the member will read only after the request.
    pub(super) abandoned: bool,
}

/// What one member is and knows.
#[derive(Debug)]
pub(super) struct Node {
    /// Its member id.
    pub(super) id: u64,
    pub(super) process: Process,
    pub(super) isolated: bool,
    pub(super) lag: Duration,
    /// Since when it reaches the others that reach one another; None while it doesn't.
    pub(super) linked: Option<Instant>,

    /// Whom it takes for the leader.
    pub(super) lead: Option<Member>,
    pub(super) term: u64,
    /// When it last became leader itself.
    pub(super) elected: Option<Instant>,
    /// Whether [`Timer::ForgetLeader`] runs.
    pub(super) is_forgetting: bool,

    /// The last entry that reached it.
    pub(super) received: u64,
    /// The last entry that it applied.
    pub(super) applied: u64,
    pub(super) state: State,
    pub(super) tokens: Tokens,
    /// When leases end, while it is the leader's business and its own.
    pub(super) deadlines: Option<Deadlines>,
    /// What [`Timer::Leases`] is set to.
    pub(super) leases_at: Option<Instant>,

    /// Calls to answer when the entry with this index is applied.
    pub(super) proposed: BTreeMap<u64, Serial>,
    /// Calls that wait until everything up to an index is applied.
    pub(super) after: BTreeSet<(u64, Serial)>,
    /// Calls that wait for a leader, or for a word of it.
    pub(super) leaderless: BTreeSet<Serial>,
    /// Which streams to look at after an entry.
    pub(super) interest: Interest,

    /// What reached it while it was frozen: what clients sent, and timers.
    pub(super) inbox: VecDeque<Unread>,
    pub(super) missed: Vec<Timer>,
}

impl Node {
    pub(super) fn new(id: u64, last: u64, state: State, tokens: Tokens) -> Self {
        Self {
            id,
            process: Process::Running,
            isolated: false,
            lag: Duration::ZERO,
            linked: Some(Instant::ZERO),
            lead: None,
            term: 0,
            elected: None,
            is_forgetting: false,
            received: last,
            applied: last,
            state,
            tokens,
            deadlines: None,
            leases_at: None,
            proposed: BTreeMap::new(),
            after: BTreeSet::new(),
            leaderless: BTreeSet::new(),
            interest: Interest::default(),
            inbox: VecDeque::new(),
            missed: Vec::new(),
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.process == Process::Running
    }

    /// Forgets a call that waits at a stage, for the entry with an index if it is for one.
    pub(super) fn forget_call(&mut self, serial: Serial, stage: Stage, index: u64) {
        match stage {
            Stage::Accepted | Stage::Lessor => {}
            Stage::Applied => {
                self.after.remove(&(index, serial));
            }
            Stage::Proposed => {
                self.proposed.remove(&index);
            }
            Stage::ReadIndex | Stage::Transfer(_) | Stage::Unproposed => {
                self.leaderless.remove(&serial);
            }
        }
    }
}
