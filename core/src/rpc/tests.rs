use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use etcd_proxy_proto::FILE_DESCRIPTOR_SET;
use prost::Message as _;
use prost_types::{FileDescriptorSet, MethodDescriptorProto};

use super::*;
use crate::class::{Class, ClassRule};

/// All methods of the `.proto` files, with their paths.
fn described() -> Vec<(String, MethodDescriptorProto)> {
    let files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("proto's build script wrote it");
    let mut methods = Vec::new();
    for file in &files.file {
        for service in &file.service {
            methods.extend(service.method.iter().map(|method| {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                (path, method.clone())
            }));
        }
    }
    methods
}

#[test]
fn the_table_has_the_rpcs_of_the_proto_files_and_no_others() {
    let described: BTreeSet<_> = described().into_iter().map(|(path, _)| path).collect();
    let known: BTreeSet<_> = Rpc::ALL.iter().map(|rpc| String::from(rpc.path())).collect();
    assert_eq!(known, described);
    assert_eq!(known.len(), Rpc::ALL.len(), "no path is there twice");
}

#[test]
fn what_is_unary_is_unary_in_the_proto_files() {
    for (path, method) in described() {
        let streams = method.client_streaming() || method.server_streaming();
        let shape = Rpc::of_path(&path).shape();
        assert_eq!(shape != Shape::Unary, streams, "{path}");
    }
}

#[test]
fn an_rpc_is_found_by_its_path_and_tells_it() {
    for rpc in Rpc::ALL.iter().copied() {
        assert_eq!(Rpc::of_path(rpc.path()), rpc);
        assert_eq!(rpc.path(), format!("/{}/{}", rpc.service(), rpc.name()));
        assert!(rpc.is_known() && rpc.kind() != Kind::Unknown, "{rpc:?}");
    }
    assert_eq!(
        (Rpc::HashKv.service(), Rpc::HashKv.name()),
        ("etcdserverpb.Maintenance", "HashKV")
    );
    for rpc in [Rpc::Unknown, Rpc::UnknownOfEtcd, Rpc::UnknownOfMaintenance] {
        assert!(!rpc.is_known() && !Rpc::ALL.contains(&rpc), "{rpc:?}");
        assert_eq!(
            (rpc.path(), rpc.service(), rpc.name(), rpc.kind()),
            ("", "unknown", "unknown", Kind::Unknown)
        );
    }
}

/// What begins with something else than a header would be misread.
#[test]
fn what_shows_its_header_begins_with_one() {
    let files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("proto's build script wrote it");
    for (path, method) in described() {
        let begins_with_header = files.file.iter().any(|file| {
            file.message_type.iter().any(|message| {
                let is_answer = format!(".{}.{}", file.package(), message.name()) == method.output_type();
                let mut fields = message.field.iter();
                is_answer
                    && fields.any(|field| {
                        field.number() == 1 && field.type_name() == ".etcdserverpb.ResponseHeader"
                    })
            })
        });
        let shows = Rpc::of_path(&path).shows();
        assert!(shows != Shows::Header || begins_with_header, "{path}");
        assert!(shows != Shows::Nothing || !begins_with_header, "{path}");
    }
}

/// The rows of clientv3's table, as facts to hold the code against.
#[test]
fn repeatable_as_clientv3_has_it() {
    let repeatable = [
        "KV/Range",
        "Lease/LeaseGrant",
        "Lease/LeaseRevoke",
        "Lease/LeaseTimeToLive",
        "Lease/LeaseLeases",
        "Cluster/MemberList",
        "Maintenance/Alarm",
        "Maintenance/Status",
        "Maintenance/Hash",
        "Maintenance/HashKV",
        "Maintenance/Snapshot",
        "Maintenance/MoveLeader",
        "Auth/UserList",
        "Auth/UserGet",
        "Auth/RoleList",
        "Auth/RoleGet",
    ];
    for rpc in Rpc::ALL.iter().copied() {
        let name = rpc.path().strip_prefix("/etcdserverpb.");
        let is_repeatable = name.map_or(
            // clientv3 makes no such calls by itself.
            matches!(rpc, Rpc::HealthCheck | Rpc::HealthList),
            |name| repeatable.contains(&name),
        );
        assert_eq!(rpc.is_repeatable(), is_repeatable, "{rpc:?}");
    }
}

/// Whatever looks like another name is one.
#[test]
fn paths_are_exact() {
    for (path, rpc) in [
        ("", Rpc::Unknown),
        ("/", Rpc::Unknown),
        ("//", Rpc::Unknown),
        ("x/y", Rpc::Unknown),
        ("/a.B/C/D", Rpc::Unknown),
        ("/v3lockpb/Lock", Rpc::Unknown),
        ("etcdserverpb.KV/Range", Rpc::Unknown),
        ("//etcdserverpb.KV/Range", Rpc::Unknown),
        ("http://localhost/etcdserverpb.KV/Range", Rpc::Unknown),
        ("/etcdserverpb.KV", Rpc::UnknownOfEtcd),
        ("/etcdserverpb.KV/", Rpc::UnknownOfEtcd),
        ("/etcdserverpb.KV/Range?x", Rpc::UnknownOfEtcd),
        ("/etcdserverpb.KV/Range?", Rpc::UnknownOfEtcd),
        ("/etcdserverpb.KV/Range/", Rpc::UnknownOfEtcd),
        ("/etcdserverpb.KV//Range", Rpc::UnknownOfEtcd),
        ("/etcdserverpb.KV/%52ange", Rpc::UnknownOfEtcd),
        ("/etcdserverpb.KV/range", Rpc::UnknownOfEtcd),
        ("/etcdserverpb.KV/Range ", Rpc::UnknownOfEtcd),
        ("/etcdserverpb.Watch/Watch?q", Rpc::UnknownOfEtcd),
        ("/etcdserverpb.Lease/LeaseKeepAlive?q", Rpc::UnknownOfEtcd),
        ("/v3electionpb.Election/SomethingNew", Rpc::UnknownOfEtcd),
        ("/etcdserverpb.Maintenance/", Rpc::UnknownOfMaintenance),
        (
            "/etcdserverpb.Maintenance/SomethingNew",
            Rpc::UnknownOfMaintenance,
        ),
    ] {
        assert_eq!(Rpc::of_path(path), rpc, "{path}");
    }
    let long = ["/etcdserverpb.KV/", &"x".repeat(1000)].concat();
    assert_eq!(Rpc::of_path(&long), Rpc::UnknownOfEtcd);
}

#[test]
fn anything_else_is_a_stream_of_bytes() {
    for rpc in [Rpc::Unknown, Rpc::UnknownOfEtcd, Rpc::UnknownOfMaintenance] {
        assert_eq!(rpc.shape(), Shape::Stream, "{rpc:?}");
        assert_eq!(rpc.class(), ClassRule::Always(Class::Blocking), "{rpc:?}");
        assert!(!rpc.is_repeatable(), "{rpc:?}");
    }
}

#[test]
fn what_shows_the_store() {
    for (path, shows) in [
        ("/v3electionpb.Election/Observe", Shows::Header),
        ("/etcdserverpb.Watch/Watch", Shows::Header),
        ("/etcdserverpb.KV/RangeStream", Shows::Store),
        ("/etcdserverpb.KV/SomethingNew", Shows::Header),
        ("/etcdserverpb.New/SomethingNew", Shows::Header),
        ("/etcdserverpb.Maintenance/Snapshot", Shows::Store),
        ("/grpc.health.v1.Health/Watch", Shows::Nothing),
        ("/x/y", Shows::Nothing),
    ] {
        assert_eq!(Rpc::of_path(path).shows(), shows, "{path}");
    }
}

#[test]
fn maintenance_stays_on_one_member() {
    for rpc in [
        Rpc::HashKv,
        Rpc::Snapshot,
        Rpc::Defragment,
        Rpc::UnknownOfMaintenance,
    ] {
        assert_eq!(rpc.member(), Member::Same, "{rpc:?}");
    }
    assert_eq!(Rpc::Status.member(), Member::SamePreferLeader);
    assert_eq!(Rpc::MoveLeader.member(), Member::Leader);
    for rpc in Rpc::ALL.iter().filter(|rpc| rpc.kind() != Kind::Maintenance) {
        assert_eq!(rpc.member(), Member::Any, "{rpc:?}");
    }
}
