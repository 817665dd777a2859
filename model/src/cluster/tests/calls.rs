//! Unary calls on members that are well.

use etcd_proxy_proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, AuthEnableRequest, AuthRoleAddRequest,
    AuthUserAddRequest, AuthUserGrantRoleRequest, AuthenticateRequest, AuthenticateResponse,
    DefragmentRequest, LeaseGrantRequest, LeaseGrantResponse, LeaseLeasesRequest, LeaseLeasesResponse,
    MemberListRequest, MemberListResponse, StatusRequest, StatusResponse, TxnRequest, TxnResponse,
    alarm_request::AlarmAction,
};
use etcd_proxy_proto::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
};

use super::*;
use crate::error::Error;

#[test]
fn a_member_fills_in_headers() {
    let mut world = World::new(3);
    for member in 0..3 {
        let header = world.put(member, "a").header.expect("a header");
        let (cluster, id) = world.cluster.ids(member);
        assert_eq!(
            (header.cluster_id, header.member_id, header.raft_term),
            (cluster, id, 2)
        );
        assert_eq!(header.revision, 2 + member as i64);
        let header = world.get(member, "a").header.expect("a header");
        assert_eq!((header.member_id, header.revision), (id, 2 + member as i64));
    }
}

#[test]
fn validation_comes_before_everything_but_the_leader() {
    let mut world = World::new(1);
    assert_eq!(world.refusal(0, PUT, &put("")), Error::EmptyKey.status());
    world.fault(Fault::LoseLeader);
    assert_eq!(world.refusal(0, PUT, &put("")), Error::EmptyKey.status());
    let call = world.call_with(0, PUT, &put(""), require_leader());
    assert_eq!(world.status(call), Error::NoLeader.status());
}

#[test]
fn large_requests_are_refused() {
    let mut world = World::new(1);
    let large = |bytes: usize| PutRequest {
        value: alloc::vec![0; bytes].into(),
        ..put("a")
    };
    // Around 30 bytes are added to what is put into the log.
    let max = 1536 * 1024;
    let _: PutResponse = world.answer(0, PUT, &large(max - 60));
    assert_eq!(
        world.refusal(0, PUT, &large(max - 10)),
        Error::RequestTooLarge.status()
    );
    let status = world.refusal(0, PUT, &large(2048 * 1024));
    assert_eq!(status.code, 8);
    assert_eq!(
        status.message,
        "grpc: received message larger than max (2097160 vs. 2097152)"
    );
}

#[test]
fn members_are_listed_by_id_without_a_revision() {
    let mut world = World::with(Config {
        members: 3,
        client_urls: alloc::vec!["http://a:1".into(), "http://b:2".into()],
        ..Config::default()
    });
    let request = MemberListRequest { linearizable: true };
    let list: MemberListResponse = world.answer(1, "/etcdserverpb.Cluster/MemberList", &request);
    assert_eq!(list.header.map(|header| header.revision), Some(0));
    assert!(list.members.is_sorted_by_key(|member| member.id));
    let urls = |name: &str| {
        let member = list.members.iter().find(|member| member.name == name);
        member.map(|member| member.client_ur_ls.clone())
    };
    assert_eq!(urls("m0"), Some(alloc::vec!["http://a:1".into()]));
    assert_eq!(urls("m1"), Some(alloc::vec!["http://b:2".into()]));
    assert_eq!(urls("m2"), Some(alloc::vec![]));
}

#[test]
fn status_tells_indexes_and_alarms() {
    const STATUS: &str = "/etcdserverpb.Maintenance/Status";
    let mut world = World::new(1);
    // etcdctl 3.6 divides by the size.
    let fresh: StatusResponse = world.answer(0, STATUS, &StatusRequest {});
    assert!(
        fresh.db_size > 0 && fresh.db_size_in_use == fresh.db_size,
        "{fresh:?}"
    );
    world.put(0, "a");
    let status: StatusResponse = world.answer(0, STATUS, &StatusRequest {});
    assert!(status.db_size > fresh.db_size, "{status:?}");
    assert_eq!(
        (status.raft_index, status.raft_applied_index, status.raft_term),
        (5, 5, 2)
    );
    assert_eq!(
        (&*status.version, status.leader, status.errors.len()),
        ("3.5.30", world.cluster.ids(0).1, 0)
    );
    let request = AlarmRequest {
        action: AlarmAction::Activate.into(),
        member_id: 9,
        alarm: AlarmType::Nospace.into(),
    };
    let raised: AlarmResponse = world.answer(0, "/etcdserverpb.Maintenance/Alarm", &request);
    let alarm = AlarmMember {
        member_id: 9,
        alarm: AlarmType::Nospace.into(),
    };
    assert_eq!(raised.alarms, [alarm]);
    let status: StatusResponse = world.answer(0, STATUS, &StatusRequest {});
    assert_eq!(status.errors, ["memberID:9 alarm:NOSPACE "]);
    assert_eq!(world.refusal(0, PUT, &put("a")), Error::NoSpace.status());
}

#[test]
fn health_is_served() {
    const CHECK: &str = "/grpc.health.v1.Health/Check";
    let mut world = World::new(1);
    let health: HealthCheckResponse = world.answer(0, CHECK, &HealthCheckRequest::default());
    assert_eq!(health.status, 1);
    let other = HealthCheckRequest { service: "x".into() };
    assert_eq!(world.refusal(0, CHECK, &other), Status::new(5, "unknown service"));
    let list: HealthListResponse = world.answer(0, "/grpc.health.v1.Health/List", &HealthListRequest {});
    assert_eq!(list.statuses.keys().collect::<Vec<_>>(), [""]);
}

#[test]
fn leases_get_ids_and_are_listed_by_their_end() {
    let mut world = World::new(1);
    let chosen: LeaseGrantResponse = world.answer(0, GRANT, &LeaseGrantRequest { id: 0, ttl: 20 });
    assert!(chosen.id > 0);
    let _: LeaseGrantResponse = world.answer(0, GRANT, &LeaseGrantRequest { id: 5, ttl: 10 });
    let list: LeaseLeasesResponse =
        world.answer(0, "/etcdserverpb.Lease/LeaseLeases", &LeaseLeasesRequest {});
    assert_eq!(
        list.leases.iter().map(|lease| lease.id).collect::<Vec<_>>(),
        [5, chosen.id]
    );
}

#[test]
fn a_read_only_transaction_is_not_in_the_log() {
    let mut world = World::new(1);
    let index = world.cluster.committed().index();
    let response: TxnResponse = world.answer(0, "/etcdserverpb.KV/Txn", &TxnRequest::default());
    assert!(response.succeeded);
    assert_eq!(response.header.map(|header| header.raft_term), Some(2));
    assert_eq!(world.cluster.committed().index(), index);
}

fn enable_auth(world: &mut World) {
    for name in ["root", "eve"] {
        let user = AuthUserAddRequest {
            name: name.into(),
            password: "secret".into(),
            ..Default::default()
        };
        let _: PutResponse = world.answer(0, "/etcdserverpb.Auth/UserAdd", &user);
    }
    let role = AuthRoleAddRequest { name: "root".into() };
    let _: PutResponse = world.answer(0, "/etcdserverpb.Auth/RoleAdd", &role);
    let grant = AuthUserGrantRoleRequest {
        user: "root".into(),
        role: "root".into(),
    };
    let _: PutResponse = world.answer(0, "/etcdserverpb.Auth/UserGrantRole", &grant);
    let _: PutResponse = world.answer(0, "/etcdserverpb.Auth/AuthEnable", &AuthEnableRequest {});
}

fn log_in(world: &mut World, member: Member, name: &str) -> Metadata {
    let request = AuthenticateRequest {
        name: name.into(),
        password: "secret".into(),
    };
    let response: AuthenticateResponse = world.answer(member, "/etcdserverpb.Auth/Authenticate", &request);
    Metadata {
        token: Some(response.token.into_bytes().into()),
        require_leader: false,
    }
}

#[test]
fn calls_are_checked() {
    const DEFRAGMENT: &str = "/etcdserverpb.Maintenance/Defragment";
    let mut world = World::new(3);
    enable_auth(&mut world);
    assert_eq!(world.refusal(1, PUT, &put("a")), Error::UserEmpty.status());
    assert_eq!(world.refusal(1, RANGE, &range("a")), Error::UserEmpty.status());
    let status = world.refusal(1, DEFRAGMENT, &DefragmentRequest {});
    assert_eq!(status, Status::new(2, "auth: user name is empty"));
    let root = log_in(&mut world, 0, "root");
    let eve = log_in(&mut world, 1, "eve");
    for member in 0..3 {
        let call = world.call_with(member, PUT, &put("a"), root.clone());
        let _: PutResponse = world.response(call);
        let call = world.call_with(member, RANGE, &range("a"), root.clone());
        let _: RangeResponse = world.response(call);
        for (path, call) in [
            (PUT, world.call_with(member, PUT, &put("a"), eve.clone())),
            (RANGE, world.call_with(member, RANGE, &range("a"), eve.clone())),
        ] {
            assert_eq!(world.status(call), Error::PermissionDenied.status(), "{path}");
        }
    }
    // Health isn't asked who it is.
    let _: HealthCheckResponse =
        world.answer(0, "/grpc.health.v1.Health/Check", &HealthCheckRequest::default());
    // Tokens don't outlive the process.
    world.fault(Fault::Crash(2));
    world.fault(Fault::Start(2));
    world.pass(secs(2));
    let call = world.call_with(2, RANGE, &range("a"), root);
    assert_eq!(world.status(call), Error::InvalidAuthToken.status());
}

#[test]
fn a_member_that_lags_waits_for_the_token() {
    let mut world = World::new(3);
    enable_auth(&mut world);
    let slow = world.follower();
    world.fault(Fault::Lag(slow, secs(1)));
    let leader = world.leader();
    let root = log_in(&mut world, leader, "root");
    let calls = [
        world.call_with(slow, RANGE, &serializable("a"), root.clone()),
        world.call_with(slow, PUT, &put("a"), root),
    ];
    assert!(calls.iter().all(|call| world.is_open(*call)));
    world.pass(secs(1));
    let _: RangeResponse = world.response(calls[0]);
    assert!(world.is_open(calls[1]), "it is proposed only now");
    world.pass(secs(1));
    let _: PutResponse = world.response(calls[1]);
}
