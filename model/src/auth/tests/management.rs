//! Users, roles and permissions as they are changed and listed.

use etcd_proxy_core::rpc::Rpc;

use super::*;

// The answers and revisions of these two were taken from etcd 3.5.30.

#[test]
fn users_and_roles_before_authentication_is_on() {
    let mut auth = Auth::new();
    let np = Ok(Response::UserNames(names(&["np", "root"])));
    run(
        &mut auth,
        vec![
            (Request::Status, status(false, 1)),
            (Request::Enable, Err(Error::RootUserMissing)),
            (Request::Disable, DONE),
            (user_add("", "y"), Err(Error::UserEmpty)),
            (user_add("root", "r"), DONE),
            (Request::Status, status(false, 2)),
            (user_add("root", "r"), Err(Error::UserAlreadyExists)),
            (user_without_password("np"), DONE),
            (change_password("nobody", "a"), Err(Error::UserNotFound)),
            (change_password("np", "a"), DONE),
            (Request::Status, status(false, 4)),
            (Request::Enable, Err(Error::RootRoleMissing)),
            (grant_role("root", "root"), DONE),
            (user_get("root"), Ok(Response::UserRoles(names(&["root"])))),
            (role_get("root"), Err(Error::RoleNotFound)),
            (role_add(""), Err(Error::RoleEmpty)),
            (role_add("a"), DONE),
            (role_add("a"), Err(Error::RoleAlreadyExists)),
            (role_add("root"), DONE),
            (role_get("root"), Ok(Response::Permissions(vec![]))),
            (Request::RoleList, Ok(Response::RoleNames(names(&["a", "root"])))),
            (Request::UserList, np),
            (grant_role("nobody", "zz"), Err(Error::UserNotFound)),
            (grant_role("root", "zz"), Err(Error::RoleNotFound)),
            (Request::Status, status(false, 7)),
            (grant_role("root", "root"), DONE),
            (Request::Status, status(false, 7)),
            (revoke_role("zz", "a"), Err(Error::UserNotFound)),
            (revoke_role("root", "a"), Err(Error::RoleNotGranted)),
            (revoke_role("root", "root"), DONE),
            (Request::Enable, Err(Error::RootRoleMissing)),
            (grant_role("root", "root"), DONE),
            (role_delete("zz"), Err(Error::RoleNotFound)),
            (role_delete("root"), DONE),
            (user_get("root"), Ok(Response::UserRoles(vec![]))),
            (grant_role("root", "root"), DONE),
            (user_delete("zz"), Err(Error::UserNotFound)),
            (Request::Status, status(false, 11)),
            (Request::Enable, DONE),
            (Request::Status, Err(Error::UserEmpty)),
            (Request::Enable, Err(Error::UserEmpty)),
            (user_get(""), Err(Error::UserNotFound)),
        ],
    );
    assert!(auth.enabled());
    assert_eq!(auth.revision(), 11);
}

#[test]
fn permissions_of_a_role() {
    let mut auth = Auth::new();
    let none = Request::RoleGrantPermission(AuthRoleGrantPermissionRequest {
        name: "zz".into(),
        perm: None,
    });
    let open = permission(Type::Read, "b", "\0");
    let seven = Permission {
        perm_type: 7,
        ..permission(Type::Read, "seven", "")
    };
    let empty = || permission(Type::Read, "", "");
    let b = |access, end| permission(access, "b", end);
    let a = permission(Type::Read, "a", "");
    let kept = vec![a.clone(), open.clone(), b(Type::Read, "d"), seven.clone()];
    run(
        &mut auth,
        vec![
            (role_add("a"), DONE),
            (none, Err(Error::PermissionNotGiven)),
            (grant("zz", empty()), Err(Error::InvalidAuthManagement)),
            (grant("a", empty()), Err(Error::InvalidAuthManagement)),
            (
                grant("a", permission(Type::Read, "", "c")),
                Err(Error::InvalidAuthManagement),
            ),
            (
                grant("a", permission(Type::Read, "a", "a")),
                Err(Error::InvalidAuthManagement),
            ),
            (grant("a", b(Type::Read, "a")), Err(Error::InvalidAuthManagement)),
            (grant("zz", a.clone()), Err(Error::RoleNotFound)),
            (grant("a", a), DONE),
            (grant("a", open), DONE),
            (grant("a", b(Type::Read, "c")), DONE),
            (grant("a", b(Type::Read, "d")), DONE),
            // Not an update: the first permission for the key has another end.
            (grant("a", b(Type::Write, "c")), DONE),
            (grant("a", seven), DONE),
            (revoke("zz", "a", ""), Err(Error::RoleNotFound)),
            (revoke("a", "zz", ""), Err(Error::PermissionNotGranted)),
            (revoke("a", "b", "c"), DONE),
            (role_get("a"), Ok(Response::Permissions(kept))),
            (Request::Status, status(false, 9)),
            // An update.
            (grant("a", b(Type::Readwrite, "\0")), DONE),
            (Request::Status, status(false, 10)),
        ],
    );
    let Ok(Response::Permissions(permissions)) = auth.apply(1, None, &role_get("a")) else {
        panic!("role a is there");
    };
    assert_eq!(permissions[1], b(Type::Readwrite, "\0"));
}

#[test]
fn messages_in_and_out() {
    let request = AuthUserAddRequest {
        name: "u".into(),
        password: "p".into(),
        ..Default::default()
    };
    let message = Bytes::from(request.encode_to_vec());
    assert_eq!(
        Request::decode(Rpc::UserAdd, message),
        Some(Ok(user_add("u", "p")))
    );
    assert_eq!(
        Request::decode(Rpc::AuthEnable, Bytes::new()),
        Some(Ok(Request::Enable))
    );
    assert!(matches!(
        Request::decode(Rpc::AuthEnable, Bytes::from("\u{8}")),
        Some(Err(_))
    ));
    assert_eq!(Request::decode(Rpc::Authenticate, Bytes::new()), None);
    assert_eq!(Request::decode(Rpc::UnknownOfEtcd, Bytes::new()), None);

    let header = ResponseHeader {
        revision: 3,
        ..Default::default()
    };
    assert_eq!(Response::Done.encode(header), b"\x0a\x02\x18\x03"[..]);
    let token = Response::Authenticated("t".into()).encode(header);
    assert_eq!(token, b"\x0a\x02\x18\x03\x12\x01t"[..]);
    assert_eq!(
        unmapped(Error::PermissionDenied),
        Status::new(2, "auth: permission denied")
    );
}

#[test]
fn who_may_ask_about_users_and_roles() {
    let mut auth = with_users();
    let (u, root) = (caller(&auth, "u"), caller(&auth, "root"));
    let denied = Err(Error::PermissionDenied);
    assert_eq!(
        auth.apply(1, Some(&u), &user_get("u")),
        Ok(Response::UserRoles(names(&["r"])))
    );
    assert_eq!(auth.apply(1, Some(&u), &user_get("zz")), denied);
    assert_eq!(
        auth.apply(1, Some(&root), &user_get("zz")),
        Err(Error::UserNotFound)
    );
    assert!(auth.apply(1, Some(&u), &role_get("r")).is_ok());
    assert_eq!(auth.apply(1, Some(&u), &role_get("s")), denied);
    assert_eq!(auth.apply(1, Some(&u), &role_get("zz")), denied);
    assert_eq!(auth.apply(1, None, &role_get("r")), Err(Error::UserEmpty));
    for request in [
        Request::Status,
        Request::UserList,
        Request::RoleList,
        Request::Disable,
    ] {
        assert_eq!(auth.apply(1, Some(&u), &request), denied);
    }
    let managed = Err(Error::InvalidAuthManagement);
    assert_eq!(auth.apply(1, Some(&root), &user_delete("root")), managed);
    assert_eq!(auth.apply(1, Some(&root), &role_delete("root")), managed);
    assert_eq!(auth.apply(1, Some(&root), &revoke_role("root", "root")), managed);
    // Deleting a role takes it from its users.
    assert_eq!(auth.apply(1, Some(&root), &role_delete("r")), DONE);
    assert_eq!(
        auth.apply(1, Some(&u), &user_get("u")),
        Ok(Response::UserRoles(vec![]))
    );
    // Switching off counts as a change, switching on doesn't.
    let revision = auth.revision();
    assert_eq!(auth.apply(1, Some(&root), &Request::Disable), DONE);
    assert_eq!(auth.revision(), revision + 1);
    assert_eq!(auth.apply(1, None, &Request::Enable), DONE);
    assert_eq!(auth.revision(), revision + 1);
}
