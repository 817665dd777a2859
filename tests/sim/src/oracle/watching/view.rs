//! What a Watch call was told, as far as it is of one history of the store.

use std::collections::{BTreeMap, VecDeque};

use etcd_proxy_core::time::Instant;
use etcd_proxy_proto::etcdserverpb::{ResponseHeader, WatchResponse, watch_request::RequestUnion};

use super::revoked::Revoked;
use super::watcher::{Watcher, revision_of};
use super::{PERMISSION_MAX, may_read};
use crate::delivery::WatchTag;
use crate::io::{Identity, Io};
use crate::members::Members;
use crate::oracle::histories::{Histories, Number, Story};
use crate::situations::Situation;

/// The watch id of what concerns no watcher, or all of them.
const NO_WATCHER: i64 = -1;

// How servers refuse a watcher.
const DENIED: &str = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
const DUPLICATE: &str = "mvcc: duplicate watch ID provided on the WatchStream";
const EMPTY_RANGE: &str = "mvcc: watcher range is empty";
const INVALID_TOKEN: &str = "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token";
const NEGATIVE: &str = "etcdserver: mvcc: required revision has been compacted";
const NOBODY: &str = "rpc error: code = InvalidArgument desc = etcdserver: user name is empty";
const OLD_REVISION: &str =
    "rpc error: code = InvalidArgument desc = etcdserver: revision of auth store is old";

/// A Watch call, if all that it was told is of this history. As long as that may be one or another there is one of each.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) history: Number,
    /// Create requests without answer, in their order.
    pub(super) creating: VecDeque<Watcher>,
    creates: u64,
    creates_answered: u64,
    pub(super) watching: BTreeMap<i64, Watcher>,
    /// The highest revision that it was told of.
    pub(super) revision: i64,
    /// Progress requests without answer: the number of create requests that were made before each.
    progress_asked: VecDeque<u64>,
    /// Requests to cancel, by id, that weren't answered.
    cancels: BTreeMap<i64, u32>,
}

/// What it is judged by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Truth<'a> {
    pub(super) tag: WatchTag,
    pub(super) identity: Identity,
    pub(super) histories: &'a Histories,
    pub(super) story: &'a Story,
    /// The store has this history now.
    pub(super) is_current: bool,
    pub(super) members: &'a Members,
    pub(super) auth_changed: Instant,
    pub(super) member_asked: Option<Instant>,
    pub(super) revoked: &'a Revoked,
}

impl View {
    pub(super) fn new(history: Number) -> Self {
        Self {
            history,
            creating: VecDeque::new(),
            creates: 0,
            creates_answered: 0,
            watching: BTreeMap::new(),
            revision: 0,
            progress_asked: VecDeque::new(),
            cancels: BTreeMap::new(),
        }
    }

    /// The client asks for something. `revision` is the last one of the history.
    pub(super) fn asked(&mut self, now: Instant, revision: i64, union: Option<&RequestUnion>) {
        match union {
            Some(RequestUnion::CreateRequest(request)) => {
                self.creates += 1;
                self.creating
                    .push_back(Watcher::new(now, revision, request.clone()));
            }
            Some(RequestUnion::CancelRequest(request)) => {
                *self.cancels.entry(request.watch_id).or_default() += 1;
                if let Some(watcher) = self.watching.get_mut(&request.watch_id) {
                    watcher.is_cancelled = true;
                }
            }
            Some(RequestUnion::ProgressRequest(_)) => self.progress_asked.push_back(self.creates),
            None => {}
        }
    }

    /// Takes in what the client is told, unless that isn't true in this history; then it says why.
    pub(super) fn told(
        &mut self,
        io: &mut Io,
        truth: Truth<'_>,
        response: &WatchResponse,
        header: &ResponseHeader,
    ) -> Result<(), String> {
        self.is_true_header(truth, response, header)?;
        let revision = header.revision;
        if response.created {
            self.told_created(io, truth, response, revision)
        } else if response.canceled {
            self.told_cancelled(io, truth, response, revision)
        } else if !response.events.is_empty() {
            self.told_events(io, truth, response, revision)
        } else if response.watch_id == NO_WATCHER {
            self.told_progress(io, truth, revision)
        } else {
            io.count(Situation::CheckedWatchNotified);
            let watcher = self.watcher(response)?;
            ensure!(
                watcher.request.progress_notify,
                "it didn't ask for this: {watcher:?}"
            );
            watcher.reaches(&truth.story.ledger, revision)
        }
    }

    /// Headers name the cluster and one of its members; revisions are those of the store, and never go back but in headers of
    /// events, which tell how far their own watcher is.
    fn is_true_header(
        &mut self,
        truth: Truth<'_>,
        response: &WatchResponse,
        header: &ResponseHeader,
    ) -> Result<(), String> {
        let now = truth.story.ledger.revision();
        let auth = truth.members.cluster.committed().auth().enabled();
        let is_refusal = response.created && response.canceled;
        if is_refusal && auth && *header == ResponseHeader::default() {
            // Nobody has told the proxy anything yet that it could tell those whom nobody knows.
            return Ok(());
        }
        let ids = (header.cluster_id, header.member_id);
        if is_refusal && truth.histories.is_of_next_cluster(self.history, ids) {
            // Of whoever refuses. Nothing follows from it, and the proxy doesn't know yet.
            return Ok(());
        }
        ensure!(
            truth.story.ids.contains(&ids) && header.raft_term > 0,
            "{header:?} is no header of this cluster's"
        );
        ensure!(
            header.revision <= now,
            "revision {} is told of, and the store is at {now}: {response:?}",
            header.revision
        );
        if response.compact_revision > 0 {
            return Ok(());
        }
        ensure!(
            header.revision >= self.revision || !response.events.is_empty(),
            "it was told of revision {}, and now of {response:?}",
            self.revision
        );
        self.revision = self.revision.max(header.revision);
        Ok(())
    }

    fn told_created(
        &mut self,
        io: &mut Io,
        truth: Truth<'_>,
        response: &WatchResponse,
        revision: i64,
    ) -> Result<(), String> {
        self.creates_answered += 1;
        let Some(mut watcher) = self.creating.pop_front() else {
            return Err(format!("{response:?} answers no request"));
        };
        ensure!(
            response.events.is_empty() && response.compact_revision == 0,
            "{response:?} answers {watcher:?}"
        );
        let state = truth.members.cluster.committed();
        let changed_lately = truth.auth_changed + PERMISSION_MAX >= watcher.asked;
        let identity = if state.auth().enabled() {
            truth.identity
        } else {
            Identity::Root
        };
        if response.canceled {
            ensure!(response.watch_id == NO_WATCHER, "{response:?}");
            let start = watcher.request.start_revision;
            let is_taken = self.watching.contains_key(&watcher.request.watch_id);
            let (situation, is_right) = match &*response.cancel_reason {
                DENIED => (
                    Situation::CheckedWatchDenied,
                    identity == Identity::Reader && (!may_read(state, watcher.range()) || changed_lately),
                ),
                DUPLICATE => (
                    Situation::CheckedWatchDuplicate,
                    is_taken && watcher.request.watch_id != 0 && start >= 0,
                ),
                EMPTY_RANGE => (
                    Situation::CheckedWatchEmptyRange,
                    watcher.is_empty_range() && start >= 0,
                ),
                INVALID_TOKEN => (
                    Situation::CheckedWatchBadToken,
                    truth.identity != Identity::Anonymous && state.auth().enabled(),
                ),
                NEGATIVE => (Situation::CheckedWatchNegative, start < 0),
                NOBODY => (Situation::CheckedWatchNobody, identity == Identity::Anonymous),
                OLD_REVISION => (
                    Situation::CheckedWatchBadToken,
                    truth.identity != Identity::Anonymous && changed_lately,
                ),
                other => return Err(format!("nobody refuses {watcher:?} with {other:?}")),
            };
            io.count(situation);
            ensure!(is_right, "there is no reason for {response:?}: {watcher:?}");
            return Ok(());
        }
        let may = match identity {
            Identity::Anonymous => false,
            // A server lets in who may read the first key of a range with an open end.
            Identity::Reader => match watcher.range() {
                (key, b"\0") => may_read(state, (key, b"")) || changed_lately,
                range => may_read(state, range) || changed_lately,
            },
            Identity::Root => true,
        };
        ensure!(may, "{identity:?} may not: {watcher:?}");
        let request = &watcher.request;
        ensure!(
            !watcher.is_empty_range() && request.start_revision >= 0,
            "{watcher:?}"
        );
        ensure!(
            [0, response.watch_id].contains(&request.watch_id) && response.cancel_reason.is_empty(),
            "{watcher:?} is answered {response:?}"
        );
        // Without a quorum a member tells what it has.
        let may_be_old = truth.member_asked.is_some_and(|at| at >= watcher.asked);
        ensure!(
            revision >= watcher.asked_at || may_be_old,
            "{watcher:?} is created at revision {revision}, which is older than the request"
        );
        io.count(if request.watch_id != 0 {
            Situation::CheckedWatchChosenId
        } else if request.start_revision == 0 {
            Situation::CheckedWatchFromNow
        } else if request.start_revision > revision {
            Situation::CheckedWatchFuture
        } else {
            Situation::CheckedWatchPast
        });
        watcher.begins(io.now, revision);
        let before = self.watching.insert(response.watch_id, watcher);
        ensure!(before.is_none(), "id {} is taken: {before:?}", response.watch_id);
        Ok(())
    }

    fn told_cancelled(
        &mut self,
        io: &mut Io,
        truth: Truth<'_>,
        response: &WatchResponse,
        revision: i64,
    ) -> Result<(), String> {
        let was_compacted = truth.story.ledger.was_compacted_at(response.compact_revision);
        let enabled = truth.members.cluster.committed().auth().enabled();
        let Some(watcher) = self.watching.remove(&response.watch_id) else {
            return Err(format!("{response:?} is about no watcher"));
        };
        if response.compact_revision > 0 {
            io.count(Situation::CheckedWatchCompacted);
            ensure!(
                was_compacted && (revision, &*response.cancel_reason) == (0, ""),
                "{response:?}: {watcher:?}"
            );
            ensure!(
                watcher.next < response.compact_revision,
                "nothing is gone that it needs: {response:?}: {watcher:?}"
            );
        } else if response.cancel_reason.is_empty() {
            io.count(Situation::CheckedWatchCancelled);
            let asked = self.cancels.get_mut(&response.watch_id);
            let Some(asked) = asked.filter(|asked| **asked > 0) else {
                return Err(format!("nobody wished {response:?}: {watcher:?}"));
            };
            *asked -= 1;
        } else {
            io.count(Situation::CheckedWatchRevoked);
            ensure!(
                response.cancel_reason == DENIED
                    && enabled
                    && truth.identity == Identity::Reader
                    && truth.auth_changed + PERMISSION_MAX >= watcher.asked,
                "there is no reason for {response:?}: {watcher:?}"
            );
        }
        Ok(())
    }

    fn told_events(
        &mut self,
        io: &mut Io,
        truth: Truth<'_>,
        response: &WatchResponse,
        revision: i64,
    ) -> Result<(), String> {
        let watcher = self.watcher(response)?;
        if truth.is_current {
            truth
                .revoked
                .may_be_told(truth.tag, truth.identity, watcher, response)?;
        }
        watcher.take(&truth.story.ledger, response)?;
        let last = response.events.last().map_or(0, revision_of);
        ensure!(
            revision >= last,
            "the header is of revision {revision}, and the events of {last}"
        );
        io.count(Situation::CheckedWatchEvents);
        if response.fragment {
            io.count(Situation::CheckedWatchFragment);
        } else {
            watcher.goes_on_behind(&truth.story.ledger, revision)?;
        }
        if response.events.iter().any(|event| event.prev_kv.is_some()) {
            io.count(Situation::CheckedWatchPrevious);
        }
        if response.events.len() > 1 {
            io.count(Situation::CheckedWatchManyEvents);
        }
        Ok(())
    }

    /// Everything up to this revision has come, to all watchers that were asked for before.
    fn told_progress(&mut self, io: &mut Io, truth: Truth<'_>, revision: i64) -> Result<(), String> {
        io.count(Situation::CheckedWatchProgress);
        let Some(creates) = self.progress_asked.pop_front() else {
            return Err("nobody asked for progress".to_owned());
        };
        ensure!(
            self.creates_answered >= creates && !self.watching.is_empty(),
            "it is told of progress before its watchers are there"
        );
        for watcher in self.watching.values_mut() {
            watcher.reaches(&truth.story.ledger, revision)?;
        }
        Ok(())
    }

    /// The watcher that something is said to, which is there: between its creation and its end.
    fn watcher(&mut self, response: &WatchResponse) -> Result<&mut Watcher, String> {
        let watcher = self.watching.get_mut(&response.watch_id);
        watcher.ok_or_else(|| format!("{response:?} is for no watcher"))
    }
}
