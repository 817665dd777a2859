//! One client with very many watchers. Whatever it does with them, its neighbours get their events as fast as beside a
//! client that does nothing.

use std::time::{Duration, Instant};

use etcd_proxy_tests::{
    client::Client,
    etcd::{Cluster, Options},
    proxy::Proxy,
    suite::{eventually, trial, within},
    watching::{Watching, on_key, since},
    wire::Wire,
};
use libtest_mimic::Trial;

use crate::{ANSWER_LIMIT, Upstream, attack, healthy};

/// How many watchers, each of a key of its own.
const CROWD: usize = 20_000;

/// How many of them are asked for before the answers are awaited.
const AT_ONCE: usize = 500;

/// Events whose way to the neighbour is timed.
const EVENTS: usize = 200;

/// How long nothing comes any more after a round.
const ROUND_OVER: Duration = Duration::from_millis(300);

/// How much longer than beside a quiet crowd an event may take, in the median. Where each request was worth a look at
/// all watchers it was many times this.
const RATIO: u32 = 5;

pub(crate) fn trials(upstream: &Upstream) -> Vec<Trial> {
    vec![
        attack(upstream, "a_crowd_asks_for_progress", &[], progress),
        attack(upstream, "watches_of_old_revisions", &[], old_revisions),
        trial("a_crowd_leaves_a_frozen_member", || leaves(false)),
        trial("a_crowd_leaves_a_member_that_is_given_up", || leaves(true)),
    ]
}

/// The median of the time from a put to its event.
async fn latency(client: &Client, watching: &mut Watching) -> Duration {
    let mut times = Vec::with_capacity(EVENTS);
    for _ in 0..EVENTS {
        let clock = Instant::now();
        client.put(b"neighbour", b"x").await.expect("put");
        let answer = within("an event of a neighbour", ANSWER_LIMIT, watching.next()).await;
        assert_eq!(answer.events.len(), 1, "{answer:?}");
        times.push(clock.elapsed());
    }
    times.sort_unstable();
    times[EVENTS / 2]
}

/// A stream with so many watchers, each of a key of its own.
async fn gathered(wire: &Wire, watchers: usize) -> Watching {
    let mut crowd = Watching::open(wire, &[]).await;
    for first in (0..watchers).step_by(AT_ONCE) {
        for number in first..first + AT_ONCE {
            crowd.create(on_key(&format!("crowd/{number}"))).await;
        }
        for _ in 0..AT_ONCE {
            let answer = crowd.next().await;
            assert!(answer.created && !answer.canceled, "{answer:?}");
        }
    }
    crowd
}

/// All of a crowd's watchers end at once, and the member that must be told doesn't read.
async fn leaves(is_given_up: bool) {
    let mut cluster = Cluster::start(Options::default()).await;
    let mut proxy = Proxy::start(&cluster.endpoints(), &[]).await;
    healthy(&proxy).await;
    let client = Client::connect(proxy.address()).await.expect("connection");
    let (mut neighbour, _) = Watching::one(&client.wire, on_key("neighbour")).await;
    for round in 0..2 {
        let wire = Wire::connect(proxy.address()).await.expect("connection");
        let mut crowd = gathered(&wire, CROWD / 4).await;
        client.put(b"crowd/0", b"x").await.expect("put");
        assert_eq!(
            within("an event", ANSWER_LIMIT, crowd.next()).await.events.len(),
            1
        );
        cluster.freeze(0);
        drop((crowd, wire));
        if is_given_up {
            eventually("the member is given up", ANSWER_LIMIT, async || {
                let told = proxy.log().matches("no endpoint is reachable").count();
                (told > round).then_some(())
            })
            .await;
        }
        cluster.thaw(0);
        // The first one may have been made while nobody could be reached.
        eventually("a put of a neighbour", ANSWER_LIMIT, async || {
            let put = client.put(b"neighbour", b"x");
            within("an answer", ANSWER_LIMIT, put).await.ok()
        })
        .await;
        let answer = within("an event of a neighbour", ANSWER_LIMIT, neighbour.next()).await;
        assert!(!answer.events.is_empty(), "{answer:?}");
        // One that may have been carried out and wasn't acknowledged.
        while let Ok(answer) = tokio::time::timeout(ROUND_OVER, neighbour.next()).await {
            assert!(!answer.canceled, "{answer:?}");
        }
    }
    healthy(&proxy).await;
    proxy.assert_sound();
}

/// Progress that can't be told, for one of the watchers starts in the far future, is asked for again and again.
async fn progress(proxy: Proxy) {
    let client = Client::connect(proxy.address()).await.expect("connection");
    let (mut neighbour, _) = Watching::one(&client.wire, on_key("neighbour")).await;
    let wire = Wire::connect(proxy.address()).await.expect("connection");
    let mut crowd = gathered(&wire, CROWD).await;
    crowd.created(since(1 << 40, on_key("crowd/late"))).await;
    let quiet = latency(&client, &mut neighbour).await;
    let asking = tokio::spawn(async move {
        loop {
            crowd.ask_progress().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let loud = latency(&client, &mut neighbour).await;
    assert!(!asking.is_finished(), "the crowd goes on asking");
    asking.abort();
    println!("a crowd asks for progress: put to event {quiet:.1?} beside a quiet one, {loud:.1?} beside it");
    assert!(loud < quiet * RATIO, "{loud:?} instead of {quiet:?}");
    healthy(&proxy).await;
}

/// How many keys have a history, which is asked for from its beginning.
const OLD_KEYS: usize = 400;

/// How long progress is asked for.
const ASKING: Duration = Duration::from_secs(4);

/// How many times progress is told in [`ASKING`], if each time one more watcher begins at an old revision, of a key that
/// nothing has happened to: only the member's progress tells that it has missed nothing.
async fn told(wire: &Wire, first: i64, name: &str) -> usize {
    let mut neighbour = Watching::open(wire, &[]).await;
    let clock = Instant::now();
    let mut told = 0;
    while clock.elapsed() < ASKING {
        let create = since(first, on_key(&format!("{name}/{told}")));
        let created = within("a watcher", ANSWER_LIMIT, neighbour.created(create)).await;
        assert!(!created.canceled, "{created:?}");
        neighbour.ask_progress().await;
        let answer = within("progress", ANSWER_LIMIT, neighbour.next()).await;
        assert!(answer.events.is_empty(), "{answer:?}");
        told += 1;
    }
    told
}

/// Watches of old revisions come all the time. A member tells no progress on a stream while one of its watchers is behind.
async fn old_revisions(proxy: Proxy) {
    let client = Client::connect(proxy.address()).await.expect("connection");
    let mut first = i64::MAX;
    for number in 0..OLD_KEYS {
        let key = format!("old/{number}");
        let put = client.put(key.as_bytes(), b"x").await.expect("put");
        first = first.min(put.header.expect("a header").revision);
    }
    let quiet = told(&client.wire, first, "quiet").await;
    let address = proxy.address().to_owned();
    let (begun, mut has_begun) = tokio::sync::oneshot::channel();
    let crowd = tokio::spawn(async move {
        let wire = Wire::connect(&address).await.expect("connection");
        let mut crowd = Watching::open(&wire, &[]).await;
        let mut begun = Some(begun);
        for number in 0.. {
            crowd
                .create(since(first, on_key(&format!("old/{}", number % OLD_KEYS))))
                .await;
            let pause = tokio::time::sleep(Duration::from_millis(5));
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    _ = crowd.next() => {}
                }
            }
            if number == OLD_KEYS {
                begun.take().map(|begun| begun.send(()));
            }
        }
    });
    within("the crowd's beginning", ANSWER_LIMIT, &mut has_begun)
        .await
        .expect("it goes on");
    let loud = told(&client.wire, first, "loud").await;
    assert!(!crowd.is_finished(), "the crowd goes on");
    crowd.abort();
    println!("watches of old revisions: progress told {quiet} times without, {loud} times beside them");
    assert!(loud * 3 > quiet, "{loud} times instead of {quiet}");
    healthy(&proxy).await;
}
