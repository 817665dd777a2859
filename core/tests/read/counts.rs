//! What the simulation has seen.

use etcd_proxy_core::read::Stats;

/// How often things happened, over all runs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) stats: Stats,
    pub(crate) reads: u64,
    pub(crate) sent: u64,
    pub(crate) gone: u64,
    pub(crate) opened: u64,
    pub(crate) peaceful: u64,
    pub(crate) queued: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        let (stats, more) = (&mut self.stats, &other.stats);
        stats.hits_serializable += more.hits_serializable;
        stats.hits_linearizable += more.hits_linearizable;
        stats.forwarded += more.forwarded;
        stats.shared += more.shared;
        stats.fallbacks += more.fallbacks;
        stats.checks += more.checks;
        stats.progress_asked += more.progress_asked;
        stats.admitted += more.admitted;
        stats.invalidated += more.invalidated;
        stats.evicted += more.evicted;
        stats.flushes += more.flushes;
        stats.histories += more.histories;
        stats.denied += more.denied;
        for (count, more) in stats.bypasses.iter_mut().zip(more.bypasses) {
            *count += more;
        }
        self.reads += other.reads;
        self.sent += other.sent;
        self.gone += other.gone;
        self.opened += other.opened;
        self.peaceful += other.peaceful;
        self.queued += other.queued;
    }

    /// A run in which nothing happens shows nothing.
    pub(crate) fn check(&self) {
        let stats = &self.stats;
        let counted = [
            stats.hits_serializable,
            stats.hits_linearizable,
            stats.shared,
            stats.fallbacks,
            stats.checks,
            stats.progress_asked,
            stats.admitted,
            stats.invalidated,
            stats.evicted,
            stats.flushes,
            stats.denied,
            self.gone,
            self.opened,
            self.peaceful,
            self.queued,
        ];
        assert!(
            counted.iter().all(|count| *count > 100),
            "too little happens: {self:?}"
        );
        let bypassed = stats.bypasses.iter().filter(|count| **count > 0).count();
        assert_eq!(bypassed, stats.bypasses.len(), "{self:?}");
    }
}
