//! What the simulation has seen.

use etcd_proxy_core::lease::Stats;

/// How often things happened, over all runs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) stats: Stats,
    pub(crate) expired: usize,
    pub(crate) ended: usize,
    pub(crate) gone: usize,
    pub(crate) peaceful: usize,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        let (stats, more) = (&mut self.stats, &other.stats);
        stats.heartbeats_in += more.heartbeats_in;
        stats.heartbeats_out += more.heartbeats_out;
        stats.resent += more.resent;
        stats.shared += more.shared;
        stats.answers += more.answers;
        stats.strays += more.strays;
        stats.stalls += more.stalls;
        stats.refused += more.refused;
        stats.timed_out += more.timed_out;
        stats.leaderless += more.leaderless;
        self.expired += other.expired;
        self.ended += other.ended;
        self.gone += other.gone;
        self.peaceful += other.peaceful;
    }

    /// A run in which nothing happens shows nothing.
    pub(crate) fn check(&self) {
        let stats = &self.stats;
        let counted = [
            stats.resent,
            stats.shared,
            stats.strays,
            stats.stalls,
            stats.refused,
            stats.timed_out,
            stats.leaderless,
            self.expired as u64,
            self.ended as u64,
            self.gone as u64,
            self.peaceful as u64,
        ];
        assert!(
            counted.iter().all(|count| *count > 100),
            "too little happens: {self:?}"
        );
    }
}
