//! One message of a Watch call.

use bytes::Bytes;
use etcd_proxy_proto::etcdserverpb::{ResponseHeader, WatchResponse};
use prost::Message as _;

use super::watcher::{Watcher, revision_of};
use super::{PERMISSION_MAX, Watched, may_read};
use crate::delivery::WatchTag;
use crate::io::{Identity, Io};
use crate::members::Members;
use crate::oracle::Oracle;
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

impl Oracle {
    pub(super) fn told(&mut self, io: &mut Io, members: &Members, tag: WatchTag, message: Bytes) {
        let response = WatchResponse::decode(message).expect("the hub writes what can be read");
        let header = response.header.expect("every response has a header");
        self.is_true_header(members, tag, &response, &header);
        let revision = header.revision;
        self.call_mut(tag).told_at = io.now;
        if response.created {
            self.told_created(io, members, tag, &response, revision);
        } else if response.canceled {
            self.told_cancelled(io, members, tag, &response, revision);
        } else if !response.events.is_empty() {
            self.told_events(io, tag, &response, revision);
        } else if response.watch_id == NO_WATCHER {
            self.told_progress(io, tag, revision);
        } else {
            io.count(Situation::CheckedWatchNotified);
            let ledger = &self.ledger;
            let call = self.watching.calls.get_mut(&tag).expect("it was opened");
            let watcher = watcher(call, &response);
            assert!(
                watcher.request.progress_notify,
                "it didn't ask for this: {watcher:?}"
            );
            watcher.reaches(ledger, revision);
        }
        self.call_mut(tag).told.push(response);
    }

    /// Headers name the cluster and one of its members; revisions are those of the store, and never go back.
    fn is_true_header(
        &mut self,
        members: &Members,
        tag: WatchTag,
        response: &WatchResponse,
        header: &ResponseHeader,
    ) {
        let now = self.ledger.revision();
        let auth = members.cluster.committed().auth().enabled();
        let call = self.call_mut(tag);
        let is_refusal = response.created && response.canceled;
        if is_refusal && auth && *header == ResponseHeader::default() {
            // Nobody has told the proxy anything yet that it could tell those whom nobody knows.
            return;
        }
        let ids = (header.cluster_id, header.member_id);
        let mut known = (0..members.hosts.len()).map(|member| members.cluster.ids(member));
        assert!(
            known.any(|known| known == ids) && header.raft_term > 0,
            "{header:?} is no header of this cluster's"
        );
        assert!(
            header.revision <= now,
            "revision {} is told of, and the store is at {now}: {response:?}",
            header.revision
        );
        if response.compact_revision > 0 {
            return;
        }
        assert!(
            header.revision >= call.revision,
            "{tag:?} was told of revision {}, and now of {response:?}",
            call.revision
        );
        call.revision = header.revision;
    }

    fn told_created(
        &mut self,
        io: &mut Io,
        members: &Members,
        tag: WatchTag,
        response: &WatchResponse,
        revision: i64,
    ) {
        let auth_changed = self.watching.auth_changed;
        let call = self.call_mut(tag);
        call.creates_answered += 1;
        let watcher = call.creating.pop_front();
        let mut watcher = watcher.unwrap_or_else(|| panic!("{response:?} answers no request"));
        assert!(response.events.is_empty() && response.compact_revision == 0);
        let state = members.cluster.committed();
        let changed_lately = auth_changed + PERMISSION_MAX >= watcher.asked;
        let identity = if state.auth().enabled() {
            call.identity
        } else {
            Identity::Root
        };
        if response.canceled {
            assert_eq!(response.watch_id, NO_WATCHER, "{response:?}");
            let start = watcher.request.start_revision;
            let is_taken = call.watching.contains_key(&watcher.request.watch_id);
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
                    call.identity != Identity::Anonymous && state.auth().enabled(),
                ),
                NEGATIVE => (Situation::CheckedWatchNegative, start < 0),
                NOBODY => (Situation::CheckedWatchNobody, identity == Identity::Anonymous),
                OLD_REVISION => (
                    Situation::CheckedWatchBadToken,
                    call.identity != Identity::Anonymous && changed_lately,
                ),
                other => panic!("nobody refuses {watcher:?} with {other:?}"),
            };
            io.count(situation);
            return assert!(is_right, "there is no reason for {response:?}: {watcher:?}");
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
        assert!(may, "{identity:?} may not: {watcher:?}");
        let request = &watcher.request;
        assert!(
            !watcher.is_empty_range() && request.start_revision >= 0,
            "{watcher:?}"
        );
        assert!(
            [0, response.watch_id].contains(&request.watch_id) && response.cancel_reason.is_empty(),
            "{watcher:?} is answered {response:?}"
        );
        assert!(
            revision >= watcher.asked_at,
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
        let before = call.watching.insert(response.watch_id, watcher);
        assert!(before.is_none(), "id {} is taken: {before:?}", response.watch_id);
    }

    fn told_cancelled(
        &mut self,
        io: &mut Io,
        members: &Members,
        tag: WatchTag,
        response: &WatchResponse,
        revision: i64,
    ) {
        let auth_changed = self.watching.auth_changed;
        let was_compacted = self.ledger.was_compacted_at(response.compact_revision);
        let enabled = members.cluster.committed().auth().enabled();
        let call = self.call_mut(tag);
        let watcher = call.watching.remove(&response.watch_id);
        let watcher = watcher.unwrap_or_else(|| panic!("{response:?} is about no watcher"));
        if response.compact_revision > 0 {
            io.count(Situation::CheckedWatchCompacted);
            assert!(
                was_compacted && (revision, &*response.cancel_reason) == (0, ""),
                "{response:?}: {watcher:?}"
            );
            assert!(
                watcher.next < response.compact_revision,
                "nothing is gone that it needs: {response:?}: {watcher:?}"
            );
        } else if response.cancel_reason.is_empty() {
            io.count(Situation::CheckedWatchCancelled);
            let asked = call
                .cancels
                .get_mut(&response.watch_id)
                .filter(|asked| **asked > 0);
            let asked = asked.unwrap_or_else(|| panic!("nobody wished {response:?}: {watcher:?}"));
            *asked -= 1;
        } else {
            io.count(Situation::CheckedWatchRevoked);
            assert!(
                response.cancel_reason == DENIED
                    && enabled
                    && call.identity == Identity::Reader
                    && auth_changed + PERMISSION_MAX >= watcher.asked,
                "there is no reason for {response:?}: {watcher:?}"
            );
        }
    }

    fn told_events(&mut self, io: &mut Io, tag: WatchTag, response: &WatchResponse, revision: i64) {
        self.may_be_told(tag, response);
        let ledger = &self.ledger;
        let call = self.watching.calls.get_mut(&tag).expect("it was opened");
        let watcher = watcher(call, response);
        watcher.take(ledger, response);
        let last = response.events.last().map_or(0, revision_of);
        assert!(
            revision >= last,
            "the header is of revision {revision}, and the events of {last}"
        );
        io.count(Situation::CheckedWatchEvents);
        if response.fragment {
            io.count(Situation::CheckedWatchFragment);
        }
        if response.events.iter().any(|event| event.prev_kv.is_some()) {
            io.count(Situation::CheckedWatchPrevious);
        }
        if response.events.len() > 1 {
            io.count(Situation::CheckedWatchManyEvents);
        }
    }

    /// Everything up to this revision has come, to all watchers that were asked for before.
    fn told_progress(&mut self, io: &mut Io, tag: WatchTag, revision: i64) {
        io.count(Situation::CheckedWatchProgress);
        let ledger = &self.ledger;
        let call = self.watching.calls.get_mut(&tag).expect("it was opened");
        let asked = call.progress_asked.pop_front();
        let creates = asked.unwrap_or_else(|| panic!("nobody asked {tag:?} for progress"));
        assert!(
            call.creates_answered >= creates && !call.watching.is_empty(),
            "{tag:?} is told of progress before its watchers are there: {call:?}"
        );
        for watcher in call.watching.values_mut() {
            watcher.reaches(ledger, revision);
        }
    }
}

/// The watcher that something is said to, which is there: between its creation and its end.
fn watcher<'a>(call: &'a mut Watched, response: &WatchResponse) -> &'a mut Watcher {
    let watcher = call.watching.get_mut(&response.watch_id);
    watcher.unwrap_or_else(|| panic!("{response:?} is for no watcher"))
}
