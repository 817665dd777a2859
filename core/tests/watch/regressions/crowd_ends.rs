//! What happens to all watchers of a crowd at once: their stream is lost, what they need is compacted, they may not see it any
//! more, a server takes no message of theirs, all of it is another history's. No event has the hub look at more than a few of them, and everybody is told what he must be.

use etcd_proxy_core::watch::{Config, Event, Status};
use etcd_proxy_proto::etcdserverpb::WatchCreateRequest;

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

/// A server ends the stream that a key's watcher is on, because it takes no such message: all who watch that key are told so, one
/// after the other, and nobody else.
#[test]
fn a_crowd_whose_key_is_too_large() {
    const CLIENTS: usize = 300;
    let mut world = World::new(1, Config::default(), 1);
    let neighbour = world.open(None, false);
    world.create(neighbour, watch("k", "", 0));
    world.settle();
    let large = WatchCreateRequest {
        key: vec![b'l'; 70_000].into(),
        ..WatchCreateRequest::default()
    };
    for client in 1..=CLIENTS {
        assert_eq!(world.open(None, false), client);
        world.create(client, large.clone());
    }
    for _ in 1..CROWD {
        world.create(1, large.clone());
        world.settle();
    }
    world.most_actions = 0;
    let most = most_steps(&mut world, |world| {
        for id in world.stream_ids() {
            world.end_stream(id, 8, "grpc: received message larger than max (70020 vs. 65536)");
        }
        world.run(SECOND);
    });
    assert!(most <= STEPS_MAX, "{most} steps");
    assert!(world.most_actions <= 100, "{} actions", world.most_actions);
    assert_eq!(world.ended.len(), CLIENTS);
    assert!(world.ended.iter().all(|(_, status)| status.code == 8));
    assert_eq!((live(&world), world.hub.stats().watchers), (1, 1));
    let written = put(&mut world, "k");
    world.settle();
    assert_eq!(revisions(&world, neighbour), [written]);
}

/// Watchers that the hub holds, whether anything finds them or not.
fn held(world: &World) -> usize {
    format!("{:?}", world.hub).matches("Watcher {").count()
}

/// All that a crowd had is forgotten in pieces, wherever it was when the store turned out to have another history; and whoever
/// comes meanwhile is served.
#[test]
fn a_crowd_of_another_history() {
    for step in ["watching", "lost", "asked about", "leaving", "catching up"] {
        let mut world = World::new(1, Config::default(), 1);
        let neighbour = world.open(None, false);
        world.create(neighbour, watch("k", "", 0));
        put(&mut world, "k");
        world.settle();
        let other = world.open(Some("crowd"), false);
        let start = i64::from(step == "catching up");
        for some in keys(CROWD).chunks(500) {
            for key in some {
                world.create(other, watch(key, "", start));
            }
            if step == "catching up" {
                while world.answer_check() || world.hear_answer() || world.finish_work() {}
                while world.take(other) {}
            } else {
                world.settle();
            }
        }
        match step {
            "lost" => world.end_streams(),
            "asked about" => {
                world.end_streams();
                world.finish_work();
                assert!(world.questions() > 100);
            }
            "leaving" => world.close(other),
            _ => {}
        }
        let steps = world.hub.stats().steps;
        let mut before = held(&world);
        assert!(before > CROWD / 2, "{step}: {before} watchers");
        let mut most_forgotten = 0;
        world.former.push(world.store.clone());
        let most = most_steps(&mut world, |world| {
            world.tell(Event::History(1));
            let stats = world.hub.stats();
            assert_eq!(
                (stats.watchers, stats.live_sources, stats.catch_up_sources),
                (0, 0, 0)
            );
            let mut is_late = false;
            loop {
                let now = held(world);
                most_forgotten = most_forgotten.max(before.saturating_sub(now));
                before = now;
                if !core::mem::replace(&mut is_late, true) {
                    let late = world.open(None, false);
                    world.create(late, watch("k", "", 0));
                } else if world.hub.next_timeout().is_some_and(|at| at <= world.now) {
                    world.tell(Event::Timeout);
                } else {
                    break;
                }
            }
        });
        assert_eq!(before, 1, "{step}: watchers that are left");
        assert!(
            most_forgotten as u64 <= STEPS_MAX,
            "{step}: {most_forgotten} at once"
        );
        assert!(most <= STEPS_MAX, "{step}: {most} steps");
        assert!(world.hub.stats().steps - steps >= CROWD as u64);
        let ended = if step == "leaving" { 1 } else { 2 };
        assert_eq!((world.ended.len(), world.clients.len()), (ended, 1), "{step}");
        world.settle();
        let written = put(&mut world, "k");
        world.settle();
        assert_eq!(revisions(&world, 0), [written], "{step}");
        let stats = world.hub.stats();
        assert_eq!(
            (stats.watchers, stats.live_sources, stats.catch_up_sources),
            (1, 1, 0)
        );
    }
}
