//! What watching costs the cluster, and one client the others.

use etcd_proxy_core::watch::{Config, Status};
use etcd_proxy_proto::etcdserverpb::WatchCreateRequest;

use super::{SECOND, live, put, revisions, watch, world};
use crate::world::World;

/// A client that is stopped gets everything when it goes on, and the others don't wait for it; its outbox is bounded.
#[test]
fn row_35_a_stopped_client() {
    let config = Config {
        outbox_bytes_max: 4000,
        history_bytes_max: 8000,
        ..Config::default()
    };
    let mut world = World::new(1, config, 1);
    let (slow, quick) = (world.open(None, false), world.open(None, false));
    for client in [slow, quick] {
        world.create(client, watch("k", "", 0));
    }
    world.settle();
    world.clients[slow].stopped = true;
    let value = "x".repeat(500);
    for number in 1..=300 {
        let written = world.store.write(&[("k", Some(&value))]);
        world.settle();
        assert_eq!(revisions(&world, quick).len(), number);
        assert_eq!(revisions(&world, quick).last(), Some(&written));
        assert!(world.clients[slow].outbox_bytes() < 5000);
    }
    assert!(world.hub.stats().history_bytes <= 8000);
    world.clients[slow].stopped = false;
    world.run(2 * SECOND);
    assert_eq!(revisions(&world, slow), revisions(&world, quick));
    assert_eq!(world.hub.stats().behind, 0);
}

/// However many clients are stopped, what waits for them is bounded, and they get everything when they go on.
#[test]
fn row_35_many_stopped_clients() {
    let config = Config {
        outbox_bytes_max: 4000,
        outbox_bytes_total_max: 20_000,
        ..Config::default()
    };
    let mut world = World::new(1, config, 1);
    let slow: Vec<usize> = (0..50).map(|_| world.open(None, false)).collect();
    let quick = world.open(None, false);
    for client in slow.iter().copied().chain([quick]) {
        world.create(client, watch("k", "", 0));
    }
    world.settle();
    for client in &slow {
        world.clients[*client].stopped = true;
    }
    let value = "x".repeat(100);
    for number in 1..=300 {
        world.store.write(&[("k", Some(&value))]);
        world.settle();
        assert_eq!(revisions(&world, quick).len(), number);
        // Half of it, and for each client its share of the other half, which one frame may exceed.
        assert!(world.hub.stats().outbox_bytes < 20_000 + 50 * 200);
    }
    for client in &slow {
        world.clients[*client].stopped = false;
    }
    world.run(2 * SECOND);
    for client in slow {
        assert_eq!(revisions(&world, client), revisions(&world, quick));
    }
    assert_eq!(world.hub.stats().behind, 0);
}

/// With etcd down a creation fails after a bounded time, as a call that may be tried again, and blocks nothing.
#[test]
fn row_36_creating_while_the_cluster_is_down() {
    let mut world = world();
    let client = world.open(None, false);
    world.create(client, watch("k", "", 0));
    world.settle();
    world.outage = Some(Status::new(14, "no endpoint can be reached"));
    world.create(client, watch("l", "", 0));
    world.settle();
    let message = world.clients[client].cancel(0);
    world.send(client, message);
    assert!(world.clients[client].watching.is_empty(), "cancelled at once");
    world.run(world.config.create_timeout + SECOND);
    assert_eq!(world.ended.len(), 1);
    assert_eq!(world.ended[0].1.code, 14);
}

/// "From now on" is from now on, however far behind the shared source is.
#[test]
fn row_37_nothing_from_before_the_creation() {
    let mut world = World::new(1, Config::default(), 1);
    let early = world.open(None, false);
    world.create(early, watch("k", "", 0));
    world.settle();
    // Its member doesn't apply anything for now.
    let before = put(&mut world, "k");
    let late = world.open(None, false);
    world.create(late, watch("k", "", 0));
    while world.answer_check() || world.hear_answer() {}
    let frames = &world.clients[late].frames;
    assert!(frames[0].created && frames[0].header.is_some_and(|header| header.revision == before));
    let after = put(&mut world, "k");
    world.run(SECOND);
    assert_eq!(revisions(&world, early), [before, after]);
    assert_eq!(revisions(&world, late), [after]);
}

/// Creations don't wait for one another, neither the first time nor after a reconnect; and revisions are read once for
/// all who wait (row 41: without auth nothing else is).
#[test]
fn rows_40_41_creations_are_pipelined() {
    let mut world = world();
    let client = world.open(None, false);
    let keys: Vec<&'static str> = (0..1000).map(|n| &*format!("key{n}").leak()).collect();
    for key in &keys {
        world.create(client, watch(key, "", 0));
    }
    // One round trip for the first, one for all the others.
    for _ in 0..2 {
        world.answer_check();
        world.hear_answer();
        world.finish_work();
    }
    assert_eq!((world.reads, world.probes), (2, 0));
    assert_eq!(world.clients[client].watching.len(), 1000);
    let sent: usize = world.streams.values().map(|stream| stream.inbox.len()).sum();
    assert_eq!(sent, 1000);
    world.settle();
    assert_eq!(live(&world), 1000);
    let ids: Vec<_> = world.streams.keys().copied().collect();
    for id in ids {
        world.end_stream(id, 14, "restart");
    }
    world.pass(SECOND);
    let sent: usize = world.streams.values().map(|stream| stream.inbox.len()).sum();
    assert_eq!(sent, 1000);
}

/// Upstream watches are spread over several streams.
#[test]
fn row_42_several_streams() {
    let mut world = world();
    let client = world.open(None, false);
    for key in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        world.create(client, watch(key, "", 0));
    }
    world.settle();
    let loads: Vec<usize> = world
        .streams
        .values()
        .map(crate::server::Stream::watchers)
        .collect();
    assert_eq!(loads, [2, 2, 2, 2]);
}

/// However many come at once, from whenever, the server has one watcher of a range; also after a reconnect. A key in
/// it needs none of its own.
#[test]
fn row_43_one_upstream_watcher() {
    let mut world = world();
    for _ in 0..2000 {
        let client = world.open(None, false);
        world.create(client, watch("k", "l", 0));
    }
    world.settle();
    assert_eq!(live(&world), 1);
    let created: usize = world.streams.values().map(|stream| stream.creates).sum();
    assert_eq!(created, 1);
    let inside = world.open(None, false);
    world.create(inside, watch("k5", "", 0));
    world.settle();
    assert_eq!(live(&world), 1);
    let id = world.random_stream().expect("there is one");
    world.end_stream(id, 14, "restart");
    world.run(SECOND);
    assert_eq!(live(&world), 1);
    let (other, written) = (put(&mut world, "k"), put(&mut world, "k5"));
    world.settle();
    assert_eq!(revisions(&world, inside), [written]);
    assert_eq!(revisions(&world, 0), [other, written]);
    // The key isn't forgotten when the range is.
    while world.clients.len() > 1 {
        let at = world
            .clients
            .iter()
            .position(|client| client.watching[&0].request.key == "k");
        world.close(at.expect("all the others"));
    }
    world.settle();
    assert_eq!(live(&world), 1);
    let again = put(&mut world, "k5");
    put(&mut world, "k");
    world.settle();
    assert_eq!(revisions(&world, 0), [written, again]);
    assert_eq!(world.hub.stats().events_in, 3);
}

/// Previous pairs are asked for only when somebody wants them.
#[test]
fn row_44_previous_pairs() {
    let mut world = world();
    let plain = world.open(None, false);
    world.create(plain, watch("k", "", 0));
    world.settle();
    put(&mut world, "k");
    world.settle();
    let asked = |world: &World| {
        world
            .streams
            .values()
            .map(|stream| stream.prev_creates)
            .sum::<usize>()
    };
    assert_eq!(asked(&world), 0);
    let wishful = world.open(None, false);
    world.create(
        wishful,
        WatchCreateRequest {
            prev_kv: true,
            ..watch("k", "", 2)
        },
    );
    world.run(SECOND);
    assert!(asked(&world) > 0);
    put(&mut world, "k");
    world.run(SECOND);
    assert_eq!(revisions(&world, plain), [2, 3]);
    assert_eq!(revisions(&world, wishful), [2, 3]);
    assert_eq!(live(&world), 1);
}

/// Frames that are equal are the same buffer.
#[test]
fn frames_are_shared() {
    let mut world = world();
    let (one, two) = (world.open(None, false), world.open(None, false));
    for client in [one, two] {
        world.create(client, watch("k", "", 0));
        world.clients[client].stopped = true;
    }
    world.settle();
    put(&mut world, "k");
    world.settle();
    let of = |client: usize| {
        world.clients[client]
            .outbox
            .back()
            .expect("an event")
            .head
            .as_ptr()
    };
    assert_eq!(of(one), of(two));
}

/// An idle range doesn't fall behind compaction, for its position is kept fresh.
#[test]
fn idle_ranges_survive_compaction() {
    let mut world = world();
    let client = world.open(None, false);
    world.create(client, watch("idle", "", 0));
    world.settle();
    for _ in 0..100 {
        put(&mut world, "busy");
    }
    world.run(2 * world.config.position_interval);
    world.store.compacted = 90;
    let id = world.random_stream().expect("there is one");
    world.end_stream(id, 14, "restart");
    world.run(3 * SECOND);
    let written = put(&mut world, "idle");
    world.run(SECOND);
    assert_eq!(revisions(&world, client), [written]);
}
