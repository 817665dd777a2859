//! Who may see what, when watchers of several users share what is watched for them. Rows 11 and 12.

use std::time::{Duration, Instant};

use etcd_proxy_proto::{
    authpb::Permission,
    authpb::permission::Type,
    etcdserverpb::{
        AuthEnableRequest, AuthEnableResponse, AuthRoleAddRequest, AuthRoleAddResponse,
        AuthRoleGrantPermissionRequest, AuthRoleGrantPermissionResponse, AuthUserAddRequest,
        AuthUserAddResponse, AuthUserGrantRoleRequest, AuthUserGrantRoleResponse, AuthUserRevokeRoleRequest,
        AuthUserRevokeRoleResponse, AuthenticateRequest, AuthenticateResponse, PutRequest, PutResponse,
        WatchCreateRequest, WatchResponse,
    },
};
use etcd_proxy_tests::{
    etcd::{Cluster, Options},
    suite::{eventually, trial},
    tap::Cut,
    watching::{ANSWER_LIMIT, Watching, on_key, on_prefix, since},
    wire::Wire,
};
use libtest_mimic::Trial;

use crate::{
    lockstep::Lockstep,
    world::{Between, Follower, World},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("users_share_a_range", users_share_a_range),
        trial("denials", denials),
        trial("revoked", revoked),
        trial("revoked_before_a_failover", revoked_before_a_failover),
        trial("expired", expired),
    ]
}

const PASSWORD: &str = "secret";

/// A cluster's users, set up by `root`.
pub(crate) struct Auth {
    wire: Wire,
}

impl Auth {
    /// A connection and the user `root`; auth is still off.
    pub(crate) async fn set_up(member: &str) -> Self {
        let auth = Self {
            wire: Wire::connect(member).await.expect("member"),
        };
        auth.user("root", &[]).await;
        auth.grant("root", "root").await;
        auth
    }

    async fn call<Q: prost::Message, R: prost::Message + Default>(
        &self,
        method: &str,
        token: &str,
        request: &Q,
    ) -> R {
        let path = format!("/etcdserverpb.Auth/{method}");
        let metadata = [("token", token)];
        let metadata = if token.is_empty() { &[][..] } else { &metadata };
        self.wire.unary(&path, metadata, request).await.expect(method)
    }

    /// A user with a role of the same name and these permissions.
    pub(crate) async fn user(&self, name: &str, permissions: &[Permission]) {
        let user = AuthUserAddRequest {
            name: name.to_owned(),
            password: PASSWORD.to_owned(),
            ..Default::default()
        };
        let _: AuthUserAddResponse = self.call("UserAdd", "", &user).await;
        let role = AuthRoleAddRequest {
            name: name.to_owned(),
        };
        let _: AuthRoleAddResponse = self.call("RoleAdd", "", &role).await;
        for permission in permissions {
            let request = AuthRoleGrantPermissionRequest {
                name: name.to_owned(),
                perm: Some(permission.clone()),
            };
            let _: AuthRoleGrantPermissionResponse = self.call("RoleGrantPermission", "", &request).await;
        }
        if !permissions.is_empty() {
            self.grant(name, name).await;
        }
    }

    async fn grant(&self, user: &str, role: &str) {
        let request = AuthUserGrantRoleRequest {
            user: user.to_owned(),
            role: role.to_owned(),
        };
        let _: AuthUserGrantRoleResponse = self.call("UserGrantRole", "", &request).await;
    }

    /// Takes a user's role of the same name.
    async fn revoke(&self, token: &str, user: &str) {
        let request = AuthUserRevokeRoleRequest {
            name: user.to_owned(),
            role: user.to_owned(),
        };
        let _: AuthUserRevokeRoleResponse = self.call("UserRevokeRole", token, &request).await;
    }

    pub(crate) async fn enable(&self) {
        let _: AuthEnableResponse = self.call("AuthEnable", "", &AuthEnableRequest {}).await;
    }

    /// Logs in.
    pub(crate) async fn token(&self, name: &str) -> String {
        let request = AuthenticateRequest {
            name: name.to_owned(),
            password: PASSWORD.to_owned(),
        };
        let answer: AuthenticateResponse = self.call("Authenticate", "", &request).await;
        answer.token
    }
}

fn read(prefix: &str) -> Permission {
    let range = on_prefix(prefix);
    Permission {
        perm_type: Type::Read.into(),
        key: range.key,
        range_end: range.range_end,
    }
}

/// A cluster with `alice` (`a/` and `shared/`), `bob` (`b/` and `shared/`), `carol` (`shared/part/`), and a proxy.
struct Guarded {
    _cluster: Cluster,
    world: World,
    auth: Auth,
    root: String,
}

impl Guarded {
    async fn start(options: Options) -> Self {
        let cluster = Cluster::start(options).await;
        let world = World::start("identity", &cluster, Between::Tap(Duration::ZERO)).await;
        let auth = Auth::set_up(&world.member).await;
        auth.user("alice", &[read("a/"), read("shared/")]).await;
        auth.user("bob", &[read("b/"), read("shared/")]).await;
        auth.user("carol", &[read("shared/part/")]).await;
        auth.enable().await;
        let root = auth.token("root").await;
        Self {
            _cluster: cluster,
            world,
            auth,
            root,
        }
    }

    /// Puts a key directly, as root.
    async fn put(&self, key: &str) -> i64 {
        let request = PutRequest {
            key: key.to_owned().into(),
            ..Default::default()
        };
        let metadata = [("token", self.root.as_str())];
        let wire = &self.world.direct.wire;
        let answer: PutResponse = wire
            .unary("/etcdserverpb.KV/Put", &metadata, &request)
            .await
            .expect("put");
        answer.header.expect("a header").revision
    }

    /// A watcher through the proxy, on a connection of its own, with a token.
    async fn watch(&self, token: &str, create: WatchCreateRequest) -> Follower {
        let mut watching = Watching::open(&self.world.wire().await, &[("token", token)]).await;
        let created = watching.created(create).await;
        Follower::new(watching, &created)
    }

    async fn lockstep(&self, token: Option<&str>) -> Lockstep {
        let metadata: Vec<(&str, &str)> = token.iter().map(|token| ("token", *token)).collect();
        Lockstep::open(&self.world.direct.wire, &self.world.wire().await, &metadata).await
    }
}

fn refused<'a>(answer: &'a WatchResponse, name: &str) -> &'a str {
    assert!(
        answer.created && answer.canceled && answer.watch_id == -1,
        "{name} is not refused: {answer:?}"
    );
    &answer.cancel_reason
}

/// Everybody gets what he may see, whoever came first, and a range that two may see is watched once.
async fn users_share_a_range() {
    let mut guarded = Guarded::start(Options::default()).await;
    let (alice, bob, carol) = (
        guarded.auth.token("alice").await,
        guarded.auth.token("bob").await,
        guarded.auth.token("carol").await,
    );
    let mut watchers = vec![
        ("a/1", guarded.watch(&alice, on_prefix("a/")).await),
        ("b/1", guarded.watch(&bob, on_prefix("b/")).await),
        ("shared/part/1", guarded.watch(&alice, on_prefix("shared/")).await),
        ("shared/part/1", guarded.watch(&bob, on_prefix("shared/")).await),
        (
            "shared/part/1",
            guarded.watch(&carol, on_prefix("shared/part/")).await,
        ),
        (
            "shared/part/1",
            guarded.watch(&carol, on_key("shared/part/1")).await,
        ),
        ("a/1", guarded.watch(&guarded.root, on_prefix("a/")).await),
    ];
    let shared = guarded.world.tap().record().creates_of(&on_prefix("shared/"));
    assert_eq!(shared, 1, "upstream watchers of what two users watch");
    for _ in 0..3 {
        for key in ["a/1", "b/1", "shared/part/1"] {
            let revision = guarded.put(key).await;
            for (_, follower) in watchers.iter_mut().filter(|(watched, _)| *watched == key) {
                follower.until(revision).await;
            }
        }
        guarded.world.tap().cut(Cut::Status(14, "broken"));
    }
    for (key, follower) in &watchers {
        assert_eq!(follower.revisions().len(), 3, "events of {key}");
    }
    guarded.world.proxy.assert_sound();
}

/// Denials are a server's to the byte, also for ranges that others watch already.
async fn denials() {
    let mut guarded = Guarded::start(Options::default()).await;
    let alice = guarded.auth.token("alice").await;
    let carol = guarded.auth.token("carol").await;
    let mut live = guarded.watch(&alice, on_prefix("shared/")).await;
    let _live = guarded.watch(&guarded.root, on_prefix("a/")).await;
    let _live = guarded.watch(&guarded.root, on_prefix("b/")).await;
    let open = |key: &str| WatchCreateRequest {
        range_end: (&b"\0"[..]).into(),
        ..on_key(key)
    };
    let range = |key: &str, end: &str| WatchCreateRequest {
        range_end: end.to_owned().into(),
        ..on_key(key)
    };
    let denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
    let empty = "rpc error: code = InvalidArgument desc = etcdserver: user name is empty";
    let invalid = "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token";
    for (name, token, reason) in [
        ("carol", Some(carol.as_str()), denied),
        ("nobody", None, empty),
        ("a stranger", Some("made.up"), invalid),
    ] {
        let mut both = guarded.lockstep(token).await;
        for create in [
            on_prefix("shared/"),
            on_prefix("a/"),
            on_key("a/1"),
            on_prefix("b/"),
            since(1, on_prefix("shared/")),
            since(1 << 40, on_key("shared/1")),
            // The first key is hers, and others are not.
            range("shared/part/", "shared/q"),
            range("shared/part/1", "shared/partition"),
            since(1, range("shared/part/", "t")),
            open("\0"),
            WatchCreateRequest {
                watch_id: 5,
                progress_notify: true,
                ..on_prefix("shared/p")
            },
        ] {
            let shown = format!("{name}: {create:?}");
            assert_eq!(refused(&both.created(create).await, &shown), reason, "{shown}");
        }
        if name == "carol" {
            // The stream is good for what she may see.
            assert!(!both.created(on_prefix("shared/part/")).await.canceled);
            let revision = guarded.put("shared/part/x").await;
            assert_eq!(both.next().await.events.len(), 1);
            live.until(revision).await;
        }
    }
    // A server takes an open end away before it asks for permission, and so looks at the first key alone. A proxy
    // that looks at the whole range refuses more than a server, in the same words; the other way round would be a
    // fault.
    let mut open_end = Vec::new();
    for wire in [&guarded.world.direct.wire, &guarded.world.wire().await] {
        let mut watching = Watching::open(wire, &[("token", &carol)]).await;
        watching.create(open("shared/part/")).await;
        open_end.push(watching.next().await);
    }
    println!(
        "denials: an open range of which only the first part is allowed: the server says {:?}, the proxy {:?}",
        open_end[0].cancel_reason, open_end[1].cancel_reason
    );
    if open_end[0].canceled || open_end[1].canceled {
        assert_eq!(refused(&open_end[1], "carol with an open end"), denied);
    }
    // A range that is empty and a negative revision are looked at in a server's order.
    let mut both = guarded.lockstep(Some(&carol)).await;
    let inverted = WatchCreateRequest {
        range_end: "a".into(),
        ..on_key("b")
    };
    both.created(inverted).await;
    both.created(since(-1, on_prefix("shared/part/"))).await;
    both.created(since(-1, on_prefix("a/"))).await;
    guarded.world.proxy.assert_sound();
}

/// A role that is taken away denies new watchers; those that are there go on as on a server; others don't notice.
async fn revoked() {
    let mut guarded = Guarded::start(Options::default()).await;
    let (alice, bob) = (guarded.auth.token("alice").await, guarded.auth.token("bob").await);
    // Bob came first: it is his watcher that the others share.
    let mut old = guarded.watch(&bob, on_prefix("shared/")).await;
    let mut other = guarded.watch(&alice, on_prefix("shared/")).await;
    let mut direct = {
        let mut watching = Watching::open(&guarded.world.direct.wire, &[("token", &bob)]).await;
        let created = watching.created(on_prefix("shared/")).await;
        Follower::new(watching, &created)
    };
    let revision = guarded.put("shared/1").await;
    for follower in [&mut old, &mut other, &mut direct] {
        follower.until(revision).await;
    }
    guarded.auth.revoke(&guarded.root, "bob").await;
    // A server asks for permission when a watcher is created, and never again.
    let revision = guarded.put("shared/2").await;
    for follower in [&mut old, &mut other, &mut direct] {
        follower.until(revision).await;
    }
    for create in [on_prefix("shared/"), on_prefix("b/"), on_key("shared/1")] {
        let mut both = guarded.lockstep(Some(&bob)).await;
        let shown = format!("{create:?}");
        refused(&both.created(create).await, &shown);
    }
    // What is shared survives that he whose it was may not have it any more.
    guarded.world.tap().cut(Cut::Status(14, "broken"));
    let mut last = 0;
    for _ in 0..3 {
        last = guarded.put("shared/3").await;
        other.until(last).await;
    }
    assert_eq!(other.revisions().len(), 5);
    let mut new = guarded.watch(&alice, on_prefix("shared/")).await;
    let revision = guarded.put("shared/4").await;
    new.until(revision).await;
    other.until(revision).await;
    assert_eq!(new.revisions(), [revision], "after {last}");
    guarded.world.proxy.assert_sound();
}

/// Who lost his role is refused when his connection to the member is lost, though what he watches is watched for another
/// one, who goes on.
async fn revoked_before_a_failover() {
    let mut guarded = Guarded::start(Options::default()).await;
    let (alice, bob) = (guarded.auth.token("alice").await, guarded.auth.token("bob").await);
    let mut alices = guarded.watch(&alice, on_prefix("shared/")).await;
    let mut bobs = guarded.watch(&bob, on_prefix("shared/")).await;
    let mut bobs_key = guarded.watch(&bob, on_key("shared/1")).await;
    let creates = guarded.world.tap().record().creates_of(&on_prefix("shared/"));
    assert_eq!(creates, 1, "they share it");
    guarded.auth.revoke(&guarded.root, "bob").await;
    let first = guarded.put("shared/1").await;
    for follower in [&mut alices, &mut bobs, &mut bobs_key] {
        follower.until(first).await;
    }

    guarded.world.tap().reset_connections();
    let second = guarded.put("shared/1").await;
    alices.until(second).await;
    let mut direct = Watching::open(&guarded.world.direct.wire, &[("token", &bob)]).await;
    direct.create(on_prefix("shared/")).await;
    let refusal = direct.next().await;
    for follower in [&mut bobs, &mut bobs_key] {
        let told = follower.watching.next().await;
        println!("revoked_before_a_failover: {told:?}");
        assert!(
            told.canceled && told.events.is_empty(),
            "he is told of {second}: {told:?}"
        );
        assert_eq!(told.cancel_reason, refused(&refusal, "bob"));
    }
    let third = guarded.put("shared/1").await;
    alices.until(third).await;
    assert_eq!(alices.revisions(), [first, second, third]);
    guarded.world.proxy.assert_sound();
}

/// A token that has expired ends at most the stream of him whose it is.
async fn expired() {
    const TTL: Duration = Duration::from_secs(2);
    let flag = format!("--auth-token-ttl={}", TTL.as_secs());
    let mut guarded = Guarded::start(Options::default().flag(&flag)).await;
    let expiring = guarded.auth.token("bob").await;
    let mut his = guarded.watch(&expiring, on_prefix("shared/")).await;
    let mut alices = guarded
        .watch(&guarded.auth.token("alice").await, on_prefix("shared/"))
        .await;
    let mut others = guarded
        .watch(&guarded.auth.token("alice").await, on_prefix("a/"))
        .await;

    // Nobody uses the token, until the server knows it no more.
    let clock = Instant::now();
    eventually("the token has expired", ANSWER_LIMIT, async || {
        // Asking renews a token: it is left alone for longer than it lives.
        if clock.elapsed() < TTL * 2 {
            return None;
        }
        let mut watching = Watching::open(&guarded.world.direct.wire, &[("token", &expiring)]).await;
        watching.create(on_prefix("shared/")).await;
        watching.next().await.canceled.then_some(())
    })
    .await;
    guarded.root = guarded.auth.token("root").await;
    let revision = guarded.put("shared/1").await;
    his.until(revision).await;
    alices.until(revision).await;

    // The same words for his new watcher as from a server, and a fresh token works, on a connection that is there
    // already.
    let mut both = guarded.lockstep(Some(&expiring)).await;
    refused(&both.created(on_prefix("shared/")).await, "an expired token");
    let fresh = guarded.auth.token("bob").await;
    let mut new = guarded.watch(&fresh, on_prefix("shared/")).await;
    let mut from_the_past = guarded.watch(&fresh, since(revision, on_prefix("shared/"))).await;

    // Now all upstream streams break; the only tokens that are good are those of the watchers that are new.
    guarded.world.tap().cut(Cut::Status(14, "broken"));
    guarded.root = guarded.auth.token("root").await;
    let revision = guarded.put("shared/2").await;
    for follower in [&mut new, &mut from_the_past] {
        follower.until(revision).await;
    }
    assert_eq!(new.revisions(), [revision]);
    // Those whose tokens have expired either go on with what is shared, or their stream ends so that they log in
    // anew: none stays behind in silence. None is refused for good.
    for (name, follower, key) in [
        ("bob's", &mut his, "shared/3"),
        ("alice's", &mut alices, "shared/3"),
        ("alice's own", &mut others, "a/1"),
    ] {
        guarded.root = guarded.auth.token("root").await;
        let revision = guarded.put(key).await;
        let seen = follower.account.only().marks.len();
        let end = follower.account.follow(&mut follower.watching, revision).await;
        match end {
            Ok(()) => assert!(follower.account.only().marks.len() > seen, "{name}"),
            Err(end) => assert!(
                end.contains("the stream ended") && end.contains("code Some(14)"),
                "{name}: {end}"
            ),
        }
    }
    new.until(guarded.put("shared/4").await).await;
    guarded.world.proxy.assert_sound();
}
