//! The store goes back at the same address: a snapshot is restored, an older folder put back, or all data is gone. Nobody is
//! told of what isn't there any more, and watches end so that clients look again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_proxy_proto::etcdserverpb::RangeRequest;
use etcd_proxy_tests::{
    client::Client,
    etcd::{Cluster, Options},
    etcdctl::Etcdctl,
    metrics,
    proxy::Proxy,
    suite::{eventually, trial, within},
    watching::{Account, Watching, compare, history, on_prefix, since},
    wire::Wire,
};
use libtest_mimic::Trial;

/// For what takes a second or two on an idle machine.
const SOON: Duration = Duration::from_secs(30);

/// What members start with: a snapshot that is restored with it has the same ids.
const SAME_TOKEN: &str = "etcd-cluster";

/// How the store goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// A snapshot is restored; the ids stay.
    Snapshot,
    /// A snapshot is restored as another cluster.
    NewIds,
    /// A copy of the folder is put back.
    Copy,
    /// The folder is gone.
    Wiped,
    /// A snapshot is restored with higher revisions, and all before them compacted. That isn't going back.
    Bumped,
}

/// What clients do meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clients {
    ReadAndWatch,
    OnlyRead,
    OnlyWatch,
}

pub(crate) fn trials() -> Vec<Trial> {
    let both = Clients::ReadAndWatch;
    vec![
        trial("history_snapshot", move || goes_back(1, Way::Snapshot, both, &[])),
        trial("history_snapshot_of_three", move || {
            goes_back(3, Way::NewIds, both, &[])
        }),
        trial("history_new_ids", move || goes_back(1, Way::NewIds, both, &[])),
        trial("history_copied_back", move || goes_back(1, Way::Copy, both, &[])),
        trial("history_wiped", move || goes_back(1, Way::Wiped, both, &[])),
        trial("history_bumped", move || goes_back(1, Way::Bumped, both, &[])),
        trial("history_only_reads", || {
            goes_back(1, Way::Snapshot, Clients::OnlyRead, &[])
        }),
        trial("history_only_reads_without_cache", || {
            goes_back(1, Way::Snapshot, Clients::OnlyRead, &["--cache=off"])
        }),
        trial("history_only_watches", || {
            goes_back(1, Way::Snapshot, Clients::OnlyWatch, &[])
        }),
        trial("history_foreign_endpoint", foreign_endpoint),
    ]
}

fn read(key: &str, serializable: bool) -> RangeRequest {
    RangeRequest {
        key: key.to_owned().into(),
        serializable,
        ..RangeRequest::default()
    }
}

/// The revision of the store, and whether the key is there.
async fn look(client: &Client, key: &str, serializable: bool) -> Option<(i64, bool)> {
    let answer = client.range(&read(key, serializable)).await.ok()?;
    Some((answer.header?.revision, !answer.kvs.is_empty()))
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).expect("a copy");
        }
    }
}

/// What is kept of the store as it is.
async fn keep(cluster: &mut Cluster, way: Way) -> PathBuf {
    let kept = cluster.dir().join("kept");
    match way {
        Way::Copy => {
            cluster.kill(0);
            copy(&cluster.data_dir(0), &kept);
            cluster.restart(0);
            cluster.writable().await;
        }
        _ => {
            let etcdctl = Etcdctl::new(&cluster.address(0));
            let path = kept.display().to_string();
            let output = etcdctl.run(&["snapshot", "save", &path]).await;
            assert!(output.is_ok(), "{output:?}");
        }
    }
    kept
}

/// All members stop, and start again with what was kept.
async fn go_back(cluster: &mut Cluster, way: Way, kept: &Path) {
    for index in 0..cluster.size() {
        cluster.kill(index);
    }
    match way {
        Way::Snapshot => cluster.restore(kept, SAME_TOKEN, &[]).await,
        Way::NewIds => cluster.restore(kept, "another", &[]).await,
        Way::Bumped => {
            let flags = ["--bump-revision=1000", "--mark-compacted"];
            cluster.restore(kept, SAME_TOKEN, &flags).await;
        }
        Way::Copy => {
            std::fs::remove_dir_all(cluster.data_dir(0)).expect("a folder");
            copy(kept, &cluster.data_dir(0));
        }
        Way::Wiped => std::fs::remove_dir_all(cluster.data_dir(0)).expect("a folder"),
    }
    for index in 0..cluster.size() {
        cluster.restart(index);
    }
    cluster.all_serve().await;
}

async fn goes_back(members: usize, way: Way, clients: Clients, flags: &[&str]) {
    let options = Options {
        members,
        ..Options::default()
    };
    let mut cluster = Cluster::start(options).await;
    let mut proxy = Proxy::start(&cluster.endpoints(), flags).await;
    let client = Client::connect(proxy.address()).await.expect("the proxy");
    let direct = Client::connect(&cluster.address(0)).await.expect("a member");
    for number in 0..5 {
        let key = format!("kept{number}");
        direct.put(key.as_bytes(), b"v").await.expect("a put");
    }
    let kept = keep(&mut cluster, way).await;
    let wire = Wire::connect(proxy.address()).await.expect("the proxy");
    let mut old = Watching::open(&wire, &[]).await;
    if clients != Clients::OnlyRead {
        old.created(on_prefix("lost")).await;
    }
    let direct = eventually("a member", SOON, async || {
        Client::connect(&cluster.address(0)).await.ok()
    })
    .await;
    let mut last = 0;
    for number in 0..30 {
        let key = format!("lost{number}");
        let put = eventually("a put", SOON, async || {
            direct.put(key.as_bytes(), b"v").await.ok()
        })
        .await;
        last = put.header.expect("a header").revision;
    }
    if clients != Clients::OnlyWatch {
        for serializable in [false, true, false, true] {
            let what = "what was written is read";
            let seen = eventually(what, SOON, async || look(&client, "lost29", serializable).await).await;
            assert_eq!(seen, (last, true));
        }
    }
    if clients != Clients::OnlyRead {
        // All of it is seen.
        loop {
            let answer = old.next().await;
            if answer
                .events
                .iter()
                .filter_map(|event| event.kv.as_ref())
                .any(|kv| kv.mod_revision == last)
            {
                break;
            }
        }
    }
    go_back(&mut cluster, way, &kept).await;
    let direct = Client::connect(&cluster.address(0)).await.expect("a member");
    let is_back = way != Way::Bumped;
    if is_back && clients != Clients::OnlyRead {
        let ended = within("the end of the old watch", SOON, old.end()).await;
        assert_eq!(ended.code(), Some(14), "{ended:?}");
    }
    // Reads show the store that is there.
    let (revision, found) = look(&direct, "lost29", false).await.expect("a member answers");
    assert!(!found && (revision < last || !is_back));
    for serializable in [false, true] {
        let what = format!("reads show what is there, serializable {serializable}");
        eventually(&what, SOON, async || {
            let seen = look(&client, "lost29", serializable).await?;
            (seen == (revision, false)).then_some(())
        })
        .await;
    }
    // So do watches, from now on and from the beginning.
    let wire = Wire::connect(proxy.address()).await.expect("the proxy");
    let start = match way {
        Way::Bumped => revision + 1,
        _ => 2,
    };
    let create = since(start, on_prefix("k"));
    let (mut new, mut account) = eventually("a new watch", SOON, async || {
        let mut watching = Watching::open(&wire, &[]).await;
        watching.create(create.clone()).await;
        let created = watching.answer().await.ok()?;
        assert!(created.created && !created.canceled, "{created:?}");
        assert_eq!(created.header.expect("a header").revision, revision);
        let mut account = Account::default();
        account.take(&created).expect("a watcher");
        Some((watching, account))
    })
    .await;
    let mut written = 0;
    for number in 0..3 {
        let key = format!("kept_new{number}");
        let put = client.put(key.as_bytes(), b"new").await.expect("a put");
        written = put.header.expect("a header").revision;
        assert_eq!(written, revision + 1 + number);
        for serializable in [false, true] {
            assert_eq!(
                look(&client, &key, serializable).await,
                Some((written, true)),
                "{key}"
            );
        }
    }
    let log = history(&cluster.address(0), create, written).await;
    account.follow(&mut new, written).await.expect("events");
    compare(&account.only().marks, &log).expect("the events of the store that is there");
    let told = proxy.log().matches("the store has another history").count();
    assert_eq!(told, usize::from(is_back), "{}", proxy.log());
    proxy.assert_sound();
}

/// An endpoint of another cluster is never used beside ours: not even when ours is down for a moment.
async fn foreign_endpoint() {
    let mut ours = Cluster::start(Options::default()).await;
    let mut other = Cluster::start(Options::default()).await;
    let direct = Client::connect(&other.address(0)).await.expect("a member");
    for _ in 0..20 {
        direct.put(b"k", b"other").await.expect("a put");
    }
    // The first one that is used decides, and that is ours as long as it is alone.
    other.kill(0);
    let endpoints = [ours.address(0), other.address(0)];
    let mut proxy = Proxy::start(&endpoints, &["--dial-timeout=1s"]).await;
    let client = Client::connect(proxy.address()).await.expect("the proxy");
    let put = client.put(b"k", b"ours").await.expect("a put");
    let cluster = put.header.expect("a header").cluster_id;
    let wire = Wire::connect(proxy.address()).await.expect("the proxy");
    let (mut watching, _) = Watching::one(&wire, on_prefix("k")).await;
    other.restart(0);
    other.all_serve().await;
    ours.kill(0);
    let is_told = || proxy.log().contains("endpoint is a member of another cluster");
    eventually("the other one is seen", SOON, async || is_told().then_some(())).await;
    for serializable in [false, true, false, true] {
        if let Ok(answer) = client.range(&read("k", serializable)).await {
            let header = answer.header.expect("a header");
            assert_eq!(
                header.cluster_id, cluster,
                "it is the other cluster's: {answer:?}"
            );
            assert_eq!(&*answer.kvs[0].value, b"ours");
        }
    }
    let metrics = metrics::text(proxy.address(), metrics::PROXY)
        .await
        .expect("metrics");
    assert!(metrics.contains("etcd_proxy_endpoints_foreign 1\n"), "{metrics}");
    ours.restart(0);
    ours.all_serve().await;
    let put = eventually("ours is used again", SOON, async || {
        client.put(b"k", b"again").await.ok()
    })
    .await;
    let header = put.header.expect("a header");
    assert_eq!(header.cluster_id, cluster);
    let answer = watching.next().await;
    let last = answer
        .events
        .last()
        .and_then(|event| event.kv.clone())
        .expect("an event");
    assert_eq!(
        (last.mod_revision, &*last.value),
        (header.revision, &b"again"[..])
    );
    let told = proxy
        .log()
        .matches("endpoint is a member of another cluster")
        .count();
    assert_eq!(told, 1, "{}", proxy.log());
    assert!(
        !proxy.log().contains("the store has another history"),
        "{}",
        proxy.log()
    );
    proxy.assert_sound();
}
