//! A client with very many watchers costs others nothing: no event has the hub look at more than a few of them, which
//! [`Stats::steps`](etcd_proxy_core::watch::Stats::steps) counts.

use etcd_proxy_core::watch::Config;

use super::{SECOND, live, put, revisions, watch, world};
use crate::client::Client;
use crate::world::World;

pub(super) const CROWD: usize = 2_000;

/// Steps of one event: what it may do by itself, and the rest of a portion of work.
pub(super) const STEPS_MAX: u64 = 100;

pub(super) fn keys(count: usize) -> Vec<&'static str> {
    (0..count).map(|n| &*format!("crowd{n:05}").leak()).collect()
}

/// A client's watchers of single keys, as many as are asked for.
pub(super) fn crowd(world: &mut World, client: usize, keys: &[&'static str]) {
    for some in keys.chunks(world.config.requests_max / 2) {
        for key in some {
            world.create(client, watch(key, "", 0));
        }
        world.settle();
    }
    assert_eq!(world.clients[client].watching.len(), keys.len());
}

/// The most steps of an event while something is done.
pub(super) fn most_steps(world: &mut World, act: impl FnOnce(&mut World)) -> u64 {
    world.most_steps = 0;
    act(world);
    world.most_steps
}

/// A world with a neighbour, who is client 0, and a crowd of another client's.
pub(super) fn with_crowd(count: usize) -> World {
    let mut world = world();
    let neighbour = world.open(None, false);
    world.create(neighbour, watch("k", "", 0));
    let other = world.open(None, false);
    crowd(&mut world, other, &keys(count));
    world
}

/// The neighbour gets its events at the same price whoever is there.
pub(super) fn event_steps(world: &mut World) -> u64 {
    let before = world.hub.stats().steps;
    let written = put(world, "k");
    world.settle();
    assert_eq!(revisions(world, 0).last(), Some(&written));
    world.hub.stats().steps - before
}

#[test]
fn events_beside_an_idle_crowd() {
    let (mut few, mut many) = (with_crowd(10), with_crowd(CROWD));
    assert_eq!(event_steps(&mut few), event_steps(&mut many));
}

#[test]
fn creating_a_crowd() {
    let mut world = world();
    let client = world.open(None, false);
    let most = most_steps(&mut world, |world| crowd(world, client, &keys(CROWD)));
    assert!(most <= STEPS_MAX, "{most} steps");
}

/// Neither does a progress request of it that can't be answered, though the hub asks servers again and again.
#[test]
fn a_crowd_that_waits_for_progress() {
    let mut world = with_crowd(CROWD);
    let start = world.store.revision + 1_000;
    world.create(1, watch("late", "", start));
    world.settle();
    world.send(1, Client::ask_progress());
    let most = most_steps(&mut world, |world| {
        for _ in 0..10 {
            put(world, "k");
            world.run(SECOND / 10);
        }
    });
    assert!(most <= STEPS_MAX, "{most} steps");
    let steps = event_steps(&mut world);
    assert!(steps <= STEPS_MAX, "{steps} steps for one event");
    assert!(
        world.clients[1].manual_progress.is_empty(),
        "the start is to come"
    );
    // And when it can be, it is.
    let message = world.clients[1].cancel(CROWD as i64);
    world.send(1, message);
    world.send(1, Client::ask_progress());
    world.run(SECOND);
    assert_eq!(world.clients[1].manual_progress, [world.store.revision]);
}

/// All are told in time, one portion after the other.
#[test]
fn a_crowd_that_is_notified() {
    let config = Config {
        progress_notify_interval: SECOND,
        ..Config::default()
    };
    let mut world = World::new(1, config, 1);
    let neighbour = world.open(None, false);
    world.create(neighbour, watch("k", "", 0));
    let other = world.open(None, false);
    for some in keys(CROWD).chunks(500) {
        for key in some {
            let mut request = watch(key, "", 0);
            request.progress_notify = true;
            world.create(other, request);
        }
        world.settle();
    }
    let before = world.clients[other].notified;
    let most = most_steps(&mut world, |world| world.run(2 * SECOND));
    assert!(most <= STEPS_MAX, "{most} steps");
    assert!(world.clients[other].notified >= before + CROWD);
}

#[test]
fn a_crowd_that_leaves() {
    let mut world = with_crowd(CROWD);
    let most = most_steps(&mut world, |world| {
        world.close(1);
        put(world, "k");
        world.settle();
    });
    assert!(most <= STEPS_MAX, "{most} steps");
    assert_eq!((world.hub.stats().watchers, live(&world)), (1, 1));
    event_steps(&mut world);
}

/// While the member takes nothing the crowd's watchers are still to be created there.
#[test]
fn a_crowd_that_leaves_a_frozen_member() {
    let mut world = world();
    let neighbour = world.open(None, false);
    world.create(neighbour, watch("k", "", 0));
    world.settle();
    let other = world.open(None, false);
    for some in keys(CROWD).chunks(500) {
        for key in some {
            world.create(other, watch(key, "", 0));
        }
        while world.answer_check() || world.hear_answer() || world.finish_work() {}
        while world.take(other) {}
    }
    assert_eq!(world.hub.stats().live_sources, CROWD + 1);
    let most = most_steps(&mut world, |world| {
        world.close(1);
        world.finish_work();
    });
    assert!(most <= STEPS_MAX, "{most} steps");
    assert_eq!(world.hub.stats().live_sources, 1);
    world.settle();
    assert_eq!(live(&world), 1);
    event_steps(&mut world);
}

/// A range that covers all of it costs no more than any other one; and when its own source ends, nobody misses an event.
#[test]
fn a_range_over_a_crowd_that_comes_and_goes() {
    let mut world = with_crowd(CROWD);
    let most = most_steps(&mut world, |world| {
        for _ in 0..3 {
            world.create(0, watch("c", "d", 0));
            world.settle();
            let message = world.clients[0].cancel(1);
            world.send(0, message);
            world.settle();
            world.clients[0].watching.remove(&1);
        }
    });
    assert!(most <= STEPS_MAX, "{most} steps");
    let mut world = self::world();
    let wide = world.open(None, false);
    world.create(wide, watch("c", "d", 0));
    world.settle();
    let other = world.open(None, false);
    crowd(&mut world, other, &keys(CROWD));
    assert_eq!(live(&world), 1);
    let most = most_steps(&mut world, |world| {
        let message = world.clients[wide].cancel(0);
        world.send(wide, message);
        // On one of them, while they are on their way.
        let written = put(world, "crowd01999");
        world.settle();
        assert_eq!(revisions(world, other), [written]);
    });
    assert!(most <= STEPS_MAX, "{most} steps");
    assert_eq!(live(&world), CROWD);
    let written = put(&mut world, "crowd00000");
    world.settle();
    assert_eq!(revisions(&world, other).last(), Some(&written));
}

/// A slow client's watchers go on in portions, too, and get everything.
#[test]
fn a_crowd_that_lags() {
    let config = Config {
        outbox_bytes_max: 20_000,
        ..Config::default()
    };
    let mut world = World::new(1, config, 1);
    let neighbour = world.open(None, false);
    world.create(neighbour, watch("k", "", 0));
    let other = world.open(None, false);
    let watched = vec!["same"; CROWD];
    crowd(&mut world, other, &watched);
    world.clients[other].stopped = true;
    for _ in 0..3 {
        put(&mut world, "same");
        world.settle();
    }
    assert!(world.hub.stats().behind > CROWD / 2);
    world.clients[other].stopped = false;
    let most = most_steps(&mut world, |world| world.run(SECOND));
    assert!(most <= STEPS_MAX, "{most} steps");
    assert_eq!(world.hub.stats().behind, 0);
    assert_eq!(revisions(&world, other).len(), 3 * CROWD);
}
