//! The Cluster and Maintenance services, and grpc.health.v1.

use etcd_proxy_proto::etcdserverpb::{
    AlarmRequest, CompactionRequest, DefragmentRequest, DowngradeRequest, HashKvRequest, HashRequest,
    MemberAddRequest, MemberListRequest, MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest,
    MoveLeaderRequest, SnapshotRequest, StatusRequest,
};
use etcd_proxy_tests::{etcd::Options, suite::trial};
use libtest_mimic::Trial;

use crate::{
    mask,
    pair::{Case, Pair, Seen, Step},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("members", members),
        trial("maintenance", maintenance),
        trial("snapshot", snapshot),
        trial("health", health),
    ]
}

fn cluster(method: &str, request: &(impl prost::Message + std::fmt::Debug)) -> Case {
    let name = format!("{request:?}");
    Case::unary(&name, &format!("/etcdserverpb.Cluster/{method}"), request).mask(mask::client_urls)
}

fn maintain(method: &str, request: &(impl prost::Message + std::fmt::Debug)) -> Case {
    let name = format!("{request:?}");
    Case::unary(&name, &format!("/etcdserverpb.Maintenance/{method}"), request)
}

async fn members() {
    let mut pair = Pair::start("members", Options::default()).await;
    for linearizable in [false, true] {
        pair.ok(cluster("MemberList", &MemberListRequest { linearizable }))
            .await;
    }
    for url in [
        "",
        "bad",
        "http://",
        "http://127.0.0.1",
        "ftp://127.0.0.1:1",
        "http://a:1/path",
    ] {
        let request = MemberAddRequest {
            peer_ur_ls: vec![url.to_owned()],
            is_learner: true,
        };
        pair.check(cluster("MemberAdd", &request)).await;
        // A server never answers a change of members that it takes up before it has done with the last one; once
        // a write is applied it has.
        pair.put("settled", url).await;
        let update = MemberUpdateRequest {
            id: 5,
            peer_ur_ls: vec![url.to_owned()],
        };
        pair.check(cluster("MemberUpdate", &update)).await;
    }
    for id in [0, 5, u64::MAX] {
        pair.put("settled", &id.to_string()).await;
        pair.check(cluster("MemberRemove", &MemberRemoveRequest { id }))
            .await;
        pair.check(cluster("MemberPromote", &MemberPromoteRequest { id }))
            .await;
    }
    for method in [
        "MemberAdd",
        "MemberRemove",
        "MemberUpdate",
        "MemberList",
        "MemberPromote",
    ] {
        let path = format!("/etcdserverpb.Cluster/{method}");
        pair.check(Case::bytes("garbage", &path, &b"\xff\xff"[..])).await;
    }
    pair.finish();
}

async fn maintenance() {
    let mut pair = Pair::start("maintenance", Options::default()).await;
    for number in 0..5 {
        pair.put("k", &number.to_string()).await;
    }
    pair.ok(maintain("Status", &StatusRequest {}).mask(mask::progress))
        .await;
    pair.ok(maintain("Hash", &HashRequest {}).mask(mask::file_hash))
        .await;
    for revision in [0, 2, 6, -1, 1_000, i64::MAX] {
        pair.check(maintain("HashKV", &HashKvRequest { revision })).await;
    }
    let compaction = CompactionRequest {
        revision: 4,
        physical: true,
    };
    pair.ok(Case::unary("compact", "/etcdserverpb.KV/Compact", &compaction))
        .await;
    for revision in [2, 4, 5] {
        pair.check(maintain("HashKV", &HashKvRequest { revision })).await;
    }
    pair.ok(maintain("Defragment", &DefragmentRequest {})).await;
    // GET, ACTIVATE, GET, DEACTIVATE, and an alarm that no version knows. An unknown action kills a 3.5
    // member: see the failover suite.
    for (action, alarm) in [
        (0, 0),
        (0, 1),
        (1, 1),
        (0, 0),
        (0, 1),
        (0, 2),
        (2, 1),
        (0, 0),
        (0, 9),
        (1, 0),
    ] {
        for member_id in [0, 77] {
            let request = AlarmRequest {
                action,
                member_id,
                alarm,
            };
            pair.check(maintain("Alarm", &request).mask(mask::alarm_order))
                .await;
        }
    }
    for target_id in [0, 77] {
        pair.check(maintain("MoveLeader", &MoveLeaderRequest { target_id }))
            .await;
    }
    for (action, version) in [
        (0, "3.4.0"),
        (0, "3.5.0"),
        (0, "x"),
        (0, ""),
        (1, "3.3.0"),
        (2, ""),
        (9, "3.4.0"),
    ] {
        let version = version.to_owned();
        pair.check(maintain("Downgrade", &DowngradeRequest { action, version }))
            .await;
    }
    for method in [
        "Alarm",
        "Status",
        "Defragment",
        "Hash",
        "HashKV",
        "Snapshot",
        "MoveLeader",
        "Downgrade",
    ] {
        let path = format!("/etcdserverpb.Maintenance/{method}");
        pair.check(Case::bytes("garbage", &path, &b"\xff\xff"[..])).await;
    }
    pair.finish();
}

/// From one member. Each snapshot begins with a commit, which changes a page of the file: compared are
/// headers and sizes here, and the contents by the etcdctl suite, which checks the hash at the end.
async fn snapshot() {
    let mut pair = Pair::single("snapshot", Options::default()).await;
    for number in 0..20 {
        pair.seed(&format!("k{number}"), &"x".repeat(200_000)).await;
    }
    let reply = pair
        .ok(maintain("Snapshot", &SnapshotRequest {}).mask(mask::blob))
        .await;
    assert!(reply.messages.len() > 100, "{} chunks", reply.messages.len());
    pair.finish();
}

async fn health() {
    let mut pair = Pair::start("health", Options::default()).await;
    for (name, request) in [
        ("whole server", &b""[..]),
        ("unknown service", b"\x0a\x04none"),
        ("garbage", b"\xff"),
    ] {
        pair.check(Case::bytes(name, "/grpc.health.v1.Health/Check", request))
            .await;
        pair.check(Case::bytes(name, "/grpc.health.v1.Health/List", request))
            .await;
        if name != "garbage" {
            let steps = vec![Step::Send(request.into()), Step::HalfClose, Step::Receive(1)];
            let seen = pair
                .check(Case::stream(name, "/grpc.health.v1.Health/Watch", steps))
                .await;
            assert!(matches!(seen[..], [Seen::Message(_)]), "{seen:?}");
        }
    }
    pair.finish();
}
