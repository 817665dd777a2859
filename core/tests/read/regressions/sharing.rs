//! Reads that share: answers, checks, flights.

use etcd_proxy_core::read::Status;
use etcd_proxy_proto::etcdserverpb::RangeRequest;

use super::{SECOND, TRIP, cached, linearizable, put, serializable, world};
use crate::world::{World, ms};

fn all_answered(world: &World) {
    assert!(world.readers.iter().all(|reader| reader.response.is_some()));
}

/// A hundred at a time cost one check, and those who come while it is under way one more.
#[test]
fn one_check_for_all() {
    let mut world = world();
    world.write_elsewhere(&[put("a", "1")]);
    world.warm(&linearizable("a", ""));
    let (checks, sent) = (world.told.checks, world.sent);
    for _ in 0..100 {
        world.read(linearizable("a", ""));
    }
    world.run(ms(1) / 4);
    for _ in 0..100 {
        world.read(linearizable("a", ""));
    }
    world.run(TRIP * 2);
    all_answered(&world);
    assert_eq!((world.told.checks, world.sent), (checks + 2, sent));
}

/// A check shows nothing of what comes after it began.
#[test]
fn later_readers_wait_for_a_later_check() {
    let mut world = world();
    world.write_elsewhere(&[put("a", "1")]);
    world.warm(&linearizable("a", ""));
    world.faults.watch_latency = 3000;
    let first = world.read(linearizable("a", ""));
    // The check has been there; the answer is on its way.
    world.run(ms(1));
    world.write_elsewhere(&[put("a", "2")]);
    let second = world.read(linearizable("a", ""));
    world.run(TRIP * 3);
    let value = |reader: usize| {
        let response = world.readers[reader].response.clone().expect("there is one");
        response.expect("it is allowed").kvs[0].value.clone()
    };
    assert_eq!((&value(first)[..], &value(second)[..]), (&b"1"[..], &b"2"[..]));
}

/// Nothing is cached: of those who ask the same at the same time one is forwarded, and one for all who come later, or
/// none if they may be shown what the first one is shown.
#[test]
fn misses_share() {
    let mut world = world();
    for _ in 0..100 {
        world.read(serializable("a", ""));
    }
    world.run(TRIP);
    all_answered(&world);
    assert_eq!((world.sent, world.told.shared), (1, 99));
    for _ in 0..100 {
        world.read(linearizable("b", ""));
    }
    world.run(TRIP * 2);
    all_answered(&world);
    assert_eq!((world.sent, world.told.shared), (3, 99 + 98));
    // Serializable ones join a linearizable one, not the other way round.
    world.read(linearizable("c", ""));
    world.read(serializable("c", ""));
    world.read(serializable("d", ""));
    world.read(linearizable("d", ""));
    world.run(TRIP * 2);
    all_answered(&world);
    assert_eq!(world.sent, 6);
}

/// The one who was forwarded goes away: the next one takes its place, and the others wait for that.
#[test]
fn a_leader_that_leaves() {
    let mut world = world();
    let readers: Vec<usize> = (0..10).map(|_| world.read(linearizable("a", ""))).collect();
    for reader in &readers[..3] {
        world.run(ms(1) / 10);
        world.cancel(*reader);
    }
    world.run(TRIP * 2);
    assert!(
        readers[3..]
            .iter()
            .all(|reader| world.readers[*reader].response.is_some())
    );
    assert_eq!((world.sent, world.told.shared), (4, 6));
    assert_eq!(world.cache.stats().flights, 0);
}

/// What the cluster says is for all who asked, also if it is a refusal.
#[test]
fn refusals_are_shared() {
    let mut world = world();
    world.faults.is_down = true;
    let readers: Vec<usize> = (0..10).map(|_| world.read(serializable("a", ""))).collect();
    world.run(TRIP);
    let refused = Some(Err(Status::new(14, "etcdserver: no leader")));
    assert!(
        readers
            .iter()
            .all(|reader| world.readers[*reader].response == refused)
    );
    assert_eq!(world.sent, 1);
}

/// Different questions about the same key.
#[test]
fn questions_are_told_apart() {
    let mut world = world();
    world.write_elsewhere(&[put("a", "1"), put("b", "2")]);
    let all = serializable("a", "c");
    let limited = RangeRequest {
        limit: 1,
        ..all.clone()
    };
    let counted = RangeRequest {
        count_only: true,
        ..all.clone()
    };
    for request in [&all, &limited, &counted] {
        world.warm(request);
    }
    assert_eq!(
        world.ask(all.clone()),
        (vec!["1".to_owned(), "2".to_owned()], true)
    );
    assert_eq!(world.ask(limited), (vec!["1".to_owned()], true));
    assert_eq!(world.ask(counted), (vec![], true));
    // The same answer, to both kinds of readers.
    assert_eq!(world.value(linearizable("a", "c")), cached("2"));
    assert_eq!(world.cache.stats().entries, 3);
}

/// Reads as fast as they come, and all the cluster sees is a check now and then; nobody waits.
#[test]
fn hot_reads_never_wait() {
    let mut world = world();
    world.write_elsewhere(&[put("a", "1")]);
    world.warm(&serializable("a", ""));
    let (checks, sent) = (world.told.checks, world.sent);
    for _ in 0..20_000 {
        let reader = world.read(serializable("a", ""));
        assert!(world.readers[reader].response.is_some(), "at once");
        world.run(ms(1) / 2);
    }
    assert_eq!(world.sent, sent);
    assert!(world.told.checks - checks <= 21, "{}", world.told.checks - checks);
}

/// Nobody reads: nothing is asked, and in the end nothing is watched.
#[test]
fn idle() {
    let mut world = world();
    world.warm(&serializable("a", ""));
    let checks = world.told.checks;
    world.run(world.config.idle - SECOND);
    assert_eq!(world.told.checks, checks);
    assert!(world.stream.watch.is_some());
    let before = world.stream.watch;
    world.warm(&serializable("a", ""));
    world.run(world.config.idle - SECOND);
    assert_eq!(world.stream.watch, before);
    world.run(SECOND * 2);
    assert_eq!((world.stream.watch, world.cache.stats().entries), (None, 0));
    world.warm(&serializable("a", ""));
    assert!(world.stream.watch.is_some() && world.stream.watch != before);
}
