//! Keys that go with their lease: it ends by itself, or is revoked. Row 7.

use std::time::Instant;

use etcd_proxy_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseRevokeRequest, LeaseRevokeResponse, PutRequest, PutResponse,
};
use etcd_proxy_tests::{client::Client, suite::eventually};
use libtest_mimic::Trial;

use crate::world::{
    ANSWER_LIMIT, STALENESS, Upstream, World, call, one, prefix, revision, scenario, serializable,
};

pub(crate) fn trials(upstream: &Upstream) -> Vec<Trial> {
    vec![
        scenario(upstream, "lease_expires", &[], expires),
        scenario(upstream, "lease_revoked_directly", &[], revoked_directly),
        scenario(
            upstream,
            "lease_revoked_through_the_proxy",
            &[],
            revoked_through_the_proxy,
        ),
    ]
}

/// A lease with two keys, both read until they come from the cache; gives the lease.
async fn leased(world: &World, ttl: i64) -> i64 {
    let request = LeaseGrantRequest { ttl, id: 0 };
    let granted: LeaseGrantResponse = call(&world.direct, "Lease/LeaseGrant", &request)
        .await
        .expect("a lease");
    for name in ["a", "b"] {
        let request = PutRequest {
            key: world.key(name).into(),
            value: "v".into(),
            lease: granted.id,
            ..Default::default()
        };
        let _: PutResponse = call(&world.direct, "KV/Put", &request).await.expect("put");
    }
    for read in [one(&world.key("a")), prefix(&world.prefix)] {
        let keys = if read.range_end.is_empty() { 1 } else { 2 };
        eventually("the keys", ANSWER_LIMIT, async || {
            let answer = world.warm(&serializable(&read)).await;
            (answer.kvs.len() == keys).then_some(())
        })
        .await;
        assert_eq!(world.proxied.range(&read).await.expect("a read").kvs.len(), keys);
    }
    granted.id
}

async fn revoke(client: &Client, id: i64) -> i64 {
    let request = LeaseRevokeRequest { id };
    let answer: LeaseRevokeResponse = call(client, "Lease/LeaseRevoke", &request)
        .await
        .expect("revoked");
    answer.header.expect("a header").revision
}

/// From now on the keys are gone for linearizable reads, and within the bound for all.
async fn gone(world: &World, since: Instant) {
    let key = world.key("a");
    for _ in 0..3 {
        let answer = world.proxied.range(&one(&key)).await.expect("a read");
        assert!(answer.kvs.is_empty(), "the key outlived its lease");
    }
    for read in [one(&key), prefix(&world.prefix)] {
        loop {
            let asked = Instant::now();
            let answer = world.proxied.range(&serializable(&read)).await.expect("a read");
            if answer.kvs.is_empty() {
                break;
            }
            let age = asked.saturating_duration_since(since);
            assert!(age <= STALENESS, "stale by {age:?}");
        }
    }
}

async fn expires(world: World) -> World {
    leased(&world, 2).await;
    let key = world.key("a");
    eventually("the end of the lease", ANSWER_LIMIT, async || {
        // It must not be the reads through the proxy that find out.
        world
            .proxied
            .range(&serializable(&one(&key)))
            .await
            .expect("a read");
        world
            .direct
            .get(key.as_bytes())
            .await
            .expect("a read")
            .kvs
            .is_empty()
            .then_some(())
    })
    .await;
    gone(&world, Instant::now()).await;
    world
}

async fn revoked_directly(world: World) -> World {
    for _ in 0..10 {
        let lease = leased(&world, 600).await;
        revoke(&world.direct, lease).await;
        gone(&world, Instant::now()).await;
    }
    world
}

/// The client that had it revoked sees at once that the keys are gone.
async fn revoked_through_the_proxy(world: World) -> World {
    for round in 0..30 {
        let lease = leased(&world, 600).await;
        let revoked = revoke(&world.proxied, lease).await;
        for read in [one(&world.key("a")), one(&world.key("b")), prefix(&world.prefix)] {
            for read in [serializable(&read), read] {
                let answer = world.proxied.range(&read).await.expect("a read");
                assert!(answer.kvs.is_empty(), "round {round}: the key outlived its lease");
                assert!(revision(&answer) >= revoked, "round {round}: an old revision");
            }
        }
    }
    world
}
