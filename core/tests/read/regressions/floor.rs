//! What was shown, also where it couldn't be read; and bounds of staleness that leave no time.

use etcd_proxy_core::read::Config;

use super::{SECOND, TRIP, cached, forwarded, linearizable, put, serializable, world};
use crate::world::{World, ms};

/// An answer passes that can't be read. Nobody loses an entry; whoever reads next is shown nothing older than that answer.
#[test]
fn an_unreadable_answer() {
    let mut world = world();
    world.write_elsewhere(&[put("a", "1"), put("b", "1")]);
    for request in [serializable("a", ""), linearizable("b", "")] {
        world.warm(&request);
    }
    let checks = world.told.checks;
    // The watch is slow, and the answer isn't.
    world.faults.watch_latency = 20_000;
    let revision = world.write_elsewhere(&[put("a", "2")]);
    world.show_unread(revision);
    assert_eq!(world.cache.stats().entries, 2, "nobody has lost anything");
    let reader = world.read(serializable("b", ""));
    world.run(ms(60));
    let response = world.readers[reader]
        .response
        .clone()
        .expect("by now")
        .expect("it is allowed");
    assert!(response.header.expect("there is one").revision >= revision);
    assert!(world.readers[reader].is_cached);
    assert_eq!(world.told.checks, checks + 1);
    // That is known now: nobody waits any more.
    let reader = world.read(serializable("b", ""));
    assert!(world.readers[reader].response.is_some());
}

/// One client has all its answers compressed: the others' reads cost a check now and then, and no read of the cluster.
#[test]
fn unreadable_answers_all_the_time() {
    let mut world = world();
    world.write_elsewhere(&[put("a", "1")]);
    world.warm(&serializable("a", ""));
    let sent = world.sent;
    for _ in 0..500 {
        let revision = world.cluster.last().revision;
        world.show_unread(revision);
        world.read(serializable("a", ""));
        world.run(ms(1));
    }
    world.run(SECOND);
    assert_eq!(world.sent, sent, "all are answered from the cache");
    assert_eq!(world.cache.stats().flushes, 1, "when the watch started");
}

/// A check that began after a read came is good, whatever the bound.
#[test]
fn no_staleness_at_all() {
    let config = Config {
        staleness_max: ms(0),
        ..Config::default()
    };
    let mut world = World::new(1, config);
    world.write_elsewhere(&[put("a", "1")]);
    for _ in 0..2 {
        world.value(serializable("a", ""));
    }
    let (checks, sent) = (world.told.checks, world.sent);
    for _ in 0..40 {
        assert_eq!(world.value(serializable("a", "")), cached("1"));
    }
    assert_eq!((world.told.checks - checks, world.sent - sent), (40, 0));
    // Also while the watch has still to come to what the check told.
    world.faults.watch_latency = 50_000;
    world.write_elsewhere(&[put("b", "2")]);
    let reader = world.read(serializable("a", ""));
    world.run(ms(90));
    assert!(world.readers[reader].is_cached && world.readers[reader].response.is_some());
    assert_eq!(world.told.checks - checks, 41);
    world.run(TRIP);
}

/// The member in use is cut off from the others, and has no leader: it answers serializable reads, which confirms nothing. What
/// the cache has is shown for as long as it may be old, and then each read gets what the member has.
#[test]
fn a_member_without_a_leader_confirms_nothing() {
    let mut world = world();
    world.write_elsewhere(&[put("a", "1")]);
    for request in [serializable("a", ""), serializable("b", "")] {
        world.warm(&request);
    }
    world.faults.is_leaderless = true;
    world.faults.lag = u64::MAX >> 20;
    world.cluster.use_member(world.now, 1);
    world.write_elsewhere(&[put("a", "2")]);
    world.run(world.config.staleness_max + ms(1));
    for _ in 0..30 {
        // One after the other, so that what one is told might confirm the other's answer.
        assert_eq!(world.value(serializable("a", "")), forwarded("1"));
        assert_eq!(world.value(serializable("b", "")), forwarded(""));
        world.run(ms(100));
    }
    // The next member has a leader.
    world.faults.is_leaderless = false;
    world.faults.lag = 0;
    world.cluster.use_member(world.now, 0);
    world.break_watch(ms(0));
    world.run(ms(200));
    world.warm(&serializable("a", ""));
    assert_eq!(world.value(serializable("a", "")), cached("2"));
}
