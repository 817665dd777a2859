//! Each heartbeat is its own client's, when servers look at who sends it. DEV-18.

use etcd_proxy_proto::{
    authpb::{Permission, permission::Type},
    etcdserverpb::{
        AuthEnableRequest, AuthEnableResponse, AuthRoleAddRequest, AuthRoleAddResponse,
        AuthRoleGrantPermissionRequest, AuthRoleGrantPermissionResponse, AuthUserAddRequest,
        AuthUserAddResponse, AuthUserGrantRoleRequest, AuthUserGrantRoleResponse, AuthenticateRequest,
        AuthenticateResponse,
    },
};
use etcd_proxy_tests::{
    etcd::{Cluster, Options},
    suite::{eventually, trial},
    watching::on_prefix,
    wire::Wire,
};
use libtest_mimic::Trial;

use crate::world::{ANSWER_LIMIT, Beats, Counts, KEEP_ALIVE, World, decoded, grant, heartbeat, put};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("users", users)]
}

/// Its name, what it is sent with, its lease, and whether it is answered.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], i64, bool);

const PASSWORD: &str = "secret";

async fn auth<Q: prost::Message, R: prost::Message + Default>(wire: &Wire, method: &str, request: &Q) -> R {
    let path = format!("/etcdserverpb.Auth/{method}");
    wire.unary(&path, &[], request).await.expect(method)
}

/// A user with a role of the same name, which may read and write under `prefix`, if there is one.
async fn user(wire: &Wire, name: &str, prefix: Option<&str>) {
    let user = AuthUserAddRequest {
        name: name.to_owned(),
        password: PASSWORD.to_owned(),
        ..Default::default()
    };
    let _: AuthUserAddResponse = auth(wire, "UserAdd", &user).await;
    let role = AuthRoleAddRequest {
        name: name.to_owned(),
    };
    let _: AuthRoleAddResponse = auth(wire, "RoleAdd", &role).await;
    if let Some(prefix) = prefix {
        let range = on_prefix(prefix);
        let permission = AuthRoleGrantPermissionRequest {
            name: name.to_owned(),
            perm: Some(Permission {
                perm_type: Type::Readwrite.into(),
                key: range.key,
                range_end: range.range_end,
            }),
        };
        let _: AuthRoleGrantPermissionResponse = auth(wire, "RoleGrantPermission", &permission).await;
    }
    let request = AuthUserGrantRoleRequest {
        user: name.to_owned(),
        role: name.to_owned(),
    };
    let _: AuthUserGrantRoleResponse = auth(wire, "UserGrantRole", &request).await;
}

async fn token(wire: &Wire, name: &str) -> String {
    let request = AuthenticateRequest {
        name: name.to_owned(),
        password: PASSWORD.to_owned(),
    };
    let answer: AuthenticateResponse = auth(wire, "Authenticate", &request).await;
    answer.token
}

/// Leases with keys that one may write and another may not.
async fn users() {
    let cluster = Cluster::start(Options::default()).await;
    let mut world = World::start(&cluster).await;
    let direct = world.direct.wire.clone();
    user(&direct, "root", None).await;
    user(&direct, "alice", Some("a/")).await;
    user(&direct, "bob", Some("b/")).await;
    let _: AuthEnableResponse = auth(&direct, "AuthEnable", &AuthEnableRequest {}).await;
    let (alice, bob, root) = (
        token(&direct, "alice").await,
        token(&direct, "bob").await,
        token(&direct, "root").await,
    );
    let (alice, bob, root) = ([("token", &*alice)], [("token", &*bob)], [("token", &*root)]);
    let hers = grant(&direct, &alice, 60).await;
    put(&direct, &alice, "a/1", hers).await;
    let his = grant(&direct, &bob, 90).await;
    put(&direct, &bob, "b/1", his).await;
    // Of both, so that neither may renew it.
    let both = grant(&direct, &root, 120).await;
    for key in ["a/2", "b/2"] {
        put(&direct, &root, key, both).await;
    }
    let bare = grant(&direct, &root, 150).await;

    let mut alices = Beats::open(&world.proxied.wire, &alice).await;
    let mut bobs = Beats::open(&world.wire().await, &bob).await;
    assert_eq!(alices.beat(hers).await, 60);
    assert_eq!(bobs.beat(his).await, 90);

    let wrong = [("token", "wrong.1")];
    let cases: [Case<'_>; 15] = [
        ("alice, her own", &alice, hers, true),
        ("alice, his", &alice, his, false),
        ("alice, that of both", &alice, both, false),
        ("alice, without keys", &alice, bare, true),
        ("alice, unknown", &alice, 4711, true),
        ("bob, hers", &bob, hers, false),
        ("bob, his own", &bob, his, true),
        ("bob, that of both", &bob, both, false),
        ("root, that of both", &root, both, true),
        ("nobody, hers", &[], hers, false),
        ("nobody, without keys", &[], bare, false),
        ("nobody, unknown", &[], 4711, false),
        ("a wrong token, hers", &wrong, hers, false),
        ("a wrong token, without keys", &wrong, bare, false),
        ("a wrong token, unknown", &wrong, 4711, false),
    ];
    for round in 0..5 {
        for (name, metadata, lease, answered) in cases {
            let mut seen = Vec::new();
            for (_, wire) in world.sides() {
                let reply = wire.call(KEEP_ALIVE, metadata, &[heartbeat(lease)]).await;
                let ttl: Vec<_> = decoded(&reply.messages)
                    .iter()
                    .map(|answer| (answer.id, answer.ttl))
                    .collect();
                seen.push((
                    ttl,
                    reply.code(),
                    reply.message().filter(|text| !text.is_empty()),
                    reply.reset,
                ));
            }
            assert_eq!(seen[1], seen[0], "{name}: the proxy is not as the server");
            assert_eq!(seen[0].1 == Some(0), answered, "{name}: {:?}", seen[0]);
            if round == 0 && !answered {
                println!("users: {name}: {:?} {:?}", seen[0].1, seen[0].2);
            }
            // The refusal was his who asked, not theirs who share what he used.
            assert_eq!(alices.beat(hers).await, 60, "after {name}");
            assert_eq!(bobs.beat(his).await, 90, "after {name}");
        }
    }

    // On one stream: what came before the refusal is answered, then the stream ends with it.
    let asked = [hers, bare, hers, both];
    let mut seen = Vec::new();
    for (_, wire) in world.sides() {
        let mut stream = Beats::open(wire, &alice).await;
        let mut ttls = Vec::new();
        for lease in &asked[..3] {
            ttls.push(stream.beat(*lease).await);
        }
        stream.ask(asked[3]).await;
        let end = stream.answer().await.expect_err("refused");
        seen.push((ttls, end.code(), end.message()));
    }
    assert_eq!(seen[1], seen[0]);
    assert_eq!(alices.beat(hers).await, 60);

    // A stream for each of those whose streams are open.
    let open = async || Counts::of(&world.member).await.expect("metrics").open;
    eventually("a stream for each user", ANSWER_LIMIT, async || {
        (open().await <= 3).then_some(())
    })
    .await;
    world.proxy.assert_sound();
}
