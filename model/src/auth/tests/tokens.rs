//! Passwords and tokens.

use super::*;

const TTL: Duration = Duration::from_secs(300);

/// Authenticates as the member does that is asked, at an index of the log.
fn authenticate(auth: &mut Auth, tokens: &mut Tokens, now: Instant, index: u64, name: &str) -> String {
    let request = Request::Authenticate {
        name: name.into(),
        token_prefix: "abcdefghijklmnop".into(),
    };
    let result = auth.apply(index, None, &request);
    tokens.applied(now, &request, &result);
    let Ok(Response::Authenticated(token)) = result else {
        panic!("{name}: {result:?}");
    };
    token
}

#[test]
fn passwords() {
    let mut auth = Auth::new();
    let refused = |error: Error| Err(error.status());
    assert_eq!(
        auth.check_password("root", "root"),
        refused(Error::AuthNotEnabled)
    );
    auth = with_users();
    let root = caller(&auth, "root");
    assert_eq!(auth.check_password("root", "root"), Ok(auth.revision()));
    assert_eq!(auth.check_password("root", "x"), refused(Error::AuthFailed));
    assert_eq!(auth.check_password("zz", ""), refused(Error::AuthFailed));
    assert_eq!(auth.apply(1, Some(&root), &user_without_password("np")), DONE);
    assert_eq!(auth.check_password("np", ""), refused(Error::NoPasswordUser));
    // A hash of the client's is taken, and here no password matches it.
    assert_eq!(auth.apply(1, Some(&root), &change_password("u", "")), DONE);
    assert_eq!(auth.check_password("u", ""), refused(Error::AuthFailed));
    assert_eq!(auth.apply(1, Some(&root), &change_password("u", "new")), DONE);
    assert_eq!(auth.check_password("u", "new"), Ok(auth.revision()));

    let long = Err(Status::new(2, "bcrypt: password length exceeds 72 bytes"));
    assert_eq!(user_add("a", &"x".repeat(72)).admit(), Ok(()));
    assert_eq!(user_add("a", &"x".repeat(73)).admit(), long);
    assert_eq!(change_password("a", &"x".repeat(73)).admit(), long);
    let hashed = |name: &str| {
        Request::UserChangePassword(AuthUserChangePasswordRequest {
            name: name.into(),
            hashed_password: "!!".into(),
            ..Default::default()
        })
    };
    let mut refused = |name| auth.apply(1, Some(&root), &hashed(name));
    assert_eq!(refused("u"), Err(Error::NoPasswordUser));
    assert_eq!(refused("nobody"), Err(Error::UserNotFound));
    assert_eq!(user_without_password("a").admit(), Ok(()));
}

#[test]
fn tokens_live_as_long_as_they_are_used() {
    let mut auth = with_users();
    let mut tokens = Tokens::new(TTL);
    let mut now = Instant::ZERO;
    assert_eq!(tokens.identify(now, 9, &auth, None), Ok(Identity::Anonymous));
    let token = authenticate(&mut auth, &mut tokens, now, 7, "u");
    assert_eq!(token, "abcdefghijklmnop.7");
    let known = Ok(Identity::User(caller(&auth, "u")));
    for _ in 0..3 {
        now = now + TTL;
        assert_eq!(tokens.identify(now, 7, &auth, Some(token.as_bytes())), known);
    }
    now = now + TTL + Duration::from_nanos(1);
    let invalid = Err(Error::InvalidAuthToken);
    assert_eq!(tokens.identify(now, 7, &auth, Some(token.as_bytes())), invalid);

    for junk in [
        "",
        "junk",
        ".",
        "junk.",
        "junk.+7",
        "junk.7",
        "a.b.7",
        "junk.-1",
        "Bearer junk.7",
    ] {
        assert_eq!(
            tokens.identify(now, 7, &auth, Some(junk.as_bytes())),
            invalid,
            "{junk}"
        );
    }
    assert_eq!(tokens.identify(now, 7, &auth, Some(b"\xff.7")), invalid);
    // Who knows what the entry will say.
    assert_eq!(
        tokens.identify(now, 7, &auth, Some(b"junk.8")),
        Ok(Identity::Later(8))
    );
    // A member that restarts has forgotten.
    let token = authenticate(&mut auth, &mut tokens, now, 8, "u");
    tokens = Tokens::new(TTL);
    assert_eq!(tokens.identify(now, 8, &auth, Some(token.as_bytes())), invalid);
}

#[test]
fn tokens_end_with_what_they_stand_for() {
    let now = Instant::ZERO;
    let root = |auth: &Auth| caller(auth, "root");
    for request in [user_delete("u"), change_password("u", "new"), Request::Disable] {
        let mut auth = with_users();
        let mut tokens = Tokens::new(TTL);
        let token = authenticate(&mut auth, &mut tokens, now, 7, "u");
        let others = authenticate(&mut auth, &mut tokens, now, 8, "norole");
        let result = auth.apply(9, Some(&root(&auth)), &request);
        tokens.applied(now, &request, &result);
        if request == Request::Disable {
            // Nobody asks for tokens now, and none is left when somebody does again.
            assert_eq!(
                tokens.identify(now, 9, &auth, Some(b"junk")),
                Ok(Identity::Anonymous)
            );
            let result = auth.apply(10, None, &Request::Enable);
            tokens.applied(now, &Request::Enable, &result);
            let other = tokens.identify(now, 10, &auth, Some(others.as_bytes()));
            assert_eq!(other, Err(Error::InvalidAuthToken));
        } else {
            // The others stay, at the new revision.
            let other = tokens.identify(now, 9, &auth, Some(others.as_bytes()));
            assert_eq!(other, Ok(Identity::User(caller(&auth, "norole"))), "{request:?}");
        }
        let own = tokens.identify(now, 10, &auth, Some(token.as_bytes()));
        assert_eq!(own, Err(Error::InvalidAuthToken), "{request:?}");
    }
}

#[test]
fn prefixes_are_letters() {
    let mut random = fastrand::Rng::with_seed(1);
    let (one, two) = (token_prefix(&mut random), token_prefix(&mut random));
    assert_ne!(one, two);
    assert_eq!(one.len(), 16);
    assert!(one.bytes().all(|byte| byte.is_ascii_alphabetic()));
}
