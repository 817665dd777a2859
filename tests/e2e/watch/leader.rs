//! Streams that want a leader, when there is none. Row 13.

use etcd_proxy_tests::{
    client::Client,
    etcd::{Cluster, Options},
    proxy::Proxy,
    suite::{eventually, trial},
    watching::{ANSWER_LIMIT, Watching, on_key, on_prefix},
    wire::{Reply, Wire},
};
use libtest_mimic::Trial;

use crate::world::{Follower, put};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("leader_lost", leader_lost)]
}

const REQUIRE_LEADER: [(&str, &str); 1] = [("hasleader", "true")];

/// UNAVAILABLE.
const UNAVAILABLE: u32 = 14;

fn says_no_leader(name: &str, end: &Reply) {
    let said = (end.code(), end.message());
    let expected = (Some(UNAVAILABLE), Some("etcdserver: no leader".to_owned()));
    assert_eq!(said, expected, "{name}: {}", end.in_short());
}

/// Two of three members die.
async fn leader_lost() {
    let mut cluster = Cluster::start(Options::three()).await;
    cluster.all_serve().await;
    let ids = cluster.ids().await;
    // The one that stays is no leader, so that it loses one.
    let stays = (cluster.leader_seen_by(0, &ids).await + 1) % 3;
    let mut proxy = Proxy::start(&cluster.endpoints(), &[]).await;
    let direct = Client::connect(&cluster.address(stays)).await.expect("member");
    let proxied = Wire::connect(proxy.address()).await.expect("proxy");

    let mut wanting = Vec::new();
    for (name, wire) in [
        ("direct", &direct.wire),
        ("proxied", &proxied),
        ("proxied too", &proxied),
    ] {
        let mut watching = Watching::open(wire, &REQUIRE_LEADER).await;
        let created = watching.created(on_prefix("w/")).await;
        wanting.push((name, Follower::new(watching, &created)));
    }
    // A stream without a watcher, and streams that don't ask for a leader.
    let bare = Watching::open(&proxied, &REQUIRE_LEADER).await;
    let mut patient = Vec::new();
    for create in [on_prefix("w/"), on_key("w/k")] {
        let (watching, created) = Watching::one(&proxied, create).await;
        patient.push(Follower::new(watching, &created));
    }
    let first = put(&direct, "w/k", "1").await;
    for (_, follower) in &mut wanting {
        follower.until(first).await;
    }

    let dead = [(stays + 1) % 3, (stays + 2) % 3];
    for member in dead {
        cluster.kill(member);
    }
    for (name, follower) in wanting {
        says_no_leader(name, &follower.watching.end().await);
    }
    says_no_leader("without a watcher", &bare.end().await);
    // Who asks now is refused the same way.
    let mut late = Watching::open(&proxied, &REQUIRE_LEADER).await;
    // It may end before the request is sent; how it ends is looked at.
    late.try_create(on_key("w/k")).await;
    says_no_leader("a new one", &late.end().await);

    for member in dead {
        cluster.restart(member);
    }
    cluster.all_serve().await;
    let last = put(&direct, "w/k", "2").await;
    for follower in &mut patient {
        follower.until(last).await;
        assert_eq!(follower.revisions(), [first, last]);
    }
    // And so does who wants a leader, as soon as there is one.
    let mut again = eventually("a stream with a leader", ANSWER_LIMIT, async || {
        let mut watching = Watching::open(&proxied, &REQUIRE_LEADER).await;
        watching.try_create(on_key("w/k")).await;
        let created = watching.answer().await.ok()?;
        Some(Follower::new(watching, &created))
    })
    .await;
    let last = put(&direct, "w/k", "3").await;
    again.until(last).await;
    proxy.assert_sound();
}
