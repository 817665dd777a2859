//! What clients are told on their Watch calls, held against the log.

mod revoked;
mod told;
mod upstreams;
mod watcher;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use etcd_proxy_core::time::Instant;
use etcd_proxy_model::auth::User;
use etcd_proxy_model::state::State;
use etcd_proxy_model::status::Status;
use etcd_proxy_proto::etcdserverpb::{WatchResponse, watch_request::RequestUnion};

use self::revoked::Revoked;
pub(crate) use self::upstreams::Upstreams;
pub(crate) use self::watcher::Watcher;
use super::Oracle;
use crate::delivery::WatchTag;
use crate::io::{Identity, Io, WatchNote};
use crate::members::Members;
use crate::op::READER;
use crate::settings::Settings;
use crate::situations::Situation;

/// How long what the members think of permissions may differ, and answers be on their way.
const PERMISSION_MAX: Duration = Duration::from_secs(40);

/// How long what a member says may be held up on its way.
const HELD_UP_MAX: Duration = Duration::from_secs(15);

/// A Watch call of a client.
#[derive(Debug)]
pub(crate) struct Watched {
    identity: Identity,
    require_leader: bool,
    opened: Instant,
    /// Create requests without answer, in their order.
    pub(crate) creating: VecDeque<Watcher>,
    creates: u64,
    creates_answered: u64,
    pub(crate) watching: BTreeMap<i64, Watcher>,
    /// The highest revision that it was told of.
    revision: i64,
    /// Progress requests without answer: the number of create requests that were made before each.
    progress_asked: VecDeque<u64>,
    /// Requests to cancel, by id, that weren't answered.
    cancels: BTreeMap<i64, u32>,
    nonsense: bool,
    /// Since when it reads; none if it doesn't.
    reads_since: Option<Instant>,
    /// When it was last told something.
    told_at: Instant,
    /// All that it was told.
    pub(crate) told: Vec<WatchResponse>,
    /// How it ended: with a status, or by the client.
    pub(crate) ended: Option<Option<Status>>,
}

/// Events and answers come within a time, from a time on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delivers {
    pub(crate) since: Instant,
    pub(crate) within: Duration,
    /// And no Watch call that began since then is ended for want of members.
    pub(crate) calm: bool,
}

/// All Watch calls.
#[derive(Debug)]
pub(crate) struct Watching {
    pub(crate) calls: BTreeMap<WatchTag, Watched>,
    pub(crate) upstreams: Upstreams,
    pub(crate) delivers: Option<Delivers>,
    create_timeout: Duration,
    /// When a member was last without a leader.
    leaderless: Option<Instant>,
    auth_revision: u64,
    /// When permissions last changed.
    auth_changed: Instant,
    revoked: Revoked,
}

impl Watching {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            calls: BTreeMap::new(),
            upstreams: Upstreams::default(),
            delivers: None,
            create_timeout: settings.proxy.watch.create_timeout,
            leaderless: None,
            auth_revision: 0,
            auth_changed: Instant::ZERO,
            revoked: Revoked::new(settings),
        }
    }

    /// When a member was last without a leader.
    pub(super) fn leaderless(&self) -> Option<Instant> {
        self.leaderless
    }

    fn open_calls(&self) -> impl Iterator<Item = (&WatchTag, &Watched)> {
        self.calls.iter().filter(|(_, call)| call.ended.is_none())
    }
}

/// Whether the one who may read some of the keys may read this range.
fn may_read(state: &State, (key, end): (&[u8], &[u8])) -> bool {
    let auth = state.auth();
    let user = User {
        name: READER.to_owned(),
        revision: auth.revision(),
    };
    auth.check_range(Some(&user), key, end).is_ok()
}

impl Oracle {
    /// A client's Watch call.
    ///
    /// # Panics
    /// When there is none of that name.
    pub(crate) fn watched(&self, watch: WatchTag) -> &Watched {
        &self.watching.calls[&watch]
    }

    /// Takes in how members and permissions are.
    pub(super) fn note_state(&mut self, now: Instant, members: &Members) {
        let hosts = 0..members.hosts.len();
        if hosts
            .into_iter()
            .any(|member| !members.cluster.has_leader(member))
        {
            self.watching.leaderless = Some(now);
        }
        self.watching.revoked.note_state(now, members);
        let revision = members.cluster.committed().auth().revision();
        if std::mem::replace(&mut self.watching.auth_revision, revision) != revision {
            self.watching.auth_changed = now;
        }
    }

    pub(super) fn hear_watch(&mut self, io: &mut Io, members: &Members, tag: WatchTag, what: WatchNote) {
        let now = io.now;
        let revision = self.ledger.revision();
        let calls = &mut self.watching.calls;
        match what {
            WatchNote::Opened {
                as_whom,
                require_leader,
            } => {
                let call = Watched {
                    identity: as_whom,
                    require_leader,
                    opened: now,
                    creating: VecDeque::new(),
                    creates: 0,
                    creates_answered: 0,
                    watching: BTreeMap::new(),
                    revision: 0,
                    progress_asked: VecDeque::new(),
                    cancels: BTreeMap::new(),
                    nonsense: false,
                    reads_since: Some(now),
                    told_at: now,
                    told: Vec::new(),
                    ended: None,
                };
                calls.insert(tag, call);
            }
            WatchNote::Asked(union) => self.watch_asked(now, revision, tag, union),
            WatchNote::AskedNonsense => self.call_mut(tag).nonsense = true,
            WatchNote::Told(message) => self.told(io, members, tag, message),
            WatchNote::Reads(reads) => {
                io.count(if reads {
                    Situation::WatchClientReadsOn
                } else {
                    Situation::WatchClientStops
                });
                self.call_mut(tag).reads_since = reads.then_some(now);
            }
            WatchNote::Ended(status) => {
                self.is_right_end(io, tag, &status);
                self.call_mut(tag).ended = Some(Some(status));
            }
            WatchNote::Gone => self.call_mut(tag).ended = Some(None),
        }
    }

    fn call_mut(&mut self, tag: WatchTag) -> &mut Watched {
        let call = self.watching.calls.get_mut(&tag).expect("it was opened");
        assert_eq!(call.ended, None, "something comes after the end of {tag:?}");
        call
    }

    fn watch_asked(&mut self, now: Instant, revision: i64, tag: WatchTag, union: Option<RequestUnion>) {
        let call = self.call_mut(tag);
        match union {
            Some(RequestUnion::CreateRequest(request)) => {
                call.creates += 1;
                call.creating.push_back(Watcher::new(now, revision, request));
            }
            Some(RequestUnion::CancelRequest(request)) => {
                *call.cancels.entry(request.watch_id).or_default() += 1;
                if let Some(watcher) = call.watching.get_mut(&request.watch_id) {
                    watcher.is_cancelled = true;
                }
            }
            Some(RequestUnion::ProgressRequest(_)) => call.progress_asked.push_back(call.creates),
            None => {}
        }
    }

    /// A Watch call is ended only for a reason that it gives.
    fn is_right_end(&self, io: &mut Io, tag: WatchTag, status: &Status) {
        let call = self.watched(tag);
        let calm = self
            .watching
            .delivers
            .is_some_and(|delivers| delivers.calm && delivers.since <= call.opened);
        let was_lately = |at: Instant| at + HELD_UP_MAX >= call.opened;
        let (situation, is_right) = match (status.code, &*status.message) {
            (14, "etcdserver: no leader") => (
                Situation::WatchToldNoLeader,
                call.require_leader && !calm && self.watching.leaderless.is_some_and(was_lately),
            ),
            (14, "etcdserver: request timed out") => {
                let oldest = call.creating.front().map(|watcher| io.now - watcher.asked);
                let took = oldest.is_some_and(|took| took >= self.watching.create_timeout);
                (Situation::WatchToldTimeout, took && !calm)
            }
            (14, message) if message.ends_with("not valid any more") => {
                (Situation::WatchToldToken, call.identity != Identity::Anonymous)
            }
            (14, "etcdserver: request timed out, possibly due to connection lost") if !calm => return,
            (13, _) if call.nonsense => return,
            _ => panic!("{tag:?} ends with {status:?}: {call:?}"),
        };
        io.count(situation);
        assert!(
            is_right,
            "there is no reason why {tag:?} should end with {status:?}: {call:?}"
        );
    }

    /// What must come does so within the time that is promised, if anything comes at all.
    pub(super) fn watches_are_served(&mut self, io: &mut Io) {
        let Some(delivers) = self.watching.delivers else {
            return;
        };
        for (tag, call) in &mut self.watching.calls {
            let Some(reads_since) = call.reads_since.filter(|_| call.ended.is_none()) else {
                continue;
            };
            // A slow client may have much to read, which comes bit by bit.
            let from = delivers.since.max(reads_since).max(call.told_at);
            if io.now - from <= delivers.within {
                continue;
            }
            io.count(Situation::CheckedWatchServed);
            if let Some(watcher) = call.creating.front() {
                assert!(
                    io.now - watcher.asked <= delivers.within,
                    "{tag:?} waits for an answer: {watcher:?}"
                );
            }
            for (id, watcher) in &mut call.watching {
                let Some(at) = watcher.waits_since(&self.ledger) else {
                    continue;
                };
                assert!(
                    io.now - at.max(watcher.created) <= delivers.within,
                    "watcher {id} of {tag:?} isn't told of what was committed at {at:?}: {watcher:?}"
                );
            }
        }
    }

    /// Whether every Watch call has been told all there is to tell.
    pub(crate) fn watches_are_complete(&mut self) -> bool {
        let ledger = &self.ledger;
        let mut open = self
            .watching
            .calls
            .values_mut()
            .filter(|call| call.ended.is_none());
        open.all(|call| {
            let mut watchers = call.watching.values_mut();
            call.creating.is_empty()
                && watchers.all(|watcher| !watcher.is_cancelled && watcher.waits_since(ledger).is_none())
        })
    }

    /// What keeps [`watches_are_complete`](Self::watches_are_complete) from being true.
    pub(crate) fn incomplete_watch(&mut self) -> String {
        let ledger = &self.ledger;
        for (tag, call) in &mut self.watching.calls {
            let incomplete = call.ended.is_none()
                && (!call.creating.is_empty()
                    || call
                        .watching
                        .values_mut()
                        .any(|watcher| watcher.is_cancelled || watcher.waits_since(ledger).is_some()));
            if incomplete {
                call.told.clear();
                return format!("{tag:?} {call:?}");
            }
        }
        "nothing".to_owned()
    }

    /// Watch calls that must be told of progress if they ask, when nothing is written and nothing goes wrong, and how
    /// often they were told something.
    pub(crate) fn may_progress(&self) -> Vec<(WatchTag, usize)> {
        let now = self.ledger.revision();
        let ready = |call: &Watched| {
            !call.watching.is_empty()
                && call.creating.is_empty()
                && call
                    .watching
                    .values()
                    .all(|watcher| watcher.request.start_revision <= now)
        };
        let calls = self.watching.open_calls().filter(|(_, call)| ready(call));
        calls.map(|(tag, call)| (*tag, call.told.len())).collect()
    }

    /// Progress that a Watch call was told since it was told so much.
    pub(crate) fn progress_since(&self, tag: WatchTag, told: usize) -> Option<i64> {
        let told = self.watched(tag).told[told..].iter();
        let mut progress = told.filter(|response| response.watch_id == -1 && !response.created);
        progress.next_back()?.header.map(|header| header.revision)
    }
}
