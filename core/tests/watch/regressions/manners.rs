//! What a server's clients see of it.

use etcd_proxy_core::watch::{Config, Event};
use etcd_proxy_proto::etcdserverpb::WatchCreateRequest;

use super::{SECOND, put, revisions, watch, world};
use crate::world::World;

/// Half-close and empty requests change nothing.
#[test]
fn row_22_half_closed_and_unset() {
    let mut world = world();
    let client = world.open(None, false);
    world.send(client, Default::default());
    world.create(client, watch("k", "", 0));
    world.tell(Event::ClientHalfClosed(world.clients[client].id));
    world.settle();
    let written = put(&mut world, "k");
    world.run(SECOND);
    assert_eq!(revisions(&world, client), [written]);
}

/// Headers are true (the world's client looks), ids are the client's, reasons are the server's.
#[test]
fn rows_25_26_28_headers_ids_and_reasons() {
    let mut world = world();
    let client = world.open(None, false);
    for (id, key, end) in [
        (77, "k", ""),
        (77, "k", ""),
        (0, "b", "a"),
        (0, "k", ""),
        (1, "k", ""),
        (0, "k", ""),
    ] {
        let request = WatchCreateRequest {
            watch_id: id,
            ..watch(key, end, 0)
        };
        world.create(client, request);
    }
    world.settle();
    let ids: Vec<i64> = world.clients[client]
        .frames
        .iter()
        .map(|frame| frame.watch_id)
        .collect();
    assert_eq!(ids, [77, -1, -1, 0, 1, 2]);
    assert_eq!(
        world.clients[client].refused,
        [
            "mvcc: duplicate watch ID provided on the WatchStream",
            "mvcc: watcher range is empty"
        ]
    );
    world.create(client, watch("k", "", -1));
    world.settle();
    assert_eq!(
        world.clients[client].refused[2],
        "etcdserver: mvcc: required revision has been compacted"
    );
    let message = world.clients[client].cancel(77);
    world.send(client, message);
    let message = world.clients[client].cancel(4711);
    world.send(client, message);
    assert!(!world.clients[client].watching.contains_key(&77));
    // One may be cancelled before it is created, and its id used again.
    world.create(
        client,
        WatchCreateRequest {
            watch_id: 5,
            ..watch("k", "", 0)
        },
    );
    let frames = world.clients[client].frames.len();
    let message = world.clients[client].cancel(5);
    world.send(client, message);
    for waiting in &mut world.clients[client].creating {
        waiting.cancelled = true;
    }
    world.settle();
    let frames: Vec<_> = world.clients[client].frames[frames..].iter().collect();
    assert_eq!(frames.len(), 2);
    assert!(frames[0].created && frames[1].canceled && frames[1].watch_id == 5);
}

/// Large responses come in fragments to those who can put them together.
#[test]
fn row_27_fragments() {
    let config = Config {
        fragment_bytes: 100,
        ..Config::default()
    };
    let mut world = World::new(1, config, 1);
    let client = world.open(None, false);
    world.create(
        client,
        WatchCreateRequest {
            fragment: true,
            ..watch("a", "z", 0)
        },
    );
    world.create(client, watch("a", "z", 0));
    world.settle();
    let changes: Vec<String> = (0..10).map(|number| format!("key{number}")).collect();
    let changes: Vec<_> = changes
        .iter()
        .map(|key| (key.as_str(), Some("some value")))
        .collect();
    world.store.write(&changes);
    world.run(SECOND);
    let of = |id: i64| {
        let frames = world.clients[client].frames.iter();
        frames.filter(move |frame| frame.watch_id == id && !frame.events.is_empty())
    };
    assert_eq!(of(1).count(), 1);
    assert!(of(0).count() >= 3);
    assert_eq!(of(0).filter(|frame| !frame.fragment).count(), 1);
}

/// What isn't a request ends the stream that it comes on, and what isn't a response another.
#[test]
fn malformed_messages() {
    let mut world = world();
    let client = world.open(None, false);
    world.create(client, watch("k", "", 0));
    world.settle();
    let id = world.random_stream().expect("there is one");
    for message in [&b"\xff"[..], b"\x18\x01\x10\x63", b"\x10\x01\x5a\x00"] {
        let id = world.random_stream().unwrap_or(id);
        world.tell(Event::UpstreamSent(id, message.into()));
        world.run(2 * SECOND);
    }
    assert!(world.opened > 3);
    let written = put(&mut world, "k");
    world.run(SECOND);
    assert_eq!(revisions(&world, client), [written]);
    world.send(client, b"\xff"[..].into());
    assert_eq!((world.clients.len(), world.ended[0].1.code), (0, 13));
}

/// A client that takes nothing and asks for much isn't listened to for a while.
#[test]
fn requests_are_bounded() {
    let config = Config {
        requests_max: 4,
        ..Config::default()
    };
    let mut world = World::new(1, config, 1);
    let client = world.open(None, false);
    for _ in 0..4 {
        world.create(client, watch("k", "", 0));
    }
    assert!(world.clients[client].paused);
    world.settle();
    assert!(!world.clients[client].paused);
}

/// Who wants to watch from before a compaction that was heard of is refused, though the events are still in history; who
/// watches already goes on.
#[test]
fn compacted_history_is_not_served() {
    let mut world = world();
    let before = world.open(None, false);
    world.create(before, watch("k", "", 0));
    world.settle();
    let written: Vec<i64> = (0..3).map(|_| put(&mut world, "k")).collect();
    world.run(SECOND);
    world.store.compacted = written[1];
    world.tell(Event::Compacted(written[1]));
    let (late, in_time) = (world.open(None, false), world.open(None, false));
    world.create(late, watch("k", "", written[0]));
    world.create(in_time, watch("k", "", written[1]));
    world.settle();
    assert_eq!(world.clients[late].compacted, 1);
    assert_eq!(revisions(&world, in_time), written[1..]);
    assert_eq!(revisions(&world, before), written);
    let last = put(&mut world, "k");
    world.run(SECOND);
    assert_eq!(revisions(&world, before).last(), Some(&last));
    assert_eq!(revisions(&world, late), []);
}
