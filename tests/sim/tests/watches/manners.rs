//! What clients see of a server: headers, ids, reasons, fragments, half-closed calls, progress.

use etcd_proxy_proto::etcdserverpb::WatchCreateRequest;
use etcd_proxy_sim::{Key, Op};

use super::*;

/// Progress is told when it is asked for, up to what the store has reached: while other keys change, and while nothing
/// does, right after the creation too. Who watches nothing isn't told.
#[test]
fn row_15_progress() {
    for members in [1, 3] {
        let mut world = world(members, 2);
        put(&mut world, 5);
        let watch = open(&mut world, 0);
        create(&mut world, watch, key(1, 0));
        create(&mut world, watch, range(2, 4, 1));
        world.complete(SECOND);
        // Nothing is written after the creation.
        for asked in 1..=3 {
            ask_progress(&mut world, watch);
            world.run_while(SECOND, |world| progress(world, watch).len() < asked);
            assert_eq!(progress(&world, watch).last(), Some(&world.revision()));
        }
        for _ in 0..3 {
            let written = put(&mut world, 7);
            ask_progress(&mut world, watch);
            world.run_while(SECOND, |world| progress(world, watch).last() != Some(&written));
        }
        assert_eq!(progress(&world, watch).len(), 6);
        let nobody = open(&mut world, 1);
        ask_progress(&mut world, nobody);
        world.run_for(2 * SECOND);
        assert!(world.told(nobody).is_empty());
    }
}

/// Nor is who waits for a revision that is to come.
#[test]
fn row_15_progress_waits_for_the_start() {
    let mut world = world(1, 1);
    let start = world.revision() + 3;
    let watch = watch(&mut world, 0, key(1, start));
    world.run_for(SECOND);
    ask_progress(&mut world, watch);
    world.run_for(2 * SECOND);
    assert_eq!(progress(&world, watch), []);
    for _ in 0..3 {
        put(&mut world, 5);
    }
    assert_eq!(world.revision(), start);
    ask_progress(&mut world, watch);
    world.run_while(SECOND, |world| progress(world, watch).is_empty());
    assert_eq!(progress(&world, watch), [start]);
}

/// Those who asked for it are told of progress from time to time.
#[test]
fn progress_notifications() {
    let mut settings = settings(3, 1);
    settings.proxy.watch.progress_notify_interval = 2 * SECOND;
    let mut world = settled(settings);
    let watch = open(&mut world, 0);
    for progress_notify in [true, false] {
        let request = WatchCreateRequest {
            progress_notify,
            ..key(1, 0)
        };
        create(&mut world, watch, request);
    }
    world.run_for(11 * SECOND);
    let told = &world.told(watch)[2..];
    assert!((4..=6).contains(&told.len()), "{told:?}");
    assert!(
        told.iter()
            .all(|response| response.watch_id == 0 && response.events.is_empty())
    );
}

/// Half-close and empty requests change nothing.
#[test]
fn row_22_half_closed_and_unset() {
    let mut world = world(3, 1);
    let watch = open(&mut world, 0);
    world.ask(watch, None);
    create(&mut world, watch, key(1, 0));
    world.half_close(watch);
    world.complete(SECOND);
    let written = put(&mut world, 1);
    world.complete(SECOND);
    assert_eq!(revisions(&world, watch), [written]);
    assert_eq!(world.ended(watch), None);
}

/// Ids are the client's or the next free ones, reasons are the server's. Headers are looked at by the oracle.
#[test]
fn rows_25_26_28_ids_and_reasons() {
    let mut world = world(3, 1);
    put(&mut world, 1);
    let watch = open(&mut world, 0);
    let with_id = |watch_id: i64, request: WatchCreateRequest| WatchCreateRequest { watch_id, ..request };
    for request in [
        with_id(77, key(1, 0)),
        with_id(77, key(1, 0)),
        range(2, 1, 0),
        key(1, 0),
        with_id(1, key(1, 0)),
        key(1, 0),
        key(1, -1),
        with_id(3, key(1, 0)),
    ] {
        create(&mut world, watch, request);
    }
    cancel(&mut world, watch, 3);
    cancel(&mut world, watch, 4711);
    world.complete(SECOND);
    assert_eq!(ids(&world, watch), [77, -1, -1, 0, 1, 2, -1, 3, 3]);
    assert_eq!(
        reasons(&world, watch),
        [
            "mvcc: duplicate watch ID provided on the WatchStream",
            "mvcc: watcher range is empty",
            "etcdserver: mvcc: required revision has been compacted",
            ""
        ]
    );
    // It may be used again.
    cancel(&mut world, watch, 77);
    create(&mut world, watch, with_id(77, key(1, 0)));
    world.complete(SECOND);
    assert_eq!(ids(&world, watch)[9..], [77, 77]);
    let revision = world.revision();
    let headers = world
        .told(watch)
        .iter()
        .map(|response| response.header.map(|header| header.revision));
    assert!(headers.into_iter().all(|told| told == Some(revision)));
}

/// Large responses come in fragments to those who can put them together, whole to the others; also those that the
/// server itself splits.
#[test]
fn row_27_fragments() {
    let mut world = world(1, 1);
    let mut expected = Vec::new();
    for _ in 0..4 {
        let op = Op::PutLong {
            key: Key(1),
            length: 1 << 20,
        };
        expected.push(call(&mut world, 0, op));
    }
    let watch = open(&mut world, 0);
    for fragment in [true, false] {
        let request = WatchCreateRequest {
            fragment,
            ..key(1, expected[0])
        };
        create(&mut world, watch, request);
    }
    world.complete(3 * SECOND);
    let of = |id: i64| {
        let told = world
            .told(watch)
            .iter()
            .filter(move |response| response.watch_id == id);
        told.filter(|response| !response.events.is_empty())
            .map(|response| (response.fragment, response.events.len()))
            .collect::<Vec<_>>()
    };
    let split: usize = of(0).iter().map(|(_, events)| events).sum();
    assert_eq!(split, 4);
    assert!(of(0).iter().any(|(fragment, _)| *fragment), "{:?}", of(0));
    assert!(of(1).iter().all(|(fragment, _)| !fragment), "{:?}", of(1));
}

/// What isn't a request ends the call, and nothing else.
#[test]
fn nonsense_ends_the_call() {
    let mut world = world(1, 2);
    let (good, bad) = (watch(&mut world, 0, key(1, 0)), watch(&mut world, 1, key(1, 0)));
    world.complete(SECOND);
    world.ask_nonsense(bad);
    world.run_for(SECOND);
    let ended = world.ended(bad).and_then(Option::as_ref);
    assert_eq!(ended.map(|status| status.code), Some(13));
    let written = put(&mut world, 1);
    world.complete(SECOND);
    assert_eq!(revisions(&world, good), [written]);
}
