//! Who may do what.

use super::*;

// As etcd 3.5.30 has it.
#[test]
fn reads() {
    let auth = with_users();
    let cases: &[(&[u8], &[u8], bool)] = &[
        (b"a", b"", true),
        (b"a", b"b", true),
        (b"a", b"c", false),
        (b"zzz", b"", true),
        (b"m", b"o", true),
        (b"m", b"n", true),
        (b"x", b"\0", true),
        (b"y", b"\0", true),
        (b"y", b"z", true),
        (b"w", b"", false),
        (b"\0", b"\0", false),
        (b"b", b"a", false),
        (b"ab", b"aa", true),
    ];
    let outdated = User {
        revision: auth.revision() - 1,
        ..caller(&auth, "root")
    };
    for &(key, end, allowed) in cases {
        let check = |user: Option<&str>| {
            let user = user.map(|name| caller(&auth, name));
            auth.check_range(user.as_ref(), key, end)
        };
        let expected = if allowed {
            Ok(())
        } else {
            Err(Error::PermissionDenied)
        };
        assert_eq!(check(Some("u")), expected, "{key:?} {end:?}");
        assert_eq!(check(Some("norole")), Err(Error::PermissionDenied));
        assert_eq!(check(Some("gone")), Err(Error::PermissionDenied));
        assert_eq!(check(Some("root")), Ok(()));
        assert_eq!(check(None), Err(Error::UserEmpty));
        assert_eq!(
            auth.check_range(Some(&outdated), key, end),
            Err(Error::AuthOldRevision)
        );
    }
}

// As etcd 3.5.30 has it.
#[test]
fn writes() {
    let auth = with_users();
    let user = caller(&auth, "u");
    let user = Some(&user);
    let put = |key: &'static str, prev_kv| PutRequest {
        key: key.into(),
        prev_kv,
        lease: 5,
        ..Default::default()
    };
    let delete = |key: &'static str, end: &'static str, prev_kv| DeleteRangeRequest {
        key: key.into(),
        range_end: end.into(),
        prev_kv,
    };
    let none: [Bytes; 0] = [];
    let denied = Err(Error::PermissionDenied);
    assert_eq!(auth.check_put(user, &put("w", false), &none), Ok(()));
    assert_eq!(auth.check_put(user, &put("w", true), &none), denied);
    assert_eq!(auth.check_put(user, &put("k", true), &none), Ok(()));
    assert_eq!(auth.check_put(user, &put("a", false), &none), denied);
    assert_eq!(
        auth.check_put(user, &put("k", false), &[Bytes::from("w")]),
        Ok(())
    );
    assert_eq!(
        auth.check_put(user, &put("k", false), &[Bytes::from("w"), Bytes::from("q")]),
        denied
    );
    assert_eq!(auth.check_delete_range(user, &delete("w", "", false)), Ok(()));
    assert_eq!(auth.check_delete_range(user, &delete("w", "", true)), denied);
    assert_eq!(auth.check_delete_range(user, &delete("w", "x", false)), denied);
    assert_eq!(auth.check_lease_write(user, &none), Ok(()));
    assert_eq!(auth.check_lease_write(user, &[Bytes::from("a")]), denied);
    assert_eq!(auth.check_lease_read(user, &[Bytes::from("a")]), Ok(()));
    assert_eq!(auth.check_lease_read(user, &[Bytes::from("w")]), denied);
    assert_eq!(auth.check_identified(None), Err(Error::UserEmpty));
    assert_eq!(auth.check_identified(user), Ok(()));
    assert_eq!(auth.check_admin(user), denied);
    assert_eq!(auth.check_admin(Some(&caller(&auth, "root"))), Ok(()));
    assert_eq!(auth.check_admin(None), Err(Error::UserEmpty));
}

// As etcd 3.5.30 has it.
#[test]
fn transactions() {
    let auth = with_users();
    let leases = |id: i64| {
        if id == 5 {
            vec![Bytes::from("secret")]
        } else {
            vec![]
        }
    };
    let leases: Vec<(i64, Vec<Bytes>)> = (0..9).map(|id| (id, leases(id))).collect();
    let keys = |id: i64| leases[usize::try_from(id).unwrap()].1.iter();
    let check = |user: Option<&str>, txn: &TxnRequest| {
        let user = user.map(|name| caller(&auth, name));
        auth.check_txn(user.as_ref(), txn, &keys)
    };
    let operation = |operation| RequestOp {
        request: Some(operation),
    };
    let put = |key: &'static str, lease| {
        operation(Operation::RequestPut(PutRequest {
            key: key.into(),
            lease,
            ..Default::default()
        }))
    };
    let nested = |inner: RequestOp| {
        operation(Operation::RequestTxn(TxnRequest {
            success: vec![inner],
            ..Default::default()
        }))
    };
    let success = |operation| TxnRequest {
        success: vec![operation],
        ..Default::default()
    };
    let failure = |operation| TxnRequest {
        failure: vec![operation],
        ..Default::default()
    };
    let compare = |key: &'static str| TxnRequest {
        compare: vec![Compare {
            key: key.into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let cases = [
        (compare("secret"), false),
        (compare("abc"), true),
        (success(put("k", 0)), true),
        (success(put("k", 5)), false),
        (success(put("q", 0)), false),
        (failure(put("q", 0)), false),
        (success(nested(put("q", 0))), false),
        (success(nested(nested(put("w", 0)))), true),
    ];
    for (txn, allowed) in &cases {
        let expected = if *allowed {
            Ok(())
        } else {
            Err(Error::PermissionDenied)
        };
        assert_eq!(check(Some("u"), txn), expected, "{txn:?}");
        assert_eq!(check(Some("root"), txn), Ok(()), "{txn:?}");
        assert_eq!(check(None, txn), Err(Error::UserEmpty), "{txn:?}");
    }
    // There is nothing to be allowed.
    assert_eq!(check(None, &TxnRequest::default()), Ok(()));
}

/// A bound of a range: `a` to `d`.
fn bound() -> impl Strategy<Value = Bytes> {
    (b'a'..=b'd').prop_map(|byte| Bytes::from(vec![byte]))
}

/// The end of a range that begins before `d`, of a single key or of a range without end.
fn range() -> impl Strategy<Value = (Bytes, Bytes)> {
    (bound(), bound(), 0..4).prop_map(|(a, b, kind)| match kind {
        0 => (a, Bytes::new()),
        1 => (a, Bytes::from("\0")),
        _ if a < b => (a, b),
        _ if b < a => (b, a),
        _ => (a, Bytes::new()),
    })
}

fn covers((key, end): (&Bytes, &Bytes), candidate: &[u8]) -> bool {
    match &end[..] {
        b"" => candidate == key,
        b"\0" => candidate >= key,
        end => candidate >= &key[..] && candidate < end,
    }
}

proptest! {
    /// A range is allowed if and only if every key in it is. All bounds are single letters, so the keys of up to two
    /// bytes stand for all.
    #[test]
    fn ranges_add_up(
        permissions in prop::collection::vec((range(), 0..3), 0..6),
        (key, end) in range(),
        write: bool,
    ) {
        let access = if write { Type::Write } else { Type::Read };
        let permissions: Vec<Permission> = permissions
            .into_iter()
            .map(|((key, range_end), perm_type)| Permission { perm_type, key, range_end })
            .collect();
        let letters = || (b'a'..=b'e').chain([0]);
        let singles = letters().map(|a| vec![a]);
        let pairs = letters().flat_map(|a| letters().map(move |b| vec![a, b]));
        let wanted = singles.chain(pairs).filter(|candidate| covers((&key, &end), candidate));
        let allowed = wanted.into_iter().all(|candidate| {
            permissions.iter().any(|permission| {
                let counts = [i32::from(access), i32::from(Type::Readwrite)].contains(&permission.perm_type);
                counts && covers((&permission.key, &permission.range_end), &candidate)
            })
        });
        let answer = permission::allows(|| permissions.iter(), &key, &end, access);
        prop_assert_eq!(answer, allowed);
    }
}
