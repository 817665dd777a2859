//! Streams that want a leader, when there is none, and streams that don't ask.

use etcd_proxy_tests::{
    client::Client,
    etcd::{Cluster, Options},
    proxy::Proxy,
    suite::{eventually, trial},
    wire::{Reply, Wire},
};
use libtest_mimic::Trial;

use crate::world::{ANSWER_LIMIT, Beats, UNAVAILABLE, grant};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("leader_lost", leader_lost)]
}

const REQUIRE_LEADER: [(&str, &str); 1] = [("hasleader", "true")];

/// Seconds: longer than an election on a busy machine.
const TTL: i64 = 90;

fn says_no_leader(name: &str, end: &Reply) {
    let said = (end.code(), end.message());
    let expected = (Some(UNAVAILABLE), Some("etcdserver: no leader".to_owned()));
    assert_eq!(said, expected, "{name}: {}", end.in_short());
}

/// Two of three members die, and come back.
async fn leader_lost() {
    let mut cluster = Cluster::start(Options::three()).await;
    cluster.all_serve().await;
    let ids = cluster.ids().await;
    // The one that stays is no leader, so that it loses one.
    let stays = (cluster.leader_seen_by(0, &ids).await + 1) % 3;
    let mut proxy = Proxy::start(&cluster.endpoints(), &[]).await;
    let direct = Client::connect(&cluster.address(stays)).await.expect("member");
    let proxied = Wire::connect(proxy.address()).await.expect("proxy");
    let lease = grant(&direct.wire, &[], TTL).await;

    let mut wanting = Vec::new();
    for (name, wire) in [
        ("direct", &direct.wire),
        ("proxied", &proxied),
        ("proxied too", &proxied),
    ] {
        let mut stream = Beats::open(wire, &REQUIRE_LEADER).await;
        assert_eq!(stream.beat(lease).await, TTL, "{name}");
        wanting.push((name, stream));
    }
    let mut silent = Beats::open(&proxied, &REQUIRE_LEADER).await;
    // With an answer that is waited for during the loss, and without.
    let mut patient = Vec::new();
    for _ in 0..2 {
        let mut stream = Beats::open(&proxied, &[]).await;
        assert_eq!(stream.beat(lease).await, TTL);
        patient.push(stream);
    }

    let dead = [(stays + 1) % 3, (stays + 2) % 3];
    for member in dead {
        cluster.kill(member);
    }
    patient[0].ask(lease).await;
    for (name, mut stream) in wanting {
        says_no_leader(name, &stream.end().await);
    }
    says_no_leader("without a heartbeat", &silent.end().await);
    // Who asks now is refused the same way.
    let mut late = Beats::open(&proxied, &REQUIRE_LEADER).await;
    late.try_ask(lease).await;
    says_no_leader("a new one", &late.end().await);

    for member in dead {
        cluster.restart(member);
    }
    cluster.all_serve().await;
    let answer = patient[0].answer().await.expect("an answer that is in time");
    assert_eq!((answer.id, answer.ttl), (lease, TTL));
    for stream in &mut patient {
        assert_eq!(stream.beat(lease).await, TTL);
    }
    // And so does who wants a leader, as soon as there is one.
    eventually("a stream with a leader", ANSWER_LIMIT, async || {
        let mut stream = Beats::open(&proxied, &REQUIRE_LEADER).await;
        stream.try_ask(lease).await;
        let answer = stream.answer().await.ok()?;
        (answer.ttl == TTL).then_some(())
    })
    .await;
    proxy.assert_sound();
}
