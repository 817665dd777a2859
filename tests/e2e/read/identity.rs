//! Who may read what, when answers are cached. Row 6.

use std::time::Instant;

use etcd_proxy_proto::{
    authpb::{Permission, permission::Type},
    etcdserverpb::{
        AuthDisableRequest, AuthDisableResponse, AuthEnableRequest, AuthEnableResponse, AuthRoleAddRequest,
        AuthRoleAddResponse, AuthRoleGrantPermissionRequest, AuthRoleGrantPermissionResponse,
        AuthUserAddRequest, AuthUserAddResponse, AuthUserGrantRoleRequest, AuthUserGrantRoleResponse,
        AuthUserRevokeRoleRequest, AuthUserRevokeRoleResponse, AuthenticateRequest, AuthenticateResponse,
        PutRequest, PutResponse, RangeRequest, RangeResponse,
    },
};
use etcd_proxy_tests::{
    client::Client,
    etcd::{Cluster, Options},
    suite::trial,
    wire::Wire,
};
use libtest_mimic::Trial;

use crate::world::{STALENESS, World, number, one, prefix, put, serializable};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("auth_is_on", auth_is_on),
        trial("auth_is_switched", auth_is_switched),
    ]
}

const PASSWORD: &str = "secret";

/// A call with a token, or without if it is empty.
async fn call<Q, R>(client: &Client, token: &str, method: &str, request: &Q) -> R
where
    Q: prost::Message,
    R: prost::Message + Default,
{
    let path = format!("/etcdserverpb.{method}");
    let metadata = [("token", token)];
    let metadata = if token.is_empty() { &[][..] } else { &metadata };
    client.wire.unary(&path, metadata, request).await.expect(method)
}

/// Users `root` and `b`, who may read `b/`, and `a`, who may read `a/`. Auth is still off.
async fn set_up(client: &Client) {
    for (name, prefixes) in [("root", ""), ("a", "a/"), ("b", "b/")] {
        let user = AuthUserAddRequest {
            name: name.to_owned(),
            password: PASSWORD.to_owned(),
            ..Default::default()
        };
        let _: AuthUserAddResponse = call(client, "", "Auth/UserAdd", &user).await;
        let role = AuthRoleAddRequest {
            name: name.to_owned(),
        };
        let _: AuthRoleAddResponse = call(client, "", "Auth/RoleAdd", &role).await;
        if !prefixes.is_empty() {
            let range = prefix(prefixes);
            let permission = AuthRoleGrantPermissionRequest {
                name: name.to_owned(),
                perm: Some(Permission {
                    perm_type: Type::Read.into(),
                    key: range.key,
                    range_end: range.range_end,
                }),
            };
            let _: AuthRoleGrantPermissionResponse =
                call(client, "", "Auth/RoleGrantPermission", &permission).await;
        }
        let grant = AuthUserGrantRoleRequest {
            user: name.to_owned(),
            role: name.to_owned(),
        };
        let _: AuthUserGrantRoleResponse = call(client, "", "Auth/UserGrantRole", &grant).await;
    }
}

async fn enable(client: &Client) {
    let _: AuthEnableResponse = call(client, "", "Auth/AuthEnable", &AuthEnableRequest {}).await;
}

async fn disable(client: &Client, root: &str) {
    let _: AuthDisableResponse = call(client, root, "Auth/AuthDisable", &AuthDisableRequest {}).await;
}

async fn token(client: &Client, name: &str) -> String {
    let request = AuthenticateRequest {
        name: name.to_owned(),
        password: PASSWORD.to_owned(),
    };
    let answer: AuthenticateResponse = call(client, "", "Auth/Authenticate", &request).await;
    answer.token
}

async fn put_as(client: &Client, token: &str, key: &str, value: &str) {
    let request = PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..Default::default()
    };
    let _: PutResponse = call(client, token, "KV/Put", &request).await;
}

/// The answer, or the code and the words of the refusal.
type Told = Result<RangeResponse, (Option<u32>, Option<String>)>;

async fn read_as(wire: &Wire, token: &str, read: &RangeRequest) -> Told {
    let metadata = [("token", token)];
    let metadata = if token.is_empty() { &[][..] } else { &metadata };
    let answer = wire.unary("/etcdserverpb.KV/Range", metadata, read).await;
    answer.map_err(|reply| (reply.code(), reply.message()))
}

/// Whatever others have read, each gets what the member says to him, and to those without rights that is a refusal.
async fn auth_is_on() {
    let cluster = Cluster::start(Options::default()).await;
    let mut world = World::start("auth_is_on", &cluster, &[]).await;
    set_up(&world.direct).await;
    for key in ["a/k", "b/k"] {
        put(&world.direct, key, "1").await;
    }
    enable(&world.direct).await;
    let root = token(&world.direct, "root").await;
    let (a, b) = (token(&world.direct, "a").await, token(&world.direct, "b").await);
    let wrong = "wrong.1".to_owned();
    let everybody = [root.clone(), a.clone(), b.clone(), String::new(), wrong];
    let reads = [one("a/k"), one("b/k"), prefix("a/"), prefix("b/")];
    let equal = async |what: &str| {
        let mut refused = 0;
        for read in &reads {
            for read in [read.clone(), serializable(read)] {
                for _ in 0..2 {
                    for (who, token) in everybody.iter().enumerate() {
                        let expected = read_as(&world.direct.wire, token, &read).await;
                        let answer = read_as(&world.proxied.wire, token, &read).await;
                        assert_eq!(answer, expected, "{what}, user {who}: {read:?}");
                        refused += u32::from(answer.is_err());
                    }
                }
            }
        }
        refused
    };
    // Anonymous and the wrong token always, a and b each for the other's keys.
    assert_eq!(equal("at first").await, 4 * 2 * 2 * 3);
    let through = world.client().await;
    put_as(&through, &root, "a/k", "2").await;
    assert_eq!(equal("after a write").await, 4 * 2 * 2 * 3);
    let revoke = AuthUserRevokeRoleRequest {
        name: "a".to_owned(),
        role: "a".to_owned(),
    };
    for round in 0..10 {
        let client = if round % 2 == 0 { &world.direct } else { &through };
        let _: AuthUserRevokeRoleResponse = call(client, &root, "Auth/UserRevokeRole", &revoke).await;
        assert_eq!(equal("after a role was revoked").await, 4 * 2 * 2 * 3 + 2 * 2 * 2);
        let grant = AuthUserGrantRoleRequest {
            user: "a".to_owned(),
            role: "a".to_owned(),
        };
        let _: AuthUserGrantRoleResponse = call(client, &root, "Auth/UserGrantRole", &grant).await;
        assert_eq!(equal("after a role was granted").await, 4 * 2 * 2 * 3);
    }
    assert_eq!(world.hits().await, 0.0, "an answer for one went to another");
    world.proxy.assert_sound();
}

async fn linearizable_reads_are_refused(world: &World, reader: &Client, reads: &[RangeRequest]) {
    for read in reads {
        let expected = read_as(&world.direct.wire, "", read).await;
        assert!(expected.is_err(), "auth is on");
        assert_eq!(read_as(&reader.wire, "", read).await, expected, "linearizable");
    }
}

/// Auth is switched on while everything is cached, and off again, again and again.
async fn auth_is_switched() {
    let cluster = Cluster::start(Options::default()).await;
    let mut world = World::start("auth_is_switched", &cluster, &[]).await;
    set_up(&world.direct).await;
    let reads = [one("a/k"), prefix("a/")];
    let readers = [world.client().await, world.client().await];
    for round in 0..8 {
        put(&world.direct, "a/k", &round.to_string()).await;
        for read in &reads {
            world.warm(read).await;
            world.warm(&serializable(read)).await;
        }
        let through_the_proxy = round % 2 == 0;
        let switch = if through_the_proxy {
            &world.proxied
        } else {
            &world.direct
        };
        enable(switch).await;
        let enabled = Instant::now();
        // In each order: the refusal of one may be what ends the other.
        let (mut first, mut then) = (&readers[0], &readers[1]);
        if round / 2 % 2 == 1 {
            core::mem::swap(&mut first, &mut then);
            linearizable_reads_are_refused(&world, first, &reads).await;
        }
        for read in &reads {
            let expected = read_as(&world.direct.wire, "", read).await;
            loop {
                let asked = Instant::now();
                let answer = read_as(&first.wire, "", &serializable(read)).await;
                if answer.is_err() {
                    assert_eq!(answer, expected, "round {round}: serializable");
                    break;
                }
                let age = asked.saturating_duration_since(enabled);
                assert!(!through_the_proxy, "round {round}: shown after {age:?}");
                assert!(age <= STALENESS, "round {round}: shown after {age:?}");
            }
        }
        linearizable_reads_are_refused(&world, then, &reads).await;
        // For good, whatever root reads.
        let root = token(&world.proxied, "root").await;
        put_as(&world.direct, &root, "a/k", &(100 + round).to_string()).await;
        for _ in 0..20 {
            for read in [one("a/k"), serializable(&one("a/k"))] {
                let answer = read_as(&world.proxied.wire, &root, &read)
                    .await
                    .expect("root reads");
                assert_eq!(number(&answer), Some(100 + round));
                read_as(&readers[0].wire, "", &read)
                    .await
                    .expect_err("auth is on");
            }
        }
        disable(
            if round % 3 == 0 {
                &world.proxied
            } else {
                &world.direct
            },
            &root,
        )
        .await;
        for read in [one("a/k"), serializable(&one("a/k"))] {
            let answer = read_as(&readers[1].wire, "", &read).await.expect("auth is off");
            assert_eq!(number(&answer), Some(100 + round));
            assert_eq!(
                number(&world.warm(&read).await),
                Some(100 + round),
                "cached again"
            );
        }
    }
    world.proxy.assert_sound();
}
