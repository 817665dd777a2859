//! What one client does, and what others notice of it.

use std::collections::BTreeSet;
use std::time::Duration;

use etcd_proxy_core::watch::{Config, UpstreamId, UpstreamKind};
use etcd_proxy_proto::etcdserverpb::WatchCreateRequest;

use super::{SECOND, put, revisions, watch, world};
use crate::client::Client;
use crate::world::World;

fn watch_large(bytes: usize) -> WatchCreateRequest {
    WatchCreateRequest {
        key: vec![b'k'; bytes].into(),
        ..WatchCreateRequest::default()
    }
}

/// The key of one who waits for a revision isn't everybody's: see the world's look at what is read.
#[test]
fn a_large_key_is_read_by_nobody() {
    let mut world = world();
    let (large, small) = (world.open(None, false), world.open(None, false));
    world.create(large, watch_large(70_000));
    world.create(small, watch("k", "", 0));
    world.settle();
    assert!(!world.clients[large].watching.is_empty() && !world.clients[small].watching.is_empty());
    assert_eq!(
        world.reads, 2,
        "one for whoever came first, and one for those who came meanwhile"
    );
}

/// What no server takes is refused to him who asks for it, before it ends the stream that all share.
#[test]
fn a_key_that_is_too_large() {
    let mut world = world();
    let (large, small) = (world.open(None, false), world.open(None, false));
    world.create(small, watch("k", "", 0));
    world.settle();
    world.create(large, watch_large(2 << 20));
    world.settle();
    assert_eq!((world.ended.len(), world.ended[0].1.code), (1, 8));
    let written = put(&mut world, "k");
    world.run(SECOND);
    assert_eq!(revisions(&world, 0), [written]);
    assert_eq!((world.opened, small), (1, 1));
}

/// A server that takes less than was thought ends the stream: once, and then whoever asks for so much is told so.
#[test]
fn a_server_that_takes_less() {
    let mut world = world();
    let (small, large) = (world.open(None, false), world.open(None, false));
    world.create(small, watch("k", "", 0));
    world.create(large, watch_large(100_000));
    world.settle();
    let message = "grpc: received message larger than max (100020 vs. 70000)";
    let ids: Vec<UpstreamId> = world.streams.keys().copied().collect();
    for id in ids {
        world.end_stream(id, 8, message);
    }
    assert_eq!((world.ended.len(), &*world.ended[0].1.message), (1, message));
    world.run(SECOND);
    let written = put(&mut world, "k");
    world.run(SECOND);
    assert_eq!(revisions(&world, small), [written]);
    assert_eq!(world.hub.stats().live_sources, 1);
    let again = world.open(None, false);
    world.create(again, watch_large(100_000));
    assert_eq!((world.ended.len(), world.ended[1].1.code), (2, 8));
}

/// Questions of one with credentials that can't be asked end his stream, and delay nobody else's.
#[test]
fn questions_take_turns() {
    let mut world = world();
    let (many, one) = (world.open(Some("one"), false), world.open(Some("two"), false));
    for number in 0..600 {
        let key = format!("key{number}").into_bytes();
        world.create(
            many,
            WatchCreateRequest {
                key: key.into(),
                ..watch("", "", 0)
            },
        );
    }
    let before = world.questions();
    assert!(before <= 128, "{before} at once");
    world.create(one, watch("k", "", 0));
    assert_eq!(world.questions(), before + 2, "those of another don't wait");
    world.settle();
    assert_eq!(world.clients[many].watching.len(), 600);
    assert_eq!(world.clients[one].watching.len(), 1);
}

/// Lets a while pass in which servers catch nobody up on some streams.
fn run_but(world: &mut World, stuck: &BTreeSet<UpstreamId>) {
    for _ in 0..20 {
        while world.answer_check() || world.hear_answer() {}
        let ids: Vec<UpstreamId> = world.streams.keys().copied().collect();
        for id in ids {
            while world.server_step(id) {}
            if !stuck.contains(&id) {
                world.server_sync(id);
            }
            while world.server_send(id) {}
        }
        world.pass(Duration::from_millis(50));
    }
}

/// Catch-ups that take long are in the way of nobody else's, who are told of their progress.
#[test]
fn catch_ups_of_others() {
    let mut world = world();
    world.apply(0);
    let (old, idle) = (world.open(None, false), world.open(None, false));
    for _ in 0..50 {
        put(&mut world, "k");
    }
    while world.apply(0) {}
    for key in ["k", "l", "m"] {
        world.create(old, watch(key, "", 2));
    }
    while world.answer_check() || world.hear_answer() {}
    let streams = world.streams.iter();
    let stuck = streams.filter(|(_, stream)| stream.kind == UpstreamKind::CatchUp);
    let stuck: BTreeSet<UpstreamId> = stuck.map(|(id, _)| *id).collect();
    assert_eq!(stuck.len(), 1);
    world.create(idle, watch("other", "", 2));
    run_but(&mut world, &stuck);
    world.send(idle, Client::ask_progress());
    run_but(&mut world, &stuck);
    assert_eq!(world.clients[idle].manual_progress, [51]);
    assert_eq!(world.hub.stats().catch_up_sources, 3);
    world.run(2 * SECOND);
    assert_eq!(revisions(&world, old).len(), 50);
    assert_eq!(world.hub.stats().catch_up_sources, 0);
}

/// One client has only so many catch-ups under way. The others of its have their turn; what somebody else needs too
/// doesn't wait for it.
#[test]
fn catch_ups_of_one_are_bounded() {
    let config = Config {
        catch_ups_per_client_max: 2,
        ..Config::default()
    };
    let mut world = World::new(1, config, 1);
    for _ in 0..20 {
        for key in ["a", "b", "c", "d", "e"] {
            put(&mut world, key);
        }
    }
    while world.apply(0) {}
    let (many, other) = (world.open(None, false), world.open(None, false));
    for key in ["a", "b", "c", "d", "e"] {
        world.create(many, watch(key, "", 2));
    }
    while world.answer_check() || world.hear_answer() {}
    assert_eq!(world.hub.stats().catch_up_sources, 2);
    world.create(other, watch("e", "", 2));
    while world.answer_check() || world.hear_answer() {}
    assert_eq!(world.hub.stats().catch_up_sources, 3);
    world.run(2 * SECOND);
    assert_eq!(revisions(&world, many).len(), 100);
    assert_eq!(revisions(&world, other).len(), 20);
    assert_eq!(world.hub.stats().catch_up_sources, 0);
}
