//! Clients with very many heartbeats, or very long ones: the others have their turns all the same.

use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_core::lease::{ClientId, Config};

use super::{SECOND, ms, proven, seen, took, ttls, world};
use crate::client::heartbeat;
use crate::world::World;

/// A world whose member answers 5,000 heartbeats a second on a stream, as a follower does.
fn follower() -> World {
    let mut world = world();
    world.service = Duration::from_micros(200);
    world
}

/// Heartbeats of leases that there aren't, as many as may be sent and more, on so many streams of so many connections.
fn flood(world: &mut World, connections: u64, streams: u64) -> Vec<ClientId> {
    let open = |stream: u64| world.open_on(1_000_000 + stream % connections, None, false);
    let ids: Vec<ClientId> = (0..streams).map(open).collect();
    for (at, id) in (0..).zip(&ids) {
        for lease in 0..2_000 {
            world.beat(*id, 1_000_000 + at * 10_000 + lease);
        }
    }
    ids
}

/// A heartbeat now; how long it takes to be answered. The lease lives.
fn answered_after(world: &mut World, id: ClientId, lease: i64) -> Duration {
    let before = seen(world, id).len();
    world.beat(id, lease);
    let until = world.now + SECOND * 10;
    while world.now < until && world.clients.contains_key(&id) && seen(world, id).len() == before {
        world.run(ms(5));
    }
    let seen = seen(world, id);
    assert_eq!(seen.len(), before + 1, "no answer in ten seconds");
    assert!(seen[before].ttl > 0, "the lease is lost");
    took(&seen[before])
}

/// Random leases on 60 streams, of one client or of many: a new lease with a TTL of five seconds lives, and one that is
/// known to live isn't behind them at all.
#[test]
fn heartbeats_of_leases_that_there_are_not() {
    for connections in [1, 60] {
        let mut world = follower();
        let old = proven(&mut world, 1, 5);
        flood(&mut world, connections, 60);
        world.run(ms(300));
        world.grant(2, 5);
        let new = world.open(None, false);
        let most = ms(250);
        for _ in 0..3 {
            let waited = answered_after(&mut world, new, 2);
            assert!(
                waited < most,
                "the new lease: {waited:?} with {connections} connections"
            );
            let waited = answered_after(&mut world, old, 1);
            assert!(
                waited < most,
                "the known lease: {waited:?} with {connections} connections"
            );
        }
        assert_eq!(world.expired, 0);
        assert!(world.streams.len() <= world.config.streams_max);
    }
}

/// Leases that live are heartbeated as fast as can be: a new lease has its turns too.
#[test]
fn heartbeats_of_leases_that_live() {
    let mut world = follower();
    for lease in 0..3_000 {
        world.grant(10_000 + lease, 60);
    }
    let open = |stream: u64| world.open_on(1_000 + stream, None, false);
    let ids: Vec<ClientId> = (0..60).map(open).collect();
    let beat_all = |world: &mut World| {
        for (at, id) in (0..).zip(&ids) {
            for lease in 0..500 {
                world.beat(*id, 10_000 + (at * 50 + lease) % 3_000);
            }
        }
    };
    beat_all(&mut world);
    world.run(SECOND * 3);
    beat_all(&mut world);
    world.run(ms(50));
    world.grant(1, 5);
    let new = world.open(None, false);
    let waited = answered_after(&mut world, new, 1);
    assert!(waited < ms(500), "{waited:?}");
}

/// A lease whose heartbeat waits behind hundreds of others of its connection has an earlier turn when a client of
/// another connection wants it.
#[test]
fn a_heartbeat_that_somebody_else_wants_too() {
    let config = Config {
        in_flight_max: 4,
        ..Config::default()
    };
    let mut world = World::new(1, config);
    world.service = ms(1);
    world.grant(1, 5);
    let first = world.open(None, false);
    for lease in 0..400 {
        world.beat(first, 1_000_000 + lease);
    }
    world.beat(first, 1);
    assert!(!world.clients[&first].is_paused, "all of them wait in the router");
    world.run(ms(20));
    let other = world.open(None, false);
    let waited = answered_after(&mut world, other, 1);
    assert!(waited < ms(40), "{waited:?}");
    assert_eq!(world.sent[&1], 1, "one heartbeat is for both");
}

/// All streams of a connection share what may wait for an answer; they are read from again, and all is answered.
#[test]
fn requests_of_a_connection_are_bounded() {
    let mut world = follower();
    let ids = flood(&mut world, 1, 20);
    let most = world.config.connection_requests_max + ids.len();
    for _ in 0..40 {
        world.run(ms(100));
        let waits: usize = ids.iter().map(|id| world.clients[id].waits()).sum();
        assert!(waits <= most && world.router.stats().leases <= most, "{waits}");
    }
    world.run(SECOND * 20);
    assert!(ids.iter().all(|id| seen(&world, *id).len() == 2_000));
}

/// And so do all connections.
#[test]
fn requests_of_all_connections_are_bounded() {
    let config = Config {
        all_requests_max: 10_000,
        ..Config::default()
    };
    let mut world = World::new(1, config);
    world.service = Duration::from_micros(200);
    let ids = flood(&mut world, 100, 100);
    let waits: usize = ids.iter().map(|id| world.clients[id].waits()).sum();
    // The first ones came when there were few.
    assert!(waits <= 3 * world.config.all_requests_max, "{waits}");
    world.run(SECOND * 2);
    let waits: usize = ids.iter().map(|id| world.clients[id].waits()).sum();
    assert!(waits <= world.config.all_requests_max + ids.len(), "{waits}");
    for id in &ids {
        world.close(*id);
    }
    world.run(SECOND * 10);
    let stats = world.router.stats();
    assert_eq!((stats.clients, stats.leases, stats.upstreams), (0, 0, 0));
}

/// What a server ignores isn't kept, nor sent, if it is long.
#[test]
fn long_requests() {
    let mut world = world();
    world.grant(5, 30);
    let id = world.open(None, false);
    world.run(ms(10));
    let mut message = heartbeat(5).to_vec();
    message.extend([0x52, 0x80, 0x80, 0x40]);
    message.resize(message.len() + (1 << 20), b'x');
    world.send(id, Bytes::from(message));
    world.run(ms(10));
    assert_eq!(ttls(&world, id), [30]);
    assert_eq!(world.last_sent, heartbeat(5));
}
