//! Streams that want a leader, when there is none. Row 13.

use etcd_proxy_tests::{
    leaderless::{Leaderless, REQUIRE_LEADER, says_no_leader},
    suite::{eventually, trial},
    watching::{ANSWER_LIMIT, Watching, on_key, on_prefix, since},
};
use libtest_mimic::Trial;

use crate::world::{Follower, put};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("leader_lost", leader_lost),
        trial("created_without_a_leader", created_without_a_leader),
    ]
}

/// Two of three members die.
async fn leader_lost() {
    let mut world = Leaderless::prepare().await;
    let proxied = world.proxied.clone();

    let mut wanting = Vec::new();
    for (name, wire) in world.sides() {
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
    let first = put(&world.direct, "w/k", "1").await;
    for (_, follower) in &mut wanting {
        follower.until(first).await;
    }

    world.lose();
    for (name, follower) in wanting {
        says_no_leader(name, &follower.watching.end().await);
    }
    says_no_leader("without a watcher", &bare.end().await);
    // Who asks now is refused the same way.
    let mut late = Watching::open(&proxied, &REQUIRE_LEADER).await;
    // It may end before the request is sent; how it ends is looked at.
    late.try_create(on_key("w/k")).await;
    says_no_leader("a new one", &late.end().await);

    world.restore().await;
    let last = put(&world.direct, "w/k", "2").await;
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
    let last = put(&world.direct, "w/k", "3").await;
    again.until(last).await;
    world.proxy.assert_sound();
}

/// A member that has lost its leader creates watches for those who don't ask for one, and gives them what it has; and no
/// request costs a stream the watchers that it has.
async fn created_without_a_leader() {
    let mut world = Leaderless::prepare().await;
    let proxied = world.proxied.clone();
    let first = put(&world.direct, "w/k", "1").await;
    let (watching, created) = Watching::one(&proxied, on_key("w/k")).await;
    let mut healthy = Follower::new(watching, &created);
    let second = put(&world.direct, "w/k", "2").await;
    healthy.until(second).await;
    let wanting = Watching::open(&world.direct.wire, &REQUIRE_LEADER).await;

    world.lose();
    says_no_leader("direct", &wanting.end().await);
    let created = healthy.watching.created(on_key("w/k")).await;
    assert!(created.created && !created.canceled, "{created:?}");
    healthy.account.take(&created).expect("a fine created answer");
    for (name, wire) in world.sides() {
        let (watching, created) = Watching::one(wire, since(first, on_prefix("w/"))).await;
        let mut follower = Follower::new(watching, &created);
        follower.until(second).await;
        assert_eq!(follower.revisions(), [first, second], "{name}");
    }
    let mut strict = Watching::open(&proxied, &REQUIRE_LEADER).await;
    strict.try_create(since(first, on_key("w/k"))).await;
    says_no_leader("one that wants a leader", &strict.end().await);

    world.restore().await;
    let last = put(&world.direct, "w/k", "3").await;
    healthy.until(last).await;
    world.proxy.assert_sound();
}
