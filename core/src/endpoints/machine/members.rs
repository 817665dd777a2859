//! Which endpoints are known, and which of them are hidden for how long.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::time::Duration;

use super::{Connection, Endpoint, Endpoints, Timer};
use crate::endpoints::types::{Action, Actions, CloseCause, Config, EndpointId, FailureCause};
use crate::retry::jittered;
use crate::time::Instant;

/// Factor between two waits of an endpoint that keeps failing (grpc-go's).
const BACKOFF_FACTOR_PERCENT: u32 = 160;

/// Jitter of the waits, in both directions (grpc-go's).
const BACKOFF_JITTER_PERCENT: u64 = 20;

impl Endpoints {
    /// Whether there is nobody but the member in use who might answer: all other endpoints are hidden.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        let others = |id: EndpointId| Some(id) != self.current();
        let mut endpoints = self.endpoints.iter();
        self.current.is_some() && endpoints.all(|(id, endpoint)| endpoint.hidden || !others(id))
    }

    /// Hides an endpoint; if it was in use the search for another one starts.
    pub(super) fn fail(&mut self, now: Instant, id: EndpointId, cause: FailureCause, actions: &mut Actions) {
        let Some(endpoint) = self.endpoints.get_mut(id) else {
            return;
        };
        // To answer isn't enough to start over: some answer, and fail as soon as they are used.
        let well = endpoint.restored_at.take();
        if well.is_some_and(|since| now >= since + self.config.backoff_max) {
            endpoint.failures = 0;
        }
        endpoint.failures = endpoint.failures.saturating_add(1);
        endpoint.hidden = true;
        endpoint.health = None;
        if cause != FailureCause::Foreign {
            endpoint.silent_since.get_or_insert(now);
        }
        // What was well until now may be so again, or be a balancer that has others: at once, for the first time.
        let was_lost = matches!(cause, FailureCause::Lost | FailureCause::Refusing);
        let retry_in = if was_lost && endpoint.failures == 1 {
            Duration::ZERO
        } else {
            let wait = backoff(&self.config, endpoint.failures);
            jittered(wait, BACKOFF_JITTER_PERCENT, &mut self.rng)
        };
        self.timers.set(Timer::Retry(id), now + retry_in);
        self.untried.retain(|untried| *untried != id);
        actions.push(Action::Hidden {
            endpoint: id,
            cause,
            retry_in,
        });
        if cause == FailureCause::Silent {
            // Connections that drain aren't probed, so what waits there would wait for ever.
            let unprobed = |connection: &Connection| connection.endpoint == id && connection.draining;
            self.close_all(unprobed, CloseCause::Silent, actions);
        }
        if self.current() == Some(id) {
            self.current = None;
            for worker in 0..self.config.lanes {
                self.withdraw(worker, actions);
            }
            self.search_over();
            self.search(now, actions);
            if cause == FailureCause::Silent {
                self.hurry(now, actions);
            }
        }
    }

    pub(super) fn learn(&mut self, addresses: impl IntoIterator<Item = Box<str>>) {
        for address in addresses {
            let known = self
                .endpoints
                .values()
                .any(|endpoint| endpoint.address == address);
            if !known && self.endpoints.len() < self.config.endpoints_max {
                self.endpoints.insert(Endpoint {
                    address,
                    failures: 0,
                    restored_at: None,
                    hidden: false,
                    health: None,
                    cluster: None,
                    is_foreign: false,
                    silent_since: None,
                    candidate: None,
                });
            }
        }
    }

    pub(super) fn replace(&mut self, now: Instant, addresses: Vec<Box<str>>, actions: &mut Actions) {
        if addresses.is_empty() {
            return;
        }
        let wanted: BTreeSet<&str> = addresses.iter().map(|address| &**address).collect();
        let unwanted: Vec<EndpointId> = self
            .endpoints
            .iter()
            .filter(|(_, endpoint)| !wanted.contains(&*endpoint.address))
            .map(|(id, _)| id)
            .collect();
        for id in unwanted {
            self.timers.cancel(Timer::Retry(id));
            self.untried.retain(|untried| *untried != id);
            if let Some(candidate) = self.endpoints[id].candidate {
                self.forget(candidate);
                actions.push(Action::Close(candidate, CloseCause::Unneeded));
            }
            self.endpoints.remove(id);
            if self.current() == Some(id) {
                self.current = None;
                for worker in 0..self.config.lanes {
                    self.withdraw(worker, actions);
                }
            }
        }
        self.learn(addresses);
        if self.current.is_none_or(|current| !current.fit) {
            self.search(now, actions);
        }
    }
}

fn backoff(config: &Config, failures: u32) -> Duration {
    let mut wait = config.backoff_min;
    for _ in 1..failures {
        if wait >= config.backoff_max {
            break;
        }
        wait = wait * BACKOFF_FACTOR_PERCENT / 100;
    }
    wait.min(config.backoff_max)
}
