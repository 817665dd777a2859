//! Clients that write, read and watch while something breaks, and the account they give afterwards.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use etcd_proxy_proto::{
    etcdserverpb::{
        PutRequest, PutResponse, RangeRequest, RangeResponse, WatchCreateRequest, WatchRequest,
        WatchResponse, watch_request::RequestUnion,
    },
    mvccpb::event::EventType,
};
use etcd_proxy_tests::{
    client::Client,
    suite::eventually,
    wire::{Reply, Wire},
};
use prost::Message as _;
use tokio::task::JoinHandle;

const WRITERS: usize = 4;
const READERS: usize = 4;

/// UNAVAILABLE.
const UNAVAILABLE: u32 = 14;

/// Reads go on within this time, whatever happens to the member in use.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// Pause between two calls of a task. Without it the load takes the CPU that etcd needs to elect.
const PACE: Duration = Duration::from_millis(5);

/// What one writer did.
#[derive(Debug, Default)]
struct Written {
    /// Key and value of every acknowledged write.
    acknowledged: Vec<(String, String)>,
    /// Writes that ended with UNAVAILABLE: applied once or never.
    unavailable: usize,
    /// What no client should see.
    wrong: Vec<String>,
}

/// What one reader saw.
#[derive(Debug, Default)]
struct Seen {
    reads: usize,
    slowest: Duration,
    unavailable: usize,
    wrong: Vec<String>,
}

/// What the watcher saw.
#[derive(Debug, Default)]
struct Watched {
    /// Number of events per key.
    events: BTreeMap<String, usize>,
    last_revision: i64,
    reopened: usize,
    wrong: Vec<String>,
}

/// How reads may end while the load runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Reads {
    /// Every read succeeds, within [`READ_LIMIT`].
    Succeed,
    /// The whole cluster is away for a while: UNAVAILABLE is right then.
    MayBeUnavailable,
}

/// Running clients.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    reads: Reads,
    writers: Vec<JoinHandle<Written>>,
    readers: Vec<JoinHandle<Seen>>,
    watcher: JoinHandle<Watched>,
    watch_until: Arc<std::sync::atomic::AtomicI64>,
}

impl Load {
    /// Starts them against the proxy; resolves when every one of them has got an answer.
    pub(crate) async fn start(proxy: &str, reads: Reads) -> Self {
        let client = Client::connect(proxy).await.expect("proxy");
        client.put(b"seed", b"seed").await.expect("first write");
        let stop = Arc::new(AtomicBool::new(false));
        let watch_until = Arc::new(std::sync::atomic::AtomicI64::new(i64::MAX));
        let writers = (0..WRITERS)
            .map(|number| tokio::spawn(write(proxy.to_owned(), number, Arc::clone(&stop))))
            .collect();
        let readers = (0..READERS)
            .map(|number| tokio::spawn(read(proxy.to_owned(), number, Arc::clone(&stop))))
            .collect();
        let watcher = tokio::spawn(watch(proxy.to_owned(), Arc::clone(&watch_until)));
        let load = Self {
            stop,
            reads,
            writers,
            readers,
            watcher,
            watch_until,
        };
        progress(&client, 50).await;
        load
    }

    /// Waits until another `count` writes were acknowledged, as the cluster's revision tells.
    pub(crate) async fn goes_on(&self, proxy: &str, count: i64) {
        let what = "the proxy takes connections";
        let client = eventually(what, Duration::from_secs(10), async || {
            Client::connect(proxy).await.ok()
        })
        .await;
        progress(&client, count).await;
    }

    /// Stops the load and checks the account against the cluster, read directly at `member`.
    pub(crate) async fn check(self, member: &str) {
        self.stop.store(true, Ordering::Relaxed);
        let mut written = Vec::new();
        for writer in self.writers {
            written.push(writer.await.expect("writer"));
        }
        for reader in self.readers {
            let seen = reader.await.expect("reader");
            assert!(seen.wrong.is_empty(), "reader: {:?}", seen.wrong);
            assert!(seen.reads > 0, "a reader read nothing");
            if self.reads == Reads::Succeed {
                assert_eq!(seen.unavailable, 0, "reads failed with UNAVAILABLE");
                assert!(seen.slowest <= READ_LIMIT, "a read took {:?}", seen.slowest);
            }
        }

        let client = Client::connect(member).await.expect("member");
        let all = RangeRequest {
            key: "w/".into(),
            range_end: "w0".into(),
            ..Default::default()
        };
        let all = client.range(&all).await.expect("final state");
        let mut state = BTreeMap::new();
        for kv in &all.kvs {
            let key = String::from_utf8_lossy(&kv.key).into_owned();
            assert_eq!(kv.version, 1, "{key} was written {} times", kv.version);
            state.insert(key, String::from_utf8_lossy(&kv.value).into_owned());
        }
        let mut acknowledged = 0;
        let mut unavailable = 0;
        for writer in &written {
            assert!(writer.wrong.is_empty(), "writer: {:?}", writer.wrong);
            for (key, value) in &writer.acknowledged {
                assert_eq!(state.get(key), Some(value), "acknowledged write of {key} is lost");
            }
            acknowledged += writer.acknowledged.len();
            unavailable += writer.unavailable;
        }
        let unknown = state.len() - acknowledged;
        assert!(
            unknown <= unavailable,
            "{unknown} writes were applied that nobody sent"
        );

        let revision = all.header.expect("a header").revision;
        self.watch_until.store(revision, Ordering::Relaxed);
        // One more event wakes a watcher that has seen everything up to here.
        client.put(b"w/last", b"last").await.expect("last write");
        let watched = tokio::time::timeout(Duration::from_secs(30), self.watcher).await;
        let watched = watched.expect("the watcher catches up").expect("watcher");
        assert!(watched.wrong.is_empty(), "watcher: {:?}", watched.wrong);
        for key in state.keys() {
            let count = watched.events.get(key).copied().unwrap_or(0);
            assert_eq!(count, 1, "{key} was seen {count} times by the watcher");
        }
        eprintln!(
            "load: {acknowledged} writes acknowledged, {unavailable} unavailable, {unknown} of them \
             applied; watch reopened {} times",
            watched.reopened
        );
    }
}

/// Waits until the revision has grown.
async fn progress(client: &Client, by: i64) {
    let revision = async || {
        let read = tokio::time::timeout(Duration::from_secs(10), client.get(b"seed"));
        Some(read.await.ok()?.ok()?.header?.revision)
    };
    let mut first = None;
    eventually(
        &format!("{by} more writes"),
        Duration::from_secs(40),
        async || {
            let now = revision().await?;
            let first = *first.get_or_insert(now);
            (now >= first + by).then_some(())
        },
    )
    .await;
}

/// A connection that is opened again when it broke. A proxy does not break one, so this counts.
struct Connection {
    address: String,
    wire: Option<Wire>,
}

impl Connection {
    async fn wire(&mut self) -> Option<Wire> {
        if self.wire.is_none() {
            self.wire = Wire::connect(&self.address).await.ok();
        }
        self.wire.clone()
    }
}

async fn write(address: String, number: usize, stop: Arc<AtomicBool>) -> Written {
    let mut connection = Connection { address, wire: None };
    let mut written = Written::default();
    for count in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let Some(wire) = connection.wire().await else {
            written.wrong.push("cannot connect to the proxy".to_owned());
            break;
        };
        let (key, value) = (format!("w/{number}/{count}"), format!("value {number} {count}"));
        let request = PutRequest {
            key: key.clone().into(),
            value: value.clone().into(),
            ..Default::default()
        };
        let metadata = [("grpc-timeout", "30S")];
        let put = wire.unary::<_, PutResponse>("/etcdserverpb.KV/Put", &metadata, &request);
        match put.await {
            Ok(_) => written.acknowledged.push((key, value)),
            Err(reply) if reply.code() == Some(UNAVAILABLE) => written.unavailable += 1,
            Err(reply) => {
                written.wrong.push(format!("{key}: {reply:?}"));
                connection.wire = None;
            }
        }
        tokio::time::sleep(PACE).await;
    }
    written
}

async fn read(address: String, number: usize, stop: Arc<AtomicBool>) -> Seen {
    let mut connection = Connection { address, wire: None };
    let mut seen = Seen::default();
    let mut revision = 0;
    // One of them reads whatever the member at hand has.
    let serializable = number == 0;
    while !stop.load(Ordering::Relaxed) {
        let Some(wire) = connection.wire().await else {
            seen.wrong.push("cannot connect to the proxy".to_owned());
            break;
        };
        let request = RangeRequest {
            key: "seed".into(),
            serializable,
            ..Default::default()
        };
        let start = Instant::now();
        let metadata = [("grpc-timeout", "10S")];
        let range = wire.unary::<_, RangeResponse>("/etcdserverpb.KV/Range", &metadata, &request);
        match range.await {
            Ok(answer) => {
                seen.reads += 1;
                seen.slowest = seen.slowest.max(start.elapsed());
                let now = answer.header.map_or(0, |header| header.revision);
                if !serializable && now < revision {
                    seen.wrong.push(format!("read at {now} after {revision}"));
                }
                revision = now;
                if answer.kvs.len() != 1 {
                    seen.wrong.push(format!("the key is gone: {answer:?}"));
                }
            }
            Err(reply) if reply.code() == Some(UNAVAILABLE) => {
                seen.unavailable += 1;
                seen.slowest = seen.slowest.max(start.elapsed());
            }
            Err(reply) => {
                seen.wrong.push(format!("after {:?}: {reply:?}", start.elapsed()));
                connection.wire = None;
            }
        }
        tokio::time::sleep(PACE).await;
    }
    seen
}

/// Watches all writes from the beginning until revision `until` was seen, going on after an
/// UNAVAILABLE as clients do.
async fn watch(address: String, until: Arc<std::sync::atomic::AtomicI64>) -> Watched {
    let mut connection = Connection { address, wire: None };
    let mut watched = Watched {
        last_revision: 0,
        ..Watched::default()
    };
    while watched.last_revision < until.load(Ordering::Relaxed) {
        let Some(wire) = connection.wire().await else {
            watched.wrong.push("cannot connect to the proxy".to_owned());
            break;
        };
        match watch_once(&wire, &mut watched, &until).await {
            Ok(()) => break,
            Err(reply) if reply.code() == Some(UNAVAILABLE) => watched.reopened += 1,
            Err(reply) => {
                watched.wrong.push(format!("{reply:?}"));
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    watched
}

async fn watch_once(
    wire: &Wire,
    watched: &mut Watched,
    until: &std::sync::atomic::AtomicI64,
) -> Result<(), Reply> {
    let broken = |error: String| Reply {
        error: Some(error),
        ..Reply::default()
    };
    let opened = wire.open("/etcdserverpb.Watch/Watch", &[]).await;
    let mut call = opened.map_err(|error| broken(error.to_string()))?;
    let create = WatchCreateRequest {
        key: "w/".into(),
        range_end: "w0".into(),
        start_revision: watched.last_revision + 1,
        ..Default::default()
    };
    let request = WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    };
    // If sending fails the stream is over, and its end tells why.
    let _ = call.send(request.encode_to_vec().into()).await;
    while let Some(message) = call.message().await {
        let answer = WatchResponse::decode(message).map_err(|error| broken(error.to_string()))?;
        if answer.canceled {
            return Err(broken(format!("cancelled: {answer:?}")));
        }
        for event in answer.events {
            let kind = event.r#type();
            let Some(kv) = event.kv else { continue };
            let key = String::from_utf8_lossy(&kv.key).into_owned();
            if kv.mod_revision <= watched.last_revision || kind != EventType::Put {
                watched
                    .wrong
                    .push(format!("{kind:?} of {key} at {}", kv.mod_revision));
            }
            watched.last_revision = kv.mod_revision;
            *watched.events.entry(key).or_default() += 1;
        }
        if watched.last_revision >= until.load(Ordering::Relaxed) {
            return Ok(());
        }
    }
    Err(call.finish().await)
}
