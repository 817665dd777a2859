//! What one client does to itself is nothing to another.

use etcd_proxy_core::lease::{ClientId, Config};

use super::{SECOND, TRIP, ms, proven, seen, took, ttls, world};
use crate::world::World;

/// Ten clients with a lease each, known and renewed.
fn innocents(world: &mut World) -> Vec<ClientId> {
    (100..110).map(|lease| proven(world, lease, 30)).collect()
}

/// All of them heartbeat now. Answers how long the slowest of them waits for its answer.
fn slowest(world: &mut World, ids: &[ClientId]) -> std::time::Duration {
    for (lease, id) in (100..).zip(ids) {
        world.beat(*id, lease);
    }
    world.run(SECOND);
    let last = |id: &ClientId| *seen(world, *id).last().expect("there are some");
    for id in ids {
        assert!(world.clients[id].asked.is_empty(), "each is answered");
        assert_eq!(last(id).ttl, 30);
    }
    ids.iter()
        .map(|id| took(&last(id)))
        .max()
        .expect("there are some")
}

/// A refusal ends the culprit's stream, and nobody else's.
#[test]
fn a_refused_lease() {
    let mut world = world();
    let ids = innocents(&mut world);
    for lease in 1..=3 {
        world.grant(lease, 30);
        world.cluster.denied.insert((None, lease));
        let culprit = world.open(None, false);
        world.beat(culprit, lease);
    }
    let slowest = slowest(&mut world, &ids);
    assert!(slowest < TRIP * 8, "{slowest:?}");
    assert_eq!(world.ended.len(), 3);
    assert!(world.ended.iter().all(|(_, status)| status.code == 7));
    // The next one comes on a stream that no known lease is on.
    world.grant(4, 30);
    world.cluster.denied.insert((None, 4));
    let culprit = world.open(None, false);
    world.beat(culprit, 4);
    let slowest = self::slowest(&mut world, &ids);
    assert!(slowest < TRIP, "{slowest:?}");
    assert_eq!(world.ended.len(), 4);
}

/// A lease that has ended and isn't revoked holds up a server's stream. Others don't wait for that for long, and the
/// next time not at all.
#[test]
fn an_ending_lease() {
    let mut world = world();
    world.grant(1, 2);
    world.grant(2, 5);
    let ids = innocents(&mut world);
    world.is_revoking = false;
    let culprit = world.open(None, false);
    world.run(SECOND * 2);
    world.beat(culprit, 1);
    let slowest = slowest(&mut world, &ids);
    assert!(
        slowest > world.config.stall / 2 && slowest < world.config.stall + TRIP * 2,
        "{slowest:?}"
    );
    assert_eq!(world.router.stats().stalls, 1);
    world.run(SECOND * 2);
    world.beat(culprit, 2);
    let slowest = self::slowest(&mut world, &ids);
    assert!(slowest < TRIP, "{slowest:?}");
    // The culprit waits as it would at the server.
    assert!(seen(&world, culprit).is_empty());
    world.revoke(1);
    world.revoke(2);
    world.run(ms(10));
    assert_eq!(ttls(&world, culprit), [0, 0]);
    assert!(world.ended.is_empty());
}

/// Who is known to come too late has another stream from the start.
#[test]
fn a_late_heartbeat() {
    let mut world = world();
    let culprit = proven(&mut world, 1, 5);
    let ids = innocents(&mut world);
    world.is_revoking = false;
    world.run(SECOND * 5);
    world.beat(culprit, 1);
    let slowest = slowest(&mut world, &ids);
    assert!(slowest < TRIP, "{slowest:?}");
    assert_eq!((world.opened, world.router.stats().stalls), (2, 1));
    world.revoke(1);
    world.run(ms(10));
    assert_eq!(ttls(&world, culprit), [5, 0]);
}

/// A heartbeat that stays without answer alone keeps its stream, and others get a new one; when its client goes, the
/// stream does.
#[test]
fn a_stuck_heartbeat() {
    let mut world = world();
    let ids = innocents(&mut world);
    world.grant(1, 60);
    world.cluster.stuck.insert(1);
    let culprit = world.open(None, false);
    world.beat(culprit, 1);
    world.run(SECOND);
    let slowest = slowest(&mut world, &ids);
    assert!(slowest < TRIP * 2, "{slowest:?}");
    assert_eq!(world.streams.len(), 2);
    // It is asked again from time to time.
    assert!(world.sent[&1] <= 2);
    world.close(culprit);
    assert_eq!(world.streams.len(), 1);
    assert_eq!(world.router.stats().leases, 10);
}

/// Many of them: no more streams than allowed, and nobody waits for the others.
#[test]
fn many_stuck_heartbeats() {
    let config = Config {
        alone_max: 3,
        ..Config::default()
    };
    let mut world = World::new(1, config);
    let ids = innocents(&mut world);
    let culprit = world.open(None, false);
    for lease in 1..=20 {
        world.grant(lease, 60);
        world.cluster.stuck.insert(lease);
        world.beat(culprit, lease);
        world.run(ms(100));
    }
    world.run(SECOND * 2);
    let slowest = slowest(&mut world, &ids);
    assert!(slowest < TRIP * 2, "{slowest:?}");
    assert!(world.streams.len() <= 7, "{}", world.streams.len());
    world.cluster.stuck.clear();
    world.start_all();
    world.run(SECOND * 10);
    assert_eq!(ttls(&world, culprit), [60; 20]);
}

/// A token that isn't valid is nobody's fault but its holders', and they are told all at once.
#[test]
fn an_invalid_token() {
    let mut world = world();
    let ids = innocents(&mut world);
    let holders: Vec<ClientId> = (0..100).map(|_| world.open(Some("two"), true)).collect();
    let silent = world.open(Some("two"), false);
    world.run(ms(10));
    let opened = world.opened;
    world.cluster.expired.insert("two");
    for (lease, id) in (1..).zip(&holders) {
        world.beat(*id, lease);
    }
    let slowest = slowest(&mut world, &ids);
    assert!(slowest < TRIP, "{slowest:?}");
    assert_eq!(world.ended.len(), 100);
    assert!(world.ended.iter().all(|(_, status)| status.code == 16));
    assert!(world.opened <= opened + 1);
    assert!(world.clients.contains_key(&silent), "it has asked for nothing");
}

/// A client that dies takes what it alone wanted with it.
#[test]
fn a_dead_client() {
    let mut world = world();
    let other = proven(&mut world, 1, 30);
    let id = world.open(None, false);
    world.grant(2, 30);
    world.is_down = true;
    world.end_all("the connection is lost");
    for lease in [1, 2] {
        world.beat(id, lease);
    }
    world.beat(other, 1);
    world.run(SECOND);
    world.close(id);
    world.is_down = false;
    world.run(SECOND * 3);
    assert_eq!(ttls(&world, other), [30, 30]);
    assert_eq!(world.sent.get(&2), None);
    // On its way it can't be called back, but isn't repeated.
    let id = world.open(None, false);
    world.beat(id, 2);
    world.beat(id, 2);
    assert_eq!(world.sent[&2], 1);
    world.close(id);
    world.end_all("the connection is lost");
    world.run(SECOND * 3);
    assert_eq!(world.sent[&2], 1);
}

/// Another proxy in a server's place needn't answer in order. Then it isn't the first without answer that was refused,
/// and nobody is told what is meant for another.
#[test]
fn a_refusal_out_of_order() {
    for seed in 0..20 {
        let mut world = World::new(seed, Config::default());
        world.cluster.is_proxy = true;
        let ids = innocents(&mut world);
        world.grant(1, 30);
        world.cluster.denied.insert((None, 1));
        let culprit = world.open(None, false);
        for (lease, id) in (100..).zip(&ids) {
            world.beat(*id, lease);
        }
        world.beat(culprit, 1);
        world.run(SECOND);
        assert!(ids.iter().all(|id| ttls(&world, *id) == [30, 30]));
        assert_eq!(world.ended.len(), 1);
    }
}

/// A heartbeat that was in time when it came, and isn't any more when there is a stream again.
#[test]
fn a_heartbeat_that_became_late() {
    let mut world = world();
    let culprit = proven(&mut world, 1, 5);
    let ids = innocents(&mut world);
    world.is_revoking = false;
    world.run(ms(4800) - (world.now - etcd_proxy_core::time::Instant::ZERO));
    world.is_down = true;
    world.end_all("the connection is lost");
    world.beat(culprit, 1);
    // For this stream there is no member; for the next one there is.
    world.is_down = false;
    world.run(ms(250));
    let slowest = slowest(&mut world, &ids);
    assert!(slowest < ms(100), "{slowest:?}");
    assert_eq!(seen(&world, culprit).len(), 1);
    world.revoke(1);
    world.run(ms(50));
    assert_eq!(ttls(&world, culprit), [5, 0]);
}
