//! Nothing older than what was shown, whatever way it was shown.

use etcd_proxy_tests::suite::within;
use libtest_mimic::Trial;

use crate::world::{ANSWER_LIMIT, Upstream, World, number, one, put, revision, scenario, serializable};

pub(crate) fn trials(upstream: &Upstream) -> Vec<Trial> {
    vec![
        scenario(upstream, "snapshot_then_read", &[], snapshot_then_read),
        scenario(
            upstream,
            "no_staleness_at_all",
            &["--cache-staleness=0s"],
            no_staleness_at_all,
        ),
    ]
}

/// A snapshot shows the store, and no header tells of what revision: what is read after it isn't older.
async fn snapshot_then_read(world: World) -> World {
    let key = world.key("k");
    let read = serializable(&one(&key));
    put(&world.direct, &key, "0").await;
    world.warm(&read).await;
    for round in 1..20 {
        let written = put(&world.direct, &key, &round.to_string()).await;
        let path = "/etcdserverpb.Maintenance/Snapshot";
        let reply = within(
            "a snapshot",
            ANSWER_LIMIT,
            world.proxied.wire.call(path, &[], &[bytes::Bytes::new()]),
        )
        .await;
        assert!(reply.is_ok(), "{}", reply.in_short());
        let answer = world.proxied.range(&read).await.expect("a read");
        assert_eq!(number(&answer), Some(round), "older than the snapshot");
        assert!(revision(&answer) >= written);
    }
    world
}

/// No time at all: each read waits for a check that began after it, and for no other.
async fn no_staleness_at_all(world: World) -> World {
    let key = world.key("k");
    put(&world.direct, &key, "1").await;
    let read = serializable(&one(&key));
    world.warm(&read).await;
    let before = world.member_reads().await;
    let hits_before = world.hits().await;
    for _ in 0..40 {
        let answer = within("a read", ANSWER_LIMIT, world.proxied.range(&read)).await;
        assert_eq!(number(&answer.expect("a read")), Some(1));
    }
    let asked = world.member_reads().await - before;
    assert!(asked <= 100, "40 reads cost the member {asked} calls");
    assert!(world.hits().await > hits_before, "nothing came from the cache");
    world
}
