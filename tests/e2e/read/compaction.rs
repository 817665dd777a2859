//! Reads at a revision of their own, until history is gone; and reads of the present afterwards. Row 46.

use std::time::Instant;

use etcd_proxy_proto::etcdserverpb::{CompactionRequest, CompactionResponse, RangeRequest};
use etcd_proxy_tests::{
    client::Client,
    etcd::{Cluster, Options},
    suite::trial,
};
use libtest_mimic::Trial;

use crate::world::{STALENESS, World, call, number, one, put, serializable};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("compaction", compaction)]
}

async fn compact(client: &Client, revision: i64) {
    let request = CompactionRequest {
        revision,
        physical: false,
    };
    let _: CompactionResponse = call(client, "KV/Compact", &request).await.expect("compacted");
}

/// The code and the words of a refusal; None if there was none.
async fn refusal(client: &Client, read: &RangeRequest) -> Option<(Option<u32>, Option<String>)> {
    let reply = client.range(read).await.err()?;
    Some((reply.code(), reply.message()))
}

async fn compaction() {
    let cluster = Cluster::start(Options::default()).await;
    let mut world = World::start("compaction", &cluster, &[]).await;
    let key = world.key("k");
    for round in 0..20_u64 {
        let past = put(&world.direct, &key, &round.to_string()).await;
        let now = put(&world.direct, &key, "1000").await;
        let read = RangeRequest {
            revision: past,
            ..one(&key)
        };
        for _ in 0..2 {
            for read in [serializable(&read), read.clone()] {
                let answer = world.proxied.range(&read).await.expect("a read of the past");
                assert_eq!(number(&answer), Some(round));
                assert_eq!(answer.kvs[0].mod_revision, past);
            }
        }
        world.warm(&serializable(&read)).await;
        let through_the_proxy = round % 2 == 0;
        compact(
            if through_the_proxy {
                &world.proxied
            } else {
                &world.direct
            },
            now,
        )
        .await;
        let compacted = Instant::now();
        let expected = refusal(&world.direct, &read).await.expect("the member refuses");
        assert_eq!(expected.0, Some(11), "OUT_OF_RANGE");
        // In each order: the refusal of one may be what ends the other.
        let linearizable_first = round / 2 % 2 == 0;
        if linearizable_first {
            assert_eq!(refusal(&world.proxied, &read).await.as_ref(), Some(&expected));
        }
        loop {
            let asked = Instant::now();
            let answer = refusal(&world.proxied, &serializable(&read)).await;
            if answer.is_some() {
                assert_eq!(answer.as_ref(), Some(&expected), "serializable");
                break;
            }
            let age = asked.saturating_duration_since(compacted);
            assert!(!through_the_proxy, "history that is gone, after {age:?}");
            assert!(age <= STALENESS, "history that is gone, after {age:?}");
        }
        assert_eq!(
            refusal(&world.proxied, &read).await,
            Some(expected),
            "linearizable"
        );
        // The present is cached as before.
        let present = world.warm(&serializable(&one(&key))).await;
        assert_eq!(number(&present), Some(1000));
        let present = world.warm(&one(&key)).await;
        assert_eq!(number(&present), Some(1000));
        let before = world.hits().await;
        for _ in 0..10 {
            world
                .proxied
                .range(&serializable(&one(&key)))
                .await
                .expect("a read");
        }
        let hits = world.hits().await - before;
        assert!(
            hits >= 9.0,
            "{hits} of 10 reads of the present came from the cache"
        );
    }
    world.proxy.assert_sound();
}
