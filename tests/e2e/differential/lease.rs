//! The Lease service.

use etcd_proxy_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
    PutRequest,
};
use etcd_proxy_tests::{etcd::Options, suite::trial};
use libtest_mimic::Trial;
use prost::Message as _;

use crate::{
    mask,
    pair::{Case, Pair, Seen, Step},
};

const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
const REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
const TIME_TO_LIVE: &str = "/etcdserverpb.Lease/LeaseTimeToLive";
const LEASES: &str = "/etcdserverpb.Lease/LeaseLeases";

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("lease", lease), trial("lease_keep_alive", keep_alive)]
}

fn grant(ttl: i64, id: i64) -> Case {
    Case::unary(
        &format!("grant {id} for {ttl} s"),
        GRANT,
        &LeaseGrantRequest { ttl, id },
    )
}

fn revoke(id: i64) -> Case {
    Case::unary(&format!("revoke {id}"), REVOKE, &LeaseRevokeRequest { id })
}

async fn lease() {
    let mut pair = Pair::start("lease", Options::default()).await;
    for (ttl, id) in [(600, 1), (1, 2), (9_000_000_000, 3), (60, i64::MAX), (60, -5)] {
        pair.check(grant(ttl, id)).await;
    }
    pair.ok(grant(600, 0).mask(mask::granted_id)).await;
    pair.error(9, "etcdserver: lease already exists", grant(600, 1))
        .await;
    pair.error(11, "etcdserver: too large lease TTL", grant(9_000_000_001, 9))
        .await;
    pair.check(grant(i64::MAX, 9)).await;
    pair.check(grant(0, 10)).await;
    pair.check(grant(-1, 11)).await;
    for key in ["x", "y", "z"] {
        let put = PutRequest {
            key: key.into(),
            value: "v".into(),
            lease: 1,
            ..Default::default()
        };
        pair.ok(Case::unary("attach", "/etcdserverpb.KV/Put", &put)).await;
    }
    for id in [1, 3, 4711, 0, -1, i64::MIN] {
        for keys in [false, true] {
            let request = LeaseTimeToLiveRequest { id, keys };
            let case = Case::unary(&format!("{request:?}"), TIME_TO_LIVE, &request);
            pair.check(case.mask(mask::remaining_ttl)).await;
        }
    }
    // The lease whose id the server chose has another id there: gone before the list is compared.
    // Leases of a few seconds come and go; the list has the long ones only.
    for id in [2, 9, 10, 11] {
        pair.check(revoke(id)).await;
    }
    let list = Case::unary("list", LEASES, &LeaseLeasesRequest {}).mask(long_lived);
    pair.ok(list).await;

    pair.error(5, "etcdserver: requested lease not found", revoke(4711))
        .await;
    pair.error(5, "etcdserver: requested lease not found", revoke(0))
        .await;
    pair.ok(revoke(1)).await;
    pair.check(revoke(1)).await;
    pair.ok(Case::bytes(
        "everything",
        "/etcdserverpb.KV/Range",
        &b"\x0a\x01\0\x12\x01\0"[..],
    ))
    .await;
    for path in [GRANT, REVOKE, TIME_TO_LIVE, LEASES] {
        pair.check(Case::bytes("garbage", path, &b"\xff\xff\xff"[..]))
            .await;
        pair.check(Case::bytes("empty", path, &b""[..]).mask(if path == LEASES {
            long_lived
        } else {
            mask::granted_id
        }))
        .await;
    }
    pair.finish();
}

/// The leases with the ids that this test chose, in order.
fn long_lived(message: &bytes::Bytes) -> bytes::Bytes {
    mask::leases_among(message, &[1, 3, i64::MAX, -5])
}

fn ask(id: i64) -> Step {
    Step::Send(LeaseKeepAliveRequest { id }.encode_to_vec().into())
}

async fn keep_alive() {
    let mut pair = Pair::start("lease keep-alive", Options::default()).await;
    for id in [1, 2, 3] {
        pair.ok(grant(600, id)).await;
    }
    let stream = |name: &str, steps: Vec<Step>| Case::stream(name, KEEP_ALIVE, steps);

    // One request, half-close at once: the answer comes, then OK.
    let once = stream("refresh once", vec![ask(1), Step::HalfClose, Step::Finish]);
    let reply = pair.ok(once).await;
    assert_eq!(reply.messages.len(), 1);
    // The proxy keeps the order of the answers for each lease, not from one lease to the others.
    for (name, leases) in [
        ("many at once, then half-close", [1, 2, 99, 3]),
        ("one again and again, then half-close", [1, 1, 1, 1]),
    ] {
        let asked = leases.map(ask);
        let steps = asked.into_iter().chain([Step::HalfClose, Step::Finish]);
        let reply = pair.ok(stream(name, steps.collect())).await;
        assert_eq!(reply.messages.len(), 4, "one answer for each");
    }
    pair.ok(stream(
        "half-close without a request",
        vec![Step::HalfClose, Step::Finish],
    ))
    .await;
    pair.ok(stream(
        "half-close later",
        vec![
            ask(1),
            Step::Receive(1),
            ask(2),
            Step::Receive(1),
            Step::HalfClose,
            Step::Finish,
        ],
    ))
    .await;
    // No lease: TTL 0, and the stream goes on.
    let seen = pair
        .check(stream(
            "unknown, then known",
            vec![ask(99), Step::Receive(1), ask(1), Step::Receive(1)],
        ))
        .await;
    assert!(
        matches!(seen[..], [Seen::Message(_), Seen::Message(_)]),
        "{seen:?}"
    );
    pair.check(stream(
        "revoked in between",
        vec![
            ask(3),
            Step::Receive(1),
            Step::Aside(Box::new(revoke(3))),
            ask(3),
            Step::Receive(1),
        ],
    ))
    .await;
    pair.check(stream("id 0", vec![ask(0), Step::Receive(1)])).await;
    pair.check(stream("id -1", vec![ask(-1), Step::Receive(1)])).await;
    pair.check(stream(
        "garbage ends the stream",
        vec![
            ask(1),
            Step::Receive(1),
            Step::Send((&b"\xff\xff"[..]).into()),
            Step::Finish,
        ],
    ))
    .await;
    pair.check(stream(
        "unknown field",
        vec![
            Step::Send((&b"\x08\x01\xf2\x3f\x03xyz"[..]).into()),
            Step::Receive(1),
        ],
    ))
    .await;
    pair.finish();
}
