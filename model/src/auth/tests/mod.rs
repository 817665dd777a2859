mod checks;
mod management;
mod tokens;

use alloc::string::ToString;
use alloc::vec;
use core::time::Duration;

use etcd_proxy_core::time::Instant;
use etcd_proxy_proto::authpb::UserAddOptions;
use etcd_proxy_proto::etcdserverpb::{
    AuthRoleAddRequest, AuthRoleDeleteRequest, AuthRoleGetRequest, AuthRoleGrantPermissionRequest,
    AuthRoleRevokePermissionRequest, AuthUserAddRequest, AuthUserChangePasswordRequest,
    AuthUserDeleteRequest, AuthUserGetRequest, AuthUserGrantRoleRequest, AuthUserRevokeRoleRequest, Compare,
    ResponseHeader,
};
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::status::Status;

const DONE: Result<Response, Error> = Ok(Response::Done);

fn user_add(name: &str, password: &str) -> Request {
    Request::UserAdd(AuthUserAddRequest {
        name: name.into(),
        password: password.into(),
        ..Default::default()
    })
}

fn user_without_password(name: &str) -> Request {
    Request::UserAdd(AuthUserAddRequest {
        name: name.into(),
        options: Some(UserAddOptions { no_password: true }),
        ..Default::default()
    })
}

fn change_password(name: &str, password: &str) -> Request {
    Request::UserChangePassword(AuthUserChangePasswordRequest {
        name: name.into(),
        password: password.into(),
        ..Default::default()
    })
}

fn user_delete(name: &str) -> Request {
    Request::UserDelete(AuthUserDeleteRequest { name: name.into() })
}

fn user_get(name: &str) -> Request {
    Request::UserGet(AuthUserGetRequest { name: name.into() })
}

fn grant_role(user: &str, role: &str) -> Request {
    Request::UserGrantRole(AuthUserGrantRoleRequest {
        user: user.into(),
        role: role.into(),
    })
}

fn revoke_role(user: &str, role: &str) -> Request {
    Request::UserRevokeRole(AuthUserRevokeRoleRequest {
        name: user.into(),
        role: role.into(),
    })
}

fn role_add(name: &str) -> Request {
    Request::RoleAdd(AuthRoleAddRequest { name: name.into() })
}

fn role_delete(role: &str) -> Request {
    Request::RoleDelete(AuthRoleDeleteRequest { role: role.into() })
}

fn role_get(role: &str) -> Request {
    Request::RoleGet(AuthRoleGetRequest { role: role.into() })
}

fn permission(access: Type, key: &'static str, range_end: &'static str) -> Permission {
    Permission {
        perm_type: access.into(),
        key: key.into(),
        range_end: range_end.into(),
    }
}

fn grant(role: &str, permission: Permission) -> Request {
    Request::RoleGrantPermission(AuthRoleGrantPermissionRequest {
        name: role.into(),
        perm: Some(permission),
    })
}

fn revoke(role: &str, key: &'static str, range_end: &'static str) -> Request {
    Request::RoleRevokePermission(AuthRoleRevokePermissionRequest {
        role: role.into(),
        key: key.into(),
        range_end: range_end.into(),
    })
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

/// Runs requests without a user and compares what they answer.
fn run(auth: &mut Auth, steps: Vec<(Request, Result<Response, Error>)>) {
    for (request, expected) in steps {
        assert_eq!(auth.apply(1, None, &request), expected, "{request:?}");
    }
}

fn status(enabled: bool, revision: u64) -> Result<Response, Error> {
    Ok(Response::Status { enabled, revision })
}

/// Authentication is on; `u` may do what its role says, `norole` nothing.
fn with_users() -> Auth {
    let mut auth = Auth::new();
    for name in ["root", "u", "norole"] {
        assert_eq!(auth.apply(1, None, &user_add(name, name)), DONE);
    }
    let steps = [
        role_add("r"),
        role_add("s"),
        grant_role("root", "root"),
        grant_role("u", "r"),
        grant("r", permission(Type::Read, "a", "b")),
        grant("r", permission(Type::Write, "w", "")),
        grant("r", permission(Type::Readwrite, "k", "")),
        grant("r", permission(Type::Read, "m", "n")),
        grant("r", permission(Type::Read, "n", "o")),
        grant("r", permission(Type::Read, "x", "\0")),
        Request::Enable,
    ];
    for step in steps {
        assert_eq!(auth.apply(1, None, &step), DONE, "{step:?}");
    }
    auth
}

fn caller(auth: &Auth, name: &str) -> User {
    User {
        name: name.into(),
        revision: auth.revision(),
    }
}
