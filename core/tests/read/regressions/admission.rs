//! Which answers become entries: the cache alone, with answers that come when a test says so.

use bytes::Bytes;
use etcd_proxy_core::range::KeyRange;
use etcd_proxy_core::read::{
    Action, Actions, Admission, Cache, Config, Event, ReadOutcome, ReadTicket, Resolution, Scope, Status,
    WaiterId, WatchId,
};
use etcd_proxy_core::time::Instant;
use etcd_proxy_proto::etcdserverpb::{RangeResponse, ResponseHeader};
use prost::Message as _;

use super::{linearizable, serializable};

struct Alone {
    cache: Cache,
    now: Instant,
    actions: Actions,
}

fn reply(revision: i64) -> ReadOutcome {
    let response = RangeResponse {
        header: Some(ResponseHeader {
            cluster_id: 1,
            member_id: 1,
            revision,
            raft_term: 1,
        }),
        count: revision,
        ..RangeResponse::default()
    };
    ReadOutcome::Answered(response.encode_to_vec().into())
}

impl Alone {
    /// A cache whose watch has started at this revision.
    fn new(revision: i64) -> (Self, WatchId) {
        Self::with(Config::default(), revision)
    }

    fn with(config: Config, revision: i64) -> (Self, WatchId) {
        let mut alone = Self {
            cache: Cache::new(config, 1),
            now: Instant::ZERO,
            actions: Actions::new(),
        };
        let ticket = alone.forwarded("other");
        alone.complete(ticket, ReadOutcome::Abandoned);
        let watch = alone.actions.iter().find_map(|action| match action {
            Action::OpenWatch(watch) => Some(*watch),
            _ => None,
        });
        let watch = watch.expect("the first read opens it");
        alone.tell(Event::WatchStarted { watch, revision });
        (alone, watch)
    }

    fn tell(&mut self, event: Event) {
        self.cache.handle(self.now, event, &mut self.actions);
    }

    fn changed(&mut self, watch: WatchId, revision: i64, key: &str) {
        let keys = vec![Bytes::copy_from_slice(key.as_bytes())];
        self.tell(Event::WatchChanged {
            watch,
            revision,
            keys,
        });
    }

    fn admit(&mut self, key: &str, is_serializable: bool) -> Admission {
        let request = if is_serializable {
            serializable(key, "")
        } else {
            linearizable(key, "")
        };
        let request = request.encode_to_vec().into();
        self.cache.admit_read(self.now, &request, 0, &mut self.actions)
    }

    fn forwarded(&mut self, key: &str) -> ReadTicket {
        match self.admit(key, true) {
            Admission::Forward(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    fn waiting(&mut self, key: &str) -> WaiterId {
        match self.admit(key, true) {
            Admission::Wait(id) => id,
            other => panic!("{other:?}"),
        }
    }

    fn complete(&mut self, ticket: ReadTicket, outcome: ReadOutcome) {
        self.cache
            .complete_read(self.now, ticket, outcome, &mut self.actions);
    }

    fn entries(&self) -> usize {
        self.cache.stats().entries
    }
}

/// The first answer may be from before the watch has started.
#[test]
fn an_answer_from_before_the_watch() {
    for (revision, is_kept) in [(4, false), (5, true), (6, true)] {
        let mut cache = Alone {
            cache: Cache::new(Config::default(), 1),
            now: Instant::ZERO,
            actions: Actions::new(),
        };
        let ticket = cache.forwarded("a");
        let Some(Action::OpenWatch(watch)) = cache.actions.pop() else {
            panic!("the first read opens it");
        };
        cache.tell(Event::WatchStarted { watch, revision: 5 });
        cache.complete(ticket, reply(revision));
        assert_eq!(cache.entries(), usize::from(is_kept), "{revision}");
        cache.changed(watch, 7, "a");
        assert_eq!(cache.entries(), 0);
    }
}

/// A member that is behind answers with what was right before the watch told of a change.
#[test]
fn an_answer_of_a_member_that_is_behind() {
    let (mut cache, watch) = Alone::new(4);
    cache.changed(watch, 5, "a");
    for (revision, is_kept) in [(4, false), (5, true)] {
        let ticket = cache.forwarded("a");
        cache.complete(ticket, reply(revision));
        assert_eq!(cache.entries(), usize::from(is_kept), "{revision}");
    }
}

/// What changes while a read is under way, before or after it was carried out.
#[test]
fn a_change_under_way() {
    for (key, changed_at, revision, is_kept) in [
        ("a", 5, 4, false),
        ("a", 5, 5, true),
        ("a", 5, 6, true),
        ("b", 5, 4, true),
    ] {
        let (mut cache, watch) = Alone::new(4);
        let ticket = cache.forwarded("a");
        cache.changed(watch, changed_at, key);
        cache.complete(ticket, reply(revision));
        assert_eq!(cache.entries(), usize::from(is_kept), "{key} {revision}");
        // It says what was there at its own revision: an event of that changes nothing.
        cache.changed(watch, revision, "a");
        assert_eq!(cache.entries(), usize::from(is_kept), "{key} {revision}");
    }
}

/// The watch breaks while a read is under way. What it has missed, nobody knows.
#[test]
fn a_watch_that_broke_under_way() {
    for is_lost in [false, true] {
        for (revision, is_kept) in [(4, false), (8, false), (9, true)] {
            let (mut cache, watch) = Alone::new(4);
            let ticket = cache.forwarded("a");
            if is_lost {
                cache.tell(Event::WatchLost(watch));
            }
            cache.tell(Event::WatchStarted { watch, revision: 9 });
            cache.complete(ticket, reply(revision));
            assert_eq!(cache.entries(), usize::from(is_kept), "{revision}");
            // And what was kept before is gone.
            cache.tell(Event::WatchStarted { watch, revision: 9 });
            assert_eq!(cache.entries(), 0);
        }
    }
}

/// Whoever comes after auth may have been switched on isn't shown what was asked before.
#[test]
fn nobody_joins_what_was_asked_before_auth_changed() {
    let (mut cache, _) = Alone::new(4);
    let first = cache.forwarded("a");
    let joined = cache.waiting("a");
    cache.tell(Event::AuthMayHaveChanged);
    let second = cache.forwarded("a");
    let late = cache.waiting("a");
    cache.actions.clear();
    cache.complete(first, reply(4));
    let resolved = |cache: &Alone| -> Vec<WaiterId> {
        let resolved = cache.actions.iter().filter_map(|action| match action {
            Action::Resolve(id, Resolution::Shared(Ok(_))) => Some(*id),
            _ => None,
        });
        resolved.collect()
    };
    assert_eq!(resolved(&cache), [joined]);
    assert_eq!(cache.entries(), 0, "it proves nothing");
    cache.complete(second, reply(4));
    assert_eq!(resolved(&cache), [joined, late]);
}

/// A leader that ran out of time says nothing of the cluster: the next one asks for itself, and the others wait for that.
#[test]
fn own_deadlines_are_not_shared() {
    for code in [1, 4] {
        let (mut cache, _) = Alone::new(4);
        let first = cache.forwarded("a");
        let (second, third) = (cache.waiting("a"), cache.waiting("a"));
        cache.actions.clear();
        cache.complete(first, ReadOutcome::Failed(Status::new(code, "its own")));
        let Some(Action::Resolve(id, Resolution::Forward(ticket))) = cache.actions.pop() else {
            panic!("one of them is forwarded");
        };
        assert_eq!((id, cache.actions.len()), (second, 0));
        cache.complete(ticket, reply(4));
        assert!(
            matches!(&cache.actions[..], [Action::Resolve(id, Resolution::Shared(Ok(_)))] if *id == third)
        );
    }
}

/// What one call met on its way isn't the others' answer: one of them asks, and if that is refused too, each does.
#[test]
fn own_refusals_are_not_shared() {
    for code in [2, 8, 12, 13, 14] {
        let (mut cache, _) = Alone::new(4);
        let first = cache.forwarded("a");
        let (second, third, fourth) = (cache.waiting("a"), cache.waiting("a"), cache.waiting("a"));
        cache.actions.clear();
        cache.complete(first, ReadOutcome::Failed(Status::new(code, "its own")));
        let Some(Action::Resolve(id, Resolution::Forward(ticket))) = cache.actions.pop() else {
            panic!("one of them is forwarded");
        };
        assert_eq!((id, cache.actions.len()), (second, 0));
        cache.complete(ticket, ReadOutcome::Failed(Status::new(code, "its own")));
        let forwarded: Vec<WaiterId> = cache
            .actions
            .iter()
            .filter_map(|action| match action {
                Action::Resolve(id, Resolution::Forward(_)) => Some(*id),
                _ => None,
            })
            .collect();
        assert_eq!(forwarded, [third, fourth]);
    }
}

/// An old server says that it has sent all events, and hasn't.
#[test]
fn untrusted_progress_is_none() {
    let (mut cache, watch) = Alone::new(4);
    let progress = Event::WatchProgressed { watch, revision: 9 };
    cache.tell(Event::LinearizableTrusted(false));
    cache.tell(progress.clone());
    assert_eq!(cache.cache.stats().watched, 4);
    cache.tell(Event::LinearizableTrusted(true));
    cache.tell(progress);
    assert_eq!(cache.cache.stats().watched, 9);
}

/// Nor is it cached, also when somebody has shown since that auth is off.
#[test]
fn what_was_asked_before_auth_changed_is_not_cached() {
    let (mut cache, _) = Alone::new(4);
    let before = cache.forwarded("a");
    cache.tell(Event::AuthMayHaveChanged);
    let Admission::Forward(proof) = cache.admit("b", false) else {
        panic!("nothing is cached");
    };
    cache.complete(proof, reply(4));
    assert_eq!(cache.entries(), 1);
    cache.complete(before, reply(4));
    assert_eq!(cache.entries(), 1);
}

/// With several ranges the events of one tell nothing of the others: only progress tells how far the watch has come. What an
/// event has touched is known all the same.
#[test]
fn events_of_one_of_several_ranges() {
    let config = Config {
        scope: Scope::Ranges(vec![KeyRange::prefix(b"a"), KeyRange::prefix(b"o")]),
        ..Config::default()
    };
    let (mut cache, watch) = Alone::with(config, 4);
    let ticket = cache.forwarded("a1");
    cache.complete(ticket, reply(4));
    cache.changed(watch, 7, "a2");
    assert_eq!((cache.cache.stats().watched, cache.entries()), (4, 1));
    // A member that is behind the event, though not behind what the watch is known to have.
    for (revision, is_kept) in [(6, false), (7, true)] {
        let ticket = cache.forwarded("a2");
        cache.complete(ticket, reply(revision));
        assert_eq!(cache.entries(), 1 + usize::from(is_kept), "{revision}");
    }
    cache.tell(Event::WatchProgressed { watch, revision: 8 });
    assert_eq!((cache.cache.stats().watched, cache.entries()), (8, 2));
}

/// An answer that is too large to be held can't be shared: all who wait for it are forwarded at once.
#[test]
fn an_answer_that_is_too_large() {
    let (mut cache, _) = Alone::new(4);
    let ticket = cache.forwarded("a");
    let waiting = [cache.waiting("a"), cache.waiting("a")];
    cache.actions.clear();
    cache.complete(ticket, ReadOutcome::TooLarge);
    let forwarded = cache.actions.iter().filter_map(|action| match action {
        Action::Resolve(id, Resolution::Forward(_)) => Some(*id),
        _ => None,
    });
    assert_eq!(forwarded.collect::<Vec<_>>(), waiting);
}
