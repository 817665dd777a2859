//! The member that the proxy uses dies or freezes while clients read: they go on, and see nothing old.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use etcd_proxy_proto::etcdserverpb::{
    Compare, PutRequest, RequestOp, TxnRequest, TxnResponse,
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op::Request,
};
use etcd_proxy_tests::{
    client::Client,
    etcd::{Cluster, Options},
    proxy::Proxy,
    suite::{eventually, trial},
};
use libtest_mimic::Trial;
use tokio::sync::watch;

use crate::world::{ANSWER_LIMIT, call, hits, number, one, revision, serializable, serving};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("members_fail", members_fail)]
}

const KEY: &str = "upstream/k";

/// A read or a write that takes longer is asked again.
const PATIENCE: Duration = Duration::from_secs(5);

async fn members_fail() {
    let mut cluster = Cluster::start(Options::three()).await;
    cluster.all_serve().await;
    let mut proxy = Proxy::start(&cluster.endpoints(), &[]).await;
    let (stop, stopped) = watch::channel(());
    // What is surely written, and what may be.
    let (written, begun) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let writer = {
        let (written, begun, stopped) = (Arc::clone(&written), Arc::clone(&begun), stopped.clone());
        let mut direct = Vec::new();
        for index in 0..3 {
            direct.push(Client::connect(&cluster.address(index)).await.expect("member"));
        }
        let addresses: Vec<String> = (0..3).map(|index| cluster.address(index)).collect();
        tokio::spawn(async move {
            let mut at = 0;
            // One number after the other. An attempt without an answer may be carried out later, so each is
            // guarded by the number that must be there before it.
            while stopped.has_changed().is_ok() {
                let value = begun.fetch_add(1, Ordering::SeqCst) + 1;
                loop {
                    let put = guarded_put(&direct[at], value);
                    match tokio::time::timeout(Duration::from_secs(1), put).await {
                        Ok(true) => break,
                        _ => {
                            at = (at + 1) % 3;
                            if let Ok(client) = Client::connect(&addresses[at]).await {
                                direct[at] = client;
                            }
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                    }
                    if stopped.has_changed().is_err() {
                        return;
                    }
                }
                written.store(value, Ordering::SeqCst);
                let _ = tokio::time::timeout(Duration::from_millis(5), async {
                    let mut stopped = stopped.clone();
                    let _ = stopped.changed().await;
                })
                .await;
            }
        })
    };
    let reads = Arc::new(AtomicU64::new(0));
    let mut readers = Vec::new();
    for reader in 0..6 {
        let client = Client::connect(proxy.address()).await.expect("proxy");
        let (written, begun) = (Arc::clone(&written), Arc::clone(&begun));
        let (reads, stopped) = (Arc::clone(&reads), stopped.clone());
        readers.push(tokio::spawn(async move {
            let mut last = (0, None);
            let mut failed = 0_u64;
            let mut step = reader;
            while stopped.has_changed().is_ok() {
                step += 1;
                let is_linearizable = step % 3 == 0;
                let read = if is_linearizable {
                    one(KEY)
                } else {
                    serializable(&one(KEY))
                };
                let least = written.load(Ordering::SeqCst);
                let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, client.range(&read)).await else {
                    failed += 1;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                };
                let now = (revision(&answer), number(&answer));
                assert!(
                    now.0 >= last.0 && now.1 >= last.1,
                    "reader {reader}: from {last:?} back to {now:?}"
                );
                assert!(now.1 <= Some(begun.load(Ordering::SeqCst)), "from the future");
                if is_linearizable && least > 0 {
                    assert!(
                        now.1 >= Some(least),
                        "reader {reader}: {now:?} when {least} was written"
                    );
                }
                last = now;
                reads.fetch_add(1, Ordering::Relaxed);
            }
            failed
        }));
    }
    let goes_on = async |what: &str| {
        let before = reads.load(Ordering::Relaxed);
        eventually(what, ANSWER_LIMIT, async || {
            (reads.load(Ordering::Relaxed) > before + 500).then_some(())
        })
        .await;
    };
    goes_on("reads").await;
    for fault in ["killed", "frozen", "killed"] {
        let member = serving(&cluster).await;
        let (before, cached) = (reads.load(Ordering::Relaxed), hits(&proxy).await);
        if fault == "frozen" {
            cluster.freeze(member);
        } else {
            cluster.kill(member);
        }
        goes_on(&format!("reads after a member was {fault}")).await;
        eventually("hits", ANSWER_LIMIT, async || {
            (hits(&proxy).await > cached + 100.0).then_some(())
        })
        .await;
        println!(
            "members_fail: {fault}: {} reads meanwhile",
            reads.load(Ordering::Relaxed) - before
        );
        if fault == "frozen" {
            cluster.thaw(member);
        } else {
            cluster.restart(member);
        }
        cluster.all_serve().await;
        goes_on("reads with all members").await;
    }
    drop(stopped);
    drop(stop);
    writer.await.expect("the writer");
    let mut failed = 0;
    for reader in readers {
        failed += reader.await.expect("a reader");
    }
    println!(
        "members_fail: {} reads, {failed} failed",
        reads.load(Ordering::Relaxed)
    );
    proxy.assert_sound();
}

/// Puts a number, which is the key's version too, unless it is there already; whether it is there now.
async fn guarded_put(client: &Client, value: u64) -> bool {
    let compare = Compare {
        key: KEY.into(),
        result: CompareResult::Equal.into(),
        target: CompareTarget::Version.into(),
        target_union: Some(TargetUnion::Version(
            i64::try_from(value - 1).expect("a small number"),
        )),
        ..Default::default()
    };
    let put = PutRequest {
        key: KEY.into(),
        value: value.to_string().into(),
        ..Default::default()
    };
    let request = TxnRequest {
        compare: vec![compare],
        success: vec![RequestOp {
            request: Some(Request::RequestPut(put)),
        }],
        failure: Vec::new(),
    };
    // If the version is another, an earlier attempt at the same value went through after all.
    call::<_, TxnResponse>(client, "KV/Txn", &request).await.is_ok()
}
