//! The member in use is cut off from the others, which go on without it: what the cache shows is no older than is promised.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use etcd_proxy_tests::{
    client::Client,
    etcd::{Cluster, Options},
    proxy::Proxy,
    relay::Mode,
    suite::{eventually, trial, within},
};
use libtest_mimic::Trial;

use crate::world::{ANSWER_LIMIT, hits, number, one, serializable, warm};

/// How old an answer from the cache may be with a `--cache-staleness` of a second: as old, and two election time-outs of a member
/// with etcd's defaults.
const AGE_MAX: Duration = Duration::from_secs(1 + 2);

/// From when on after a write its age is judged: a busy machine is slow, and the write took effect before it was answered.
const JUDGED_AFTER: Duration = Duration::from_secs(2 * AGE_MAX.as_secs());

/// How long it is judged.
const JUDGED_FOR: Duration = Duration::from_secs(5);

/// For an election, which takes seconds.
const WRITE_LIMIT: Duration = Duration::from_secs(40);

const KEY: &str = "cut_off/k";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("cut_off_leader", || cut_off(true)),
        trial("cut_off_follower", || cut_off(false)),
    ]
}

/// A proxy that knows the one member alone has to stay with it, so that nothing but the bound ends the old answers.
async fn cut_off(is_leader: bool) {
    let mut cluster = Cluster::start(Options::three()).await;
    cluster.all_serve().await;
    let ids = cluster.ids().await;
    let leader = cluster.leader_seen_by(0, &ids).await;
    let member = if is_leader { leader } else { (leader + 1) % 3 };
    let mut proxy = Proxy::start(&[cluster.address(member)], &["--cache-staleness=1s"]).await;
    let client = Client::connect(proxy.address()).await.expect("proxy");
    client.put(KEY.as_bytes(), b"0").await.expect("a put");
    let read = serializable(&one(KEY));
    assert_eq!(number(&warm(&proxy, &client, &read).await), Some(0));

    cluster.isolate(member, Mode::BlackHole);
    let written = write_beside(cluster.address((member + 1) % 3));
    let isolated = Instant::now();
    let (mut cached, mut forwarded, mut oldest) = (0, 0, Duration::ZERO);
    loop {
        let since_written = written.get().map(Instant::elapsed);
        if since_written.is_some_and(|since| since > JUDGED_AFTER + JUDGED_FOR) {
            break;
        }
        assert!(
            since_written.is_some() || isolated.elapsed() < WRITE_LIMIT,
            "the others take no write"
        );
        let before = hits(&proxy).await;
        // The answer shows a state of later than this.
        let age = written.get().map_or(Duration::ZERO, Instant::elapsed);
        let Ok(answer) = within("an answer", ANSWER_LIMIT, client.range(&read)).await else {
            continue;
        };
        if hits(&proxy).await == before {
            forwarded += 1;
            continue;
        }
        cached += 1;
        if number(&answer) == Some(0) {
            oldest = oldest.max(age);
            assert!(age <= JUDGED_AFTER, "the cache shows what was {age:?} ago");
        }
    }
    println!("cut off: {cached} answers from the cache, the oldest of {oldest:?}; {forwarded} forwarded");
    assert!(cached > 0, "nothing to be judged");
    assert!(forwarded > 0, "the member's own answers are given, however old");
    cluster.heal(member);
    eventually("what was written", ANSWER_LIMIT, async || {
        let answer = client.range(&read).await.ok()?;
        (number(&answer) == Some(1)).then_some(())
    })
    .await;
    proxy.assert_sound();
}

/// Writes through a member as soon as that is possible, and tells when it was.
fn write_beside(address: String) -> Arc<OnceLock<Instant>> {
    let written = Arc::new(OnceLock::new());
    let told = Arc::clone(&written);
    tokio::spawn(async move {
        let direct = Client::connect(&address).await.expect("a member");
        loop {
            let put = direct.put(KEY.as_bytes(), b"1");
            if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_secs(2), put).await {
                return told.set(Instant::now());
            }
        }
    });
    written
}
