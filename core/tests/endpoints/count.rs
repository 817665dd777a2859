//! How often each situation came up: a rule that is never put to the test must show.

use std::collections::BTreeMap;

use etcd_proxy_core::endpoints::{Action, CloseCause, Config, EndpointId, Event, Health};
use etcd_proxy_core::time::Instant;

use crate::oracle::Oracle;

/// Every situation that a run over many seeds must have met.
pub(crate) const SITUATIONS: &[&str] = &[
    "answer while draining",
    "answer after its time",
    "call on a member without leader",
    "chosen unfit",
    "connect timeout",
    "connection broken",
    "connection drained old",
    "connection drained young",
    "connection silenced",
    "empty replace",
    "endpoint hidden three times in a row",
    "episode: all lose leader",
    "episode: black hole",
    "episode: break",
    "episode: drain",
    "episode: freeze",
    "episode: goodbye",
    "episode: kill",
    "episode: leader lost",
    "episode: removed",
    "episode: silence",
    "further connection silenced",
    "gave up a silent connection",
    "joined",
    "leader lost",
    "leader regained",
    "left a leaderless member",
    "moved from a failed member",
    "nobody reachable",
    "nobody with leader",
    "not joined",
    "one lane",
    "probes off",
    "probe lost",
    "quiet at the end",
    "removed the endpoint in use",
    "removed with open connections",
    "restored",
    "settled",
    "single member",
    "stale event",
    "stayed although others are well",
    "three lanes",
    "wait at its cap",
];

#[derive(Clone, Debug, Default)]
pub(crate) struct Counts(BTreeMap<&'static str, u64>);

impl Counts {
    pub(crate) fn add(&mut self, situation: &'static str) {
        debug_assert!(SITUATIONS.contains(&situation), "{situation} is not listed");
        *self.0.entry(situation).or_default() += 1;
    }

    /// Before `event` is given to the machine.
    pub(crate) fn note_answer(&mut self, now: Instant, event: &Event, config: &Config, oracle: &Oracle) {
        if let Event::ProbeAnswered(id, _) = event {
            let view = oracle.views.get(id);
            if view.is_some_and(|view| view.draining) {
                self.add("answer while draining");
            }
            let sent = view.and_then(|view| view.probe_sent);
            if sent.is_some_and(|sent| now > sent + config.probe_timeout) {
                self.add("answer after its time");
            }
        }
    }

    /// After a batch of actions; `before` was in use before them.
    pub(crate) fn note_actions(
        &mut self,
        actions: &[Action],
        before: Option<EndpointId>,
        config: &Config,
        oracle: &Oracle,
    ) {
        for action in actions {
            match action {
                Action::Close(_, CloseCause::ConnectTimeout) => self.add("connect timeout"),
                Action::Close(_, CloseCause::LeaderLost) => self.add("left a leaderless member"),
                Action::Close(_, CloseCause::Silent) => self.add("gave up a silent connection"),
                Action::Chosen(id) if oracle.known[id].health == Some(Health::Unfit) => {
                    self.add("chosen unfit");
                }
                Action::Hidden {
                    endpoint, retry_in, ..
                } => {
                    if before == Some(*endpoint) {
                        self.add("moved from a failed member");
                    }
                    if oracle.known[endpoint].failures == 3 {
                        self.add("endpoint hidden three times in a row");
                    }
                    if *retry_in >= config.backoff_max * 8 / 10 {
                        self.add("wait at its cap");
                    }
                }
                Action::Restored(_) => self.add("restored"),
                Action::LeaderLost(_) => self.add("leader lost"),
                Action::LeaderRegained(_) => self.add("leader regained"),
                _ => {}
            }
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (situation, count) in &other.0 {
            *self.0.entry(situation).or_default() += count;
        }
    }

    /// The situations that never came up.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        SITUATIONS
            .iter()
            .copied()
            .filter(|situation| !self.0.contains_key(situation))
            .collect()
    }

    pub(crate) fn report(&self) -> String {
        SITUATIONS
            .iter()
            .map(|situation| format!("{:>9} {situation}\n", self.0.get(situation).unwrap_or(&0)))
            .collect()
    }
}
