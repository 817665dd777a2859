//! Progress that nobody asked for: told at the server's interval, also to those whom the server itself wouldn't tell.

use std::time::Duration;

use etcd_proxy_core::watch::{Config, UpstreamKind};
use etcd_proxy_proto::etcdserverpb::WatchCreateRequest;

use super::{SECOND, put, revisions, watch};
use crate::world::World;

const CENTI: Duration = Duration::from_millis(10);

/// A world in which a wide range is busy, and watched; a key in it and one elsewhere are idle, and their watchers want to be
/// told of progress.
fn busy(config: Config) -> (World, usize, usize) {
    let mut world = World::new(1, config, 1);
    let wide = world.open(None, false);
    world.create(wide, watch("a", "n", 0));
    world.settle();
    let told = |key| WatchCreateRequest {
        progress_notify: true,
        ..watch(key, "", 0)
    };
    let (rider, elsewhere) = (world.open(None, false), world.open(None, false));
    world.create(rider, told("k"));
    world.create(elsewhere, told("x"));
    world.settle();
    assert_eq!(world.server_watchers(UpstreamKind::Live), 2);
    (world, rider, elsewhere)
}

/// Time passes. The wide range changes ten times in a second, and once in each the server notifies what is idle.
fn seconds(world: &mut World, seconds: usize) {
    for _ in 0..seconds {
        for _ in 0..10 {
            put(world, "b");
            world.run(CENTI * 10);
        }
        let applied = world.members[0];
        let mut streams = world.streams.values_mut();
        let idle = streams.find(|stream| stream.kind == UpstreamKind::Live && stream.watches(b"x"));
        idle.expect("it is on a stream of its own")
            .notify(applied, &mut fastrand::Rng::with_seed(1));
        world.settle();
    }
}

/// The interval is learned from what the server tells elsewhere. Whoever has seen an event since isn't told.
#[test]
fn a_busy_wide_source() {
    let (mut world, rider, elsewhere) = busy(Config::default());
    seconds(&mut world, 4);
    let before = [rider, elsewhere].map(|client| world.clients[client].notified);
    assert_eq!(before[1], 4);
    seconds(&mut world, 10);
    let told = world.clients[rider].notified - before[0];
    assert!((8..=11).contains(&told), "told {told} times in ten seconds");
    assert_eq!(
        world.clients[elsewhere].notified - before[1],
        10,
        "each time once"
    );
    let before = world.clients[rider].notified;
    let mut written = Vec::new();
    for _ in 0..20 {
        written.push(put(&mut world, "k"));
        world.run(SECOND / 2);
    }
    assert_eq!(revisions(&world, rider), written);
    assert!(world.clients[rider].notified - before <= 1);
}

/// Or it is a setting, which nothing changes.
#[test]
fn an_interval_that_is_set() {
    let (mut world, rider, _) = busy(Config {
        progress_notify_interval: 3 * SECOND,
        learns_notify_interval: false,
        ..Config::default()
    });
    seconds(&mut world, 12);
    let told = world.clients[rider].notified;
    assert!((3..=4).contains(&told), "told {told} times in twelve seconds");
}
