//! `Method::of_path`: any path, and what must hold for whatever it answers.
#![no_main]

use arbitrary::Arbitrary;
use etcd_proxy_core::method::{Member, Method, Shape};
use libfuzzer_sys::fuzz_target;

/// Names that are worth combining.
const SERVICES: &[&str] = &[
    "etcdserverpb.Auth",
    "etcdserverpb.Cluster",
    "etcdserverpb.KV",
    "etcdserverpb.Lease",
    "etcdserverpb.Maintenance",
    "etcdserverpb.Watch",
    "grpc.health.v1.Health",
    "v3electionpb.Election",
    "v3lockpb.Lock",
];
const METHODS: &[&str] = &[
    "Alarm",
    "AuthEnable",
    "Campaign",
    "Check",
    "Compact",
    "Defragment",
    "LeaseGrant",
    "LeaseKeepAlive",
    "Lock",
    "MemberAdd",
    "MemberList",
    "MoveLeader",
    "Observe",
    "Put",
    "Range",
    "Snapshot",
    "Status",
    "Txn",
    "UserList",
    "Watch",
];

#[derive(Arbitrary, Debug)]
enum Input {
    Path(String),
    Named { service: u8, method: u8, tail: String },
}

fuzz_target!(|input: Input| {
    let path = match input {
        Input::Path(path) => path,
        Input::Named {
            service,
            method,
            tail,
        } => {
            let service = SERVICES[usize::from(service) % SERVICES.len()];
            let method = METHODS[usize::from(method) % METHODS.len()];
            format!("/{service}/{method}{tail}")
        }
    };
    let method = Method::of_path(&path);
    assert_eq!(Method::of_path(&path), method);

    let (service, name) = match path.split('/').collect::<Vec<_>>()[..] {
        ["", service, name] => (service, name),
        _ => {
            // A path of another form is at most a call that some maintenance service would have to know.
            let maintenance = path.starts_with("/etcdserverpb.Maintenance/");
            assert!(
                method == Method::UNKNOWN || maintenance && method.member == Member::Same,
                "{path}"
            );
            return;
        }
    };
    if method.repeatable {
        // clientv3 calls no write repeatable, and what it knows has a known service.
        assert_ne!(method.shape, Shape::Endless, "{path}");
        assert!(SERVICES.contains(&service), "{path}");
        for write in [
            "Put",
            "Delete",
            "Txn",
            "Compact",
            "Member",
            "Auth",
            "Defrag",
            "Downgrade",
            "Grant",
        ] {
            assert!(!name.starts_with(write) || name == "MemberList", "{path}");
        }
    }
    if method.shape == Shape::Endless {
        assert!(["Watch", "LeaseKeepAlive", "Observe"].contains(&name), "{path}");
    }
    assert_eq!(
        method.member != Member::Any,
        service == "etcdserverpb.Maintenance",
        "{path}"
    );
    assert_eq!(
        method.member == Member::Leader,
        service == "etcdserverpb.Maintenance" && name == "MoveLeader"
    );
    if !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        assert_eq!(
            (method.shape, method.repeatable),
            (Method::UNKNOWN.shape, false),
            "{path}"
        );
    }
});
