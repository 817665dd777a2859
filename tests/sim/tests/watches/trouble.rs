//! Members that freeze, vanish or lose their leader.

use etcd_proxy_sim::{FaultKind, Identity, Key, Op};

use super::*;

/// What is promised of events when the member in use falls silent: five seconds until that is noticed, and a little to
/// go on elsewhere.
const EVENT_MAX: Duration = Duration::from_secs(6);

/// The member that serves a watch freezes, or can't be reached any more: events go on, without a gap, within seconds.
#[test]
fn row_14_a_silent_member() {
    for kind in [FaultKind::Freeze, FaultKind::BlackHole, FaultKind::PowerOff] {
        for seed in 1..10 {
            let (mut world, in_use) = with_direct_writer(seed);
            let watch = watch(&mut world, 0, range(0, 9, 0));
            world.complete(SECOND);
            let mut expected = vec![call(&mut world, 1, Op::Put { key: Key(1) })];
            world.complete(SECOND);
            world.fault(kind, in_use, 20 * SECOND);
            // It may have been the leader.
            world.run_while(4 * SECOND, |world| world.leader().is_none());
            let began = world.now();
            for key in 0..9 {
                expected.push(call(&mut world, 1, Op::Put { key: Key(key) }));
            }
            world.run_while(EVENT_MAX, |world| revisions(world, watch).len() < expected.len());
            assert!(world.now() - began <= EVENT_MAX);
            assert_ne!(world.in_use(0), Some(in_use));
            // What the frozen one says when it runs again is nobody's any more.
            world.run_for(25 * SECOND);
            expected.push(call(&mut world, 1, Op::Put { key: Key(3) }));
            world.complete(SECOND);
            assert_eq!(revisions(&world, watch), expected, "{kind:?}, seed {seed}");
            assert_eq!(world.ended(watch), None);
        }
    }
}

/// A member says goodbye, and freezes then: nobody asks any more how it is, so the watch must have left it.
#[test]
fn row_14_a_member_that_has_said_goodbye() {
    for seed in 1..10 {
        let (mut world, in_use) = with_direct_writer(seed);
        let watch = watch(&mut world, 0, range(0, 9, 0));
        world.complete(SECOND);
        world.fault(FaultKind::Goodbye, in_use, FOR_GOOD);
        world.run_while(4 * SECOND, |world| {
            [None, Some(in_use)].contains(&world.in_use(0))
        });
        world.run_for(SECOND);
        world.fault(FaultKind::Freeze, in_use, FOR_GOOD);
        // It may have been the leader.
        world.run_for(4 * SECOND);
        let written = call(&mut world, 1, Op::Put { key: Key(1) });
        world.run_while(EVENT_MAX, |world| revisions(world, watch) != [written]);
        assert_eq!(world.ended(watch), None);
    }
}

/// A member says goodbye for a while, so that another one is used; it is well again then, and falls silent later. A watch
/// on its old connection, which nobody can ask how it is, would never hear of anything any more.
#[test]
fn row_14_a_member_that_was_left_falls_silent() {
    for kind in [FaultKind::Freeze, FaultKind::BlackHole, FaultKind::PowerOff] {
        for seed in 1..6 {
            let (mut world, former) = with_direct_writer(seed);
            let watch = watch(&mut world, 0, range(0, 9, 0));
            world.complete(SECOND);
            world.fault(FaultKind::Goodbye, former, 2 * SECOND);
            world.run_while(4 * SECOND, |world| {
                [None, Some(former)].contains(&world.in_use(0))
            });
            world.run_for(10 * SECOND);
            assert_ne!(world.in_use(0), Some(former));
            world.fault(kind, former, FOR_GOOD);
            // It may have been the leader.
            world.run_for(4 * SECOND);
            let written = call(&mut world, 1, Op::Put { key: Key(1) });
            world.run_while(SECOND, |world| revisions(world, watch) != [written]);
            assert_eq!(world.ended(watch), None);
        }
    }
}

/// One of two connections breaks, and another member is used. The former one, to which the other connection still
/// leads, loses its leader later: what is on it would hear nothing, and be told that there is no leader.
#[test]
fn row_13_a_former_member_loses_its_leader() {
    for seed in 1..10 {
        let mut settings = settings(3, 2);
        (settings.seed, settings.proxy.endpoints.lanes) = (seed, 3);
        let former = settled(settings.clone()).in_use(0).expect("it has settled");
        settings.clients[1].target = Target::Member((former + 1) % 3);
        let mut world = settled(settings);
        let strict = world.watch(0, Identity::Anonymous, true);
        create(&mut world, strict, key(1, 0));
        let plain = watch(&mut world, 0, range(0, 9, 0));
        world.complete(SECOND);
        // A member that was well is dialled again at once, and wins now and then.
        for _ in 0..20 {
            world.fault(FaultKind::Cut, former, SECOND);
            world.run_for(SECOND / 20);
            if ![None, Some(former)].contains(&world.in_use(0)) {
                break;
            }
        }
        world.run_for(10 * SECOND);
        assert_ne!(world.in_use(0), Some(former));
        world.fault(FaultKind::Isolate, former, FOR_GOOD);
        world.run_for(6 * SECOND);
        let written = call(&mut world, 1, Op::Put { key: Key(1) });
        world.complete(SECOND);
        assert_eq!(revisions(&world, plain), [written], "seed {seed}");
        assert_eq!(revisions(&world, strict), [written], "seed {seed}");
        assert_eq!(
            (world.ended(strict), world.ended(plain)),
            (None, None),
            "seed {seed}"
        );
    }
}

/// The member in use loses its leader, and others have one: the proxy goes there, and nobody notices.
#[test]
fn row_13_a_member_without_leader_is_left() {
    for seed in 1..10 {
        let (mut world, in_use) = with_direct_writer(seed);
        let strict = world.watch(0, Identity::Anonymous, true);
        create(&mut world, strict, key(1, 0));
        let plain = watch(&mut world, 0, key(1, 0));
        world.complete(SECOND);
        world.fault(FaultKind::Isolate, in_use, FOR_GOOD);
        world.run_while(5 * SECOND, |world| {
            world.in_use(0) == Some(in_use) || world.leader().is_none()
        });
        let written = call(&mut world, 1, Op::Put { key: Key(1) });
        world.complete(3 * SECOND);
        assert_eq!(revisions(&world, plain), [written]);
        assert_eq!(world.ended(plain), None);
    }
}

/// Nobody has a leader: who asked for one is told so, in a server's words; the others wait, and miss nothing.
#[test]
fn row_13_no_leader_anywhere() {
    let mut world = world(3, 2);
    let strict = world.watch(0, Identity::Anonymous, true);
    create(&mut world, strict, key(1, 0));
    let idle = world.watch(0, Identity::Anonymous, true);
    let plain = watch(&mut world, 1, key(1, 0));
    world.complete(SECOND);
    let in_use = world.in_use(0).expect("it has settled");
    for other in (0..3).filter(|other| *other != in_use) {
        world.fault(FaultKind::Kill, other, 20 * SECOND);
    }
    world.run_while(10 * SECOND, |world| {
        world.ended(strict).is_none() || world.ended(idle).is_none()
    });
    for watch in [strict, idle] {
        let ended = world.ended(watch).and_then(Option::as_ref).expect("by the proxy");
        assert_eq!((ended.code, &*ended.message), (14, "etcdserver: no leader"));
    }
    assert_eq!(world.ended(plain), None);
    // Nor does a new one wait.
    let again = world.watch(0, Identity::Anonymous, true);
    create(&mut world, again, key(1, 0));
    world.run_while(3 * SECOND, |world| world.ended(again).is_none());
    world.run_for(30 * SECOND);
    let written = put(&mut world, 1);
    world.complete(3 * SECOND);
    assert_eq!(revisions(&world, plain), [written]);
}

/// Watchers of all kinds, killed and frozen members, compactions: whoever reads in the end has all.
#[test]
fn a_storm() {
    let mut world = world(3, 4);
    for _ in 0..200 {
        put(&mut world, 1);
    }
    for number in 0..60 {
        let start = 2 + number % 9 * 20;
        watch(&mut world, number as usize % 4, range(0, 9, start));
        if number % 6 == 0 {
            let kind = [
                FaultKind::Kill,
                FaultKind::Freeze,
                FaultKind::Cut,
                FaultKind::EndWatch,
            ];
            let member = world.in_use(0).unwrap_or_default();
            world.fault(kind[number as usize / 6 % 4], member, 3 * SECOND);
            world.run_for(SECOND / 3);
        }
        let write = world.call(0, Op::Put { key: Key(2) }, Manner::default());
        world.run_for(Duration::from_millis(50));
        let _ = world.outcome(write);
    }
    world.run_for(10 * SECOND);
    put(&mut world, 3);
    world.complete(20 * SECOND);
    world.run_while(10 * SECOND, |world| world.watch_cost().catching_up > 0);
    assert_eq!(world.watch_cost().live, 1);
}
