//! What clients are told on their Watch calls, held against the log.

/// Ends with a reason unless something holds.
macro_rules! ensure {
    ($holds:expr, $($why:tt)+) => {
        if !$holds {
            return Err(format!($($why)+));
        }
    };
}

mod revoked;
mod told;
mod upstreams;
mod view;
mod watcher;

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_proxy_core::time::Instant;
use etcd_proxy_model::auth::User;
use etcd_proxy_model::state::State;
use etcd_proxy_model::status::Status;
use etcd_proxy_proto::etcdserverpb::{WatchResponse, watch_request::RequestUnion};

use self::revoked::Revoked;
pub(crate) use self::upstreams::Upstreams;
use self::view::View;
use super::Oracle;
use super::histories::Number;
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
    proxy: usize,
    identity: Identity,
    require_leader: bool,
    opened: Instant,
    /// By the histories that all that it was told may be of.
    views: Vec<View>,
    /// Its proxy can't know that the store has gone back, and what it tells is of no history.
    is_misled: bool,
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

impl Watched {
    /// As it is if it is of this history.
    fn view(&self, history: Number) -> Option<&View> {
        self.views.iter().find(|view| view.history == history)
    }

    /// Whether it must be told what there is: it is open, and its proxy can know what the store has.
    fn is_judged(&self) -> bool {
        self.ended.is_none() && !self.is_misled
    }
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
    /// When a member was last asked what it has, for want of a quorum.
    pub(super) member_asked: Option<Instant>,
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
            member_asked: None,
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

    /// Users and permissions may be others from now on.
    pub(super) fn changed_auth(&mut self, now: Instant) {
        self.auth_changed = now;
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
        let is_on = members.cluster.committed().auth().enabled();
        self.caching.note_auth(now, is_on);
        let revision = members.cluster.committed().auth().revision();
        if std::mem::replace(&mut self.watching.auth_revision, revision) != revision {
            self.watching.auth_changed = now;
        }
    }

    pub(super) fn hear_watch(&mut self, io: &mut Io, members: &Members, tag: WatchTag, what: WatchNote) {
        let now = io.now;
        match what {
            WatchNote::Opened {
                as_whom,
                require_leader,
            } => {
                let proxy = self.histories.proxy_of(tag.client);
                let proxy = proxy.expect("who watches does so through a proxy");
                let call = Watched {
                    proxy,
                    identity: as_whom,
                    require_leader,
                    opened: now,
                    views: self.histories.possible(proxy).map(View::new).collect(),
                    is_misled: self.histories.is_misled(proxy),
                    nonsense: false,
                    reads_since: Some(now),
                    told_at: now,
                    told: Vec::new(),
                    ended: None,
                };
                self.watching.calls.insert(tag, call);
            }
            WatchNote::Asked(union) => self.watch_asked(now, tag, union.as_ref()),
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

    fn watch_asked(&mut self, now: Instant, tag: WatchTag, union: Option<&RequestUnion>) {
        let call = self.watching.calls.get_mut(&tag).expect("it was opened");
        for view in &mut call.views {
            let story = self.histories.of(view.history);
            view.asked(now, story.ledger.revision(), union);
        }
    }

    /// The store has gone back. What was told so far may be of the history that it has now as well, or not.
    pub(super) fn watches_restored(&mut self) {
        self.watching.revoked.restored();
        let now = self.histories.now();
        for call in self.watching.calls.values_mut() {
            let latest = call.views.last().filter(|_| call.ended.is_none());
            let Some(view) = latest else { continue };
            if self.histories.goes_on(view.revision, view.history, now) {
                let mut view = view.clone();
                view.history = now;
                // What was there when they were asked for isn't there any more, and a proxy needn't have seen it.
                let revision = self.histories.current().ledger.revision();
                for watcher in &mut view.creating {
                    watcher.asked_at = watcher.asked_at.min(revision);
                }
                call.views.push(view);
            }
        }
    }

    /// These proxies can't know what the store has.
    pub(super) fn watches_misled(&mut self, io: &mut Io, proxies: &[usize]) {
        for _ in proxies {
            io.count(Situation::HistoryPassed);
        }
        let open = self.watching.calls.values_mut();
        for call in open.filter(|call| call.ended.is_none() && proxies.contains(&call.proxy)) {
            call.is_misled = true;
            call.views.clear();
        }
    }

    /// A Watch call is ended only for a reason that it gives.
    fn is_right_end(&self, io: &mut Io, tag: WatchTag, status: &Status) {
        let call = self.watched(tag);
        if call.is_misled {
            return;
        }
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
                let waiting = call.views.last().and_then(|view| view.creating.front());
                let oldest = waiting.map(|watcher| io.now - watcher.asked);
                let took = oldest.is_some_and(|took| took >= self.watching.create_timeout);
                (Situation::WatchToldTimeout, took && !calm)
            }
            (14, message) if message.ends_with("not valid any more") => {
                (Situation::WatchToldToken, call.identity != Identity::Anonymous)
            }
            (14, "etcdserver: request timed out, possibly due to connection lost") if !calm => return,
            (13, _) if call.nonsense => return,
            (14, "the store has gone back to another history") => (
                Situation::WatchToldHistory,
                self.histories.has_noticed(call.proxy, call.opened),
            ),
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
        let now = self.histories.now();
        let ledger = self.histories.ledger();
        for (tag, call) in &mut self.watching.calls {
            let Some(reads_since) = call.reads_since.filter(|_| call.is_judged()) else {
                continue;
            };
            // A slow client may have much to read, which comes bit by bit.
            let from = delivers.since.max(reads_since).max(call.told_at);
            if io.now - from <= delivers.within {
                continue;
            }
            io.count(Situation::CheckedWatchServed);
            let Some(view) = call.views.iter_mut().find(|view| view.history == now) else {
                panic!("{tag:?} goes on, and what it was told is of a former history: {call:?}");
            };
            if let Some(watcher) = view.creating.front() {
                assert!(
                    io.now - watcher.asked <= delivers.within,
                    "{tag:?} waits for an answer: {watcher:?}"
                );
            }
            for (id, watcher) in &mut view.watching {
                let Some(at) = watcher.waits_since(ledger) else {
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
        self.incomplete().is_none()
    }

    fn incomplete(&mut self) -> Option<(&WatchTag, &mut Watched)> {
        let now = self.histories.now();
        let ledger = self.histories.ledger();
        let mut calls = self.watching.calls.iter_mut();
        calls.find_map(|(tag, call)| {
            let view = call.views.iter_mut().find(|view| view.history == now);
            let is_complete = view.is_some_and(|view| {
                let mut watchers = view.watching.values_mut();
                view.creating.is_empty()
                    && watchers.all(|watcher| !watcher.is_cancelled && watcher.waits_since(ledger).is_none())
            });
            (call.is_judged() && !is_complete).then_some((tag, call))
        })
    }

    /// What keeps [`watches_are_complete`](Self::watches_are_complete) from being true.
    pub(crate) fn incomplete_watch(&mut self) -> String {
        self.incomplete().map_or_else(
            || "nothing".to_owned(),
            |(tag, call)| {
                call.told.clear();
                format!("{tag:?} {call:?}")
            },
        )
    }

    /// Watch calls that must be told of progress if they ask, when nothing is written and nothing goes wrong, and how
    /// often they were told something.
    pub(crate) fn may_progress(&self) -> Vec<(WatchTag, usize)> {
        let (history, now) = (self.histories.now(), self.histories.ledger().revision());
        let ready = |call: &Watched| {
            call.view(history).is_some_and(|view| {
                let mut watchers = view.watching.values();
                !view.watching.is_empty()
                    && view.creating.is_empty()
                    && watchers.all(|watcher| watcher.request.start_revision <= now)
            })
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
