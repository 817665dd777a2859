//! The Auth service, and what authentication does to the other services.

use etcd_proxy_proto::{
    authpb::{Permission, UserAddOptions},
    etcdserverpb::{
        AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest, AuthRoleDeleteRequest, AuthRoleGetRequest,
        AuthRoleGrantPermissionRequest, AuthRoleListRequest, AuthRoleRevokePermissionRequest,
        AuthStatusRequest, AuthUserAddRequest, AuthUserChangePasswordRequest, AuthUserDeleteRequest,
        AuthUserGetRequest, AuthUserGrantRoleRequest, AuthUserListRequest, AuthUserRevokeRoleRequest,
        AuthenticateRequest,
    },
};
use etcd_proxy_tests::{etcd::Options, suite::trial};
use libtest_mimic::Trial;

use crate::{
    mask,
    pair::{Case, Pair, Step},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("users_and_roles", users_and_roles),
        trial("auth_on", auth_on),
        trial("expired_token", expired_token),
    ]
}

fn auth(method: &str, request: &(impl prost::Message + std::fmt::Debug)) -> Case {
    Case::unary(
        &format!("{request:?}"),
        &format!("/etcdserverpb.Auth/{method}"),
        request,
    )
}

fn add_user(name: &str, password: &str) -> Case {
    let request = AuthUserAddRequest {
        name: name.to_owned(),
        password: password.to_owned(),
        ..Default::default()
    };
    auth("UserAdd", &request)
}

fn grant_role(user: &str, role: &str) -> Case {
    let request = AuthUserGrantRoleRequest {
        user: user.to_owned(),
        role: role.to_owned(),
    };
    auth("UserGrantRole", &request)
}

fn add_role(name: &str) -> Case {
    auth(
        "RoleAdd",
        &AuthRoleAddRequest {
            name: name.to_owned(),
        },
    )
}

fn permit(role: &str, kind: i32, key: &'static str, range_end: &'static str) -> Case {
    let perm = Permission {
        perm_type: kind,
        key: key.into(),
        range_end: range_end.into(),
    };
    let request = AuthRoleGrantPermissionRequest {
        name: role.to_owned(),
        perm: Some(perm),
    };
    auth("RoleGrantPermission", &request)
}

fn authenticate(name: &str, password: &str) -> Case {
    let request = AuthenticateRequest {
        name: name.to_owned(),
        password: password.to_owned(),
    };
    auth("Authenticate", &request)
}

async fn users_and_roles() {
    let mut pair = Pair::start("users and roles", Options::default()).await;
    let name = |name: &str| name.to_owned();
    pair.ok(auth("AuthStatus", &AuthStatusRequest {})).await;
    pair.error(
        9,
        "etcdserver: authentication is not enabled",
        authenticate("root", "pw"),
    )
    .await;
    pair.error(
        9,
        "etcdserver: root user does not exist",
        auth("AuthEnable", &AuthEnableRequest {}),
    )
    .await;
    for (user, password) in [
        ("u", "pw"),
        ("u", "pw"),
        ("", "pw"),
        ("empty", ""),
        ("root", "pw"),
    ] {
        pair.check(add_user(user, password)).await;
    }
    let no_password = AuthUserAddRequest {
        name: name("nopw"),
        options: Some(UserAddOptions { no_password: true }),
        ..Default::default()
    };
    pair.check(auth("UserAdd", &no_password)).await;
    let hashed = AuthUserAddRequest {
        name: name("hashed"),
        hashed_password: name("JDJhJDA0JHh4"),
        ..Default::default()
    };
    pair.check(auth("UserAdd", &hashed)).await;
    pair.error(
        9,
        "etcdserver: root user does not have root role",
        auth("AuthEnable", &AuthEnableRequest {}),
    )
    .await;
    for role in ["r", "r", "", "root"] {
        pair.check(add_role(role)).await;
    }
    for (kind, key, end) in [
        (0, "a", "b"),
        (1, "a", ""),
        (2, "", "\0"),
        (9, "x", ""),
        (0, "b", "a"),
        (0, "", ""),
    ] {
        pair.check(permit("r", kind, key, end)).await;
        pair.check(permit("none", kind, key, end)).await;
    }
    let no_permission = AuthRoleGrantPermissionRequest {
        name: name("r"),
        perm: None,
    };
    pair.error(
        3,
        "etcdserver: permission not given",
        auth("RoleGrantPermission", &no_permission),
    )
    .await;
    for (user, role) in [
        ("u", "r"),
        ("u", "r"),
        ("u", "none"),
        ("none", "r"),
        ("", ""),
        ("u", "root"),
    ] {
        pair.check(grant_role(user, role)).await;
    }
    for user in ["u", "none", "", "root", "nopw"] {
        pair.check(auth("UserGet", &AuthUserGetRequest { name: name(user) }))
            .await;
        let change = AuthUserChangePasswordRequest {
            name: name(user),
            password: name("new"),
            ..Default::default()
        };
        pair.check(auth("UserChangePassword", &change)).await;
        let revoke = AuthUserRevokeRoleRequest {
            name: name(user),
            role: name("r"),
        };
        pair.check(auth("UserRevokeRole", &revoke)).await;
        pair.check(auth("UserRevokeRole", &revoke)).await;
    }
    pair.check(auth("UserList", &AuthUserListRequest {})).await;
    for role in ["r", "none", "", "root"] {
        pair.check(auth("RoleGet", &AuthRoleGetRequest { role: name(role) }))
            .await;
        let revoke = AuthRoleRevokePermissionRequest {
            role: name(role),
            key: "a".into(),
            range_end: "b".into(),
        };
        pair.check(auth("RoleRevokePermission", &revoke)).await;
        pair.check(auth("RoleRevokePermission", &revoke)).await;
    }
    pair.check(auth("RoleList", &AuthRoleListRequest {})).await;
    for role in ["r", "r", "none"] {
        pair.check(auth("RoleDelete", &AuthRoleDeleteRequest { role: name(role) }))
            .await;
    }
    for user in ["u", "u", "none", ""] {
        pair.check(auth("UserDelete", &AuthUserDeleteRequest { name: name(user) }))
            .await;
    }
    pair.ok(auth("AuthStatus", &AuthStatusRequest {})).await;
    pair.check(auth("AuthDisable", &AuthDisableRequest {})).await;
    for method in METHODS {
        let path = format!("/etcdserverpb.Auth/{method}");
        pair.check(Case::bytes("garbage", &path, &b"\xff\xff"[..])).await;
    }
    pair.finish();
}

const METHODS: [&str; 17] = [
    "AuthEnable",
    "AuthDisable",
    "AuthStatus",
    "Authenticate",
    "UserAdd",
    "UserGet",
    "UserList",
    "UserDelete",
    "UserChangePassword",
    "UserGrantRole",
    "UserRevokeRole",
    "RoleAdd",
    "RoleGet",
    "RoleList",
    "RoleDelete",
    "RoleGrantPermission",
    "RoleRevokePermission",
];

/// A pair with authentication on: `root` may everything, `user` may read `open/` and write `own`.
async fn enabled(group: &'static str, options: Options) -> Pair {
    let mut pair = Pair::start(group, options).await;
    pair.put("open/a", "visible").await;
    pair.put("secret", "hidden").await;
    for case in [
        add_user("root", "rootpw"),
        add_user("user", "userpw"),
        add_role("root"),
        add_role("role"),
        permit("role", 0, "open/", "open0"),
        permit("role", 2, "own", ""),
        grant_role("root", "root"),
        grant_role("user", "role"),
        auth("AuthEnable", &AuthEnableRequest {}),
    ] {
        pair.ok(case).await;
    }
    pair.log_in("root", "rootpw").await;
    pair.log_in("user", "userpw").await;
    pair
}

async fn auth_on() {
    let mut pair = enabled("auth on", Options::default()).await;
    let wrong = "etcdserver: authentication failed, invalid user ID or password";
    pair.ok(authenticate("user", "userpw").mask(mask::token)).await;
    for (name, password) in [("user", "wrong"), ("nobody", "pw"), ("", ""), ("user", "")] {
        pair.error(3, wrong, authenticate(name, password)).await;
    }
    // One request of every kind under every kind of identity.
    let requests: [(&str, &[u8]); 24] = [
        ("/etcdserverpb.KV/Range", b"\x0a\x06open/a"),
        ("/etcdserverpb.KV/Range", b"\x0a\x06open/a\x38\x01"),
        ("/etcdserverpb.KV/Range", b"\x0a\x06secret"),
        ("/etcdserverpb.KV/Range", b"\x0a\x06secret\x38\x01"),
        ("/etcdserverpb.KV/Range", b"\x0a\x01\0\x12\x01\0"),
        ("/etcdserverpb.KV/Put", b"\x0a\x06secret\x12\x01x"),
        ("/etcdserverpb.KV/Put", b"\x0a\x03own\x12\x01x"),
        ("/etcdserverpb.KV/DeleteRange", b"\x0a\x04none"),
        ("/etcdserverpb.KV/Txn", b"\x12\x08\x0a\x06\x0a\x04open"),
        ("/etcdserverpb.KV/Txn", b"\x12\x02\x0a\x00"),
        ("/etcdserverpb.KV/Txn", b"\x12\x00"),
        ("/etcdserverpb.KV/Compact", b"\x08\x01"),
        ("/etcdserverpb.Lease/LeaseGrant", b"\x08\x3c\x10\x07"),
        ("/etcdserverpb.Lease/LeaseTimeToLive", b"\x08\x63"),
        ("/etcdserverpb.Lease/LeaseLeases", b""),
        ("/etcdserverpb.Lease/LeaseRevoke", b"\x08\x07"),
        ("/etcdserverpb.Lease/LeaseRevoke", b"\x08\x63"),
        ("/etcdserverpb.Cluster/MemberRemove", b"\x08\x05"),
        ("/etcdserverpb.Maintenance/Alarm", b""),
        ("/etcdserverpb.Maintenance/HashKV", b""),
        ("/etcdserverpb.Maintenance/Defragment", b""),
        ("/etcdserverpb.Auth/UserList", b""),
        ("/etcdserverpb.Auth/RoleList", b""),
        ("/etcdserverpb.Auth/AuthStatus", b""),
    ];
    let identities: [(&str, &[(&str, &str)]); 11] = [
        ("nobody", &[]),
        ("user", &[("token", "{user}")]),
        ("root", &[("token", "{root}")]),
        ("root as bearer", &[("token", "Bearer {root}")]),
        ("user in authorization", &[("authorization", "{user}")]),
        (
            "root in authorization, as bearer",
            &[("authorization", "Bearer {root}")],
        ),
        (
            "both, token counts",
            &[("token", "{user}"), ("authorization", "{root}")],
        ),
        ("two tokens", &[("token", "{user}"), ("token", "{root}")]),
        ("bad token", &[("token", "abcdefgh.1")]),
        ("empty token", &[("token", "")]),
        (
            "bad token, good authorization",
            &[("token", "bad"), ("authorization", "{root}")],
        ),
    ];
    for (path, message) in requests {
        for (who, metadata) in identities {
            let mut case = Case::bytes(&format!("{message:?} by {who}"), path, message);
            for (name, value) in metadata {
                case = case.with(name, value);
            }
            pair.check(case).await;
        }
    }
    streams(&mut pair).await;
    // Tokens end with a change of permissions; with authentication they lose their meaning.
    pair.check(auth("AuthDisable", &AuthDisableRequest {}).by_user("user"))
        .await;
    pair.ok(permit("role", 0, "secret", "").by_user("root")).await;
    pair.check(
        Case::bytes("newly allowed", "/etcdserverpb.KV/Range", &b"\x0a\x06secret"[..]).by_user("user"),
    )
    .await;
    pair.ok(auth("AuthDisable", &AuthDisableRequest {}).by_user("root"))
        .await;
    pair.ok(Case::bytes(
        "off",
        "/etcdserverpb.KV/Range",
        &b"\x0a\x06secret"[..],
    ))
    .await;
    pair.check(Case::bytes("off", "/etcdserverpb.KV/Range", &b"\x0a\x06secret"[..]).by_user("user"))
        .await;
    pair.finish();
}

/// The streams, with and without permission.
async fn streams(pair: &mut Pair) {
    pair.ok(Case::bytes(
        "grant 8",
        "/etcdserverpb.Lease/LeaseGrant",
        &b"\x08\x3c\x10\x08"[..],
    )
    .by_user("root"))
        .await;
    for user in ["", "user", "root"] {
        let by = |case: Case| if user.is_empty() { case } else { case.by_user(user) };
        for (what, message) in [
            ("open", &b"\x0a\x08\x0a\x06open/a"[..]),
            ("secret", b"\x0a\x08\x0a\x06secret"),
            ("everything", b"\x0a\x06\x0a\x01\0\x12\x01\0"),
        ] {
            let steps = vec![Step::Send(message.into()), Step::Receive(1)];
            let name = format!("watch {what} by {user}");
            pair.check(by(Case::stream(&name, "/etcdserverpb.Watch/Watch", steps)))
                .await;
        }
        let steps = vec![
            Step::Send((&b"\x08\x08"[..]).into()),
            Step::HalfClose,
            Step::Finish,
        ];
        let name = format!("keep alive by {user}");
        pair.check(by(Case::stream(
            &name,
            "/etcdserverpb.Lease/LeaseKeepAlive",
            steps,
        )))
        .await;
        let steps = vec![Step::Send((&b"\x0a\x01e"[..]).into()), Step::HalfClose];
        // Only a refusal ends; who may observe waits for a leader.
        if user != "root" {
            let steps = [steps, vec![Step::Finish]].concat();
            let name = format!("observe by {user}");
            pair.check(by(Case::stream(&name, "/v3electionpb.Election/Observe", steps)))
                .await;
        }
    }
    let steps = vec![Step::Send(bytes::Bytes::new()), Step::HalfClose, Step::Finish];
    for user in ["", "user"] {
        let case = Case::stream("snapshot", "/etcdserverpb.Maintenance/Snapshot", steps.clone());
        let case = if user.is_empty() { case } else { case.by_user(user) };
        pair.check(case).await;
    }
}

async fn expired_token() {
    let options = Options::default().flag("--auth-token-ttl=2");
    let mut pair = enabled("expired token", options).await;
    let read = || Case::bytes("read", "/etcdserverpb.KV/Range", &b"\x0a\x06open/a"[..]).by_user("user");
    pair.ok(read()).await;
    // A token that is used lives on, so both sides have to be left alone for its life and the
    // second-wide steps of etcd's clean-up.
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    pair.error(16, "etcdserver: invalid auth token", read()).await;
    pair.log_in("user", "userpw").await;
    pair.ok(read()).await;
    pair.finish();
}
