//! What watching costs the cluster, and one client the others.

use etcd_proxy_proto::etcdserverpb::WatchCreateRequest;
use etcd_proxy_sim::FaultKind;

use super::*;

/// Many clients' watchers come and go while one gets its events: nobody waits for them.
#[test]
fn row_17_nobody_waits_for_others() {
    let mut world = world(3, 12);
    let quick = watch(&mut world, 0, key(200, 0));
    // One that takes nothing, and keeps its watchers.
    let stopped = watch(&mut world, 1, range(0, 255, 0));
    world.complete(SECOND);
    world.reads(stopped, false);
    let calls: Vec<_> = (2..12).map(|client| open(&mut world, client)).collect();
    for round in 0..40_i64 {
        for call in &calls {
            for number in 0..10 {
                let request = WatchCreateRequest {
                    watch_id: round * 10 + i64::from(number) + 1,
                    ..key(number, 0)
                };
                create(&mut world, *call, request);
                cancel(&mut world, *call, (round - 1) * 10 + i64::from(number) + 1);
            }
        }
        let written = put(&mut world, 200);
        let before = world.now();
        world.run_while(SECOND, |world| revisions(world, quick).last() != Some(&written));
        assert!(
            world.now() - before <= Duration::from_millis(20),
            "a few ways long"
        );
    }
    world.reads(stopped, true);
    world.complete(10 * SECOND);
    assert_eq!(revisions(&world, quick).len(), 40);
    assert_eq!(revisions(&world, stopped), revisions(&world, quick));
}

/// A client that is stopped gets everything when it goes on. The others don't wait for it, and its outbox is bounded,
/// which the oracle sees.
#[test]
fn row_35_a_stopped_client() {
    let mut settings = settings(1, 3);
    settings.proxy.watch.outbox_bytes_max = 4_000;
    settings.proxy.watch.history_bytes_max = 8_000;
    let mut world = settled(settings);
    let slow = watch(&mut world, 1, key(1, 0));
    let quick = watch(&mut world, 2, key(1, 0));
    world.complete(SECOND);
    world.reads(slow, false);
    for number in 1..=600 {
        let written = put(&mut world, 1);
        let before = world.now();
        world.run_while(SECOND, |world| revisions(world, quick).last() != Some(&written));
        assert!(world.now() - before <= Duration::from_millis(20));
        assert_eq!(revisions(&world, quick).len(), number);
    }
    let stats = world.watch_stats(0);
    assert!(
        stats.behind == 1 && stats.outbox_bytes < 5_000 && stats.history_bytes <= 8_000,
        "{stats:?}"
    );
    world.reads(slow, true);
    world.complete(10 * SECOND);
    assert_eq!(revisions(&world, slow), revisions(&world, quick));
}

/// With the cluster down a creation fails after a bounded time, as a call that may be tried again, and blocks nothing.
#[test]
fn row_36_creating_while_the_cluster_is_down() {
    let mut world = world(3, 1);
    let watch = watch(&mut world, 0, key(1, 0));
    world.complete(SECOND);
    world.fault(FaultKind::ClusterGone, 0, FOR_GOOD);
    world.run_for(SECOND);
    create(&mut world, watch, key(2, 0));
    cancel(&mut world, watch, 0);
    world.run_for(SECOND / 10);
    assert_eq!(ids(&world, watch), [0, 0], "cancelled at once");
    world.run_while(11 * SECOND, |world| world.ended(watch).is_none());
    let ended = world.ended(watch).and_then(Option::as_ref).expect("by the proxy");
    assert_eq!(
        (ended.code, &*ended.message),
        (14, "etcdserver: request timed out")
    );
}

/// Creations don't wait for one another, neither the first time nor after a reconnect; revisions are read once for all
/// who wait, and without auth nothing else is.
#[test]
fn rows_40_41_creations_are_pipelined() {
    let mut settings = settings(3, 1);
    settings.latency = Duration::from_millis(25)..Duration::from_millis(26);
    settings.clients[0].watch.window = 1_000;
    let mut world = settled(settings);
    let watch = open(&mut world, 0);
    let began = world.now();
    let keys: Vec<u8> = (0..250).collect();
    for number in &keys {
        create(&mut world, watch, key(*number, 0));
    }
    world.complete(3 * SECOND);
    // There and back on both sides, twice for those who came while the first question was asked.
    let took = world.now() - began;
    assert!(took < Duration::from_millis(400), "{took:?}");
    assert!(
        world.questions().0 <= 4 && world.questions().1 == 0,
        "{:?}",
        world.questions()
    );
    assert_eq!((world.watch_cost().live, world.watch_cost().creates), (250, 250));
    let member = fault(&mut world, FaultKind::Kill);
    world.run_while(10 * SECOND, |world| {
        world.watch_cost().creates < 500 || world.in_use(0).is_none_or(|now| now == member)
    });
    world.run_for(SECOND);
    assert_eq!((world.watch_cost().live, world.watch_cost().creates), (250, 500));
    let written = put(&mut world, 249);
    world.complete(SECOND);
    assert_eq!(revisions(&world, watch), [written]);
}

/// Watches are spread over several streams.
#[test]
fn row_42_several_streams() {
    let mut world = world(1, 1);
    let watch = open(&mut world, 0);
    for number in 0..8 {
        create(&mut world, watch, key(number, 0));
    }
    world.complete(SECOND);
    assert_eq!((world.watch_cost().live, world.watch_cost().calls), (8, 4));
}

/// However many come at once, from whenever, there is one watcher of a range; also after a reconnect. A key in it needs
/// none of its own.
#[test]
fn row_43_one_watcher_of_a_range() {
    let mut world = world(3, 20);
    let before = put(&mut world, 1);
    let watches: Vec<_> = (0..400)
        .map(|number| {
            watch(
                &mut world,
                number % 20,
                range(0, 9, if number % 7 == 0 { before } else { 0 }),
            )
        })
        .collect();
    world.complete(10 * SECOND);
    world.run_while(10 * SECOND, |world| world.watch_cost().catching_up > 0);
    let cost = world.watch_cost();
    assert_eq!(cost.live, 1);
    assert!(cost.creates <= 4, "{cost:?}");
    let inside = watch(&mut world, 3, key(5, 0));
    world.complete(SECOND);
    assert_eq!(world.watch_cost(), cost);
    fault(&mut world, FaultKind::Kill);
    world.run_for(8 * SECOND);
    assert_eq!(world.watch_cost().live, 1);
    let (other, written) = (put(&mut world, 1), put(&mut world, 5));
    world.complete(SECOND);
    assert_eq!(revisions(&world, inside), [written]);
    for (number, watch) in watches.into_iter().enumerate() {
        let expected = if number % 7 == 0 {
            vec![before, other, written]
        } else {
            vec![other, written]
        };
        assert_eq!(revisions(&world, watch), expected);
    }
}

/// Previous pairs are asked for only when somebody wants them.
#[test]
fn row_44_previous_pairs() {
    let mut world = world(1, 2);
    let plain = watch(&mut world, 0, key(1, 0));
    world.complete(SECOND);
    let first = put(&mut world, 1);
    world.complete(SECOND);
    assert_eq!(world.watch_cost().prev_creates, 0);
    let request = WatchCreateRequest {
        prev_kv: true,
        ..key(1, first)
    };
    let wishful = watch(&mut world, 1, request);
    world.complete(3 * SECOND);
    assert!(world.watch_cost().prev_creates > 0);
    let second = put(&mut world, 1);
    world.complete(SECOND);
    assert_eq!(revisions(&world, plain), [first, second]);
    assert_eq!(revisions(&world, wishful), [first, second]);
    world.run_while(10 * SECOND, |world| world.watch_cost().catching_up > 0);
    assert_eq!(world.watch_cost().live, 1);
}
