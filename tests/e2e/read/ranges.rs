//! Reads and writes of random ranges, few enough that they meet: after each write, what is cached and what isn't equals
//! what the member says. Row 10.

use etcd_proxy_proto::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse,
    request_op::Request,
};
use etcd_proxy_tests::client::Client;
use libtest_mimic::Trial;

use crate::world::{Upstream, World, call, range, revision, scenario, serializable};

pub(crate) fn trials(upstream: &Upstream) -> Vec<Trial> {
    vec![
        scenario(upstream, "random_ranges", &[], random_ranges),
        scenario(
            upstream,
            "random_ranges_of_prefixes",
            &["--cache=prefixes", "--cache-prefixes=ranges/a,ranges/c"],
            random_ranges,
        ),
    ]
}

/// An xorshift generator.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    /// Two in three are below the prefix; bytes at both ends of what there can be among them.
    fn key(&mut self) -> Vec<u8> {
        let mut key = match self.below(12) {
            0 => return b"\0".to_vec(),
            1 => return b"\xff\xff".to_vec(),
            2 => b"ranges".to_vec(),
            _ => b"ranges/".to_vec(),
        };
        for _ in 0..self.below(3) {
            key.push(
                *[b'a', b'b', b'c', 0, 255]
                    .get(self.below(5))
                    .expect("one of five"),
            );
        }
        key
    }

    fn end(&mut self, key: &[u8]) -> Vec<u8> {
        match self.below(6) {
            0 | 1 => Vec::new(),
            2 => b"\0".to_vec(),
            3 => [key, b"\0"].concat(),
            // May be below the key, or equal.
            _ => self.key(),
        }
    }

    fn read(&mut self) -> RangeRequest {
        let key = self.key();
        let end = self.end(&key);
        RangeRequest {
            limit: [0, 0, 1, 2][self.below(4)],
            count_only: self.below(6) == 0,
            ..range(&key, &end)
        }
    }

    /// A write, or several in a transaction in a transaction. Of keys that aren't written by the same one already.
    fn write(&mut self, value: &str, depth: usize) -> Request {
        match self.below(if depth < 3 { 6 } else { 3 }) {
            0 | 1 => Request::RequestPut(PutRequest {
                key: self.key().into(),
                value: value.to_owned().into(),
                ..Default::default()
            }),
            2 => {
                let key = self.key();
                Request::RequestDeleteRange(DeleteRangeRequest {
                    range_end: self.end(&key).into(),
                    key: key.into(),
                    ..Default::default()
                })
            }
            _ => {
                let op = |request| RequestOp {
                    request: Some(request),
                };
                Request::RequestTxn(TxnRequest {
                    success: vec![op(self.write(value, depth + 1))],
                    failure: vec![op(self.write(value, depth + 1))],
                    ..Default::default()
                })
            }
        }
    }
}

async fn run(client: &Client, write: Request) -> i64 {
    let header = match write {
        Request::RequestDeleteRange(request) => {
            let answer: DeleteRangeResponse = call(client, "KV/DeleteRange", &request).await.expect("delete");
            answer.header
        }
        Request::RequestPut(request) => {
            let put = client.put(&request.key, &request.value).await;
            put.expect("put").header
        }
        Request::RequestTxn(request) => {
            let answer: TxnResponse = call(client, "KV/Txn", &request).await.expect("txn");
            answer.header
        }
        Request::RequestRange(_) => panic!("not a write"),
    };
    header.expect("a header").revision
}

async fn random_ranges(world: World) -> World {
    const ROUNDS: usize = 250;
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let reads: Vec<RangeRequest> = (0..24).map(|_| random.read()).collect();
    let before = world.hits().await;
    for round in 0..ROUNDS {
        for _ in 0..12 {
            let read = &reads[random.below(reads.len())];
            world.proxied.range(&serializable(read)).await.expect("a read");
        }
        let write = random.write(&round.to_string(), 0);
        let what = format!("round {round}, {write:?}");
        let is_own = random.below(3) > 0;
        let written = run(if is_own { &world.proxied } else { &world.direct }, write).await;
        for _ in 0..8 {
            let read = &reads[random.below(reads.len())];
            let expected = world.direct.range(read).await.expect("a read");
            assert!(revision(&expected) >= written);
            if is_own {
                let answer = world.proxied.range(&serializable(read)).await.expect("a read");
                assert_eq!(answer, expected, "{what}: serializable {read:?}");
            }
            let answer = world.proxied.range(read).await.expect("a read");
            assert_eq!(answer, expected, "{what}: linearizable {read:?}");
            // It was shown just now.
            let answer = world.proxied.range(&serializable(read)).await.expect("a read");
            assert_eq!(answer, expected, "{what}: serializable, then, {read:?}");
        }
    }
    let hits = world.hits().await - before;
    println!("random_ranges: {hits} from the cache");
    assert!(hits > ROUNDS as f64, "only {hits} came from the cache");
    // Leaves nothing behind for the tests after it.
    let everything = DeleteRangeRequest {
        key: b"\0"[..].into(),
        range_end: b"\0"[..].into(),
        ..Default::default()
    };
    run(&world.direct, Request::RequestDeleteRange(everything)).await;
    world
}
