//! Compares what two watch streams say.
//!
//! A server promises an order among the answers to requests, among the responses of one watcher and among the
//! answers to progress requests, and none between these lanes. Each lane is compared for itself.

use std::collections::{BTreeMap, VecDeque};

use etcd_proxy_proto::{etcdserverpb as pb, mvccpb};

use crate::program::Pace;

/// What has a promised order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    /// Created and canceled responses, in the order of the requests.
    Control,
    /// Answers to progress requests.
    Progress,
    /// Events of a watcher, its periodic progress, and its end by compaction.
    Watcher(i64),
}

/// What is compared at a time.
#[derive(Clone, Debug, PartialEq)]
enum Item {
    /// A single event, where responses are cut as the server likes.
    Event(mvccpb::Event),
    /// A whole response.
    Response(pb::WatchResponse),
}

/// How many distinct revisions a response has at the most when a watcher catches up.
const CATCH_UP_REVISIONS_MAX: usize = 1000;

/// What came from one side and has no counterpart yet.
#[derive(Debug, Default)]
struct Received {
    lanes: BTreeMap<Lane, VecDeque<Item>>,
    /// What a watcher showed last: the revision of its header and the revision of its last event, and whether
    /// more fragments of that revision follow.
    last: BTreeMap<i64, Shown>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Shown {
    header: i64,
    event: i64,
    fragment: bool,
}

/// The same watch stream of two servers.
#[derive(Debug)]
pub(crate) struct Lanes {
    pace: Pace,
    model: Received,
    real: Received,
}

/// What the two sides did not agree on.
pub(crate) type Difference = String;

impl Lanes {
    pub(crate) fn new(pace: Pace) -> Self {
        Self {
            pace,
            model: Received::default(),
            real: Received::default(),
        }
    }

    /// Takes a response of the model in, as normalised; `current` is the store's revision.
    pub(crate) fn model(&mut self, response: pb::WatchResponse, current: i64) -> Result<(), Difference> {
        self.model
            .take(self.pace, response, current)
            .map_err(|error| format!("the model breaks a promise: {error}"))
    }

    /// Takes a response of the real etcd in, as normalised.
    ///
    /// A breach of what etcd promises is an error too: then the promise is wrong.
    pub(crate) fn real(&mut self, response: pb::WatchResponse, current: i64) -> Result<(), Difference> {
        self.real
            .take(self.pace, response, current)
            .map_err(|error| format!("the real etcd breaks a promise: {error}"))
    }

    /// Strikes out what both sides said.
    pub(crate) fn settle(&mut self) -> Result<(), Difference> {
        for (lane, model) in &mut self.model.lanes {
            let Some(real) = self.real.lanes.get_mut(lane) else {
                continue;
            };
            while let (Some(expected), Some(got)) = (real.front(), model.front()) {
                if expected != got {
                    return Err(format!("{lane:?}:\n  real:  {expected:?}\n  model: {got:?}"));
                }
                real.pop_front();
                model.pop_front();
            }
        }
        Ok(())
    }

    /// Whether the model said something that the real etcd has not said yet.
    pub(crate) fn waits(&self) -> bool {
        self.model.lanes.values().any(|lane| !lane.is_empty())
    }

    /// Whether an answer to a request is missing.
    pub(crate) fn waits_for_answer(&self) -> bool {
        let answers = self.model.lanes.get(&Lane::Control);
        answers.is_some_and(|lane| !lane.is_empty())
    }

    /// What only one side said.
    pub(crate) fn unequal(&self) -> Option<Difference> {
        for (side, received) in [("model", &self.model), ("real etcd", &self.real)] {
            for (lane, items) in &received.lanes {
                if let Some(first) = items.front() {
                    let more = items.len() - 1;
                    return Some(format!(
                        "{lane:?}: only the {side} says, and {more} more: {first:?}"
                    ));
                }
            }
        }
        None
    }
}

impl Received {
    fn take(&mut self, pace: Pace, response: pb::WatchResponse, current: i64) -> Result<(), Difference> {
        let lane = lane(&response);
        if let Lane::Watcher(id) = lane
            && !response.canceled
        {
            self.check(id, &response, current)?;
        }
        if lane == Lane::Control {
            // A watcher of that id that comes now has nothing to do with the one before.
            self.last.remove(&response.watch_id);
        }
        let items = self.lanes.entry(lane).or_default();
        match (pace, lane) {
            (Pace::Loose, Lane::Watcher(_)) if !response.events.is_empty() => {
                items.extend(response.events.into_iter().map(Item::Event));
            }
            _ => items.push_back(Item::Response(response)),
        }
        Ok(())
    }

    /// What a server promises about the responses of a watcher.
    fn check(&mut self, id: i64, response: &pb::WatchResponse, current: i64) -> Result<(), Difference> {
        let complain = |what: &str| Err(format!("{what}: {response:?}"));
        let header = response.header.as_ref().map_or(0, |header| header.revision);
        let last = self.last.entry(id).or_default();
        if header < last.header || header > current {
            return complain(&format!("header not in {} to {current}", last.header));
        }
        let revisions: Vec<i64> = response
            .events
            .iter()
            .map(|event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision))
            .collect();
        if let (Some(first), Some(end)) = (revisions.first(), revisions.last()) {
            let follows = *first > last.event || (*first == last.event && last.fragment);
            if !follows || !revisions.is_sorted() {
                return complain("revisions out of order, or one of them split");
            }
            if header < *end {
                return complain("an event from after the header");
            }
            let mut distinct = revisions.clone();
            distinct.dedup();
            if distinct.len() > CATCH_UP_REVISIONS_MAX {
                return complain("more than 1000 revisions");
            }
            last.event = *end;
        }
        last.header = header;
        last.fragment = response.fragment;
        Ok(())
    }
}

fn lane(response: &pb::WatchResponse) -> Lane {
    let by_request = response.created || (response.canceled && response.compact_revision == 0);
    if by_request {
        Lane::Control
    } else if response.watch_id == -1 && response.events.is_empty() && !response.canceled {
        Lane::Progress
    } else {
        Lane::Watcher(response.watch_id)
    }
}
