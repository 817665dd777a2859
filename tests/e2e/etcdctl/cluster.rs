//! member, endpoint, snapshot, defrag, move-leader, alarm.

use etcd_proxy_proto::etcdserverpb as pb;
use etcd_proxy_tests::{
    client::Client,
    etcd::{Cluster, Options},
    etcdctl::{Etcdctl, etcdutl},
    proxy::Proxy,
    suite::{eventually, trial},
};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::{SOON, Shared, shared, world};

pub(crate) fn trials(world: &Shared) -> Vec<Trial> {
    vec![
        shared(world, "member_list", member_list),
        shared(world, "endpoint_status", endpoint_status),
        shared(world, "endpoint_health_and_hashkv", endpoint_health_and_hashkv),
        shared(world, "snapshot", snapshot),
        shared(world, "defrag", defrag),
        shared(world, "alarm", alarm),
        trial("move_leader", move_leader),
    ]
}

async fn member_list(shared: Shared) {
    let world = world(&shared);
    for format in ["simple", "table", "json", "fields", "protobuf"] {
        let output = world.same(&["member", "list", &format!("-w={format}")]).await;
        assert!(output.is_ok(), "{output:?}");
    }
    let output = world.same(&["member", "list"]).await;
    assert!(output.stdout.contains(", started, m0, "), "{output:?}");
    world.same(&["member", "remove", "1234"]).await;
    world.same(&["member", "promote", "1234"]).await;
    world
        .same(&["member", "update", "1234", "--peer-urls=http://127.0.0.1:1"])
        .await;
}

/// The status without what names the endpoint and what moves by itself.
fn without_address(text: &str) -> Value {
    let mut all: Value = serde_json::from_str(text).expect("JSON");
    let status = &mut all[0];
    assert!(
        status["Endpoint"]
            .as_str()
            .is_some_and(|it| it.starts_with("127.0.0.1:")),
        "{status}"
    );
    status["Endpoint"].take();
    all
}

async fn endpoint_status(shared: Shared) {
    let world = world(&shared);
    // A write in between would move the raft index.
    let args = ["endpoint", "status", "-w=json"];
    let direct = without_address(&world.direct().ok(&args).await);
    let proxied = without_address(&world.proxied().ok(&args).await);
    assert_eq!(direct, proxied);
    assert_ne!(proxied[0]["Status"]["leader"], Value::Null, "{proxied}");
}

async fn endpoint_health_and_hashkv(shared: Shared) {
    let world = world(&shared);
    let ctl = world.proxied();
    let health = ctl.run(&["endpoint", "health"]).await;
    // 3.5 prints healthy endpoints on standard output, older ones on standard error.
    let printed = format!("{}{}", health.stdout, health.stderr);
    assert!(health.is_ok() && printed.contains(" is healthy: "), "{health:?}");

    let hash = |text: String| text.trim().rsplit_once(", ").map(|(_, hash)| hash.to_owned());
    let args = ["endpoint", "hashkv"];
    let direct = hash(world.direct().ok(&args).await);
    assert!(direct.is_some());
    assert_eq!(direct, hash(ctl.ok(&args).await));
}

async fn snapshot(shared: Shared) {
    let world = world(&shared);
    // More than one chunk: etcd sends 32 KiB at a time.
    let ctl = world.proxied();
    for index in 0..8 {
        let value = "x".repeat(100_000);
        let output = ctl
            .run_with_input(&["put", &format!("snap/{index}")], &value)
            .await;
        assert!(output.is_ok(), "{output:?}");
    }
    let mut statuses = Vec::new();
    for (name, ctl) in [("direct", world.direct()), ("proxied", ctl)] {
        let file = world.cluster.dir().join(format!("{name}.snapshot"));
        let path = file.to_str().expect("a path of this test is text");
        ctl.ok(&["snapshot", "save", path]).await;
        let status = etcdutl(&["snapshot", "status", path, "-w=json"]).await;
        statuses.push(serde_json::from_str::<Value>(&status).expect("JSON"));
    }
    assert!(
        statuses[1]["totalKey"].as_u64().is_some_and(|keys| keys >= 8),
        "{statuses:?}"
    );
    // `etcdutl` checks the SHA-256 at the file's end; the hash is over all keys and values.
    for field in ["hash", "revision", "totalKey"] {
        assert_eq!(statuses[0][field], statuses[1][field], "{field}");
    }
}

async fn defrag(shared: Shared) {
    let world = world(&shared);
    let output = world.proxied().ok(&["defrag"]).await;
    let expected = format!("Finished defragmenting etcd member[{}]\n", world.proxy.address());
    assert_eq!(output, expected);
}

async fn alarm(shared: Shared) {
    let world = world(&shared);
    assert_eq!(world.proxied().ok(&["alarm", "list"]).await, "");
    let status = world.proxied().ok(&["endpoint", "status", "-w=json"]).await;
    let status: Value = serde_json::from_str(&status).expect("JSON");
    let member = status[0]["Status"]["header"]["member_id"]
        .as_u64()
        .expect("a member id");
    // etcdctl cannot raise an alarm; the API can.
    let client = Client::connect(world.proxy.address()).await.expect("proxy");
    let raise = pb::AlarmRequest {
        action: pb::alarm_request::AlarmAction::Activate.into(),
        member_id: member,
        alarm: pb::AlarmType::Nospace.into(),
    };
    let raised: pb::AlarmResponse = client
        .wire
        .unary("/etcdserverpb.Maintenance/Alarm", &[], &raise)
        .await
        .expect("alarm");
    assert_eq!(raised.alarms.len(), 1);
    let list = world.same(&["alarm", "list"]).await;
    assert_eq!(list.stdout, format!("memberID:{member} alarm:NOSPACE \n"));
    let failed = world.same(&["put", "alarm", "x"]).await;
    assert!(
        failed
            .stderr
            .contains("etcdserver: mvcc: database space exceeded"),
        "{failed:?}"
    );
    world.proxied().ok(&["alarm", "disarm"]).await;
    assert_eq!(world.direct().ok(&["alarm", "list"]).await, "");
    world.proxied().ok(&["put", "alarm", "x"]).await;
}

/// Works through a proxy that is attached to the leader and through one that is attached to another
/// member, by etcdctl and by the bare call.
async fn move_leader() {
    let cluster = Cluster::start(Options::three()).await;
    let ids = cluster.ids().await;
    let list = Etcdctl::new(&cluster.address(0)).ok(&["member", "list"]).await;
    assert_eq!(list.lines().count(), 3, "{list}");
    let mut proxies: Vec<(Proxy, Client)> = Vec::new();

    // A proxy takes one endpoint at random and keeps it; enough of them cover leader and follower.
    for attached_to_leader in [true, false] {
        for by_etcdctl in [false, true] {
            let leader = cluster.leader_seen_by(0, &ids).await;
            let index = loop {
                let mut found = None;
                for (index, (_, client)) in proxies.iter().enumerate() {
                    let read = client.get(b"x").await.expect("read through the proxy");
                    let attached = read.header.expect("header").member_id;
                    if (attached == ids[leader]) == attached_to_leader {
                        found = Some(index);
                    }
                }
                if let Some(index) = found {
                    break index;
                }
                assert!(proxies.len() < 40, "40 proxies and none is attached as wanted");
                let proxy = Proxy::start(&cluster.endpoints(), &[]).await;
                let client = Client::connect(proxy.address()).await.expect("proxy");
                proxies.push((proxy, client));
            };
            let (proxy, client) = &proxies[index];
            let target = (leader + 1) % 3;
            let case = format!("attached to the leader: {attached_to_leader}, etcdctl: {by_etcdctl}");
            if by_etcdctl {
                let id = format!("{:x}", ids[target]);
                let output = Etcdctl::new(proxy.address()).run(&["move-leader", &id]).await;
                assert!(output.is_ok(), "{case}: {output:?}");
                let expected = format!("Leadership transferred from {:x} to {id}\n", ids[leader]);
                assert_eq!(output.stdout, expected, "{case}");
            } else {
                let request = pb::MoveLeaderRequest {
                    target_id: ids[target],
                };
                let path = "/etcdserverpb.Maintenance/MoveLeader";
                let moved: Result<pb::MoveLeaderResponse, _> = client.wire.unary(path, &[], &request).await;
                assert!(moved.is_ok(), "{case}: {moved:?}");
            }
            for member in 0..3 {
                eventually("every member knows the new leader", SOON, async || {
                    (cluster.leader_seen_by(member, &ids).await == target).then_some(())
                })
                .await;
            }
        }
    }
}
