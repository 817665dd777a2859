//! Events lost or late, watchers that nobody serves any more, identities.

use etcd_proxy_proto::etcdserverpb::WatchCreateRequest;
use etcd_proxy_sim::{FaultKind, Identity, Key, Manner, Op, Settings};

use super::*;

/// Catching up over more than a server's batch beside a live watch of the same range loses nothing.
#[test]
fn row_01_catching_up_beside_a_live_watch() {
    let mut world = world(1, 2);
    for _ in 0..1_300 {
        put(&mut world, 1);
    }
    let live = watch(&mut world, 0, range(0, 9, 0));
    world.complete(SECOND);
    let past: Vec<_> = (0..20)
        .map(|number| {
            (
                number * 60 + 2,
                watch(&mut world, 1, range(0, 9, number * 60 + 2)),
            )
        })
        .collect();
    let last = put(&mut world, 2);
    world.complete(10 * SECOND);
    assert_eq!(revisions(&world, live), [last]);
    for (start, watch) in past {
        assert_eq!(revisions(&world, watch), (start..=last).collect::<Vec<_>>());
    }
    world.run_while(10 * SECOND, |world| world.watch_cost().catching_up > 0);
    assert_eq!(world.watch_cost().live, 1);
}

/// Who asks for what is compacted is told so, and nobody else notices.
#[test]
fn row_02_compaction_concerns_only_those_who_need_what_is_gone() {
    let mut world = world(3, 2);
    for _ in 0..10 {
        put(&mut world, 1);
    }
    call(&mut world, 0, Op::Compact { revision: 8 });
    let old = watch(&mut world, 0, key(1, 3));
    world.run_for(SECOND);
    let told = world.told(old);
    assert!(told[0].created && told[1].canceled);
    assert_eq!((told.len(), told[1].compact_revision), (2, 8));
    let compacted = world.revision();
    for start in [8, 9, 0, compacted, compacted + 1] {
        let watch = watch(&mut world, 1, key(1, start));
        world.run_for(SECOND);
        let written = put(&mut world, 1);
        world.complete(SECOND);
        assert_eq!(revisions(&world, watch).last(), Some(&written), "from {start}");
    }
    assert!(!world.told(old).iter().any(|response| !response.events.is_empty()));
}

/// Streams may end with any code, and watchers don't notice; nor do later ones. It takes few attempts.
#[test]
fn rows_03_04_60_streams_end_with_every_code() {
    for code in 0..=16 {
        let mut world = world(3, 2);
        let old = watch(&mut world, 0, key(1, 0));
        world.complete(SECOND);
        let member = world.in_use(0).expect("it has settled");
        assert_eq!(world.end_watches(member, code, "whatever"), 1);
        let first = put(&mut world, 1);
        let new = watch(&mut world, 1, key(1, 0));
        world.complete(3 * SECOND);
        let second = put(&mut world, 1);
        world.complete(SECOND);
        assert_eq!(revisions(&world, old), [first, second], "code {code}");
        assert_eq!(revisions(&world, new), [second], "code {code}");
        assert_eq!(world.watch_cost().calls, 2, "code {code}");
    }
}

/// So may connections, in any way, and a watcher by itself.
#[test]
fn row_03_connections_end_in_every_way() {
    for kind in [
        FaultKind::CancelWatcher,
        FaultKind::Cut,
        FaultKind::GoAway,
        FaultKind::Goodbye,
        FaultKind::Kill,
        FaultKind::EndWatch,
    ] {
        let mut world = world(3, 2);
        let watch = watch(&mut world, 1, key(1, 0));
        world.complete(SECOND);
        let mut expected = vec![put(&mut world, 1)];
        for _ in 0..3 {
            let member = world.in_use(0).expect("there is one");
            world.fault(kind, member, 2 * SECOND);
            world.run_for(5 * SECOND);
            expected.push(put(&mut world, 1));
            world.complete(3 * SECOND);
        }
        assert_eq!(revisions(&world, watch), expected, "{kind:?}");
    }
}

/// All members are restarted again and again: nothing is lost, and nobody tries in a loop.
#[test]
fn row_60_the_cluster_is_restarted() {
    let mut world = world(3, 1);
    let watch = watch(&mut world, 0, range(0, 9, 0));
    world.complete(SECOND);
    let mut expected = Vec::new();
    for _ in 0..20 {
        world.fault(FaultKind::ClusterGone, 0, 2 * SECOND);
        world.run_for(8 * SECOND);
        expected.push(put(&mut world, 1));
        world.complete(3 * SECOND);
    }
    assert_eq!(revisions(&world, watch), expected);
    let calls = world.watch_cost().calls;
    assert!(calls < 20 * 12, "{calls} Watch calls");
}

fn with_auth(clients: usize) -> Settings {
    Settings {
        auth: true,
        ..settings(3, clients)
    }
}

const DENIED: &str = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";

/// Everybody is judged by own credentials, whoever watches already.
#[test]
fn rows_11_12_each_has_its_own_credentials() {
    let mut world = settled(with_auth(3));
    let root = world.watch(0, Identity::Root, false);
    let reader = world.watch(1, Identity::Reader, false);
    let nobody = world.watch(2, Identity::Anonymous, false);
    for watch in [root, reader, nobody] {
        for request in [range(0, 4, 0), key(1, 0), range(0, 9, 0), key(7, 0)] {
            create(&mut world, watch, request);
        }
    }
    world.complete(3 * SECOND);
    let written = [put(&mut world, 1), put(&mut world, 7)];
    world.complete(SECOND);
    assert_eq!(ids(&world, reader)[..4], [0, 1, -1, -1]);
    assert_eq!(reasons(&world, reader), [DENIED, DENIED]);
    let empty = "rpc error: code = InvalidArgument desc = etcdserver: user name is empty";
    assert_eq!(reasons(&world, nobody), [empty; 4]);
    assert_eq!(revisions(&world, reader), [written[0], written[0]]);
    assert_eq!(revisions(&world, root).len(), 5);
    // They share what is watched for them, though not their credentials.
    assert!(world.watch_cost().live <= 2, "{:?}", world.watch_cost());
}

/// Whose permission is revoked loses it when the watch has to be made anew, with the server's reason; those with whom it
/// was shared don't.
#[test]
fn row_12_a_permission_is_revoked() {
    let mut world = settled(with_auth(2));
    let reader = world.watch(1, Identity::Reader, false);
    create(&mut world, reader, range(0, 4, 0));
    world.complete(SECOND);
    let root = world.watch(0, Identity::Root, false);
    create(&mut world, root, range(0, 4, 0));
    world.complete(SECOND);
    assert_eq!(world.watch_cost().live, 1);
    call(&mut world, 0, Op::Permit { allowed: false });
    let member = world.in_use(0).expect("it has settled");
    assert!(world.end_watches(member, 14, "restart") > 0);
    world.run_for(3 * SECOND);
    let written = put(&mut world, 1);
    world.complete(SECOND);
    assert_eq!(reasons(&world, reader), [DENIED]);
    assert_eq!(revisions(&world, reader), []);
    assert_eq!(revisions(&world, root), [written]);
    assert_eq!((world.ended(reader), world.ended(root)), (None, None));
}

/// Nor does it help that another's watcher, who may, is the one that is made anew: cut off at once, or as the member dies.
#[test]
fn row_12_a_permission_is_revoked_and_another_shares_the_watcher() {
    for dies in [false, true] {
        let mut world = settled(with_auth(2));
        let root = world.watch(0, Identity::Root, false);
        create(&mut world, root, range(0, 4, 0));
        world.complete(SECOND);
        let reader = world.watch(1, Identity::Reader, false);
        create(&mut world, reader, range(0, 4, 0));
        create(&mut world, reader, key(1, 0));
        world.complete(SECOND);
        assert_eq!(world.watch_cost().live, 1);
        call(&mut world, 0, Op::Permit { allowed: false });
        // As on a server, as long as nothing is lost.
        let first = put(&mut world, 1);
        world.complete(SECOND);
        world.run_for(4 * SECOND);
        if dies {
            fault(&mut world, FaultKind::Kill);
        } else {
            let member = world.in_use(0).expect("it has settled");
            assert!(world.end_watches(member, 14, "restart") > 0);
        }
        world.run_for(5 * SECOND);
        let second = put(&mut world, 1);
        world.complete(3 * SECOND);
        assert_eq!(reasons(&world, reader), [DENIED, DENIED]);
        assert_eq!(revisions(&world, reader), [first, first]);
        assert_eq!(revisions(&world, root), [first, second]);
        assert_eq!((world.ended(reader), world.ended(root)), (None, None));
    }
}

/// A token that the member has forgotten ends only the calls that it was sent with, and in a way that makes clients
/// authenticate again.
#[test]
fn row_11_tokens_are_forgotten() {
    let mut world = settled(with_auth(2));
    let root = world.watch(0, Identity::Root, false);
    create(&mut world, root, key(1, 0));
    world.complete(SECOND);
    world.fault(FaultKind::ClusterGone, 0, SECOND);
    world.run_for(8 * SECOND);
    let ended = world
        .ended(root)
        .and_then(Option::as_ref)
        .expect("its token is no good any more");
    assert_eq!(ended.code, 14);
    // Its client gets another one, and so its next call works.
    let authenticate = world.call(0, Op::Authenticate { reader: false }, Manner::default());
    assert!(world.answer(authenticate, SECOND).is_ok());
    let again = world.watch(0, Identity::Root, false);
    create(&mut world, again, key(1, 0));
    world.complete(3 * SECOND);
    let written = put(&mut world, 1);
    world.complete(SECOND);
    assert_eq!(revisions(&world, again), [written]);
}

/// From now on is from now on, however far the member in use lags behind the others.
#[test]
fn row_37_nothing_from_before_the_creation() {
    for seed in 1..20 {
        let (mut world, in_use) = with_direct_writer(seed);
        let early = watch(&mut world, 0, key(1, 0));
        world.complete(SECOND);
        world.fault(FaultKind::Lag, in_use, FOR_GOOD);
        let before = call(&mut world, 1, Op::Put { key: Key(1) });
        let late = watch(&mut world, 0, key(1, 0));
        world.run_while(6 * SECOND, |world| world.told(late).is_empty());
        let after = call(&mut world, 1, Op::Put { key: Key(1) });
        world.complete(10 * SECOND);
        assert_eq!(revisions(&world, early), [before, after]);
        assert_eq!(revisions(&world, late), [after]);
    }
}

/// A watcher that wants what was before is served from history, or catches up; filters and previous pairs are its own.
#[test]
fn each_watcher_has_its_own_wishes() {
    let mut world = world(3, 1);
    let first = put(&mut world, 1);
    let second = put(&mut world, 1);
    let third = call(&mut world, 0, Op::Delete { key: Key(1) });
    let watch = open(&mut world, 0);
    for (filters, prev_kv) in [
        (vec![], false),
        (vec![0], false),
        (vec![1], true),
        (vec![0, 1], true),
    ] {
        let request = WatchCreateRequest {
            filters,
            prev_kv,
            ..range(0, 9, 2)
        };
        create(&mut world, watch, request);
    }
    world.complete(3 * SECOND);
    let of = |id: i64| {
        let told = world
            .told(watch)
            .iter()
            .filter(|response| response.watch_id == id);
        let events = told.flat_map(|response| &response.events);
        events
            .map(|event| {
                (
                    event.kv.as_ref().map_or(0, |kv| kv.mod_revision),
                    event.prev_kv.is_some(),
                )
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(of(0), [(first, false), (second, false), (third, false)]);
    assert_eq!(of(1), [(third, false)]);
    assert_eq!(of(2), [(first, false), (second, true)]);
    assert_eq!(of(3), []);
}
