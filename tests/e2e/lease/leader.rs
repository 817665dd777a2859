//! Streams that want a leader, when there is none, and streams that don't ask.

use etcd_proxy_tests::{
    leaderless::{Leaderless, REQUIRE_LEADER, says_no_leader},
    suite::{eventually, trial},
};
use libtest_mimic::Trial;

use crate::world::{ANSWER_LIMIT, Beats, grant};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("leader_lost", leader_lost),
        trial("heartbeats_without_a_leader", heartbeats_without_a_leader),
    ]
}

/// Seconds: longer than an election on a busy machine.
const TTL: i64 = 90;

/// Two of three members die, and come back.
async fn leader_lost() {
    let mut world = Leaderless::prepare().await;
    let proxied = world.proxied.clone();
    let lease = grant(&world.direct.wire, &[], TTL).await;

    let mut wanting = Vec::new();
    for (name, wire) in world.sides() {
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

    world.lose();
    patient[0].ask(lease).await;
    for (name, mut stream) in wanting {
        says_no_leader(name, &stream.end().await);
    }
    says_no_leader("without a heartbeat", &silent.end().await);
    // Who asks now is refused the same way.
    let mut late = Beats::open(&proxied, &REQUIRE_LEADER).await;
    late.try_ask(lease).await;
    says_no_leader("a new one", &late.end().await);

    world.restore().await;
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
    world.proxy.assert_sound();
}

/// Who doesn't ask for a leader waits for one as long as a server does, however long the lease lives; and is answered when there
/// is one by then.
async fn heartbeats_without_a_leader() {
    let mut world = Leaderless::prepare().await;
    let lease = grant(&world.direct.wire, &[], TTL).await;
    let mut wanting = Beats::open(&world.proxied, &REQUIRE_LEADER).await;
    assert_eq!(wanting.beat(lease).await, TTL);
    world.lose();
    says_no_leader("one that wants a leader", &wanting.end().await);
    let mut asking = Vec::new();
    for (name, wire) in world.sides() {
        let mut stream = Beats::open(wire, &[]).await;
        stream.ask(lease).await;
        asking.push((name, stream));
    }
    for (name, mut stream) in asking {
        says_no_leader(name, &stream.end().await);
    }
    let mut late = Beats::open(&world.proxied, &[]).await;
    late.ask(lease).await;
    world.restore().await;
    // It may have waited for too long by then; the next one doesn't.
    drop(late);
    let mut again = Beats::open(&world.proxied, &[]).await;
    assert_eq!(again.beat(lease).await, TTL);
    world.proxy.assert_sound();
}
