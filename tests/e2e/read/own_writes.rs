//! Writes through the same proxy are seen by the next read, of whatever kind they and the read are. Rows 8, 9 and 10.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use etcd_proxy_proto::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RequestOp, TxnRequest,
    TxnResponse, request_op::Request,
};
use etcd_proxy_tests::client::Client;
use libtest_mimic::Trial;
use prost::Message as _;

use crate::world::{
    STALENESS, Upstream, World, call, number, one, prefix, put, range, revision, scenario, serializable,
};

pub(crate) fn trials(upstream: &Upstream) -> Vec<Trial> {
    vec![
        scenario(upstream, "own_writes_of_every_kind", &[], every_kind),
        scenario(upstream, "own_writes_race_readers", &["--workers=6"], race),
        scenario(upstream, "writes_of_unknown_outcome", &[], unknown_outcome),
    ]
}

/// A write.
enum Write {
    Delete(DeleteRangeRequest),
    Put(PutRequest),
    Txn(TxnRequest),
}

impl Write {
    /// Carries it out; gives the revision in the answer's header.
    async fn run(&self, client: &Client) -> i64 {
        let header = match self {
            Self::Delete(request) => {
                let answer: DeleteRangeResponse =
                    call(client, "KV/DeleteRange", request).await.expect("delete");
                answer.header
            }
            Self::Put(request) => {
                let answer: PutResponse = call(client, "KV/Put", request).await.expect("put");
                answer.header
            }
            Self::Txn(request) => {
                let answer: TxnResponse = call(client, "KV/Txn", request).await.expect("txn");
                answer.header
            }
        };
        header.expect("a header").revision
    }

    fn request(&self) -> Request {
        match self {
            Self::Delete(request) => Request::RequestDeleteRange(request.clone()),
            Self::Put(request) => Request::RequestPut(request.clone()),
            Self::Txn(request) => Request::RequestTxn(request.clone()),
        }
    }
}

fn write(key: &str, value: &str) -> Write {
    Write::Put(PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..Default::default()
    })
}

fn delete(key: &[u8], end: &[u8]) -> Write {
    Write::Delete(DeleteRangeRequest {
        key: key.to_vec().into(),
        range_end: end.to_vec().into(),
        ..Default::default()
    })
}

/// Both branches, as what is compared decides which one is taken.
fn txn(success: &[Write], failure: &[Write]) -> Write {
    let ops = |writes: &[Write]| {
        let op = |write: &Write| RequestOp {
            request: Some(write.request()),
        };
        writes.iter().map(op).collect()
    };
    Write::Txn(TxnRequest {
        compare: Vec::new(),
        success: ops(success),
        failure: ops(failure),
    })
}

/// After each write, every read that is cached answers as the member does, to the byte.
async fn every_kind(world: World) -> World {
    let key = |name: &str| world.key(name);
    let all = prefix(&world.prefix);
    let reads: Vec<RangeRequest> = vec![
        one(&key("a")),
        one(&key("b")),
        one(&key("c")),
        one(&key("d/x")),
        // No such key, and the least key that there can be.
        one(&key("b\0")),
        range(b"\0", b""),
        all.clone(),
        prefix(&key("d/")),
        range(key("b").as_bytes(), key("d").as_bytes()),
        // From a key on, and all keys.
        range(key("c").as_bytes(), b"\0"),
        range(b"\0", b"\0"),
        RangeRequest {
            count_only: true,
            ..all.clone()
        },
        RangeRequest {
            keys_only: true,
            limit: 2,
            ..all.clone()
        },
        RangeRequest {
            sort_order: 2,
            sort_target: 3,
            limit: 1,
            ..all.clone()
        },
    ];
    let only_value = |name: &str| PutRequest {
        key: key(name).into(),
        ignore_lease: true,
        value: "other".into(),
        ..Default::default()
    };
    let only_lease = |name: &str| PutRequest {
        key: key(name).into(),
        ignore_value: true,
        ..Default::default()
    };
    let writes = [
        write(&key("a"), "1"),
        write(&key("b"), "1"),
        write(&key("c"), "1"),
        write(&key("d/x"), "1"),
        Write::Put(only_lease("a")),
        Write::Put(only_value("b")),
        txn(&[write(&key("c"), "2")], &[write(&key("a"), "no")]),
        // Nested once and twice.
        txn(&[txn(&[write(&key("c"), "3")], &[])], &[]),
        txn(
            &[txn(
                &[txn(
                    &[write(&key("d/x"), "4"), delete(key("a").as_bytes(), b"")],
                    &[],
                )],
                &[],
            )],
            &[],
        ),
        write("\0", "the least key"),
        delete(b"\0", b""),
        write(&key("b\0"), "5"),
        delete(key("b").as_bytes(), key("c").as_bytes()),
        txn(&[write(&key("a"), "6"), write(&key("b"), "6")], &[]),
        txn(
            &[txn(&[delete(key("a").as_bytes(), key("z").as_bytes())], &[])],
            &[],
        ),
        write(&key("d/x"), "7"),
        // Changes nothing.
        delete(key("zz").as_bytes(), b""),
        delete(key("b").as_bytes(), b"\0"),
        write(&key("c"), "8"),
        // All keys there are.
        delete(b"\0", b"\0"),
        write(&key("a"), "9"),
    ];
    let before = world.hits().await;
    for (number, write) in writes.iter().enumerate() {
        for read in &reads {
            for _ in 0..2 {
                world.proxied.range(&serializable(read)).await.expect("a read");
            }
        }
        let written = write.run(&world.proxied).await;
        for (at, read) in reads.iter().enumerate() {
            let expected = world.direct.range(read).await.expect("a read");
            assert!(revision(&expected) >= written);
            for read in [serializable(read), read.clone(), serializable(read)] {
                let answer = world.proxied.range(&read).await.expect("a read");
                assert_eq!(answer, expected, "write {number}, read {at}: {read:?}");
            }
        }
    }
    let hits = world.hits().await - before;
    let least = (writes.len() * reads.len()) as f64;
    assert!(hits >= least, "only {hits} reads came from the cache");
    world
}

/// Six clients keep the entry coming back while its key is written: whoever wrote sees it.
async fn race(world: World) -> World {
    const READERS: usize = 6;
    const ROUNDS: u64 = 300;
    let key = world.key("k");
    let read = serializable(&one(&key));
    let stop = Arc::new(AtomicBool::new(false));
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let (client, read, stop) = (world.client().await, read.clone(), Arc::clone(&stop));
        readers.push(tokio::spawn(async move {
            let mut last = (0, None);
            let mut count = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let answer = client.range(&read).await.expect("a read");
                let now = (revision(&answer), number(&answer));
                assert!(
                    now.0 >= last.0 && now.1 >= last.1,
                    "from {last:?} back to {now:?}"
                );
                last = now;
                count += 1;
            }
            count
        }));
    }
    let other = world.client().await;
    let before = world.hits().await;
    let mut right = 0;
    for round in 0..ROUNDS {
        let written = put(&world.proxied, &key, &round.to_string()).await;
        let client = if round % 2 == 0 { &world.proxied } else { &other };
        let answer = client.range(&read).await.expect("a read");
        right += u64::from(number(&answer) == Some(round) && revision(&answer) >= written);
    }
    stop.store(true, Ordering::Relaxed);
    let mut reads = 0;
    for reader in readers {
        reads += reader.await.expect("a reader");
    }
    println!(
        "own_writes_race_readers: {right} of {ROUNDS}, against {reads} reads, {} of them hits",
        world.hits().await - before
    );
    assert_eq!(right, ROUNDS, "own writes seen");
    world
}

/// A write whose client gave up may be carried out all the same, at any time: nobody is shown what was before it once
/// somebody has seen it.
async fn unknown_outcome(world: World) -> World {
    const ROUNDS: u64 = 200;
    let key = world.key("k");
    let read = serializable(&one(&key));
    put(&world.direct, &key, "0").await;
    let before = world.hits().await;
    let mut given_up = 0;
    for round in 1..=ROUNDS {
        for _ in 0..2 {
            world.proxied.range(&read).await.expect("a read");
        }
        let request = PutRequest {
            key: key.clone().into(),
            value: round.to_string().into(),
            ..Default::default()
        };
        let messages = [Bytes::from(request.encode_to_vec())];
        let path = "/etcdserverpb.KV/Put";
        if round % 2 == 0 {
            // The deadline expires at the proxy; the client waits for what it says.
            let deadline = format!("{}u", 20 + round * 13 % 800);
            let reply = world
                .proxied
                .wire
                .call(path, &[("grpc-timeout", &deadline)], &messages)
                .await;
            given_up += u64::from(!reply.is_ok());
        } else {
            // The client resets its call, at any time in its life.
            let pause = Duration::from_micros(round * 37 % 800);
            let put = world.proxied.wire.call(path, &[], &messages);
            given_up += u64::from(tokio::time::timeout(pause, put).await.is_err());
        }
        // Reads that race with it, of both kinds.
        let mut seen = 0;
        for read in [&read, &one(&key), &read] {
            let value = number(&world.proxied.range(read).await.expect("a read")).expect("a value");
            assert!(
                value >= seen && value <= round,
                "round {round}: {value} after {seen}"
            );
            seen = value;
        }
        let there = number(&world.direct.get(key.as_bytes()).await.expect("a read")).expect("a value");
        let known = Instant::now();
        let linearizable = number(&world.proxied.range(&one(&key)).await.expect("a read"));
        assert!(
            linearizable >= Some(there),
            "round {round}: {linearizable:?} for {there}"
        );
        loop {
            let asked = Instant::now();
            let value = number(&world.proxied.range(&read).await.expect("a read"));
            assert!(
                value >= linearizable,
                "round {round}: {value:?} after {linearizable:?}"
            );
            if value >= Some(there) {
                break;
            }
            let age = asked.saturating_duration_since(known);
            assert!(age <= STALENESS, "round {round}: stale by {age:?}");
        }
    }
    let hits = world.hits().await - before;
    println!("writes_of_unknown_outcome: {given_up} of {ROUNDS} given up, {hits} hits");
    assert!(given_up >= ROUNDS / 20, "only {given_up} writes were given up");
    assert!(hits > 0.0, "nothing came from the cache");
    world
}
