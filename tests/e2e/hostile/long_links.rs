//! A long way to the member, or to the client: what one call may have under way follows the link, and what clients that
//! don't read may have in memory stays bounded.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use etcd_proxy_proto::etcdserverpb::{PutRequest, PutResponse, RangeRequest};
use etcd_proxy_tests::{
    client::Client,
    etcd::{Cluster, Options},
    proxy::Proxy,
    relay::{Link, Relay},
    suite::{free_port, trial, within},
    wire::{Call, Wire, WireOptions},
};
use libtest_mimic::Trial;
use prost::Message as _;

use crate::{ANSWER_LIMIT, healthy};

/// Half a round trip.
const DELAY: Duration = Duration::from_millis(50);

/// What is in the store, and what every list below is of.
const STORED_BYTES: usize = 4_000_000;

/// What a call may have under way before anything is known of the link.
const FIRST_WINDOW: usize = 256 * 1024;

/// Clients that list and don't read: a proxy that gave each of them what a link of this length takes would need 800 MB.
const UNREAD: usize = 200;

/// A client that doesn't read may cost [`FIRST_WINDOW`] and the first MiB of an answer, which is held back until it is
/// known to be a long one. What they all cost together beyond that is bounded as well.
const BOUND_KIB: u64 = 350 * 1024;

/// What a client takes in whose own window is never in the way.
const WIDE: WireOptions = WireOptions {
    stream_window_bytes: 16 << 20,
    connection_window_bytes: 64 << 20,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("lists_over_a_long_link_to_the_member", to_the_member),
        trial("a_long_link_to_the_client", to_the_client),
        trial("unread_lists_over_a_long_link", unread),
    ]
}

/// One member with something to list.
async fn filled() -> Cluster {
    let cluster = Cluster::start(Options::default()).await;
    let direct = Client::connect(&cluster.address(0)).await.expect("member");
    for number in 0..STORED_BYTES / 100_000 {
        let key = format!("big/{number:03}");
        let value = vec![b'v'; 100_000];
        direct.put(key.as_bytes(), &value).await.expect("put");
    }
    cluster
}

async fn long_link(target: &str) -> Relay {
    let target: SocketAddr = target.parse().expect("an address");
    let link = Link {
        delay: DELAY,
        ..Link::default()
    };
    Relay::start_on(free_port(), target, None, link).await
}

async fn wide(address: &str) -> Wire {
    Wire::connect_with(address, &WIDE).await.expect("connection")
}

async fn begin_list(wire: &Wire) -> Call {
    let list = RangeRequest {
        key: "big/".into(),
        range_end: "big0".into(),
        ..Default::default()
    };
    let mut call = wire.open("/etcdserverpb.KV/Range", &[]).await.expect("call");
    call.send(list.encode_to_vec().into()).await.expect("send");
    call.half_close().expect("half-close");
    call
}

/// The shortest of a few lists, and the first one before them.
async fn lists(wire: &Wire) -> (Duration, Duration) {
    let mut times = Vec::new();
    for _ in 0..6 {
        let since = Instant::now();
        let call = begin_list(wire).await;
        let reply = within("a list", ANSWER_LIMIT, call.finish()).await;
        assert!(reply.is_ok(), "{}", reply.in_short());
        assert!(reply.messages.iter().map(Bytes::len).sum::<usize>() > STORED_BYTES);
        times.push(since.elapsed());
    }
    let warm = times.iter().min().copied().unwrap_or_default();
    (times[0], warm)
}

async fn to_the_member() {
    let cluster = filled().await;
    let relay = long_link(&cluster.address(0)).await;
    let mut proxy = Proxy::start(&[relay.address()], &["--workers=1", "--cache=off"]).await;
    healthy(&proxy).await;
    let direct = lists(&wide(&relay.address()).await).await;
    let proxied = lists(&wide(proxy.address()).await).await;
    println!(
        "a list of 4 MB, the first one and once warm: directly {direct:?}, through the proxy {proxied:?}"
    );
    // A fixed window takes a round trip for each of its sizes: no machine is slow enough to be below half of that.
    let fixed = DELAY * 2 * u32::try_from(STORED_BYTES / FIRST_WINDOW).expect("a few");
    assert!(
        proxied.1 < fixed / 2,
        "{proxied:?}, {fixed:?} with a fixed window"
    );
    proxy.assert_sound();
}

async fn to_the_client() {
    let cluster = filled().await;
    let mut proxy = Proxy::start(&cluster.endpoints(), &["--workers=1", "--cache=off"]).await;
    healthy(&proxy).await;
    let mut times = Vec::new();
    for target in [cluster.address(0), proxy.address().to_owned()] {
        let relay = long_link(&target).await;
        let wire = wide(&relay.address()).await;
        let (_, list) = lists(&wire).await;
        let put = PutRequest {
            key: "put".into(),
            value: vec![b'v'; 1_400_000].into(),
            ..Default::default()
        };
        let since = Instant::now();
        let answer = wire.unary::<_, PutResponse>("/etcdserverpb.KV/Put", &[], &put);
        within("a put", ANSWER_LIMIT, answer).await.expect("put");
        times.push((list, since.elapsed()));
    }
    println!("a list of 4 MB and the first put of 1.4 MB: directly, through the proxy {times:?}");
    let [direct, proxied] = times[..] else {
        panic!("two");
    };
    let fixed = DELAY * 2 * u32::try_from(STORED_BYTES / FIRST_WINDOW).expect("a few");
    assert!(proxied.0 < fixed / 2, "{proxied:?}");
    assert!(proxied.1 < direct.1 * 2 + DELAY * 4, "{direct:?}, {proxied:?}");
    proxy.assert_sound();
}

async fn unread() {
    let cluster = filled().await;
    let relay = long_link(&cluster.address(0)).await;
    let mut proxy = Proxy::start(&[relay.address()], &["--cache=off"]).await;
    healthy(&proxy).await;
    // Somebody who reads has made the windows wide.
    lists(&wide(proxy.address()).await).await;
    let mut calls = Vec::new();
    for _ in 0..UNREAD {
        let wire = Wire::connect(proxy.address()).await.expect("connection");
        calls.push((begin_list(&wire).await, wire));
    }
    // The answers have begun: from here on nobody reads.
    for (call, _) in &mut calls {
        within("headers", ANSWER_LIMIT, call.headers())
            .await
            .expect("headers");
    }
    let other = Client::connect(proxy.address()).await.expect("connection");
    for number in 0..20 {
        let value = format!("{number}");
        let put = other.put(b"other", value.as_bytes());
        within("a put of another client", ANSWER_LIMIT, put)
            .await
            .expect("put");
    }
    let beside = lists(&wide(proxy.address()).await).await;
    println!("a list of 4 MB beside {UNREAD} unread ones, the first one and once warm: {beside:?}");
    let resident = proxy.process().memory_kib("VmHWM");
    println!("{UNREAD} unread lists took {resident} KiB");
    assert!(
        resident > 0 && resident < BOUND_KIB,
        "the proxy took {resident} KiB"
    );
    // Whoever reads on gets everything.
    let (call, _wire) = calls.pop().expect("one");
    let reply = within("a whole list", ANSWER_LIMIT, call.finish()).await;
    assert!(reply.is_ok(), "{}", reply.in_short());
    assert!(reply.messages.iter().map(Bytes::len).sum::<usize>() > STORED_BYTES);
    drop(calls);
    healthy(&proxy).await;
    proxy.assert_sound();
}
