//! What happens to all watchers of a crowd at once: their stream is lost, what they need is compacted, they may not see it any
//! more. No event has the hub look at more than a few of them, and everybody is told what he must be.

use etcd_proxy_core::watch::{Config, Status};

use super::crowd::{CROWD, STEPS_MAX, crowd, event_steps, keys, most_steps, with_crowd};
use super::{SECOND, live, put, revisions, watch};
use crate::world::World;

const DENIED: &str = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";

/// A world with a neighbour, and a crowd on one key of somebody's with this token.
fn on_one_key(config: Config, token: Option<&'static str>) -> World {
    let mut world = World::new(1, config, 1);
    let neighbour = world.open(Some("neighbour"), false);
    world.create(neighbour, watch("k", "", 0));
    world.settle();
    let other = world.open(token, false);
    crowd(&mut world, other, &vec!["same"; CROWD]);
    world
}

#[test]
fn a_crowd_whose_streams_are_lost() {
    let mut world = with_crowd(CROWD);
    for round in 0..3 {
        let most = most_steps(&mut world, |world| {
            world.end_streams();
            if round == 2 {
                // And again, while they are on their way.
                world.pass(SECOND / 100);
                world.end_streams();
            }
            world.run(2 * SECOND);
        });
        assert!(most <= STEPS_MAX, "{most} steps");
        assert_eq!(live(&world), CROWD + 1);
        event_steps(&mut world);
        let written = put(&mut world, "crowd00007");
        world.settle();
        assert_eq!(revisions(&world, 1).last(), Some(&written));
    }
}

#[test]
fn a_crowd_that_nobody_answers() {
    for config in [
        Config::default(),
        Config {
            steps_max: 1,
            ..Config::default()
        },
    ] {
        let mut world = on_one_key(config, None);
        world.outage = Some(Status::new(14, "etcdserver: request timed out"));
        let most = most_steps(&mut world, |world| {
            world.end_streams();
            world.run(12 * SECOND);
        });
        assert!(most <= STEPS_MAX, "{most} steps");
        assert_eq!((world.clients.len(), world.ended.len()), (0, 2));
        assert_eq!(world.hub.stats().watchers, 0);
    }
}

/// Its stream's member refuses to create the watcher that all of them share.
#[test]
fn a_crowd_that_may_not_watch_any_more() {
    let mut world = on_one_key(Config::default(), Some("crowd"));
    let shared = world.open(Some("neighbour"), false);
    world.create(shared, watch("same", "", 0));
    world.settle();
    let most = most_steps(&mut world, |world| {
        world.deny("crowd");
        world.end_streams();
        world.run(3 * SECOND);
    });
    assert!(most <= STEPS_MAX, "{most} steps");
    assert_eq!(world.clients[1].refused, [DENIED; CROWD]);
    let written = put(&mut world, "same");
    world.settle();
    assert_eq!(revisions(&world, shared), [written]);
    event_steps(&mut world);
}

#[test]
fn a_crowd_whose_history_is_compacted() {
    let mut world = on_one_key(Config::default(), None);
    world.outage = Some(Status::new(14, "etcdserver: request timed out"));
    world.end_streams();
    for _ in 0..5 {
        put(&mut world, "same");
    }
    world.store.compacted = world.store.revision - 1;
    world.outage = None;
    let most = most_steps(&mut world, |world| world.run(3 * SECOND));
    assert!(most <= STEPS_MAX, "{most} steps");
    assert_eq!(world.clients[1].compacted, CROWD);
    assert_eq!(world.hub.stats().compacted, 1 + CROWD as u64, "and the neighbour");
    world.create(0, watch("k", "", 0));
    world.settle();
    event_steps(&mut world);
}

/// Those who are too slow for history need a catch-up, all the same one.
#[test]
fn a_crowd_that_catches_up() {
    for trusts_progress in [true, false] {
        let config = Config {
            outbox_bytes_max: 20_000,
            history_bytes_max: 100,
            trusts_progress,
            ..Config::default()
        };
        let mut world = on_one_key(config, None);
        world.clients[1].stopped = true;
        for _ in 0..6 {
            put(&mut world, "same");
            world.settle();
        }
        assert!(world.hub.stats().behind > CROWD / 2);
        world.clients[1].stopped = false;
        let most = most_steps(&mut world, |world| {
            world.run(SECOND);
            put(world, "same");
            world.run(SECOND);
        });
        assert!(most <= STEPS_MAX, "{most} steps");
        assert_eq!(world.hub.stats().behind, 0);
        assert_eq!(revisions(&world, 1).len(), 7 * CROWD);
        event_steps(&mut world);
    }
}

/// A token is easily had: who has many of them has as many streams.
#[test]
fn a_crowd_of_tokens() {
    const TOKENS: usize = 500;
    let mut world = World::new(1, Config::default(), 1);
    for (number, key) in keys(TOKENS).into_iter().enumerate() {
        let token = &*format!("token{number}").leak();
        let client = world.open(Some(token), false);
        world.create(client, watch(key, "", 0));
    }
    world.run(SECOND);
    assert_eq!(live(&world), TOKENS);
    put(&mut world, "k");
    world.most_actions = 0;
    world.run(31 * SECOND);
    assert!(world.most_actions <= 100, "{} actions", world.most_actions);
    let told = world.streams.values().filter(|stream| stream.watchers() > 0);
    assert_eq!(told.count(), TOKENS);
}
