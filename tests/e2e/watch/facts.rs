//! What the hub takes for granted of a server, asked of the server itself: a version that does otherwise must be
//! known of.

use std::time::Duration;

use etcd_proxy_proto::{
    authpb::{Permission, permission::Type},
    etcdserverpb::{RangeRequest, RangeResponse},
};
use etcd_proxy_tests::{
    client::Client,
    etcd::{Cluster, Options},
    suite::trial,
    watching::{Watching, on_key, on_prefix, since},
};
use libtest_mimic::Trial;

use crate::{
    identity::Auth,
    world::{Follower, put},
    writers::Writers,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("server/permission_probe", permission_probe),
        trial("server/progress", progress),
        trial("server/progress_and_the_future", progress_and_the_future),
    ]
}

/// The probe's revision: 2^63 - 2, which no store reaches.
const NEVER: i64 = i64::MAX - 1;

/// A serializable range at a revision that never comes tells who may read exactly that range, and visits no key.
async fn permission_probe() {
    let cluster = Cluster::start(Options::default()).await;
    let member = cluster.address(0);
    let client = Client::connect(&member).await.expect("member");
    for key in ["a/1", "b/1"] {
        put(&client, key, "").await;
    }
    let ask = async |token: Option<&str>, key: &str, end: &[u8]| {
        let request = RangeRequest {
            key: key.to_owned().into(),
            range_end: end.to_vec().into(),
            revision: NEVER,
            serializable: true,
            ..Default::default()
        };
        let metadata: Vec<(&str, &str)> = token.iter().map(|token| ("token", *token)).collect();
        let path = "/etcdserverpb.KV/Range";
        let refused = client
            .wire
            .unary::<_, RangeResponse>(path, &metadata, &request)
            .await;
        let reply = refused.expect_err("a revision that never comes");
        (
            reply.code().expect("a status"),
            reply.message().expect("a message"),
        )
    };
    let future = (
        11,
        "etcdserver: mvcc: required revision is a future revision".to_owned(),
    );
    let denied = (7, "etcdserver: permission denied".to_owned());
    assert_eq!(ask(None, "a/", b"a0").await, future, "auth is off");

    let auth = Auth::set_up(&member).await;
    auth.user(
        "alice",
        &[
            permission(b"a/", b"a0"),
            permission(b"c", b"\0"),
            permission(b"single", b""),
        ],
    )
    .await;
    auth.enable().await;
    let root = auth.token("root").await;
    let alice = auth.token("alice").await;
    for (key, end, expected) in [
        ("a/", &b"a0"[..], &future),
        ("a/1", b"", &future),
        ("a/1", b"a/2", &future),
        ("a/", b"a1", &denied),
        ("a", b"a0", &denied),
        ("b/1", b"", &denied),
        ("c", b"\0", &future),
        ("d", b"\0", &future),
        ("b", b"\0", &denied),
        ("a/1", b"\0", &denied),
        ("single", b"", &future),
        ("single", b"single\0", &future),
        ("single", b"single\0\0", &future),
        ("\0", b"\0", &denied),
    ] {
        assert_eq!(
            &ask(Some(&alice), key, end).await,
            expected,
            "alice: {key:?} to {end:?}"
        );
        assert_eq!(
            ask(Some(&root), key, end).await,
            future,
            "root: {key:?} to {end:?}"
        );
        let empty = (3, "etcdserver: user name is empty".to_owned());
        assert_eq!(ask(None, key, end).await, empty, "nobody: {key:?} to {end:?}");
        let invalid = (16, "etcdserver: invalid auth token".to_owned());
        assert_eq!(
            ask(Some("made.up"), key, end).await,
            invalid,
            "a stranger: {key:?} to {end:?}"
        );
    }
}

fn permission(key: &[u8], end: &[u8]) -> Permission {
    Permission {
        perm_type: Type::Read.into(),
        key: key.to_vec().into(),
        range_end: end.to_vec().into(),
    }
}

/// The answer to a progress request is the store's revision. Whether there is one while a watcher of the stream
/// begins in the future depends on the version (3.5.16 answers, 3.5.30 doesn't): a hub must not need one.
async fn progress_and_the_future() {
    let cluster = Cluster::start(Options::default()).await;
    let client = Client::connect(&cluster.address(0)).await.expect("member");
    let now = put(&client, "k", "1").await;
    let (mut watching, _) = Watching::one(&client.wire, on_key("k")).await;
    let future = watching.created(since(now + 2, on_key("k"))).await;
    watching.ask_progress().await;
    put(&client, "k", "2").await;
    let mut answer = watching.next().await;
    let answered = answer.watch_id == -1;
    if answered {
        answer = watching.next().await;
    }
    assert_eq!((answer.watch_id, answer.events.len()), (0, 1));
    println!("server/progress_and_the_future: answered while a start is to come: {answered}");
    watching.cancel(future.watch_id).await;
    assert!(watching.next().await.canceled);
    watching.ask_progress().await;
    let answer = watching.next().await;
    assert_eq!((answer.watch_id, answer.events.len()), (-1, 0));
    assert_eq!(answer.header.expect("a header").revision, now + 1);
}

/// A progress request is answered only when all watchers of the stream have caught up, and the answer comes behind
/// all events up to its revision.
async fn progress() {
    let cluster = Cluster::start(Options::default()).await;
    let member = cluster.address(0);
    let client = Client::connect(&member).await.expect("member");

    // Watchers that are far behind, under load, on one stream: the answer to a request that was sent after their
    // created answer waits for their events. The account refuses an event that comes after a progress that covers
    // it.
    let first = put(&client, "load/first", "").await;
    let writers = Writers::start(std::slice::from_ref(&member), "load/", 3);
    let (watching, created) = Watching::one(&client.wire, on_prefix("load/")).await;
    let mut follower = Follower::new(watching, &created);
    let mut asked = 0;
    for count in 2..20 {
        follower.watching.create(since(first, on_prefix("load/"))).await;
        while follower.account.watchers.len() < count {
            follower.take().await;
        }
        let before = follower.account.progress;
        let mut ticks = tokio::time::interval(Duration::from_millis(1));
        while follower.account.progress == before {
            tokio::select! {
                biased;
                _ = ticks.tick() => {
                    follower.watching.ask_progress().await;
                    asked += 1;
                }
                () = follower.take() => {}
            }
        }
        // Behind this event no answer is left over: it would be taken for one that knows of the next watcher.
        let barrier = put(&client, "load/barrier", "").await;
        follower.until(barrier).await;
    }
    writers.wrote(50).await;
    let log = writers.stop(&member).await;
    follower.until(log.last_revision()).await;
    println!("server/progress: {asked} requests until 18 watchers from the past had caught up");

    // Not promised, and the hub doesn't rely on either: a created answer may overtake the answer to an earlier
    // request.
    const BURST: usize = 30;
    let (mut overtaken, mut answered) = (0, 0);
    for _ in 0..10 {
        for _ in 0..BURST {
            follower.watching.ask_progress().await;
            follower.watching.create(on_key("load/barrier")).await;
        }
        let (mut created, mut answers) = (0, 0);
        while created < BURST || answers < BURST {
            let answer = follower.watching.next().await;
            created += usize::from(answer.created);
            if answer.watch_id == -1 {
                answers += 1;
                overtaken += usize::from(created >= answers);
            }
        }
        answered += answers;
    }
    println!(
        "server/progress: {overtaken} of {answered} answers came behind the created answer to a later request"
    );
}
