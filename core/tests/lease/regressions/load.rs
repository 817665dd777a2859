//! What heartbeats cost, and that there is room for all.

use std::time::Duration;

use etcd_proxy_core::lease::{ClientId, Config};

use super::{SECOND, ms, proven, seen, ttls, world};
use crate::client::heartbeat;
use crate::world::World;

/// 10,000 leases of 1,000 clients share one stream, in good times.
#[test]
fn one_stream_for_all() {
    let mut world = world();
    let ids: Vec<ClientId> = (0..1000).map(|_| world.open(None, true)).collect();
    for lease in 0..10_000 {
        world.grant(lease + 1, 60);
    }
    for _ in 0..2 {
        for lease in 0..10_000_usize {
            world.beat(ids[lease % 1000], lease as i64 + 1);
        }
        world.run(SECOND * 20);
    }
    assert_eq!(world.opened, 1);
    assert!(ids.iter().all(|id| ttls(&world, *id) == [60; 20]));
    let stats = world.router.stats();
    assert_eq!((stats.heartbeats_in, stats.heartbeats_out), (20_000, 20_000));
    assert_eq!((stats.clients, stats.upstreams, stats.leases), (1000, 1, 10_000));
    assert_eq!(stats.latency.iter().sum::<u64>(), 20_000);
}

/// A member that takes its time: more streams, but only when answers would come too late, and only for a while.
#[test]
fn more_streams_for_a_slow_member() {
    let mut world = world();
    world.service = ms(1);
    let id = world.open(None, false);
    let other = world.open(None, false);
    let beat = |world: &mut World, leases: std::ops::Range<i64>| {
        for lease in leases {
            world.beat(if lease % 2 == 0 { id } else { other }, lease);
        }
    };
    for lease in 0..1000 {
        world.grant(lease, 5);
    }
    beat(&mut world, 0..500);
    world.run(SECOND);
    // 500 ms: an eighth of the TTL is 625.
    beat(&mut world, 0..500);
    world.run(SECOND);
    assert_eq!(world.opened, 1);
    // All of them, again and again, take 2 s on one stream.
    for _ in 0..30 {
        beat(&mut world, 0..1000);
        world.run(ms(500));
        assert!(world.streams.len() <= world.config.streams_max);
    }
    assert_eq!(world.expired, 0, "none is lost");
    assert!(world.streams.len() >= 2);
    for _ in 0..10 {
        beat(&mut world, 0..10);
        world.run(SECOND);
    }
    assert_eq!(world.streams.len(), 1);
    assert_eq!(world.router.stats().stalls, 0);
}

/// A client that heartbeats in a loop costs one heartbeat in a round trip, and has all its answers.
#[test]
fn a_loop_costs_one_heartbeat_in_a_round_trip() {
    let mut world = world();
    let id = proven(&mut world, 1, 30);
    let others: Vec<ClientId> = (0..20).map(|_| world.open(None, false)).collect();
    let start = world.now;
    while world.now < start + SECOND {
        for id in others.iter().chain([&id]) {
            world.beat(*id, 1);
        }
        world.run(Duration::from_micros(100));
    }
    world.run(SECOND);
    let asked: usize = others.iter().chain([&id]).map(|id| seen(&world, *id).len()).sum();
    assert!(asked > 50_000, "{asked}");
    assert!((500..=1000).contains(&world.sent[&1]), "{}", world.sent[&1]);
    let stats = world.router.stats();
    assert_eq!(stats.heartbeats_in, stats.heartbeats_out + stats.shared);
    assert_eq!(stats.answers, stats.heartbeats_in);
}

/// With the flag it costs one in so much time, and who asks later is renewed.
#[test]
fn answers_are_shared_within_a_time() {
    let config = Config {
        share_within: Some(ms(200)),
        ..Config::default()
    };
    let mut world = World::new(1, config);
    let id = proven(&mut world, 1, 30);
    for _ in 0..1000 {
        world.beat(id, 1);
        world.run(ms(1));
    }
    assert!((3..=6).contains(&world.sent[&1]), "{}", world.sent[&1]);
    assert_eq!(seen(&world, id).len(), 1001);
    world.run(ms(300));
    let sent = world.sent[&1];
    world.beat(id, 1);
    world.run(ms(10));
    assert_eq!(world.sent[&1], sent + 1);
    // That there is no lease isn't shared.
    world.revoke(1);
    world.run(ms(300));
    for _ in 0..3 {
        world.beat(id, 1);
        world.run(ms(10));
    }
    assert_eq!(world.sent[&1], sent + 4);
}

/// A client with too many requests, or too many answers that it doesn't read, isn't read from for a while.
#[test]
fn clients_are_bounded() {
    let config = Config {
        requests_max: 4,
        outbox_bytes_max: 100,
        ..Config::default()
    };
    let mut world = World::new(1, config);
    let id = world.open(None, false);
    for lease in 0..4 {
        assert!(!world.clients[&id].is_paused);
        world.beat(id, lease);
    }
    assert!(world.clients[&id].is_paused);
    world.run(ms(20));
    assert!(!world.clients[&id].is_paused);
    world.clients.get_mut(&id).expect("it is there").is_stopped = true;
    for _ in 0..20 {
        world.beat(id, 4);
        world.run(ms(20));
    }
    assert!(world.clients[&id].is_paused);
    let held: usize = world.clients[&id].outbox.iter().sum();
    assert!((100..200).contains(&held), "{held}");
    assert_eq!(world.router.stats().outbox_bytes, held);
    assert!(!world.clients[&id].pending.is_empty());
    world.clients.get_mut(&id).expect("it is there").is_stopped = false;
    while !world.clients[&id].pending.is_empty() {
        world.take_all(id);
        world.run(ms(20));
    }
    world.take_all(id);
    assert_eq!(seen(&world, id).len(), 24);
}

/// Of more leases than are remembered, the rest is forgotten, and served all the same.
#[test]
fn memory_is_bounded() {
    let config = Config {
        leases_max: 10,
        ..Config::default()
    };
    let mut world = World::new(1, config);
    let id = world.open(None, false);
    for _ in 0..2 {
        for lease in 1..=50 {
            world.grant(lease, 60);
            world.send(id, heartbeat(lease));
        }
        world.run(SECOND);
        assert_eq!(world.router.stats().leases, 10);
    }
    assert_eq!(ttls(&world, id), [60; 100]);
}

/// Heartbeats that come faster than a member answers them, all the time: more streams, until there are fewer.
#[test]
fn more_streams_for_a_busy_member() {
    let mut world = world();
    world.service = ms(1);
    let ids: Vec<ClientId> = (0..100).map(|_| world.open(None, false)).collect();
    for lease in 0..100 {
        world.grant(lease, 60);
    }
    let beat = |world: &mut World, ids: &[ClientId]| {
        let answers = world.router.stats().answers;
        let start = world.now;
        while world.now < start + SECOND {
            for (lease, id) in (0..).zip(ids) {
                if world.clients[id].asked.is_empty() {
                    world.beat(*id, lease);
                }
            }
            world.run(Duration::from_micros(500));
        }
        world.router.stats().answers - answers
    };
    assert!(
        beat(&mut world, &ids[..4]) > 900,
        "one stream is enough for a few"
    );
    beat(&mut world, &ids[..4]);
    assert_eq!(world.opened, 1);
    beat(&mut world, &ids);
    // One stream answers 1,000. Now and then it is tried whether one is enough again.
    let together = (0..6).map(|_| beat(&mut world, &ids)).sum::<u64>() / 6;
    assert!(together > 1_500, "{together}");
    assert!((2..=8).contains(&world.streams.len()), "{}", world.streams.len());
    for _ in 0..10 {
        beat(&mut world, &ids[..4]);
    }
    assert_eq!(world.streams.len(), 1);
}

/// What a burst opened is closed again, though the heartbeats that go on still wait for each other now and then.
#[test]
fn a_burst_leaves_no_streams() {
    let mut world = world();
    world.service = ms(1);
    let id = world.open(None, false);
    for lease in 0..1000 {
        world.grant(lease, 5);
        world.beat(id, lease);
    }
    for _ in 0..4 {
        world.run(ms(500));
        (0..1000).for_each(|lease| world.beat(id, lease));
    }
    assert!(world.streams.len() >= 2);
    // A hundred in 200 ms, which one stream answers in 100 ms.
    for round in 0..60 {
        (0..60).for_each(|lease| world.beat(id, round % 10 * 100 + lease));
        world.run(ms(30));
        (60..100).for_each(|lease| world.beat(id, round % 10 * 100 + lease));
        world.run(ms(170));
    }
    assert_eq!(world.streams.len(), 1);
}

/// Never more streams than allowed, however busy the member is.
#[test]
fn streams_are_bounded() {
    let config = Config {
        streams_max: 2,
        ..Config::default()
    };
    let mut world = World::new(1, config);
    world.service = ms(5);
    let id = world.open(None, false);
    for lease in 0..100 {
        world.grant(lease, 60);
    }
    for _ in 0..50 {
        for lease in 0..100 {
            if !world.clients[&id].asked.contains_key(&lease) {
                world.beat(id, lease);
            }
        }
        world.run(ms(100));
        assert!(world.streams.len() <= 2);
    }
    assert_eq!(world.streams.len(), 2);
}
