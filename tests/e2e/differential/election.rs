//! The Election and Lock services.

use etcd_proxy_proto::{
    etcdserverpb::LeaseGrantRequest,
    v3electionpb::{
        CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, ProclaimRequest, ResignRequest,
    },
    v3lockpb::{LockRequest, UnlockRequest},
};
use etcd_proxy_tests::{etcd::Options, suite::trial};
use libtest_mimic::Trial;
use prost::Message as _;

use crate::pair::{Case, Pair, Step};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("election", election), trial("lock", lock)]
}

async fn grant(pair: &mut Pair, id: i64) {
    let request = LeaseGrantRequest { ttl: 600, id };
    pair.ok(Case::unary("grant", "/etcdserverpb.Lease/LeaseGrant", &request))
        .await;
}

fn campaign(lease: i64, value: &str) -> Case {
    let request = CampaignRequest {
        name: "e".into(),
        lease,
        value: value.to_owned().into(),
    };
    Case::unary(
        &format!("campaign {value}"),
        "/v3electionpb.Election/Campaign",
        &request,
    )
}

async fn election() {
    let mut pair = Pair::start("election", Options::default()).await;
    for id in [11, 12] {
        grant(&mut pair, id).await;
    }
    let leader = LeaderRequest { name: "e".into() };
    let ask = || Case::unary("leader", "/v3electionpb.Election/Leader", &leader);
    pair.check(ask()).await;
    let elected = pair.ok(campaign(11, "first")).await;
    let key = CampaignResponse::decode(elected.messages[0].clone())
        .expect("an answer")
        .leader;
    let key: LeaderKey = key.expect("a leader key");
    pair.ok(ask()).await;

    let proclaim = |leader: Option<LeaderKey>| {
        let request = ProclaimRequest {
            leader,
            value: "changed".into(),
        };
        Case::unary(
            &format!("{request:?}"),
            "/v3electionpb.Election/Proclaim",
            &request,
        )
    };
    let resign = |leader: Option<LeaderKey>| {
        let request = ResignRequest { leader };
        Case::unary(&format!("{request:?}"), "/v3electionpb.Election/Resign", &request)
    };
    // An observer sees the leader, a proclamation, and the next leader after a resignation.
    pair.check(Case::stream(
        "observe",
        "/v3electionpb.Election/Observe",
        vec![
            Step::Send(leader.encode_to_vec().into()),
            Step::HalfClose,
            Step::Receive(1),
            Step::Aside(Box::new(proclaim(Some(key.clone())))),
            Step::Receive(1),
            Step::Aside(Box::new(resign(Some(key.clone())))),
            Step::Aside(Box::new(campaign(12, "second"))),
            Step::Receive(1),
        ],
    ))
    .await;
    pair.check(ask()).await;
    for leader in [
        None,
        Some(LeaderKey::default()),
        Some(LeaderKey {
            rev: 1,
            ..key.clone()
        }),
        Some(LeaderKey {
            lease: 99,
            ..key.clone()
        }),
        Some(key),
    ] {
        pair.check(proclaim(leader.clone())).await;
        pair.check(resign(leader)).await;
    }
    pair.check(campaign(99, "without a lease")).await;
    for method in ["Campaign", "Proclaim", "Leader", "Observe", "Resign", "Nothing"] {
        let path = format!("/v3electionpb.Election/{method}");
        pair.check(Case::bytes("garbage", &path, &b"\xff\xff"[..])).await;
    }
    pair.finish();
}

async fn lock() {
    let mut pair = Pair::start("lock", Options::default()).await;
    for id in [21, 22] {
        grant(&mut pair, id).await;
    }
    let lock = |lease| {
        let request = LockRequest {
            name: "l".into(),
            lease,
        };
        Case::unary(&format!("lock by {lease}"), "/v3lockpb.Lock/Lock", &request)
    };
    let unlock = |key: &'static str| {
        let request = UnlockRequest { key: key.into() };
        Case::unary(&format!("unlock {key}"), "/v3lockpb.Lock/Unlock", &request)
    };
    pair.ok(lock(21)).await;
    pair.ok(lock(21)).await;
    // The second waits until the first lets go. Its own stream is the one that is read last.
    let request = LockRequest {
        name: "l".into(),
        lease: 22,
    };
    pair.check(Case::stream(
        "wait for the lock",
        "/v3lockpb.Lock/Lock",
        vec![
            Step::Send(request.encode_to_vec().into()),
            Step::HalfClose,
            Step::Aside(Box::new(queued())),
            Step::Aside(Box::new(unlock("l/15"))),
            Step::Finish,
        ],
    ))
    .await;
    pair.check(unlock("none")).await;
    pair.check(unlock("")).await;
    pair.check(lock(99)).await;
    for method in ["Lock", "Unlock", "Nothing"] {
        let path = format!("/v3lockpb.Lock/{method}");
        pair.check(Case::bytes("garbage", &path, &b"\xff\xff"[..])).await;
        let known = b"\x0a\x05other\x10\x15\xf2\x3f\x03xyz";
        pair.check(Case::bytes("unknown field", &path, &known[..])).await;
    }
    pair.finish();
}

/// Ends when the key of lease 22 (0x16) is there: a watch from the beginning on it.
fn queued() -> Case {
    use etcd_proxy_proto::etcdserverpb::{WatchCreateRequest, WatchRequest, watch_request::RequestUnion};

    let create = WatchCreateRequest {
        key: "l/16".into(),
        start_revision: 1,
        ..Default::default()
    };
    let request = WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    };
    Case::stream(
        "the second is in the queue",
        "/etcdserverpb.Watch/Watch",
        vec![Step::Send(request.encode_to_vec().into()), Step::Receive(2)],
    )
    .mask(without_header)
}

/// Whether the key came before or after the watch changes the revision in the header, and no more.
fn without_header(message: &bytes::Bytes) -> bytes::Bytes {
    use etcd_proxy_proto::etcdserverpb::WatchResponse;

    let mut answer = WatchResponse::decode(message.clone()).expect("a watch answer");
    answer.header = None;
    answer.encode_to_vec().into()
}
