//! Leases and watches.

use bytes::Bytes;
use etcd_proxy_proto::etcdserverpb as pb;
use proptest::prelude::*;

use super::{Group, kv, near};
use crate::{
    calls::Call,
    program::{By, COMPACTED, CURRENT, Op, STREAMS},
};

/// Long enough that no lease expires while a program runs. Short ones are in [`short_lease`] and in a test of
/// their own.
const LONG_TTL: i64 = 3600;

pub(super) fn lease_call() -> BoxedStrategy<Call> {
    let ttl = prop_oneof![
        12 => LONG_TTL..LONG_TTL + 10,
        1 => prop::sample::select(vec![9_000_000_000, 9_000_000_001, i64::MAX]),
    ];
    let id = prop_oneof![6 => 1..6i64, 2 => Just(0), 1 => kv::lease()];
    let grant = (ttl, id).prop_map(|(ttl, id)| Call::LeaseGrant(pb::LeaseGrantRequest { ttl, id }));
    let some = prop_oneof![8 => kv::lease(), 1 => Just(0)];
    let revoke = some
        .clone()
        .prop_map(|id| Call::LeaseRevoke(pb::LeaseRevokeRequest { id }));
    let left = (some, any::<bool>())
        .prop_map(|(id, keys)| Call::LeaseTimeToLive(pb::LeaseTimeToLiveRequest { id, keys }));
    prop_oneof![
        6 => grant,
        2 => revoke,
        3 => left,
        1 => Just(Call::LeaseLeases(pb::LeaseLeasesRequest::default())),
    ]
    .boxed()
}

pub(super) fn keep_alive(by: BoxedStrategy<By>) -> BoxedStrategy<Group> {
    let lease = prop_oneof![8 => kv::lease(), 1 => Just(0)];
    (by, prop::collection::vec(lease, 0..4))
        .prop_map(|(by, leases)| vec![Op::KeepAlive(by, leases)])
        .boxed()
}

/// A lease whose TTL is raised to the least there is.
pub(super) fn short_lease() -> BoxedStrategy<Group> {
    // Not an id that other operations use: revoking that of another would spoil the order of things.
    (-2..2i64)
        .prop_map(|ttl| vec![Op::ShortLease { ttl, id: 1234 }])
        .boxed()
}

fn slot() -> impl Strategy<Value = usize> {
    0..STREAMS
}

/// Something with a watch stream, which is opened first if it is closed.
pub(super) fn watch(by: BoxedStrategy<By>) -> BoxedStrategy<Group> {
    let id = || prop_oneof![4 => 0..4i64, 1 => prop::sample::select(vec![-1, -2, 9, i64::MAX])];
    let op = prop_oneof![
        20 => (slot(), create()).prop_map(|(slot, request)| (slot, Op::Create(slot, request))),
        8 => (slot(), id()).prop_map(|(slot, id)| (slot, Op::Cancel(slot, id))),
        5 => slot().prop_map(|slot| (slot, Op::Progress(slot))),
        1 => slot().prop_map(|slot| (slot, Op::HalfClose(slot))),
        1 => slot().prop_map(|slot| (slot, Op::Nothing(slot))),
        2 => slot().prop_map(|slot| (slot, Op::Close(slot))),
    ];
    (by, prop::bool::weighted(0.3), op)
        .prop_map(|(by, leader, (slot, op))| vec![Op::Open(slot, by, leader), op])
        .boxed()
}

fn create() -> BoxedStrategy<pb::WatchCreateRequest> {
    let start = prop_oneof![
        10 => Just(0),
        3 => near(-30..1),
        2 => near(1..6),
        2 => (-1..3i64).prop_map(|step| COMPACTED + step),
        2 => kv::revision(),
    ];
    let id = prop_oneof![10 => Just(0), 4 => 1..4i64, 1 => prop::sample::select(vec![-1, -2, 9, i64::MAX])];
    let filters = prop_oneof![
        10 => Just(vec![]),
        2 => Just(vec![0]),
        2 => Just(vec![1]),
        1 => Just(vec![0, 1]),
        1 => Just(vec![1, 1]),
    ];
    let key = prop_oneof![9 => kv::key(), 1 => Just(Bytes::new())];
    let options = (any::<bool>(), any::<bool>(), prop::bool::weighted(0.2));
    (key, kv::range_end(), start, id, filters, options)
        .prop_map(
            |(key, range_end, start_revision, watch_id, filters, (prev_kv, progress_notify, fragment))| {
                pb::WatchCreateRequest {
                    key,
                    range_end,
                    start_revision,
                    progress_notify,
                    filters,
                    prev_kv,
                    watch_id,
                    fragment,
                }
            },
        )
        .boxed()
}

/// A watcher that sees everything there ever was.
pub(super) fn from_the_beginning() -> BoxedStrategy<Group> {
    (slot(), 1..3i64, any::<bool>(), any::<bool>())
        .prop_map(|(slot, start_revision, prev_kv, all)| {
            let request = pb::WatchCreateRequest {
                key: if all {
                    Bytes::from_static(b"\0")
                } else {
                    "b".into()
                },
                range_end: Bytes::from_static(b"\0"),
                start_revision,
                prev_kv,
                ..Default::default()
            };
            vec![Op::Open(slot, By::Nobody, false), Op::Create(slot, request)]
        })
        .boxed()
}

/// A compaction, and what can still be read and watched of its revision.
pub(super) fn what_compaction_left() -> BoxedStrategy<Group> {
    (slot(), 0..8i64, any::<bool>(), any::<bool>())
        .prop_map(|(slot, before, physical, prev_kv)| {
            let everything = Bytes::from_static(b"\0");
            let compact = Call::Compact(pb::CompactionRequest {
                revision: CURRENT - before,
                physical,
            });
            let range = Call::Range(pb::RangeRequest {
                key: everything.clone(),
                range_end: everything.clone(),
                revision: COMPACTED,
                ..Default::default()
            });
            let watch = pb::WatchCreateRequest {
                key: everything.clone(),
                range_end: everything,
                start_revision: COMPACTED,
                prev_kv,
                ..Default::default()
            };
            vec![
                Op::Call(By::Nobody, compact),
                Op::Call(By::Nobody, range),
                Op::Open(slot, By::Nobody, false),
                Op::Create(slot, watch),
            ]
        })
        .boxed()
}

/// Large values, and a watcher that sees them all at once: in fragments, or not.
pub(super) fn fragments() -> BoxedStrategy<Group> {
    let puts = prop::collection::vec(kv::large_put(), 11..16);
    (slot(), puts, prop::bool::weighted(0.8), any::<bool>())
        .prop_map(|(slot, puts, fragment, prev_kv)| {
            let count = i64::try_from(puts.len()).expect("few");
            let mut group: Group = puts.into_iter().map(|call| Op::Call(By::Nobody, call)).collect();
            group.push(Op::Open(slot, By::Nobody, false));
            group.push(Op::Create(
                slot,
                pb::WatchCreateRequest {
                    key: Bytes::from_static(b"\0"),
                    range_end: Bytes::from_static(b"\0"),
                    start_revision: CURRENT - count + 1,
                    prev_kv,
                    fragment,
                    ..Default::default()
                },
            ));
            group
        })
        .boxed()
}
