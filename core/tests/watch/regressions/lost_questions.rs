//! Questions for progress that a server left without answer.

use std::time::Duration;

use etcd_proxy_core::watch::Config;

use super::watch;
use crate::client::Client;
use crate::world::World;

/// Everything that is on its way arrives, and what comes of it is on its way back: 50 ms.
fn round_trip(world: &mut World) {
    world.pass(Duration::from_millis(50));
    while world.answer_check() {}
    while world.hear_answer() {}
    for id in world.stream_ids() {
        for _ in 0..world.streams[&id].inbox.len() {
            world.server_step(id);
        }
        world.server_sync(id);
        while world.server_send(id) {}
    }
    world.finish_work();
    for client in 0..world.clients.len() {
        while world.take(client) {}
    }
}

/// A server is silent for ten seconds, as one is while a watcher of the stream is behind, and somebody waits for progress all
/// the time. Afterwards each answer is taken for one of the first question that was lost, so it takes some until one is new
/// enough for who comes then: not as many as were lost. The first one is asked for after 0.8 s at most.
#[test]
fn who_comes_after_many_of_them_is_told_soon() {
    let config = Config {
        live_streams_max: 1,
        ..Config::default()
    };
    let mut world = World::new(1, config, 1);
    let waiting = world.open(None, false);
    world.create(waiting, watch("a", "", 0));
    world.settle();
    world.send(waiting, Client::ask_progress());
    let mut lost = 0;
    for _ in 0..100 {
        for stream in world.streams.values_mut() {
            lost += stream.inbox.len();
            stream.inbox.clear();
        }
        world.pass(Duration::from_millis(100));
    }
    assert!(lost >= 40, "{lost} questions");
    let late = world.open(None, false);
    world.create(late, watch("b", "", 0));
    while world.clients[late].watching.is_empty() {
        round_trip(&mut world);
    }
    world.send(late, Client::ask_progress());
    let mut round_trips = 0;
    while world.clients[late].manual_progress.is_empty() {
        round_trips += 1;
        assert!(round_trips <= 30, "not told after {round_trips} round trips");
        round_trip(&mut world);
    }
}
