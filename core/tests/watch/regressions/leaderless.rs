//! Members without a leader, or that answer no questions: watches are created and served as such a member serves them.

use etcd_proxy_core::watch::Status;
use etcd_proxy_proto::etcdserverpb::WatchCreateRequest;

use super::{SECOND, put, revisions, watch, world};

/// A watch that asks for no leader is created at once where there is none, with the history that the member has. One that
/// asks for it is told so.
#[test]
fn created_without_a_leader() {
    let message = "etcdserver: no leader";
    let mut world = world();
    let first = put(&mut world, "k");
    let healthy = world.open(None, false);
    world.create(healthy, watch("k", "", 0));
    world.settle();
    world.outage = Some(Status::new(14, message));
    world.create(healthy, watch("l", "", 0));
    let new = world.open(None, false);
    world.create(new, watch("k", "", first));
    world.create(new, watch("k", "", 0));
    // Nobody waits for time to pass.
    world.settle();
    assert_eq!(world.clients[healthy].watching.len(), 2);
    assert_eq!(world.clients[new].watching.len(), 2);
    assert_eq!(revisions(&world, new), [first]);
    let strict = world.open(None, true);
    world.create(strict, watch("k", "", 0));
    world.settle();
    let told: Vec<&str> = world.ended.iter().map(|(_, status)| &*status.message).collect();
    assert_eq!(told, [message]);
    // There is one again.
    world.outage = None;
    let last = put(&mut world, "k");
    world.run(SECOND);
    assert_eq!(revisions(&world, healthy), [last]);
    assert_eq!(revisions(&world, new), [first, last, last]);
}

/// What a member tells without a quorum may be old, and a watch from now begins there.
#[test]
fn a_member_that_lags() {
    let mut world = world();
    let early = world.open(None, false);
    world.create(early, watch("k", "", 0));
    world.settle();
    let seen = put(&mut world, "k");
    world.run(SECOND);
    assert_eq!(revisions(&world, early), [seen]);
    // Another one has it, and isn't there any more.
    world.members[0] = seen - 1;
    world.outage = Some(Status::new(14, "etcdserver: no leader"));
    let late = world.open(None, false);
    world.create(late, watch("k", "", 0));
    while world.answer_check() || world.hear_answer() || world.finish_work() {}
    let created = world.clients[late].frames.first().expect("it is created");
    assert_eq!(created.header.map(|header| header.revision), Some(seen - 1));
    world.outage = None;
    let last = put(&mut world, "k");
    world.run(SECOND);
    assert_eq!(revisions(&world, late), [seen, last]);
}

/// A create request that nobody can answer waits, and ends no watchers that are served.
#[test]
fn a_request_that_waits_ends_no_watchers() {
    let mut world = world();
    let client = world.open(None, false);
    world.create(client, watch("k", "", 0));
    world.settle();
    world.outage = Some(Status::new(14, "no endpoint can be reached"));
    world.create(client, watch("l", "", 0));
    world.run(3 * world.config.create_timeout);
    assert_eq!(world.ended.len(), 0);
    let written = put(&mut world, "k");
    world.run(SECOND);
    assert_eq!(revisions(&world, client), [written]);
    world.outage = None;
    world.run(2 * SECOND);
    assert_eq!(world.clients[client].watching.len(), 2);
}

/// A cancel request doesn't overtake a create request before it that wants the same id: that is refused, as by a server.
#[test]
fn requests_keep_their_order() {
    let mut world = world();
    let client = world.open(None, false);
    let seven = WatchCreateRequest {
        watch_id: 7,
        ..watch("k", "", 0)
    };
    world.create(client, seven.clone());
    world.settle();
    world.create(client, seven);
    let message = world.clients[client].cancel(7);
    world.send(client, message);
    world.settle();
    let frames = world.clients[client].frames.iter();
    let told: Vec<_> = frames
        .map(|told| (told.watch_id, told.created, told.canceled))
        .collect();
    assert_eq!(told, [(7, true, false), (-1, true, true), (7, false, true)]);
    assert_eq!(world.hub.stats().watchers, 0);
    // An id that a request before it may be given is waited for too.
    for _ in 0..2 {
        world.create(client, watch("k", "", 0));
    }
    world.settle();
    let one = WatchCreateRequest {
        watch_id: 2,
        ..watch("k", "", 0)
    };
    world.create(client, one);
    world.settle();
    world.create(client, watch("k", "", 0));
    let message = world.clients[client].cancel(2);
    world.send(client, message);
    world.settle();
    let frames = world.clients[client].frames.iter().rev().take(2);
    let told: Vec<_> = frames.map(|told| (told.watch_id, told.created)).collect();
    assert_eq!(told, [(2, false), (3, true)]);
}
