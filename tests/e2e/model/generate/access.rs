//! Users, roles, permissions and tokens, and what they allow.

use std::mem;

use bytes::Bytes;
use etcd_proxy_proto::{
    authpb,
    etcdserverpb::{self as pb, request_op::Request},
};
use proptest::prelude::*;

use super::{Group, kv, maintenance, streams};
use crate::{
    calls::Call,
    program::{By, Op, USERS},
};

/// Sets up users, switches access control on, and goes on with anything.
pub(super) fn program(ops: usize) -> BoxedStrategy<Vec<Group>> {
    let before = prop::collection::vec(anything(), 0..20);
    let permissions = prop::collection::vec(permission(), 3);
    let after = prop::collection::vec(anything(), ops);
    (before, permissions, after)
        .prop_map(|(before, permissions, after)| {
            let mut groups = before;
            groups.push(set_up(permissions));
            groups.extend(after);
            groups.iter_mut().flatten().for_each(straighten);
            groups
        })
        .boxed()
}

/// Turns ranges whose end is before their key around. Whether permissions cover such a range depends, in a 3.5
/// server, on the shape of the tree in which it keeps them.
fn straighten(op: &mut Op) {
    match op {
        Op::Call(_, Call::Range(request)) => turn(&mut request.key, &mut request.range_end),
        Op::Call(_, Call::DeleteRange(request)) => turn(&mut request.key, &mut request.range_end),
        Op::Call(_, Call::Txn(request)) => straighten_txn(request),
        Op::Create(_, request) => turn(&mut request.key, &mut request.range_end),
        _ => {}
    }
}

fn straighten_txn(txn: &mut pb::TxnRequest) {
    for compare in &mut txn.compare {
        turn(&mut compare.key, &mut compare.range_end);
    }
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut op.request {
            Some(Request::RequestRange(request)) => turn(&mut request.key, &mut request.range_end),
            Some(Request::RequestDeleteRange(request)) => turn(&mut request.key, &mut request.range_end),
            Some(Request::RequestTxn(request)) => straighten_txn(request),
            Some(Request::RequestPut(_)) | None => {}
        }
    }
}

fn turn(key: &mut Bytes, range_end: &mut Bytes) {
    let open = range_end.is_empty() || range_end == b"\0".as_slice();
    if !open && range_end < key {
        mem::swap(key, range_end);
    }
}

/// root, three users with a role each, everybody logged in.
fn set_up(permissions: Vec<authpb::Permission>) -> Group {
    let mut calls = vec![Call::AuthStatus(pb::AuthStatusRequest::default())];
    for name in USERS {
        calls.push(Call::UserAdd(pb::AuthUserAddRequest {
            name: name.to_owned(),
            password: "p1".to_owned(),
            ..Default::default()
        }));
    }
    let roles = ["root", "r1", "r2", "r3"];
    for (user, role) in USERS.into_iter().zip(roles) {
        calls.push(Call::RoleAdd(pb::AuthRoleAddRequest {
            name: role.to_owned(),
        }));
        calls.push(Call::UserGrantRole(pb::AuthUserGrantRoleRequest {
            user: user.to_owned(),
            role: role.to_owned(),
        }));
    }
    for (role, permission) in roles[1..].iter().zip(permissions) {
        calls.push(Call::RoleGrantPermission(pb::AuthRoleGrantPermissionRequest {
            name: (*role).to_owned(),
            perm: Some(permission),
        }));
    }
    calls.push(Call::AuthEnable(pb::AuthEnableRequest::default()));
    for name in USERS {
        calls.push(Call::Authenticate(pb::AuthenticateRequest {
            name: name.to_owned(),
            password: "p1".to_owned(),
        }));
    }
    // Some of it was there before and fails, more often than not.
    calls
        .into_iter()
        .map(|call| {
            Op::Call(
                By::User {
                    user: 0,
                    age: 0,
                    header: "token",
                    scheme: "",
                },
                call,
            )
        })
        .collect()
}

fn by() -> BoxedStrategy<By> {
    let header = prop_oneof![
        16 => Just(("token", "")),
        4 => Just(("authorization", "")),
        1 => Just(("authorization", "Bearer ")),
    ];
    let age = prop_oneof![8 => Just(0usize), 1 => 1..4usize];
    let user = prop_oneof![5 => Just(0usize), 7 => 1..USERS.len()];
    prop_oneof![
        20 => (user, age, header).prop_map(|(user, age, (header, scheme))| By::User { user, age, header, scheme }),
        2 => Just(By::Nobody),
        1 => prop::sample::select(vec!["", "x", "abcdefghijklmnop.7", "Bearer x", "a.b.c"]).prop_map(By::Garbage),
    ]
    .boxed()
}

fn anything() -> BoxedStrategy<Group> {
    let call = prop_oneof![
        30 => kv::call(),
        1 => kv::compact(),
        8 => streams::lease_call(),
        4 => maintenance(),
        25 => management(),
        8 => authenticate(),
    ];
    prop_oneof![
        70 => (by(), call).prop_map(|(by, call)| vec![Op::Call(by, call)]),
        4 => streams::keep_alive(by()),
        10 => streams::watch(by()),
        1 => on_and_off(),
    ]
    .boxed()
}

/// Off, a few things without, and on again, or on first.
fn on_and_off() -> BoxedStrategy<Group> {
    let call = prop_oneof![kv::call(), management(), authenticate()];
    let between = prop::collection::vec((by(), call), 0..6);
    (by(), between)
        .prop_map(|(by, between)| {
            let between = between.into_iter().map(|(by, call)| Op::Call(by, call));
            let mut group = vec![Op::Call(by, Call::AuthDisable(pb::AuthDisableRequest::default()))];
            group.extend(between);
            group.push(Op::Call(
                By::Nobody,
                Call::AuthEnable(pb::AuthEnableRequest::default()),
            ));
            // Tokens from before are void.
            for name in USERS {
                let request = pb::AuthenticateRequest {
                    name: name.to_owned(),
                    password: "p1".to_owned(),
                };
                group.push(Op::Call(By::Nobody, Call::Authenticate(request)));
            }
            group
        })
        .boxed()
}

fn user() -> BoxedStrategy<String> {
    prop_oneof![
        1 => Just("root"),
        8 => prop::sample::select(vec!["u1", "u2", "u3"]),
        1 => prop::sample::select(vec!["", "ghost"]),
    ]
    .prop_map(str::to_owned)
    .boxed()
}

fn role() -> BoxedStrategy<String> {
    prop_oneof![
        2 => Just("root"),
        8 => prop::sample::select(vec!["r1", "r2", "r3"]),
        1 => prop::sample::select(vec!["", "ghost"]),
    ]
    .prop_map(str::to_owned)
    .boxed()
}

fn password() -> BoxedStrategy<String> {
    // Mostly the same, so that logging in mostly succeeds.
    prop_oneof![12 => Just("p1"), 2 => Just("p2"), 1 => Just("")]
        .prop_map(str::to_owned)
        .boxed()
}

/// Few ranges, so that some that were granted are revoked too, and any.
fn range() -> BoxedStrategy<(Bytes, Bytes)> {
    let few = prop::sample::select(vec![("a", ""), ("b", "d"), ("c", "")])
        .prop_map(|(key, range_end)| (key.into(), range_end.into()));
    prop_oneof![few, (kv::key(), kv::range_end())].boxed()
}

/// Only servers set the hash in requests; what clients put there must have no effect.
fn hash() -> BoxedStrategy<String> {
    prop_oneof![20 => Just(""), 1 => Just("p1"), 1 => Just("cDE=")]
        .prop_map(str::to_owned)
        .boxed()
}

fn permission() -> BoxedStrategy<authpb::Permission> {
    // The last type is none.
    (prop_oneof![20 => 0..3, 1 => Just(7)], range())
        .prop_map(|(perm_type, (key, range_end))| authpb::Permission {
            perm_type,
            key,
            range_end,
        })
        .boxed()
}

fn authenticate() -> BoxedStrategy<Call> {
    let user = prop_oneof![3 => user(), 2 => prop::sample::select(USERS.to_vec()).prop_map(str::to_owned)];
    (user, password())
        .prop_map(|(name, password)| Call::Authenticate(pb::AuthenticateRequest { name, password }))
        .boxed()
}

/// The service Auth.
fn management() -> BoxedStrategy<Call> {
    prop_oneof![
        2 => Just(Call::AuthStatus(pb::AuthStatusRequest::default())),
        1 => Just(Call::AuthEnable(pb::AuthEnableRequest::default())),
        12 => users(),
        12 => roles(),
    ]
    .boxed()
}

fn users() -> BoxedStrategy<Call> {
    let options = prop::option::weighted(0.3, prop::bool::weighted(0.3));
    let add = (user(), password(), options, hash()).prop_map(|(name, password, options, hashed_password)| {
        Call::UserAdd(pb::AuthUserAddRequest {
            name,
            password,
            options: options.map(|no_password| authpb::UserAddOptions { no_password }),
            hashed_password,
        })
    });
    let change = (user(), password(), hash()).prop_map(|(name, password, hashed_password)| {
        Call::UserChangePassword(pb::AuthUserChangePasswordRequest {
            name,
            password,
            hashed_password,
        })
    });
    prop_oneof![
        6 => add,
        2 => change,
        3 => user().prop_map(|name| Call::UserGet(pb::AuthUserGetRequest { name })),
        2 => Just(Call::UserList(pb::AuthUserListRequest::default())),
        2 => user().prop_map(|name| Call::UserDelete(pb::AuthUserDeleteRequest { name })),
        6 => (user(), role()).prop_map(|(user, role)| Call::UserGrantRole(pb::AuthUserGrantRoleRequest { user, role })),
        5 => (user(), role()).prop_map(|(name, role)| Call::UserRevokeRole(pb::AuthUserRevokeRoleRequest { name, role })),
    ]
    .boxed()
}

fn roles() -> BoxedStrategy<Call> {
    let perm = prop_oneof![20 => permission().prop_map(Some), 1 => Just(None)];
    let grant = (role(), perm).prop_map(|(name, perm)| {
        Call::RoleGrantPermission(pb::AuthRoleGrantPermissionRequest { name, perm })
    });
    let revoke = (role(), range()).prop_map(|(role, (key, range_end))| {
        Call::RoleRevokePermission(pb::AuthRoleRevokePermissionRequest { role, key, range_end })
    });
    prop_oneof![
        5 => role().prop_map(|name| Call::RoleAdd(pb::AuthRoleAddRequest { name })),
        3 => role().prop_map(|role| Call::RoleGet(pb::AuthRoleGetRequest { role })),
        2 => Just(Call::RoleList(pb::AuthRoleListRequest::default())),
        2 => role().prop_map(|role| Call::RoleDelete(pb::AuthRoleDeleteRequest { role })),
        9 => grant,
        6 => revoke,
    ]
    .boxed()
}
