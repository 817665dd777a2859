//! The cache takes the memory that it is given, and no more, however many keys are read. Row 45.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use etcd_proxy_proto::etcdserverpb::{
    AuthEnableRequest, AuthEnableResponse, DeleteRangeRequest, DeleteRangeResponse,
};
use etcd_proxy_tests::{
    etcd::{Cluster, Options},
    suite::{runtime, trial},
    wire::{Wire, frame_message},
};
use libtest_mimic::Trial;

use crate::world::{World, call, one, put, serializable};

/// Reads this many distinct keys instead of 200,000; that may take as long as it takes.
const READ_KEYS: &str = "READ_KEYS";

/// Bytes that the cache may take.
const BOUND: u64 = 1 << 20;

/// What the process may grow by while the cache is full, in KiB: allocators don't give everything back.
const GROWTH_KIB_MAX: u64 = 6 * 1024;

pub(crate) fn trials() -> Vec<Trial> {
    const NAME: &str = "memory_is_bounded";
    vec![match std::env::var(READ_KEYS) {
        Ok(keys) => {
            let keys = keys.parse().expect("READ_KEYS is a number");
            Trial::test(NAME, move || {
                runtime().block_on(memory(keys));
                Ok(())
            })
        }
        Err(_) => trial(NAME, async || memory(200_000).await),
    }]
}

/// A key of 100 bytes.
fn key(number: u64) -> String {
    format!("memory/{number:093}")
}

async fn memory(keys: u64) {
    let cluster = Cluster::start(Options::default()).await;
    let flag = format!("--cache-size={BOUND}");
    let mut world = World::start("memory", &cluster, &[&flag]).await;
    // One in a thousand is there; that there is no such key is an answer as well.
    for number in (0..keys.min(200_000)).step_by(1000) {
        put(&world.direct, &key(number), "v").await;
    }
    world.warm(&serializable(&one(&key(0)))).await;
    let next = Arc::new(AtomicU64::new(0));
    let mut after_a_quarter = 0;
    let mut most = 0.0_f64;
    for part in 1..=20 {
        let until = keys * part / 20;
        read_up_to(&world, &next, until).await;
        let bytes = world.read_metric("bytes").await + world.read_metric("index_bytes").await;
        most = most.max(bytes);
        assert!(bytes <= BOUND as f64, "{bytes} bytes after {until} keys");
        if part == 5 {
            after_a_quarter = world.proxy.process().memory_kib("VmRSS");
        }
    }
    let at_the_end = world.proxy.process().memory_kib("VmRSS");
    let entries = world.read_metric("entries").await;
    println!(
        "memory_is_bounded: {keys} keys: {most} of {BOUND} bytes for {entries} entries; RSS {after_a_quarter} KiB after a quarter, {at_the_end} KiB at the end"
    );
    assert!(most > BOUND as f64 / 2.0 && entries > 100.0, "it isn't even used");
    assert!(world.read_metric("evicted_total").await > keys as f64 / 2.0);
    assert!(
        at_the_end <= after_a_quarter + GROWTH_KIB_MAX,
        "it grows: {after_a_quarter} KiB, then {at_the_end} KiB"
    );
    let everything = DeleteRangeRequest {
        key: b"\0"[..].into(),
        range_end: b"\0"[..].into(),
        ..Default::default()
    };
    // Then as many find room again as before: what went took all that belonged to it along.
    for round in 0..5_u64 {
        let _: DeleteRangeResponse = call(&world.proxied, "KV/DeleteRange", &everything)
            .await
            .expect("delete");
        // Most entries say that there is no such key, which a delete doesn't change. Nobody knows who may read what while auth
        // is being switched on, so all of them go, though the cluster refuses.
        let refused: Result<AuthEnableResponse, _> =
            call(&world.proxied, "Auth/AuthEnable", &AuthEnableRequest::default()).await;
        assert!(refused.is_err(), "there is no root");
        let (left, bytes) = (
            world.read_metric("entries").await,
            world.read_metric("bytes").await,
        );
        println!("memory_is_bounded: {left} entries of {bytes} bytes when all is deleted");
        assert!(left == 0.0, "{left} entries are left");
        // What remains is the room for the places of entries, which is kept.
        assert!(bytes <= BOUND as f64 / 2.0, "{bytes} bytes are left");
        let end = keys + (round + 1) * 10_000;
        read_up_to(&world, &next, end).await;
        let again = world.read_metric("entries").await;
        assert!(
            again >= entries * 0.9,
            "{again} entries find room, {entries} did before"
        );
    }
    world.proxy.assert_sound();
}

/// Reads all keys from `next` on and before `until`, over a few connections at a time.
async fn read_up_to(world: &World, next: &Arc<AtomicU64>, until: u64) {
    const CONNECTIONS: usize = 4;
    const CALLS_PER_CONNECTION: usize = 16;
    let mut readers = Vec::new();
    for _ in 0..CONNECTIONS {
        let wire = Wire::connect(world.proxy.address()).await.expect("proxy");
        let template = wire.template("/etcdserverpb.KV/Range", &[]).expect("a template");
        for _ in 0..CALLS_PER_CONNECTION {
            let (wire, template, next) = (wire.clone(), template.clone(), Arc::clone(next));
            readers.push(tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= until {
                        return;
                    }
                    let read = frame_message(&serializable(&one(&key(number))));
                    wire.exchange(&template, read).await.expect("a read");
                }
            }));
        }
    }
    for reader in readers {
        reader.await.expect("a reader");
    }
    next.store(until, Ordering::Relaxed);
}
