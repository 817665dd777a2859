//! Many watchers, and clients that don't read.

use bytes::Bytes;
use etcd_proxy_proto::etcdserverpb::{
    WatchCreateRequest, WatchRequest, WatchResponse, watch_request::RequestUnion,
};
use etcd_proxy_tests::{
    client::Client,
    suite::{eventually, within},
    wire::{Call, Wire},
};
use libtest_mimic::Trial;
use prost::Message as _;

use crate::{SOON, World, both};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    trials.extend(both("a_thousand_watchers", a_thousand_watchers));
    trials.extend(both("a_watch_that_is_not_read", a_watch_that_is_not_read));
    trials
}

const WATCH: &str = "/etcdserverpb.Watch/Watch";

fn create(key: &str, range_end: &str, start_revision: i64) -> Bytes {
    let create = WatchCreateRequest {
        key: key.to_owned().into(),
        range_end: range_end.to_owned().into(),
        start_revision,
        ..Default::default()
    };
    let request = WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    };
    request.encode_to_vec().into()
}

async fn response(watch: &mut Call) -> WatchResponse {
    let message = within("a watch response", SOON, watch.message()).await;
    WatchResponse::decode(message.expect("the watch goes on")).expect("a watch response")
}

/// Each of them sees every put once, in order.
async fn a_thousand_watchers(mut world: World) {
    const CONNECTIONS: usize = 10;
    const STREAMS: usize = 10;
    const WATCHERS: usize = 10;
    const PUTS: usize = 20;

    let mut watches = Vec::new();
    for _ in 0..CONNECTIONS {
        let wire = Wire::connect(&world.address).await.expect("connection");
        for _ in 0..STREAMS {
            let mut watch = wire.open(WATCH, &[]).await.expect("watch");
            for _ in 0..WATCHERS {
                watch.send(create("k", "", 0)).await.expect("send");
            }
            watches.push(watch);
        }
    }
    for watch in &mut watches {
        for watcher in 0..WATCHERS {
            let created = response(watch).await;
            assert!(created.created && !created.canceled, "{created:?}");
            assert_eq!(created.watch_id, watcher as i64);
        }
    }
    let client = Client::connect(&world.address).await.expect("connection");
    for number in 0..PUTS {
        let value = number.to_string();
        within("a put", SOON, client.put(b"k", value.as_bytes()))
            .await
            .expect("put");
    }
    for watch in &mut watches {
        let mut seen = [0; WATCHERS];
        while seen.iter().any(|seen| *seen < PUTS) {
            let response = response(watch).await;
            let seen = &mut seen[usize::try_from(response.watch_id).expect("an id that was given")];
            for event in response.events {
                let kv = event.kv.expect("an event has a key");
                assert_eq!(kv.value, seen.to_string(), "out of order, lost or repeated");
                *seen += 1;
            }
        }
        assert_eq!(seen, [PUTS; WATCHERS]);
    }
    world.assert_sound();
}

/// It costs what its windows hold, disturbs nobody, and gets everything when it reads at last.
async fn a_watch_that_is_not_read(mut world: World) {
    const EVENTS: usize = 400;
    const VALUE_BYTES: usize = 100_000;
    /// What was written is 40 MB, which the store holds once; what a queue per stream held would be 20 times that.
    const BOUND_KIB: u64 = 250 * 1024;

    let mut stuck = Vec::new();
    for _ in 0..20 {
        let wire = Wire::connect(&world.address).await.expect("connection");
        let mut watch = wire.open(WATCH, &[]).await.expect("watch");
        watch.send(create("s/", "s0", 0)).await.expect("send");
        let created = response(&mut watch).await;
        assert!(created.created, "{created:?}");
        stuck.push(watch);
    }
    let client = Client::connect(&world.address).await.expect("connection");
    for number in 0..EVENTS {
        let key = format!("s/{number}");
        within(
            "a put of another client",
            SOON,
            client.put(key.as_bytes(), &vec![number as u8; VALUE_BYTES]),
        )
        .await
        .expect("put");
    }
    let resident = world.etcd().memory_kib("VmHWM");
    assert!(resident > 0 && resident < BOUND_KIB, "it took {resident} KiB");

    let mut watch = stuck.remove(0);
    let mut seen = 0;
    while seen < EVENTS {
        for event in response(&mut watch).await.events {
            let kv = event.kv.expect("an event has a key");
            assert_eq!(kv.key, format!("s/{seen}"));
            assert_eq!(kv.value.len(), VALUE_BYTES);
            seen += 1;
        }
    }
    drop(stuck);
    // Those that left are forgotten: a put that all of them would have got is fast, and nothing grows.
    client.put(b"s/more", b"x").await.expect("put");
    eventually("the last event", SOON, async || {
        let response = response(&mut watch).await;
        response
            .events
            .iter()
            .any(|event| event.kv.as_ref().is_some_and(|kv| kv.key == "s/more"))
            .then_some(())
    })
    .await;
    world.assert_sound();
}
