//! Events lost, streams that end, credentials, leaders, progress.

use std::time::Duration;

use etcd_proxy_core::watch::{Config, Status, UpstreamKind};

use super::{SECOND, live, put, revisions, watch, world};
use crate::client::Client;
use crate::world::World;

/// Catching up beside a live watch of the same range loses nothing (1, 2 servers' watchers at most).
#[test]
fn row_01_catching_up_beside_a_live_watch() {
    let mut world = world();
    for _ in 0..50 {
        put(&mut world, "k");
    }
    let now = world.open(None, false);
    world.create(now, watch("k", "", 0));
    world.settle();
    let past: Vec<usize> = (0..30).map(|_| world.open(None, false)).collect();
    for (client, start) in past.iter().zip(2..) {
        world.create(*client, watch("k", "", start));
    }
    while world.answer_check() || world.hear_answer() {}
    let written = put(&mut world, "k");
    let stats = world.hub.stats();
    assert_eq!((stats.live_sources, stats.catch_up_sources), (1, 1));
    world.run(SECOND);
    for (client, start) in past.iter().zip(2..) {
        assert_eq!(revisions(&world, *client), (start..=written).collect::<Vec<_>>());
    }
    assert_eq!(world.hub.stats().catch_up_sources, 0);
    assert_eq!(live(&world), 1);
}

/// A stream whose connection isn't the one in use any more is left at once for one on that, and nobody notices: not when
/// some of a revision's events have come, nor when it was to catch up.
#[test]
fn a_stream_goes_where_calls_go() {
    let mut world = world();
    let first = put(&mut world, "k");
    let clients = [world.open(None, false), world.open(None, true)];
    world.create(clients[0], watch("k", "", 0));
    world.settle();
    let second = put(&mut world, "k");
    world.create(clients[1], watch("k", "", first));
    while world.answer_check() || world.hear_answer() {}
    let kinds = [UpstreamKind::CatchUp, UpstreamKind::Leader, UpstreamKind::Live];
    for kind in kinds {
        let mut streams = world.streams.iter();
        let found = streams.find(|(_, stream)| stream.kind == kind);
        let id = *found.unwrap_or_else(|| panic!("there is a {kind:?} stream")).0;
        world.supersede_stream(id);
    }
    let third = put(&mut world, "k");
    world.run(SECOND);
    assert_eq!(revisions(&world, clients[0]), [second, third]);
    assert_eq!(revisions(&world, clients[1]), [first, second, third]);
    assert_eq!(live(&world), 1);
    let leader = UpstreamKind::Leader;
    assert!(world.streams.values().any(|stream| stream.kind == leader));
}

/// One who asks for what is compacted is told so, and nobody else notices.
#[test]
fn row_02_compaction_concerns_only_those_who_need_what_is_gone() {
    let mut world = world();
    for _ in 0..10 {
        put(&mut world, "k");
    }
    world.store.compacted = 8;
    let old = world.open(None, false);
    world.create(old, watch("k", "", 3));
    world.run(SECOND);
    assert_eq!(world.clients[old].compacted, 1);
    for start in [0, 8, 9, 0] {
        let client = world.open(None, false);
        world.create(client, watch("k", "", start));
        world.run(SECOND);
        let written = put(&mut world, "k");
        world.run(SECOND);
        assert_eq!(revisions(&world, client).last(), Some(&written), "from {start}");
    }
}

/// The watcher of a key in a range whose last own watcher loses its history has lost as much.
#[test]
fn row_02_compaction_of_a_range_and_of_a_key_in_it() {
    let mut world = World::new(1, Config::default(), 2);
    let (range, key) = (world.open(None, false), world.open(None, false));
    world.create(range, watch("k", "l", 0));
    world.settle();
    // The member that serves the range doesn't apply what follows.
    for _ in 0..5 {
        put(&mut world, "k1");
    }
    world.create(key, watch("k1", "", 0));
    while world.answer_check() || world.hear_answer() {}
    let last = put(&mut world, "k1");
    world.store.compacted = last + 1;
    world.store.write(&[("elsewhere", Some("value"))]);
    put(&mut world, "k1");
    let id = world.random_stream().expect("there is one");
    world.end_stream(id, 14, "restart");
    world.run(SECOND);
    assert_eq!(
        (world.clients[range].compacted, world.clients[key].compacted),
        (1, 1)
    );
    assert_eq!(world.hub.stats().watchers, 0);
}

/// Streams may end with any code, and watchers don't notice; nor do later ones (also row 60: it takes few attempts).
#[test]
fn rows_03_04_60_upstream_streams_end_with_every_code() {
    for code in 0..=16 {
        let mut world = world();
        let old = world.open(None, false);
        world.create(old, watch("k", "", 0));
        world.run(SECOND);
        let id = world.random_stream().expect("there is one");
        world.end_stream(id, code, "whatever");
        let first = put(&mut world, "k");
        let new = world.open(None, false);
        world.create(new, watch("k", "", 0));
        world.run(3 * SECOND);
        let second = put(&mut world, "k");
        world.run(SECOND);
        assert_eq!(revisions(&world, old), [first, second], "code {code}");
        assert_eq!(revisions(&world, new), [second], "code {code}");
        assert_eq!(world.opened, 2, "code {code}");
    }
}

/// A server that ends every stream isn't asked in a loop.
#[test]
fn row_60_attempts_are_far_between() {
    let mut world = world();
    let client = world.open(None, false);
    world.create(client, watch("k", "", 0));
    world.settle();
    for _ in 0..3000 {
        while let Some(id) = world.random_stream() {
            world.end_stream(id, 14, "go away");
        }
        world.pass(Duration::from_millis(20));
    }
    assert!(world.opened < 150, "{} attempts in a minute", world.opened);
    world.run(3 * SECOND);
    let written = put(&mut world, "k");
    world.run(SECOND);
    assert_eq!(revisions(&world, client), [written]);
}

/// Everybody is judged by own credentials, and nobody loses by another's.
#[test]
fn rows_11_12_each_has_its_own_credentials() {
    let mut world = world();
    world.denied.insert(b"two"[..].into());
    let (one, two, three) = (
        world.open(Some("one"), false),
        world.open(Some("two"), false),
        world.open(Some("three"), false),
    );
    for client in [one, two, three] {
        world.create(client, watch("k", "", 0));
    }
    world.settle();
    assert_eq!(
        world.clients[two].refused,
        ["rpc error: code = PermissionDenied desc = etcdserver: permission denied"]
    );
    assert_eq!(
        live(&world),
        1,
        "they share a range, though not their credentials"
    );
    // The one with whose credentials it is watched may no more.
    world.denied.insert(b"one"[..].into());
    let id = world.random_stream().expect("there is one");
    world.end_stream(id, 14, "restart");
    world.run(3 * SECOND);
    let written = put(&mut world, "k");
    world.run(SECOND);
    assert_eq!(world.clients[one].refused.len(), 1);
    assert!(world.clients[one].watching.is_empty());
    assert_eq!(revisions(&world, three), [written]);
}

/// Who may read the first key of a range need not be allowed the range, though another watches it.
#[test]
fn row_12_permission_is_for_the_range() {
    let mut world = world();
    world.keys_only.insert(b"one"[..].into());
    let (one, two) = (world.open(Some("one"), false), world.open(Some("two"), false));
    for client in [two, one] {
        world.create(client, watch("k", "l", 0));
        world.create(client, watch("k", "", 0));
        world.settle();
    }
    let written = put(&mut world, "k");
    world.run(SECOND);
    assert_eq!(world.clients[one].refused.len(), 1);
    assert_eq!(revisions(&world, one), [written]);
    assert_eq!(revisions(&world, two), [written, written]);
    assert_eq!(live(&world), 1);
}

/// A client's end doesn't harm the others of its source, whose credentials are used from then on.
#[test]
fn row_12_resuming_with_the_credentials_of_those_who_are_there() {
    let mut world = world();
    let one = world.open(Some("one"), false);
    world.create(one, watch("k", "", 0));
    world.settle();
    let two = world.open(Some("two"), false);
    world.create(two, watch("k", "", 0));
    world.settle();
    world.close(one);
    world.denied.insert(b"one"[..].into());
    let id = world.random_stream().expect("there is one");
    world.end_stream(id, 14, "restart");
    world.run(3 * SECOND);
    let written = put(&mut world, "k");
    world.run(SECOND);
    assert_eq!(revisions(&world, 0), [written]);
    assert!(world.clients[0].refused.is_empty());
    assert_eq!(world.clients.len(), 1);
    let credentials = world.streams.values().map(|stream| stream.credentials.clone());
    assert_eq!(credentials.flatten().collect::<Vec<_>>(), ["two"]);
    let _ = two;
}

/// Without credentials nobody watches when auth is on.
#[test]
fn row_11_without_credentials_when_auth_is_on() {
    let mut world = world();
    world.denied.insert(b""[..].into());
    let client = world.open(None, false);
    world.create(client, watch("k", "", 0));
    world.settle();
    assert_eq!(
        world.clients[client].refused,
        ["rpc error: code = InvalidArgument desc = etcdserver: user name is empty"]
    );
    assert_eq!(world.streams.len(), 0);
}

/// Who asked for a leader is told of its loss; nobody else is.
#[test]
fn row_13_the_leader_is_lost() {
    let mut world = world();
    let indifferent = world.open(None, false);
    let idle = world.open(None, true);
    let strict = world.open(None, true);
    world.create(indifferent, watch("k", "", 0));
    world.create(strict, watch("k", "", 0));
    world.settle();
    assert_eq!(world.server_watchers(UpstreamKind::Leader), 0);
    let leader = world
        .streams
        .iter()
        .find(|(_, stream)| stream.kind == UpstreamKind::Leader);
    let id = *leader.expect("it was asked for").0;
    world.end_stream(id, 14, "etcdserver: no leader");
    assert_eq!(world.ended.len(), 2, "{idle} and {strict}");
    let status = Status::new(14, "etcdserver: no leader");
    assert!(world.ended.iter().all(|(_, ended)| *ended == status));
    let written = put(&mut world, "k");
    world.run(SECOND);
    assert_eq!(revisions(&world, 0), [written]);
    // A member without leader doesn't answer; who asks for a leader doesn't wait.
    world.outage = Some(status.clone());
    let strict = world.open(None, true);
    world.create(strict, watch("k", "", 0));
    world.settle();
    assert_eq!(world.ended.len(), 3);
    assert_eq!(world.ended[2].1, status);
}

/// Progress is told when nothing happens, when it is asked for, up to what the store has reached.
#[test]
fn row_15_progress_while_other_keys_change() {
    let mut world = world();
    let client = world.open(None, false);
    world.create(client, watch("k", "", 0));
    world.create(client, watch("l", "m", 1));
    world.run(SECOND);
    for _ in 0..3 {
        let written = put(&mut world, "elsewhere");
        world.send(client, Client::ask_progress());
        world.run(Duration::from_millis(200));
        assert_eq!(world.clients[client].manual_progress.last(), Some(&written));
    }
    assert_eq!(world.clients[client].manual_progress.len(), 3);
    let nobody = world.open(None, false);
    world.send(nobody, Client::ask_progress());
    world.run(SECOND);
    assert!(world.clients[nobody].frames.is_empty());
}

/// "From now on" is what follows the revision that the client is told, also when that is more than was read for it.
#[test]
fn row_37_the_start_is_what_follows_the_header() {
    let mut world = world();
    let client = world.open(None, false);
    world.create(client, watch("k", "", 0));
    world.settle();
    world.create(client, watch("l", "", 0));
    assert!(world.answer_check());
    // Before the answer comes the client is told of more.
    let early = put(&mut world, "l");
    let seen = put(&mut world, "k");
    while world.apply(0) {}
    let id = world.random_stream().expect("there is one");
    while world.server_send(id) {}
    assert_eq!(revisions(&world, client), [seen]);
    world.settle();
    let created = world.clients[client].frames.iter().rfind(|frame| frame.created);
    let header = created.and_then(|frame| frame.header);
    assert_eq!(header.map(|header| header.revision), Some(seen));
    let after = put(&mut world, "l");
    world.run(SECOND);
    assert!(early < seen);
    assert_eq!(revisions(&world, client), [seen, after]);
}

/// Questions that a server left without answer, because a watcher of the stream was behind, don't make all later answers
/// seem old.
#[test]
fn row_15_progress_after_questions_without_answer() {
    let config = Config {
        live_streams_max: 1,
        ..Config::default()
    };
    let mut world = World::new(1, config, 1);
    let client = world.open(None, false);
    world.create(client, watch("k", "", 0));
    world.settle();
    world.create(client, watch("l", "", 0));
    while world.answer_check() || world.hear_answer() {}
    put(&mut world, "elsewhere");
    let id = world.random_stream().expect("there is one");
    while world.apply(0) {}
    let serve = |world: &mut World| {
        while world.server_step(id) {}
        while world.server_send(id) {}
    };
    // The new watcher is behind from its beginning.
    serve(&mut world);
    for _ in 0..30 {
        world.send(client, Client::ask_progress());
        world.pass(Duration::from_millis(100));
        serve(&mut world);
    }
    assert_eq!(world.clients[client].manual_progress, []);
    world.server_sync(id);
    for _ in 0..3 {
        world.send(client, Client::ask_progress());
        world.pass(Duration::from_millis(100));
        serve(&mut world);
    }
    assert_eq!(
        world.clients[client].manual_progress.last(),
        Some(&world.store.revision)
    );
}
