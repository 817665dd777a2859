//! A store that goes back, or is another one. Row 99: nothing compared.

use etcd_proxy_core::watch::{Config, Event, Status};
use etcd_proxy_proto::etcdserverpb::{ResponseHeader, WatchResponse};
use prost::Message as _;

use super::{SECOND, put, revisions, watch, world};
use crate::store::Store;
use crate::world::World;

/// A world with a client that watches `k`, and the store as it was before it saw twenty events.
fn watched() -> (World, Store) {
    let mut world = world();
    for _ in 0..5 {
        put(&mut world, "k");
    }
    let old = world.open(None, false);
    world.create(old, watch("k", "", 0));
    world.run(SECOND);
    let snapshot = world.store.clone();
    for _ in 0..20 {
        put(&mut world, "k");
        world.settle();
    }
    assert_eq!(revisions(&world, old).len(), 20);
    (world, snapshot)
}

/// Watches from now on and from the beginning see what the store has, and nothing else.
fn check_watches(world: &mut World) {
    let start = (world.store.compacted + 1).max(2);
    let (now, past) = (world.open(None, false), world.open(None, false));
    world.create(now, watch("k", "", 0));
    world.create(past, watch("k", "", start));
    world.run(SECOND);
    let written = put(world, "k");
    world.run(SECOND);
    assert_eq!(revisions(world, now), [written]);
    assert_eq!(revisions(world, past), (start..=written).collect::<Vec<_>>());
}

/// A snapshot is restored, and nobody does anything but watch: the watch that was there ends, as with a lost member.
#[test]
fn a_watch_ends_when_the_store_goes_back() {
    let (mut world, snapshot) = watched();
    world.restore(snapshot);
    world.run(SECOND);
    assert_eq!(world.ended.len(), 1, "it stays open and silent");
    let (client, status) = &world.ended[0];
    assert_eq!((client.events, status.code), (20, 14));
    let stats = world.hub.stats();
    assert_eq!((stats.histories, stats.watchers, stats.live_sources), (1, 0, 0));
    check_watches(&mut world);
    assert_eq!(world.hub.stats().histories, 1);
}

/// Nobody can say yet what the store is when a watcher that needs what is old gets there: what it finds may be anything.
#[test]
fn nothing_is_told_of_the_past_until_it_is_known_whose_it_is() {
    let (mut world, snapshot) = watched();
    let past = world.open(None, false);
    world.create(past, watch("k", "", 2));
    while world.answer_check() || world.hear_answer() {}
    assert_eq!(world.clients[past].frames.len(), 1, "it is created, and no more");
    world.outage = Some(Status::new(14, "etcdserver: no leader"));
    world.restore(snapshot);
    world.run(SECOND);
    world.store.write(&[("k", Some("of the new history"))]);
    world.run(SECOND);
    assert_eq!(revisions(&world, past), [] as [i64; 0]);
    assert!(world.ended.is_empty());
    world.outage = None;
    world.run(SECOND);
    assert_eq!(world.ended.len(), 2);
    check_watches(&mut world);
}

/// The same, and it was a member that lagged.
#[test]
fn the_past_is_told_when_the_store_is_the_same() {
    let (mut world, _) = watched();
    let past = world.open(None, false);
    world.create(past, watch("k", "", 2));
    while world.answer_check() || world.hear_answer() {}
    world.outage = Some(Status::new(14, "etcdserver: no leader"));
    world.members[0] = 5;
    world.end_streams();
    world.pass(SECOND);
    for id in world.stream_ids() {
        while world.server_step(id) {}
        world.server_sync(id);
        while world.server_send(id) {}
    }
    world.settle();
    assert!(world.hub.stats().doubts > 0);
    assert_eq!(revisions(&world, past), [] as [i64; 0]);
    world.outage = None;
    world.run(SECOND);
    assert_eq!(revisions(&world, past), (2..=26).collect::<Vec<_>>());
    assert_eq!((world.hub.stats().histories, world.ended.len()), (0, 0));
}

/// The client that comes after it is the first to notice.
#[test]
fn a_new_watch_gets_the_events_of_the_store_that_is_there() {
    let (mut world, snapshot) = watched();
    world.close(0);
    // What was seen is still known.
    world.restore(snapshot);
    let client = world.open(None, false);
    world.create(client, watch("k", "", 0));
    world.settle();
    assert_eq!(
        world.ended.len(),
        1,
        "it may have to ask again, but isn't lied to"
    );
    check_watches(&mut world);
}

/// Another cluster is at the same address: its revisions may be higher, and are none of this one.
#[test]
fn events_of_another_cluster_reach_no_watch_of_this_one() {
    let (mut world, _) = watched();
    let mut other = Store::new();
    other.cluster = 78;
    for _ in 0..100 {
        other.write(&[("k", Some("other"))]);
    }
    world.restore(other);
    put(&mut world, "k");
    world.run(SECOND);
    let (client, status) = &world.ended[0];
    assert_eq!((client.events, status.code), (20, 14));
    check_watches(&mut world);
}

/// What was compacted in one history isn't in the other.
#[test]
fn compaction_is_forgotten() {
    let (mut world, snapshot) = watched();
    world.store.compacted = 20;
    world.tell(Event::Compacted(20));
    world.restore(snapshot);
    world.run(SECOND);
    check_watches(&mut world);
}

/// A snapshot restored with a higher revision, and all before it compacted, goes on with the same history.
#[test]
fn a_restore_that_bumps_the_revision_is_no_other_history() {
    let (mut world, snapshot) = watched();
    let mut bumped = snapshot;
    bumped.revision += 1_000;
    bumped.compacted = bumped.revision;
    world.restart(bumped);
    world.run(SECOND);
    assert_eq!(world.clients[0].compacted, 1);
    assert_eq!(world.hub.stats().histories, 0);
    check_watches(&mut world);
}

/// A question that was asked before, and is answered when the store has gone back and all is forgotten.
#[test]
fn answers_from_before_change_nothing() {
    let (mut world, snapshot) = watched();
    let before = world.history.known();
    let client = world.open(None, false);
    world.create(client, watch("k", "", 0));
    // The member has answered, but nobody has heard it.
    assert!(world.answer_check());
    world.restore(snapshot);
    assert_eq!(world.history.known(), before);
    world.tell(Event::History(1));
    while world.hear_answer() {}
    assert_eq!(world.hub.revision(), 0, "that was the other history's");
    assert_eq!(world.ended.len(), 1);
}

/// A member that lags is asked about, and no more comes of it.
#[test]
fn a_lagging_member_is_no_other_history() {
    let mut world = World::new(3, Config::default(), 3);
    put(&mut world, "k");
    let client = world.open(None, false);
    world.create(client, watch("k", "", 0));
    world.settle();
    for round in 0..30 {
        put(&mut world, "k");
        // One member has it.
        let member = round % 3;
        while world.apply(member) {}
        while let Some(id) = world.random_stream() {
            world.end_stream(id, 14, "etcdserver: server stopped");
        }
        world.pass(SECOND / 4);
        for _ in 0..3 {
            while world.answer_check() || world.hear_answer() {}
            if let Some(id) = world.random_stream() {
                while world.server_step(id) {}
                world.server_sync(id);
                while world.server_send(id) {}
            }
        }
    }
    world.run(SECOND);
    assert_eq!(revisions(&world, client).len(), 30);
    let stats = world.hub.stats();
    assert_eq!(stats.histories, 0, "{stats:?}");
    assert!(stats.doubts > 0, "{stats:?}");
}

/// A member that is out of its mind is left, and what it said is nowhere.
#[test]
fn nonsense_poisons_nothing() {
    for revision in [i64::MAX, i64::MAX - 1, -1, i64::MIN] {
        let (mut world, _) = watched();
        let id = world.random_stream().expect("there is one");
        for watch_id in [-1, 1] {
            let response = WatchResponse {
                header: Some(ResponseHeader {
                    cluster_id: world.store.cluster,
                    revision,
                    ..ResponseHeader::default()
                }),
                watch_id,
                ..WatchResponse::default()
            };
            world.tell(Event::UpstreamSent(id, response.encode_to_vec().into()));
        }
        put(&mut world, "k");
        world.run(SECOND);
        assert_eq!(revisions(&world, 0).len(), 21, "after {revision}");
        check_watches(&mut world);
        assert_eq!(world.hub.stats().histories, 0);
    }
}
