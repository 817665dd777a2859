//! What takes too long, and what isn't for the cache at all.

use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_core::range::KeyRange;
use etcd_proxy_core::read::{Config, Event, Reason, Scope};

use super::{SECOND, TRIP, cached, forwarded, linearizable, put, serializable, world};
use crate::world::{World, ms};

fn key(number: usize) -> String {
    format!("k{number}")
}

/// The watch has fallen behind: reads that wait for it go to the cluster, a few at a time, and all get there.
#[test]
fn few_fall_back_at_a_time() {
    let config = Config {
        fallbacks_max: 5,
        ..Config::default()
    };
    let mut world = World::new(1, config);
    for number in 0..100 {
        world.write_elsewhere(&[put(&key(number), "1")]);
    }
    for number in 0..100 {
        world.warm(&linearizable(&key(number), ""));
    }
    world.faults.watch_latency = 10_000_000;
    world.write_elsewhere(&[put("x", "2")]);
    let readers: Vec<usize> = (0..100)
        .map(|number| world.read(linearizable(&key(number), "")))
        .collect();
    let until = world.now + world.config.wait_max + SECOND / 2;
    let mut most = 0;
    while world.now < until {
        world.run(ms(1) / 10);
        most = most.max(world.flying.len());
    }
    assert_eq!(most, 5);
    assert!(
        readers
            .iter()
            .all(|reader| world.readers[*reader].response.is_some())
    );
    // Who comes now doesn't wait for what isn't there; the number is bounded all the same.
    let readers: Vec<usize> = (0..20)
        .map(|number| world.read(linearizable(&key(number), "")))
        .collect();
    assert_eq!((world.flying.len(), world.cache.stats().queued), (5, 15));
    world.run(TRIP * 5);
    assert!(
        readers
            .iter()
            .all(|reader| world.readers[*reader].took <= TRIP * 5)
    );
    // The watch is there: it is as before.
    world.run(SECOND * 11);
    world.faults.watch_latency = 1000;
    assert_eq!(world.value(linearizable(&key(1), "")), cached("1"));
}

/// No leader: a linearizable read can't be answered, a serializable one can, and is.
#[test]
fn no_leader() {
    let mut world = world();
    world.write_elsewhere(&[put("a", "1")]);
    world.warm(&serializable("a", ""));
    world.faults.is_leaderless = true;
    for _ in 0..30 {
        let reader = world.read(linearizable("a", ""));
        assert_eq!(world.value(serializable("a", "")).0, "1");
        world.run(ms(200));
        let response = world.readers[reader].response.clone().expect("there is one");
        assert_eq!(response.unwrap_err().code, 14);
    }
    // From the cache only as long as somebody has confirmed it who had a leader.
    let hits = world.cache.stats().hits_serializable;
    assert!((1..10).contains(&hits), "{hits}");
}

/// Checks that stay without answer hold up nobody for longer than reads may wait.
#[test]
fn lost_checks() {
    let mut world = world();
    world.write_elsewhere(&[put("a", "1")]);
    world.warm(&serializable("a", ""));
    world.faults.checks_lost = 1000;
    let checks = world.told.checks;
    for _ in 0..100 {
        for request in [linearizable("a", ""), serializable("a", "")] {
            let reader = world.read(request);
            world.run(ms(120));
            assert!(world.readers[reader].response.is_some());
            assert!(world.readers[reader].took <= world.config.wait_max + TRIP);
        }
    }
    // Each is given up after some seconds.
    assert!(world.told.checks - checks <= 14, "{}", world.told.checks - checks);
    world.faults.checks_lost = 0;
    world.run(SECOND * 6);
    assert_eq!(world.value(linearizable("a", "")).0, "1");
    assert_eq!(world.value(linearizable("a", "")), cached("1"));
}

fn narrow() -> World {
    let scope = Scope::Ranges(vec![
        KeyRange::new(b"a"[..].into(), b"b"[..].into()),
        KeyRange::new(b"x"[..].into(), Bytes::new()),
    ]);
    World::new(
        1,
        Config {
            scope,
            ..Config::default()
        },
    )
}

/// Some ranges are watched: how far the watch is must be asked for when other keys change.
#[test]
fn ranges() {
    let mut world = narrow();
    world.write_elsewhere(&[put("aa", "1"), put("x", "2"), put("y", "3")]);
    for request in [
        linearizable("aa", ""),
        linearizable("a", "ac"),
        linearizable("x", ""),
    ] {
        world.warm(&request);
    }
    assert_eq!(world.told.progress_asked, 0);
    world.write_elsewhere(&[put("y", "4")]);
    assert_eq!(world.value(linearizable("aa", "")), cached("1"));
    assert_eq!(world.told.progress_asked, 1);
    assert_eq!(world.value(linearizable("x", "")), cached("2"));
    assert_eq!(world.told.progress_asked, 1, "it is known by now");
    for request in [
        serializable("y", ""),
        serializable("a", "\0"),
        serializable("x", "xa"),
    ] {
        for _ in 0..2 {
            assert!(!world.ask(request.clone()).1, "{request:?}");
        }
    }
    assert_eq!(world.cache.stats().bypasses[Reason::OutOfScope as usize], 6);
    // Progress that can't be trusted is no progress.
    world.tell(Event::LinearizableTrusted(false));
    world.write_elsewhere(&[put("y", "5")]);
    assert_eq!(world.value(linearizable("aa", "")), forwarded("1"));
}

/// A member that doesn't tell its progress: linearizable reads are forwarded, in time.
#[test]
fn silent_progress() {
    let mut world = narrow();
    world.write_elsewhere(&[put("aa", "1")]);
    world.warm(&linearizable("aa", ""));
    world.faults.is_silent = true;
    world.write_elsewhere(&[put("y", "4")]);
    let reader = world.read(linearizable("aa", ""));
    world.run(ms(200));
    assert!(!world.readers[reader].is_cached);
    assert!(world.readers[reader].took <= world.config.wait_max + TRIP);
    world.faults.is_silent = false;
    world.run(SECOND);
    assert_eq!(world.value(serializable("aa", "")).0, "1");
    assert_eq!(world.value(linearizable("aa", "")), cached("1"));
}

/// A flag for each.
#[test]
fn switched_off() {
    let mut world = World::new(
        1,
        Config {
            linearizable: false,
            ..Config::default()
        },
    );
    world.warm(&serializable("a", ""));
    assert!(!world.ask(linearizable("a", "")).1);
    let mut world = World::new(
        1,
        Config {
            scope: Scope::Nothing,
            ..Config::default()
        },
    );
    for _ in 0..3 {
        assert!(!world.ask(serializable("a", "")).1);
    }
    assert_eq!(world.cache.stats().bypasses[Reason::Off as usize], 3);
    assert_eq!(world.stream.opened, 0);
}

/// Too large to keep, and too odd to understand.
#[test]
fn what_is_not_cached() {
    let mut world = world();
    world.write_elsewhere(&[put("a", &"x".repeat(2 << 20))]);
    for _ in 0..3 {
        assert!(!world.ask(serializable("a", "")).1);
    }
    assert_eq!(
        (world.cache.stats().entries, world.cache.stats().admitted),
        (0, 0)
    );
    world.write_elsewhere(&[put("a", "1")]);
    for encoded in [&b"\x0a\x01a\x70\x01"[..], b"\x0a\x01a\x18"] {
        for _ in 0..2 {
            let reader = world.read_encoded(serializable("a", ""), Bytes::from_static(encoded));
            world.run(TRIP);
            assert!(!world.readers[reader].is_cached);
        }
    }
    let bypasses = world.cache.stats().bypasses;
    assert_eq!(bypasses[Reason::UnknownFields as usize], 2);
    assert_eq!(bypasses[Reason::Malformed as usize], 2);
}

/// The watch breaks: nothing is served until it is there again, and what was missed is gone.
#[test]
fn a_broken_watch() {
    let mut world = world();
    world.write_elsewhere(&[put("a", "1")]);
    world.warm(&serializable("a", ""));
    let watch = world.stream.watch.expect("it is open");
    world.tell(Event::WatchLost(watch));
    assert_eq!(world.cache.stats().entries, 0);
    world.write_elsewhere(&[put("a", "2")]);
    assert_eq!(world.value(serializable("a", "")), forwarded("2"));
    assert_eq!(world.value(serializable("a", "")), forwarded("2"));
    let revision = world.cluster.last().revision;
    world.tell(Event::WatchStarted { watch, revision });
    world.warm(&serializable("a", ""));
    // What is said of a watch that isn't there any more.
    world.run(world.config.idle + Duration::from_secs(1));
    world.warm(&serializable("a", ""));
    let before = world.cache.stats();
    for event in [
        Event::WatchChanged {
            watch,
            revision: revision + 5,
            keys: vec![b"a"[..].into()],
        },
        Event::WatchProgressed {
            watch,
            revision: revision + 5,
        },
        Event::WatchLost(watch),
        Event::WatchStarted { watch, revision: 1 },
    ] {
        world.tell(event);
    }
    assert_eq!(world.cache.stats(), before);
}
