//! The store goes back, or is another cluster's: watches end, and new ones see what it has now. Row 99 of the list.

use super::*;

const ANOTHER_HISTORY: &str = "the store has gone back to another history";

/// A world with a watch of ten events, all of which came after what is saved.
fn watched() -> (World, WatchTag) {
    let mut world = world(3, 1);
    for _ in 0..3 {
        put(&mut world, 1);
    }
    world.save();
    let watched = watch(&mut world, 0, range(0, 8, 0));
    world.run_for(SECOND);
    for _ in 0..10 {
        put(&mut world, 1);
    }
    world.run_for(SECOND);
    assert_eq!(revisions(&world, watched).len(), 10);
    (world, watched)
}

/// Nobody makes a call: it is the hub that finds out.
fn ends(world: &mut World, watch: WatchTag) {
    world.run_for(8 * SECOND);
    let ended = world.ended(watch).and_then(Option::as_ref);
    let ended = ended.map(|status| (status.code, &*status.message));
    assert_eq!(ended, Some((14, ANOTHER_HISTORY)));
    assert_eq!(revisions(world, watch).len(), 10);
    assert_eq!(world.watch_stats(0).histories, 1);
}

/// New watches see the events of the store that is there.
fn goes_on(world: &mut World) {
    let start = world.revision();
    let [now, past] = [0, 2].map(|start| watch(world, 0, range(0, 8, start)));
    world.run_for(SECOND);
    let written = put(world, 2);
    assert_eq!(written, start + 1);
    world.complete(2 * SECOND);
    assert_eq!(revisions(world, now), [written]);
    assert_eq!(revisions(world, past), (2..=written).collect::<Vec<_>>());
    assert_eq!(world.watch_stats(0).histories, 1);
}

#[test]
fn row_99_a_watch_ends_when_the_store_goes_back() {
    let (mut world, watch) = watched();
    world.restore_last(false);
    ends(&mut world, watch);
    assert_eq!(world.revision(), 4);
    goes_on(&mut world);
}

#[test]
fn row_99_a_watch_ends_when_another_cluster_is_there() {
    let (mut world, watch) = watched();
    // It has everything that the former one had.
    world.save();
    world.restore_last(true);
    ends(&mut world, watch);
    assert_eq!(world.revision(), 14);
    goes_on(&mut world);
}

/// Whoever has seen nothing that is gone needn't know.
#[test]
fn a_watch_goes_on_when_nothing_is_lost() {
    let (mut world, watch) = watched();
    world.save();
    world.restore_last(false);
    world.run_for(8 * SECOND);
    let written = put(&mut world, 3);
    world.complete(2 * SECOND);
    assert_eq!(world.ended(watch), None);
    assert_eq!(revisions(&world, watch).last(), Some(&written));
    assert_eq!(world.watch_stats(0).histories, 0);
}

/// A heartbeat of the former history is answered late, and says nothing of the one that is there.
#[test]
fn a_call_of_the_former_history_ends_nothing_of_the_next() {
    let (mut world, watched) = watched();
    let lease = world.grant(0, 60);
    let beats = world.keep_alive(0, Identity::Anonymous, false);
    world.beat(beats, lease);
    world.run_for(SECOND);
    world.restore_last(false);
    ends(&mut world, watched);
    world.beat(beats, lease);
    world.run_for(2 * SECOND);
    let told: Vec<i64> = world
        .answers(beats)
        .iter()
        .map(|told| told.response.ttl)
        .collect();
    assert_eq!(told, [60, 0], "the store that is there doesn't know it");
    goes_on(&mut world);
}
