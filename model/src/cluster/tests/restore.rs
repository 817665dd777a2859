//! A store that goes back.

use etcd_proxy_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, WatchCreateRequest,
    WatchRequest, WatchResponse, watch_request::RequestUnion,
};

use super::*;
use crate::state::State;

/// A cluster with three writes and a lease, what it was after the first of them, and an open Watch call.
fn world(members: usize) -> (World, State, StreamId) {
    let mut world = World::new(members);
    world.put(0, "a");
    let saved = world.cluster.committed().clone();
    world.put(0, "b");
    world.put(0, "a");
    let grant = LeaseGrantRequest { id: 7, ttl: 60 };
    let _: LeaseGrantResponse = world.answer(0, GRANT, &grant);
    let stream = world.open(0, WATCH, Metadata::default(), 100);
    (world, saved, stream)
}

fn restore(world: &mut World, saved: &State, is_new: bool) {
    let members = world.cluster.nodes.len();
    for member in 0..members {
        world.fault(Fault::Crash(member));
    }
    world.cluster.restore(saved, is_new);
    for member in 0..members {
        world.fault(Fault::Start(member));
    }
}

#[test]
fn all_members_hold_what_was_saved_and_nothing_that_came_after_it() {
    for members in [1, 3] {
        let (mut world, saved, _) = world(members);
        let ids = world.cluster.ids(0);
        restore(&mut world, &saved, false);
        assert_eq!(world.cluster.ids(0), ids);
        assert_eq!((world.cluster.streams(), world.cluster.calls()), (0, 0));
        for member in 0..members {
            let old: RangeResponse = world.answer(member, RANGE, &serializable("a"));
            assert_eq!(old.header.map(|header| header.revision), Some(2));
            assert_eq!(old.kvs[0].mod_revision, 2);
        }
        world.pass(secs(2));
        let written = world.put(members - 1, "b");
        assert_eq!(written.header.map(|header| header.revision), Some(3));
        assert_eq!(world.get(0, "b").kvs[0].create_revision, 3);
        assert_eq!(world.get(0, "a").kvs[0].version, 1);
        let heartbeats = world.open(0, KEEP_ALIVE, Metadata::default(), 10);
        world.message(heartbeats, &LeaseKeepAliveRequest { id: 7 });
        world.pass(secs(1));
        let told: Vec<LeaseKeepAliveResponse> = world.take(heartbeats);
        assert_eq!(told.iter().map(|told| told.ttl).collect::<Vec<_>>(), [0]);
    }
}

#[test]
fn a_new_cluster_has_new_ids() {
    let (mut world, saved, _) = world(3);
    let ids = |world: &World| [0, 1, 2].map(|member| world.cluster.ids(member));
    let before = ids(&world);
    restore(&mut world, &saved, true);
    let after = ids(&world);
    assert_ne!(before[0].0, after[0].0);
    assert!(
        before
            .iter()
            .zip(&after)
            .all(|(before, after)| before.1 != after.1)
    );
    world.pass(secs(2));
    let header = world.put(1, "c").header;
    assert_eq!(
        header.map(|header| (header.cluster_id, header.member_id)),
        Some(after[1])
    );
}

#[test]
fn watchers_from_the_past_see_the_new_history() {
    let (mut world, saved, _) = world(1);
    restore(&mut world, &saved, false);
    world.pass(secs(2));
    world.put(0, "b");
    let stream = world.open(0, WATCH, Metadata::default(), 100);
    let create = WatchCreateRequest {
        key: "a".into(),
        range_end: "z".into(),
        start_revision: 2,
        ..Default::default()
    };
    let request = RequestUnion::CreateRequest(create);
    world.message(
        stream,
        &WatchRequest {
            request_union: Some(request),
        },
    );
    world.pass(secs(1));
    let told: Vec<WatchResponse> = world.take(stream);
    let events = told.iter().flat_map(|told| &told.events);
    let keys = events
        .filter_map(|event| event.kv.as_ref())
        .map(|kv| (kv.key.to_vec(), kv.mod_revision));
    assert_eq!(keys.collect::<Vec<_>>(), [(b"a".to_vec(), 2), (b"b".to_vec(), 3)]);
}

#[test]
fn a_single_member_that_lags_goes_on_from_what_was_saved() {
    let (mut world, saved, _) = world(1);
    world.fault(Fault::Lag(0, secs(1)));
    restore(&mut world, &saved, false);
    world.pass(secs(2));
    let revisions = |world: &World| {
        let (committed, applied) = (world.cluster.committed(), world.cluster.applied(0));
        (committed.store().revision(), applied.store().revision())
    };
    world.call(0, PUT, &put("b"));
    assert_eq!(revisions(&world), (3, 2));
    // It lags less: what it has still to apply is committed all the same.
    world.fault(Fault::Lag(0, millis(900)));
    world.pass(secs(2));
    assert_eq!(revisions(&world), (3, 3));
}

#[test]
#[should_panic(expected = "nobody's data is replaced while it runs")]
fn only_dead_members_are_restored() {
    let (mut world, saved, _) = world(1);
    world.cluster.restore(&saved, false);
}
