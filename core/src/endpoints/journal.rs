//! What of all that happens to endpoints deserves a line in a log: changes, and during an outage a word now and then.
//!
//! A failed endpoint is tried again every second or so; that it has failed once more is no news. Endpoints that come and go
//! all the time are news only a few times a minute, and the next line tells how many were left out.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use super::Endpoints;
use super::types::{Action, EndpointId, FailureCause};
use crate::time::Instant;

/// Lines about one endpoint, or about what all of them are to the proxy, in one [`WINDOW`].
const LINES_MAX: u32 = 6;

/// See [`LINES_MAX`].
const WINDOW: Duration = Duration::from_secs(60);

/// When an outage is told of again for the first time. Each wait is twice the one before.
const SUMMARY_FIRST: Duration = Duration::from_secs(5);

/// The longest of those waits.
const SUMMARY_WAIT_MAX: Duration = Duration::from_secs(300);

/// A line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// What there is to tell.
    pub news: News,
    /// How many lines about the same were left out since the one before.
    pub left_out: u32,
}

/// What a [`Note`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// The endpoint failed. It hadn't before, or had answered since.
    Failed(EndpointId, FailureCause),
    /// The endpoint answers again, after so long.
    Recovered(EndpointId, Duration),
    /// Every endpoint has failed.
    NoneReachable,
    /// For so long now; so many attempts to reach one have failed.
    StillNoneReachable(Duration, u32),
    /// The endpoint is the one in use now. If none was reachable before, for how long.
    Chosen(EndpointId, Option<Duration>),
    /// The endpoint in use has lost its leader, or is a learner.
    LeaderLost(EndpointId),
    /// The endpoint in use is fit again.
    LeaderRegained(EndpointId),
    /// The endpoint is a member of another cluster than the one in use, and is hidden for it.
    Foreign {
        /// The one that it is.
        endpoint: EndpointId,
        /// The cluster that it is of.
        cluster: u64,
        /// The cluster in use.
        ours: u64,
    },
    /// All endpoints are members of another cluster than before.
    Followed {
        /// The cluster in use from now on.
        cluster: u64,
        /// The one before.
        former: u64,
    },
}

/// Picks what is to be told. Fed with every action of [`Endpoints`], in their order.
#[derive(Debug, Default)]
pub struct Journal {
    endpoints: BTreeMap<EndpointId, Known>,
    outage: Option<Outage>,
    /// For what isn't about one endpoint's own state.
    lines: Limit,
}

#[derive(Debug, Default)]
struct Known {
    failed_at: Option<Instant>,
    lines: Limit,
}

#[derive(Debug)]
struct Outage {
    since: Instant,
    attempts: u32,
    summary_at: Instant,
    summary_wait: Duration,
}

impl Journal {
    /// Takes in an action that `machine` has just asked for.
    pub fn heed(&mut self, now: Instant, action: &Action, machine: &Endpoints, notes: &mut Vec<Note>) {
        match *action {
            Action::Hidden { endpoint, cause, .. } => {
                self.endpoints
                    .retain(|known, _| machine.address(*known).is_some());
                let known = self.endpoints.entry(endpoint).or_default();
                // That an endpoint is foreign is told by an action of its own.
                if known.failed_at.replace(known.failed_at.unwrap_or(now)).is_none()
                    && cause != FailureCause::Foreign
                {
                    notes.extend(known.lines.admit(now, News::Failed(endpoint, cause)));
                }
                self.failed(now, machine, notes);
            }
            Action::Restored(endpoint) => {
                let Some(known) = self.endpoints.get_mut(&endpoint) else {
                    return;
                };
                // During an outage it is about to be chosen, which says it all.
                if let Some(since) = known.failed_at.take()
                    && self.outage.is_none()
                {
                    let after = now.saturating_since(since);
                    notes.extend(known.lines.admit(now, News::Recovered(endpoint, after)));
                }
            }
            Action::Chosen(endpoint) => {
                // Who is chosen answers, also when it never was restored: it may be new.
                if let Some(known) = self.endpoints.get_mut(&endpoint) {
                    known.failed_at = None;
                }
                let outage = self.outage.take();
                let outage = outage.map(|outage| now.saturating_since(outage.since));
                notes.extend(self.lines.admit(now, News::Chosen(endpoint, outage)));
            }
            Action::LeaderLost(endpoint) => {
                notes.extend(self.lines.admit(now, News::LeaderLost(endpoint)));
            }
            Action::LeaderRegained(endpoint) => {
                notes.extend(self.lines.admit(now, News::LeaderRegained(endpoint)));
            }
            Action::Foreign {
                endpoint,
                cluster,
                ours,
            } => {
                let known = self.endpoints.entry(endpoint).or_default();
                let news = News::Foreign {
                    endpoint,
                    cluster,
                    ours,
                };
                notes.extend(known.lines.admit(now, news));
            }
            Action::Followed { cluster, former } => {
                notes.extend(self.lines.admit(now, News::Followed { cluster, former }));
            }
            _ => {}
        }
    }

    /// An attempt to reach some endpoint has failed.
    fn failed(&mut self, now: Instant, machine: &Endpoints, notes: &mut Vec<Note>) {
        if let Some(outage) = &mut self.outage {
            outage.attempts = outage.attempts.saturating_add(1);
            if now >= outage.summary_at {
                outage.summary_wait = (outage.summary_wait * 2).min(SUMMARY_WAIT_MAX);
                outage.summary_at = now + outage.summary_wait;
                let lasts = now.saturating_since(outage.since);
                // Rare enough by itself.
                notes.push(Note {
                    news: News::StillNoneReachable(lasts, outage.attempts),
                    left_out: 0,
                });
            }
            return;
        }
        let has_failed = |endpoint| {
            let known = self.endpoints.get(&endpoint);
            known.is_some_and(|known| known.failed_at.is_some())
        };
        if machine.current().is_none() && machine.known().all(|(endpoint, _)| has_failed(endpoint)) {
            self.outage = Some(Outage {
                since: now,
                attempts: 0,
                summary_at: now + SUMMARY_FIRST,
                summary_wait: SUMMARY_FIRST,
            });
            notes.extend(self.lines.admit(now, News::NoneReachable));
        }
    }
}

/// A few lines in each window.
#[derive(Debug, Default)]
struct Limit {
    began: Option<Instant>,
    lines: u32,
    left_out: u32,
}

impl Limit {
    fn admit(&mut self, now: Instant, news: News) -> Option<Note> {
        if self.began.is_none_or(|began| now >= began + WINDOW) {
            self.began = Some(now);
            self.lines = 0;
        }
        if self.lines == LINES_MAX {
            self.left_out = self.left_out.saturating_add(1);
            return None;
        }
        self.lines += 1;
        let left_out = core::mem::take(&mut self.left_out);
        Some(Note { news, left_out })
    }
}

#[cfg(test)]
mod tests;
