//! What clients send must not bring a member down.

use super::*;

const CALLS: [&str; 36] = [
    "/etcdserverpb.Auth/AuthDisable",
    "/etcdserverpb.Auth/AuthStatus",
    "/etcdserverpb.Auth/Authenticate",
    "/etcdserverpb.Auth/RoleAdd",
    "/etcdserverpb.Auth/RoleDelete",
    "/etcdserverpb.Auth/RoleGet",
    "/etcdserverpb.Auth/RoleGrantPermission",
    "/etcdserverpb.Auth/RoleList",
    "/etcdserverpb.Auth/RoleRevokePermission",
    "/etcdserverpb.Auth/UserAdd",
    "/etcdserverpb.Auth/UserChangePassword",
    "/etcdserverpb.Auth/UserDelete",
    "/etcdserverpb.Auth/UserGet",
    "/etcdserverpb.Auth/UserGrantRole",
    "/etcdserverpb.Auth/UserList",
    "/etcdserverpb.Auth/UserRevokeRole",
    "/etcdserverpb.Cluster/MemberAdd",
    "/etcdserverpb.Cluster/MemberList",
    "/etcdserverpb.KV/Compact",
    "/etcdserverpb.KV/DeleteRange",
    "/etcdserverpb.KV/Put",
    "/etcdserverpb.KV/Range",
    "/etcdserverpb.KV/Txn",
    "/etcdserverpb.Lease/LeaseGrant",
    "/etcdserverpb.Lease/LeaseLeases",
    "/etcdserverpb.Lease/LeaseRevoke",
    "/etcdserverpb.Lease/LeaseTimeToLive",
    "/etcdserverpb.Maintenance/Alarm",
    "/etcdserverpb.Maintenance/Defragment",
    "/etcdserverpb.Maintenance/HashKV",
    "/etcdserverpb.Maintenance/MoveLeader",
    "/etcdserverpb.Maintenance/Status",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/List",
    "",
    "/",
];

const STREAMS: [&str; 5] = [
    WATCH,
    KEEP_ALIVE,
    "/etcdserverpb.Maintenance/Snapshot",
    "/grpc.health.v1.Health/Watch",
    "//",
];

/// Something like a message: fields with numbers at the edges of their ranges, short strings, nested messages.
fn message(random: &mut fastrand::Rng, depth: usize) -> Vec<u8> {
    let mut message = Vec::new();
    for _ in 0..random.usize(..5) {
        let field = [1, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 64][random.usize(..16)];
        if random.bool() {
            prost::encoding::encode_varint(field << 3, &mut message);
            let edges = [
                0,
                1,
                2,
                3,
                7,
                200,
                i64::MAX,
                i64::MAX - 1,
                i64::MIN,
                i64::MIN + 1,
                -1,
                9_000_000_000,
            ];
            prost::encoding::encode_varint(edges[random.usize(..edges.len())] as u64, &mut message);
        } else {
            let value = match random.u8(..6) {
                0 => b"\0".to_vec(),
                1 => b"a".to_vec(),
                2 => b"b".to_vec(),
                3 => b"root".to_vec(),
                4 if depth > 0 => self::message(random, depth - 1),
                _ => (0..random.usize(..4)).map(|_| random.u8(..)).collect(),
            };
            prost::encoding::encode_varint(field << 3 | 2, &mut message);
            prost::encoding::encode_varint(value.len() as u64, &mut message);
            message.extend_from_slice(&value);
        }
    }
    if random.u8(..20) == 0 {
        message.truncate(random.usize(..=message.len()));
    }
    message
}

#[test]
fn whatever_clients_send_is_answered() {
    let (mut ok, mut refused) = (0, 0);
    for seed in 0..40 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut world = World::with(Config {
            seed,
            ..Config::default()
        });
        for _ in 0..1000 {
            let message = Bytes::from(message(&mut random, 4));
            let token = [None, Some("x"), Some("a.1"), Some("a.18446744073709551616")][random.usize(..4)];
            let metadata = Metadata {
                token: token.map(Bytes::from),
                require_leader: random.bool(),
            };
            if random.u8(..4) == 0 {
                let stream = world.open(
                    0,
                    STREAMS[random.usize(..STREAMS.len())],
                    metadata,
                    random.u32(..3),
                );
                for _ in 0..random.usize(..4) {
                    let message = Bytes::from(self::message(&mut random, 3));
                    world.handle(Event::Message { stream, message });
                }
                let credit = Event::Credit {
                    stream,
                    messages: random.u32(..),
                };
                let end = [Event::HalfClose(stream), Event::Reset(stream), credit];
                world.handle(end[random.usize(..3)].clone());
            } else {
                world.next_id += 1;
                let call = CallId(world.next_id);
                world.handle(Event::Call {
                    call,
                    member: 0,
                    path: CALLS[random.usize(..CALLS.len())].to_owned(),
                    metadata,
                    message,
                });
                match world.replies.get(&call) {
                    Some((_, Ok(_))) => ok += 1,
                    Some((_, Err(_))) => refused += 1,
                    None => panic!("{call:?} has no answer"),
                }
            }
            world.pass(millis(random.u64(..100)));
        }
    }
    assert!(ok > 1000 && refused > 1000, "{ok} {refused}");
}
