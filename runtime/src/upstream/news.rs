//! What is told of endpoints: lines of the log, and who wants to know whether one was reached.

use core::time::Duration;

use etcd_proxy_core::endpoints::{Action, Endpoints, FailureCause, Journal, News, Note};
use etcd_proxy_core::time::Instant;
use tokio::sync::watch as latest;

/// Which endpoint was reached first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reached {
    /// That will be seen.
    NotYet,
    /// This one is in use.
    Endpoint(String),
    /// All that there are were tried in vain.
    None,
}

/// Writes the log of the control task.
pub(super) struct Reporter {
    journal: Journal,
    /// Empty between actions; kept for its capacity.
    notes: Vec<Note>,
    reached: latest::Sender<Reached>,
    connect_timeout: Duration,
    probe_timeout: Duration,
}

impl Reporter {
    pub(super) fn new(connect_timeout: Duration, probe_timeout: Duration) -> Self {
        Self {
            journal: Journal::default(),
            notes: Vec::new(),
            reached: latest::Sender::new(Reached::NotYet),
            connect_timeout,
            probe_timeout,
        }
    }

    pub(super) fn reached(&self) -> latest::Receiver<Reached> {
        self.reached.subscribe()
    }

    /// Tells of an action. `error` is what the operating system, or the peer, said when it came to that.
    pub(super) fn tell(&mut self, now: Instant, action: &Action, machine: &Endpoints, error: Option<&str>) {
        self.journal.heed(now, action, machine, &mut self.notes);
        for note in core::mem::take(&mut self.notes) {
            self.write(note, machine, error);
        }
    }

    fn write(&self, note: Note, machine: &Endpoints, error: Option<&str>) {
        let name = |endpoint| machine.address(endpoint).unwrap_or("removed");
        let left_out = (note.left_out > 0).then_some(note.left_out);
        match note.news {
            News::Failed(endpoint, cause) => {
                let words = self.words(cause);
                let error = error.unwrap_or(&words);
                tracing::warn!(
                    endpoint = name(endpoint),
                    error,
                    left_out,
                    "endpoint failed; it is tried again"
                );
            }
            News::Recovered(endpoint, after) => tracing::info!(
                endpoint = name(endpoint),
                after = shown(after),
                left_out,
                "endpoint answers again"
            ),
            News::NoneReachable => {
                self.reached.send_replace(Reached::None);
                let endpoints = machine.known().count();
                tracing::warn!(endpoints, left_out, "no endpoint is reachable");
            }
            News::StillNoneReachable(lasts, attempts) => {
                let since = crate::logging::before_now(lasts);
                tracing::warn!(
                    lasts = shown(lasts),
                    attempts,
                    error,
                    "no endpoint is reachable since {since}"
                );
            }
            News::Chosen(endpoint, outage) => {
                self.reached
                    .send_replace(Reached::Endpoint(name(endpoint).to_owned()));
                match outage {
                    None => tracing::info!(endpoint = name(endpoint), left_out, "using endpoint"),
                    Some(outage) => tracing::info!(
                        endpoint = name(endpoint),
                        left_out,
                        "using endpoint; none was reachable for {}",
                        shown(outage)
                    ),
                }
            }
            News::LeaderLost(endpoint) => tracing::warn!(
                endpoint = name(endpoint),
                left_out,
                "endpoint has no leader, or fails where others don't; asking the others"
            ),
            News::LeaderRegained(endpoint) => {
                tracing::info!(endpoint = name(endpoint), left_out, "endpoint has a leader again");
            }
            News::Foreign {
                endpoint,
                cluster,
                ours,
            } => tracing::error!(
                endpoint = name(endpoint),
                cluster_id = format!("{cluster:x}"),
                cluster_id_in_use = format!("{ours:x}"),
                left_out,
                "endpoint is a member of another cluster; it is not used"
            ),
            News::Followed { cluster, former } => tracing::error!(
                cluster_id = format!("{cluster:x}"),
                former_cluster_id = format!("{former:x}"),
                left_out,
                "all endpoints are members of another cluster than before; it is used from now on"
            ),
        }
    }

    /// For what no error told of.
    fn words(&self, cause: FailureCause) -> String {
        match cause {
            FailureCause::Connect => format!("no connection within {}", shown(self.connect_timeout)),
            FailureCause::Lost => "the connection was lost".to_owned(),
            FailureCause::Refusing => "connections are ended as soon as they are established".to_owned(),
            FailureCause::Silent => format!("no answer to a probe within {}", shown(self.probe_timeout)),
            FailureCause::Stranger => "no etcd".to_owned(),
            _ => "failed".to_owned(),
        }
    }
}

/// A time for people: to the millisecond below ten seconds, else to the second.
fn shown(time: Duration) -> String {
    if time < Duration::from_secs(10) {
        format!(
            "{:?}",
            Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
        )
    } else {
        format!("{}s", time.as_secs())
    }
}

#[cfg(test)]
mod tests;
