//! What a read costs that is answered from the cache, and one that isn't, without their network.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use etcd_proxy_core::read::{Action, Actions, Admission, Cache, Config, Event, ReadOutcome};
use etcd_proxy_core::time::Instant;
use etcd_proxy_proto::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader};
use etcd_proxy_proto::mvccpb::KeyValue;
use prost::Message as _;

fn request(number: usize) -> Bytes {
    let request = RangeRequest {
        key: format!("/registry/things/number-{number}").into_bytes().into(),
        serializable: true,
        ..RangeRequest::default()
    };
    request.encode_to_vec().into()
}

fn response() -> Bytes {
    let response = RangeResponse {
        header: Some(ResponseHeader {
            cluster_id: u64::MAX / 3,
            member_id: u64::MAX / 5,
            revision: 1_000_000,
            raft_term: 7,
        }),
        kvs: vec![KeyValue {
            key: b"/registry/things/number-1"[..].into(),
            value: vec![b'x'; 256].into(),
            ..KeyValue::default()
        }],
        more: false,
        count: 1,
    };
    response.encode_to_vec().into()
}

/// A cache with this many entries.
fn filled(entries: usize) -> (Cache, Actions) {
    let (mut cache, mut actions) = (Cache::new(Config::default(), 1), Actions::new());
    read(&mut cache, &mut actions, &request(0));
    let watch = actions.iter().find_map(|action| match action {
        Action::OpenWatch(watch) => Some(*watch),
        _ => None,
    });
    let watch = watch.expect("the first read opens it");
    cache.handle(
        Instant::ZERO,
        Event::WatchStarted {
            watch,
            revision: 1_000_000,
        },
        &mut actions,
    );
    for number in 0..entries {
        read(&mut cache, &mut actions, &request(number));
    }
    actions.clear();
    (cache, actions)
}

/// One read, to its end. Whether it was a hit.
fn read(cache: &mut Cache, actions: &mut Actions, request: &Bytes) -> bool {
    match cache.admit_read(Instant::ZERO, request, 1_000_000, actions) {
        Admission::Hit(answer) => {
            black_box(answer);
            true
        }
        Admission::Forward(ticket) => {
            let outcome = ReadOutcome::Answered(response());
            cache.complete_read(Instant::ZERO, ticket, outcome, actions);
            false
        }
        other => panic!("{other:?}"),
    }
}

fn reads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("read");
    group.throughput(Throughput::Elements(1));
    for entries in [100, 100_000] {
        let (mut cache, mut actions) = filled(entries);
        let requests: Vec<Bytes> = (0..entries).map(request).collect();
        let mut at = 0;
        group.bench_function(format!("hit of {entries}"), |bencher| {
            bencher.iter(|| {
                at = (at + 7919) % entries;
                assert!(read(&mut cache, &mut actions, &requests[at]));
            });
        });
    }
    let (mut cache, mut actions) = filled(100_000);
    let mut number = 100_000;
    group.bench_function("miss, kept instead of another", |bencher| {
        bencher.iter(|| {
            number += 1;
            assert!(!read(&mut cache, &mut actions, &request(number)));
        });
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    reads(&mut criterion);
    criterion.final_summary();
}
