//! Who may see what after a stream was lost: what a server would let him watch then, and nothing else.

use std::time::Duration;

use etcd_proxy_core::watch::{Config, Status};

use super::{SECOND, live, put, revisions, watch, world};
use crate::world::World;

const DENIED: &str = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";

/// A range that somebody watches without credentials.
fn watched() -> (World, usize) {
    let mut world = world();
    let client = world.open(None, false);
    world.create(client, watch("k", "l", 0));
    world.settle();
    (world, client)
}

/// The same range, watched by two with tokens.
fn watched_by_two() -> (World, usize, usize) {
    let mut world = world();
    let clients = ["one", "two"].map(|token| {
        let client = world.open(Some(token), false);
        world.create(client, watch("k", "l", 0));
        world.settle();
        client
    });
    (world, clients[0], clients[1])
}

/// Whoever lost his permission is told so when the stream is lost, though his watcher lives on another's; the others
/// go on. Until then he gets all, as from a server.
#[test]
fn revoked_before_a_failover() {
    let (mut world, one, two) = watched_by_two();
    world.create(two, watch("k1", "", 0));
    world.settle();
    world.deny("two");
    let first = put(&mut world, "k1");
    world.run(SECOND);
    world.end_streams();
    let second = put(&mut world, "k1");
    world.run(3 * SECOND);
    assert_eq!(revisions(&world, one), [first, second]);
    assert_eq!(revisions(&world, two), [first, first]);
    assert_eq!(world.clients[two].refused, [DENIED, DENIED]);
    assert_eq!(live(&world), 1);
}

/// It costs one question for all with the same credentials and range; without credentials, for all.
#[test]
fn questions_are_shared() {
    let mut world = world();
    for token in [Some("one"), Some("two"), Some("three"), None] {
        for _ in 0..50 {
            let client = world.open(token, false);
            world.create(client, watch("k", "l", 0));
            if token.is_none() {
                world.create(client, watch("a", "", 0));
            }
        }
    }
    world.settle();
    let before = world.probes;
    world.end_streams();
    // Those of each stream are asked about as it is lost: the anonymous ones are on two.
    world.run(SECOND);
    let questions = world.probes - before;
    assert!(questions <= 5, "{questions} questions");
    let written = put(&mut world, "k1");
    world.run(SECOND);
    for client in 0..200 {
        assert_eq!(revisions(&world, client), [written]);
    }
}

/// Events that come before the answer wait for it.
#[test]
fn nothing_is_sent_before_the_answer() {
    let config = Config {
        history_bytes_max: 100,
        ..Config::default()
    };
    for config in [Config::default(), config] {
        let mut world = World::new(1, config, 1);
        let client = world.open(None, false);
        world.create(client, watch("k", "l", 0));
        world.settle();
        world.outage = Some(Status::new(14, "etcdserver: request timed out"));
        world.end_streams();
        let mut written = Vec::new();
        for _ in 0..5 {
            written.push(put(&mut world, "k1"));
            world.run(SECOND / 2);
        }
        assert_eq!(live(&world), 1);
        assert_eq!(revisions(&world, client), []);
        world.outage = None;
        world.run(3 * SECOND);
        written.push(put(&mut world, "k1"));
        world.run(3 * SECOND);
        assert_eq!(revisions(&world, client), written);
    }
}

/// Whose question isn't answered waits for so long, from when the source runs again, and then has to come back.
#[test]
fn no_answer() {
    let (mut world, _) = watched();
    world.outage = Some(Status::new(14, "etcdserver: request timed out"));
    world.end_streams();
    world.run(9 * SECOND);
    assert_eq!(world.ended.len(), 0);
    world.run(2 * SECOND);
    assert_eq!((world.clients.len(), world.ended.len()), (0, 1));
    assert_eq!(world.ended[0].1.code, 14);
}

/// As long as nobody can be asked anything, watchers wait.
#[test]
fn an_outage() {
    let (mut world, client) = watched();
    world.outage = Some(Status::new(14, "no endpoint can be reached"));
    for _ in 0..600 {
        world.end_streams();
        while world.answer_check() || world.hear_answer() {}
        world.pass(Duration::from_millis(100));
    }
    assert!(world.probes < 200, "{} questions in a minute", world.probes);
    world.outage = None;
    world.run(3 * SECOND);
    let written = put(&mut world, "k1");
    world.run(SECOND);
    assert_eq!(revisions(&world, client), [written]);
}

/// Users who must authenticate since.
#[test]
fn authentication_switched_on() {
    let mut world = world();
    let client = world.open(None, false);
    world.create(client, watch("k", "", 0));
    world.create(client, watch("l", "", 0));
    world.settle();
    world.deny("");
    world.end_streams();
    world.run(SECOND);
    let reason = "rpc error: code = InvalidArgument desc = etcdserver: user name is empty";
    assert_eq!(world.clients[client].refused, [reason, reason]);
    assert_eq!(world.hub.stats().watchers, 0);
}

/// A token that expired ends the stream of him whose it is, so that he logs in anew.
#[test]
fn a_token_that_expired() {
    let (mut world, one, _) = watched_by_two();
    world.expired.insert(b"two"[..].into());
    world.end_streams();
    world.run(SECOND);
    assert_eq!((world.ended.len(), world.ended[0].1.code), (1, 14));
    let written = put(&mut world, "k1");
    world.run(SECOND);
    assert_eq!(revisions(&world, one), [written]);
}

/// An answer that was given before another stream was lost is too old.
#[test]
fn lost_again_before_the_answer() {
    let (mut world, one, two) = watched_by_two();
    world.end_streams();
    while world.answer_check() {}
    world.pass(SECOND / 10);
    assert_eq!(world.streams.len(), 1, "it is opened again");
    world.deny("two");
    world.end_streams();
    world.run(SECOND);
    let written = put(&mut world, "k1");
    world.run(SECOND);
    assert_eq!(revisions(&world, one), [written]);
    assert_eq!(world.clients[two].refused, [DENIED]);
}

/// The same of an answer that came before, for so many that not all have learned it yet.
#[test]
fn lost_again_while_many_learn_the_answer() {
    const MANY: usize = 300;
    let mut world = world();
    let (one, two) = (world.open(Some("one"), false), world.open(Some("two"), false));
    world.create(one, watch("k", "l", 0));
    world.settle();
    for _ in 0..MANY {
        world.create(two, watch("k", "l", 0));
    }
    world.settle();
    assert_eq!(world.clients[two].watching.len(), MANY);
    world.end_streams();
    while world.answer_check() {}
    world.pass(SECOND / 10);
    assert_eq!(world.streams.len(), 1, "it is opened again");
    while world.hear_answer() {}
    world.deny("two");
    world.end_streams();
    world.run(SECOND);
    let written = put(&mut world, "k1");
    world.run(SECOND);
    assert_eq!(revisions(&world, one), [written]);
    assert_eq!(revisions(&world, two), []);
    assert_eq!(world.clients[two].refused, [DENIED; MANY]);
}
