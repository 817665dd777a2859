//! What may be cached: everything, some prefixes, nothing, or only serializable reads.

use etcd_proxy_tests::{metrics::watchers, suite::eventually};
use libtest_mimic::Trial;

use crate::world::{
    ANSWER_LIMIT, Upstream, World, number, one, prefix, put, revision, scenario, serializable,
};

pub(crate) fn trials(upstream: &Upstream) -> Vec<Trial> {
    vec![
        scenario(
            upstream,
            "only_prefixes",
            &["--cache=prefixes", "--cache-prefixes=in/a/,in/b/"],
            only_prefixes,
        ),
        scenario(upstream, "cache_off", &["--cache=off"], cache_off),
        scenario(
            upstream,
            "not_linearizable",
            &["--cache-linearizable=false"],
            not_linearizable,
        ),
        scenario(upstream, "no_staleness", &["--cache-staleness=0s"], no_staleness),
    ]
}

/// Writes anywhere; reads within the prefixes come from the cache, others don't, and all are right.
async fn only_prefixes(world: World) -> World {
    let keys = ["in/a/k", "in/b/k", "out/k"];
    for (at, key) in keys.iter().enumerate() {
        put(&world.direct, key, "0").await;
        let before = world.hits().await;
        if at < 2 {
            world.warm(&one(key)).await;
            world.warm(&serializable(&one(key))).await;
            world.warm(&serializable(&prefix(&key[..5]))).await;
        } else {
            for read in [
                one(key),
                serializable(&one(key)),
                prefix("in/"),
                serializable(&prefix("in/")),
            ] {
                for _ in 0..3 {
                    world.proxied.range(&read).await.expect("a read");
                }
            }
            assert_eq!(world.hits().await, before, "cached what isn't watched");
        }
    }
    assert!(world.read_metric("bypasses_total").await >= 12.0);
    for round in 1..=150 {
        let key = keys[round % 3];
        let writer = if round % 2 == 0 {
            &world.direct
        } else {
            &world.proxied
        };
        for key in keys {
            for _ in 0..2 {
                world
                    .proxied
                    .range(&serializable(&one(key)))
                    .await
                    .expect("a read");
            }
        }
        let written = put(writer, key, &round.to_string()).await;
        for read in [one(key), serializable(&one(key))] {
            let answer = world.proxied.range(&read).await.expect("a read");
            assert_eq!(number(&answer), Some(round as u64), "{key}");
            assert!(revision(&answer) >= written);
        }
        for key in keys {
            let direct = world.direct.get(key.as_bytes()).await.expect("a read");
            let answer = world.proxied.get(key.as_bytes()).await.expect("a read");
            assert_eq!(answer, direct, "round {round}: {key}");
        }
    }
    world
}

async fn cache_off(world: World) -> World {
    eventually("no watchers", ANSWER_LIMIT, async || {
        (watchers(&world.member).await.ok()? == 0).then_some(())
    })
    .await;
    let key = world.key("k");
    let before = world.member_reads().await;
    for round in 0..20 {
        put(&world.direct, &key, &round.to_string()).await;
        for read in [one(&key), serializable(&one(&key))] {
            for _ in 0..2 {
                let answer = world.proxied.range(&read).await.expect("a read");
                assert_eq!(number(&answer), Some(round));
            }
        }
    }
    assert_eq!(world.hits().await, 0.0);
    assert_eq!(
        world.member_reads().await - before,
        80,
        "each read goes to the member"
    );
    assert_eq!(watchers(&world.member).await.expect("metrics"), 0);
    world
}

async fn not_linearizable(world: World) -> World {
    let key = world.key("k");
    put(&world.direct, &key, "0").await;
    world.warm(&serializable(&one(&key))).await;
    for round in 1..50 {
        put(&world.direct, &key, &round.to_string()).await;
        for _ in 0..2 {
            let answer = world.proxied.get(key.as_bytes()).await.expect("a read");
            assert_eq!(number(&answer), Some(round));
        }
        let answer = world
            .proxied
            .range(&serializable(&one(&key)))
            .await
            .expect("a read");
        assert_eq!(number(&answer), Some(round), "it was shown before");
    }
    assert_eq!(world.read_metric("hits_linearizable_total").await, 0.0);
    world
}

/// With no staleness allowed, serializable reads are never older than the direct write that came before.
async fn no_staleness(world: World) -> World {
    let key = world.key("k");
    let read = serializable(&one(&key));
    for round in 0..200 {
        for _ in 0..2 {
            world.proxied.range(&read).await.expect("a read");
        }
        let written = put(&world.direct, &key, &round.to_string()).await;
        let answer = world.proxied.range(&read).await.expect("a read");
        assert_eq!(number(&answer), Some(round), "an old value");
        assert!(revision(&answer) >= written);
    }
    world
}
