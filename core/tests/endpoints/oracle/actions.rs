//! The rules for each action.

use std::time::Duration;

use etcd_proxy_core::endpoints::{
    Action, CloseCause, ConnectionId, EndpointId, Event, FailureCause, Health, Lane,
};
use etcd_proxy_core::time::Instant;

use super::{Batch, Known, Oracle, View};

impl Oracle {
    pub(super) fn act(&mut self, now: Instant, event: &Event, action: &Action, batch: &mut Batch) {
        match action {
            Action::Connect {
                connection,
                endpoint,
                lane,
            } => {
                if let Lane::Further(worker, class) = lane {
                    assert_eq!(batch.wanted.take(), Some((*worker, *class)), "nobody wants it");
                }
                self.connect(now, *connection, *endpoint, *lane);
            }
            Action::Probe(id) => {
                let view = self.views.get_mut(id).expect("a probe needs a connection");
                assert!(
                    view.opened_at.is_some() && !view.draining,
                    "a probe can't be sent on {view:?}"
                );
                let lost = view.probe_lost.take().is_some();
                let former = view.probe_sent.replace(now);
                assert!(former.is_none() || lost, "one probe at a time");
                view.heard_at = now;
            }
            Action::Close(id, cause) => self.close(now, *id, *cause, batch),
            Action::Serve { worker, connection } => {
                let worker = *worker as usize;
                assert_eq!(*event, Event::Connected(*connection), "served without reason");
                assert_eq!(
                    self.dialing[worker].take(),
                    Some(*connection),
                    "not the one dialled"
                );
                assert_eq!(self.serving[worker].replace(*connection), None, "not withdrawn");
            }
            Action::Withdraw { worker } => {
                let former = self.serving[*worker as usize].take();
                assert!(former.is_some(), "worker {worker} had nothing to withdraw");
                let closed = former.is_some_and(|id| !self.views.contains_key(&id));
                assert!(
                    closed || batch.everyone_moves || batch.moves == Some(*worker),
                    "worker {worker} is moved without a cause"
                );
                // And whatever it had beside it.
                for (id, view) in &self.views {
                    if matches!(view.lane, Lane::Further(other, _) if other == *worker) {
                        self.joined.remove(id);
                        if view.opened_at.is_none() {
                            batch.condemned.insert(*id, CloseCause::Unneeded);
                        }
                    }
                }
            }
            Action::Join {
                worker,
                class,
                connection,
            } => {
                assert_eq!(*event, Event::Connected(*connection), "joined without reason");
                let view = &self.views[connection];
                assert_eq!(view.lane, Lane::Further(*worker, *class), "another worker's");
                assert!(self.joined.insert(*connection), "joined twice");
            }
            Action::NotJoined { worker, class } => {
                let expected = batch
                    .not_joined
                    .iter()
                    .position(|other| *other == (*worker, *class));
                batch.not_joined.remove(expected.expect("none has failed"));
            }
            Action::Chosen(id) => self.chosen(event, *id, batch),
            Action::Hidden {
                endpoint,
                cause,
                retry_in,
            } => {
                let blamed = batch
                    .blamed
                    .iter()
                    .position(|blame| *blame == (*endpoint, *cause));
                assert!(
                    blamed.is_some(),
                    "{endpoint:?} is hidden for {cause:?} without a cause"
                );
                batch.blamed.remove(blamed.expect("checked above"));
                self.hidden(now, *endpoint, *cause, *retry_in);
                if self.current.is_some_and(|(current, _)| current == *endpoint) {
                    self.current = None;
                    batch.everyone_moves = true;
                }
                if *cause == FailureCause::Silent {
                    // They can't be probed, and would be waited on for ever.
                    for (id, view) in &self.views {
                        if view.endpoint == *endpoint && view.draining {
                            batch.condemned.insert(*id, CloseCause::Silent);
                        }
                    }
                }
            }
            Action::Restored(id) => {
                let known = self.known.get_mut(id).expect("only known endpoints are restored");
                assert!(known.hidden_until.take().is_some(), "it wasn't hidden");
                assert!(known.health.is_some(), "it hasn't answered");
                known.restored_at = Some(now);
            }
            Action::LeaderLost(id) => {
                assert_eq!(self.current.replace((*id, false)), Some((*id, true)));
                assert!(matches!(event, Event::ProbeAnswered(_, Health::Unfit)));
            }
            // Nobody tells of clusters here; see the regressions.
            Action::Foreign { .. } | Action::Followed { .. } => panic!("of which cluster?"),
            Action::LeaderRegained(id) => {
                assert_eq!(self.current.replace((*id, true)), Some((*id, false)));
                assert!(matches!(event, Event::ProbeAnswered(_, Health::Fit)));
            }
        }
    }

    fn connect(&mut self, now: Instant, id: ConnectionId, endpoint: EndpointId, lane: Lane) {
        assert!(self.seen.insert(id), "{id:?} was used before");
        let known = self
            .known
            .get_mut(&endpoint)
            .expect("only known endpoints are dialled");
        match lane {
            Lane::Candidate => {
                assert!(
                    known.hidden_until.is_none_or(|at| at <= now),
                    "{} is tried before its time",
                    known.address
                );
                assert_eq!(
                    known.candidate.replace(id),
                    None,
                    "two candidates for one endpoint"
                );
                assert!(
                    self.current.is_none_or(|(current, _)| current != endpoint),
                    "the one in use needs no candidate"
                );
            }
            Lane::Worker(worker) => {
                assert_eq!(self.current.map(|(current, _)| current), Some(endpoint));
                assert_eq!(self.dialing[worker as usize].replace(id), None, "two connects");
                assert_eq!(self.serving[worker as usize], None, "it is served already");
            }
            Lane::Further(..) => assert_eq!(self.current.map(|(current, _)| current), Some(endpoint)),
        }
        let view = View {
            endpoint,
            lane,
            asked_at: now,
            opened_at: None,
            draining: false,
            probe_sent: None,
            probe_lost: None,
            heard_at: now,
        };
        self.views.insert(id, view);
    }

    fn close(&mut self, now: Instant, id: ConnectionId, cause: CloseCause, batch: &mut Batch) {
        let condemned = batch.condemned.remove(&id);
        assert!(
            condemned.is_none_or(|expected| expected == cause),
            "closed for another reason than {condemned:?}"
        );
        let in_lane = self.in_lane(id);
        let dialing = self.dialing.contains(&Some(id));
        let view = self.remove(id).expect("only open connections are closed");
        if condemned.is_some() {
            return;
        }
        let failure = match cause {
            CloseCause::ConnectTimeout => {
                assert!(view.opened_at.is_none(), "it is established");
                assert!(now >= view.asked_at + self.config.connect_timeout, "too early");
                FailureCause::Connect
            }
            CloseCause::Silent => {
                let sent = view.probe_sent.expect("only a probe finds out");
                let quiet_since = sent.max(view.heard_at);
                assert!(
                    now >= quiet_since + self.config.probe_timeout,
                    "it may still answer"
                );
                FailureCause::Silent
            }
            CloseCause::Unneeded => {
                assert!(dialing && batch.everyone_moves, "closed without a cause");
                return;
            }
            CloseCause::LeaderLost | CloseCause::Foreign => panic!("closed without a cause"),
        };
        if view.lane == Lane::Candidate || in_lane {
            batch.blamed.push((view.endpoint, failure));
        }
        Self::failed_to_join(&view, batch);
    }

    fn chosen(&mut self, event: &Event, id: EndpointId, batch: &mut Batch) {
        let known = &self.known[&id];
        assert_eq!(known.hidden_until, None, "it is hidden");
        let fit = known.health == Some(Health::Fit);
        match self.current {
            None => assert!(known.health.is_some(), "it never answered"),
            Some((former, former_fit)) => {
                assert!(
                    fit && !former_fit && former != id,
                    "no reason to leave {former:?}"
                );
                for (connection, view) in &self.views {
                    if view.endpoint == former
                        && view.lane != Lane::Candidate
                        && !self.dialing.contains(&Some(*connection))
                    {
                        batch.condemned.insert(*connection, CloseCause::LeaderLost);
                    }
                }
            }
        }
        if fit {
            assert!(matches!(event, Event::ProbeAnswered(_, Health::Fit)));
        } else {
            let asked = |known: &Known| known.candidate.is_some() && known.hidden_until.is_none();
            // Those who haven't answered for a while aren't waited for.
            let is_late = *event == Event::Timeout;
            assert!(
                is_late || !self.known.values().any(asked),
                "others may still turn out fit"
            );
            let is_asked = |known: &Known| {
                known.hidden_until.is_some() || known.health.is_some() || is_late && known.candidate.is_some()
            };
            assert!(self.known.values().all(is_asked), "not everyone was asked");
        }
        self.current = Some((id, fit));
        batch.everyone_moves = true;
    }

    /// The waits of a row of failures grow by 60 % up to the cap; a row ends when its endpoint has been well
    /// for as long as the cap.
    fn hidden(&mut self, now: Instant, id: EndpointId, cause: FailureCause, retry_in: Duration) {
        let config = &self.config;
        let known = self.known.get_mut(&id).expect("only known endpoints are hidden");
        if known
            .restored_at
            .take()
            .is_some_and(|at| now >= at + config.backoff_max)
        {
            known.failures = 0;
        }
        known.failures += 1;
        known.health = None;
        known.hidden_until = Some(now + retry_in);
        if known.failures == 1 && matches!(cause, FailureCause::Lost | FailureCause::Refusing) {
            assert_eq!(retry_in, Duration::ZERO, "what was well is tried again at once");
            return;
        }
        let wait = (config.backoff_min.as_secs_f64() * 1.6f64.powi(known.failures.min(100) as i32 - 1))
            .min(config.backoff_max.as_secs_f64());
        let relative = retry_in.as_secs_f64() / wait;
        assert!(
            (0.799..=1.201).contains(&relative),
            "failure {} hides for {retry_in:?}, not about {wait} s",
            known.failures
        );
    }
}
