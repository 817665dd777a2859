//! Members and connections as they really are.

use std::ops::Range;

use etcd_proxy_core::endpoints::Lane;
use etcd_proxy_core::time::Instant;
use fastrand::Rng;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Up,
    /// Nothing listens; what was open breaks.
    Dead,
    /// The kernel accepts, the process does nothing.
    Frozen,
    /// No packet comes back.
    BlackHole,
    /// Accepts, and sends GOAWAY at once.
    Goodbye,
}

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) mood: Mood,
    pub(crate) leader: bool,
    /// It answers probes late, although it answers calls.
    pub(crate) slow: bool,
    pub(crate) latency_ms: Range<u64>,
}

impl Member {
    pub(crate) fn any(rng: &mut Rng, slow: bool) -> Self {
        let fastest = rng.u64(1..if slow { 40 } else { 4 });
        Self {
            mood: Mood::Up,
            leader: true,
            slow: false,
            latency_ms: fastest..fastest + rng.u64(1..20),
        }
    }

    pub(crate) fn fit(&self) -> bool {
        self.mood == Mood::Up && self.leader && !self.slow
    }

    /// Nothing comes from it.
    pub(crate) fn mute(&self) -> bool {
        matches!(self.mood, Mood::Frozen | Mood::BlackHole)
    }
}

/// A connection as the world knows it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) member: usize,
    pub(crate) lane: Lane,
    pub(crate) open: bool,
    /// It broke, and the news are on their way.
    pub(crate) broken: bool,
    pub(crate) draining: bool,
    /// Nothing more will be read from it, whatever its member does.
    pub(crate) silenced: bool,
    /// Since when nothing was read from it although its member, or the way to it, is to blame.
    pub(crate) mute_since: Option<Instant>,
    /// A probe waits for its member to wake up.
    pub(crate) held_probe: bool,
    /// Bytes were read that the driver hasn't reported.
    pub(crate) unreported: bool,
}

impl Link {
    pub(crate) fn new(member: usize, lane: Lane) -> Self {
        Self {
            member,
            lane,
            open: false,
            broken: false,
            draining: false,
            silenced: false,
            mute_since: None,
            held_probe: false,
            unreported: false,
        }
    }
}

pub(crate) fn address(member: usize) -> Box<str> {
    format!("member-{member}").into()
}

pub(crate) fn member_of(address: &str) -> usize {
    let number = address
        .strip_prefix("member-")
        .and_then(|number| number.parse().ok());
    number.expect("only members are listed")
}
