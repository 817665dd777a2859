//! Members that answer, but not as they should, and endpoints that are none.

use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest, RangeResponse, ResponseHeader,
};
use etcd_proxy_tests::{
    etcd::{Cluster, Options},
    fake::{Fake, Step},
    proxy::Proxy,
    suite::{eventually, free_port, trial, within},
    wire::{Reply, Wire},
};
use h2::server::SendResponse;
use http::Response;
use libtest_mimic::Trial;
use prost::Message as _;
use tokio::net::TcpListener;

const RANGE: &str = "/etcdserverpb.KV/Range";
const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
const REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";

const TIME_TO_LIVE: &str = "/etcdserverpb.Lease/LeaseTimeToLive";
const LEASES: &str = "/etcdserverpb.Lease/LeaseLeases";

const SOON: Duration = Duration::from_secs(30);

const UNAVAILABLE: Option<u32> = Some(14);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("sick_member", sick_member),
        trial("sick_for_one_client", sick_for_one_client),
        trial("refused_everywhere", refused_everywhere),
        trial("learner_alone", learner_alone),
        trial("writes_are_not_repeated", writes_are_not_repeated),
        trial("no_etcd", no_etcd),
        trial("reads_of_a_dark_cluster", reads_of_a_dark_cluster),
    ]
}

/// What a member says that is well.
fn well() -> Vec<Step> {
    let response = RangeResponse {
        header: Some(ResponseHeader {
            cluster_id: 1,
            member_id: 1,
            revision: 1,
            raft_term: 2,
        }),
        ..RangeResponse::default()
    };
    vec![
        Step::Headers(Vec::new()),
        Step::Message(response.encode_to_vec().into()),
        Step::Trailers(vec![("grpc-status", "0")]),
    ]
}

fn unavailable(message: &'static str) -> Vec<Step> {
    vec![Step::Trailers(vec![
        ("grpc-status", "14"),
        ("grpc-message", message),
    ])]
}

async fn call(wire: &Wire, path: &str, request: Vec<u8>) -> Reply {
    within(path, SOON, wire.call(path, &[], &[Bytes::from(request)])).await
}

async fn read(wire: &Wire) -> Reply {
    let request = RangeRequest {
        key: "k".into(),
        ..RangeRequest::default()
    };
    call(wire, RANGE, request.encode_to_vec()).await
}

/// A member whose health is fine answers all calls with UNAVAILABLE: each read is answered by another one, and it loses its place.
async fn sick_member() {
    let sick = Fake::playing(unavailable("etcdserver: request timed out")).await;
    let fine = Fake::playing(well()).await;
    for flags in [&["--cache=off"][..], &[]] {
        is_left(&sick, &fine, flags).await;
    }
}

async fn is_left(sick: &Fake, fine: &Fake, flags: &[&str]) {
    let endpoints = [sick.address(), fine.address()];
    // Which one is chosen is chance.
    eventually("a proxy that chooses the sick one", SOON, async || {
        let mut proxy = Proxy::start(&endpoints, flags).await;
        let wire = Wire::connect(proxy.address()).await.expect("proxy");
        let before = sick.requests().len();
        let answer = read(&wire).await;
        assert!(answer.is_ok(), "{}", answer.in_short());
        let is_chosen = sick.requests().len() > before;
        eventually("the sick one isn't asked any more", SOON, async || {
            let before = sick.requests().len();
            for _ in 0..10 {
                let answer = read(&wire).await;
                assert!(answer.is_ok(), "{}", answer.in_short());
            }
            (sick.requests().len() == before).then_some(())
        })
        .await;
        proxy.assert_sound();
        is_chosen.then_some(())
    })
    .await;
}

/// A call that one member answers with UNAVAILABLE, for what is in it, and another one doesn't: its client gets the other answer,
/// and others keep their member.
async fn sick_for_one_client() {
    let easily_upset = Fake::start(|_, request| match &*request.path {
        TIME_TO_LIVE => unavailable("etcdserver: request timed out"),
        _ => well(),
    })
    .await;
    let other = Fake::playing(well()).await;
    let endpoints = [easily_upset.address(), other.address()];
    // Which one is chosen is chance.
    eventually("a proxy that chooses this one", SOON, async || {
        let mut proxy = Proxy::start(&endpoints, &["--cache=off"]).await;
        let wire = Wire::connect(proxy.address()).await.expect("proxy");
        let before = easily_upset.requests().len();
        assert!(read(&wire).await.is_ok());
        let is_chosen = easily_upset.requests().len() > before;
        let others = other.requests().len();
        for _ in 0..20 {
            let answer = call(&wire, TIME_TO_LIVE, Vec::new()).await;
            assert!(answer.is_ok(), "{}", answer.in_short());
            assert!(read(&wire).await.is_ok());
        }
        let reads = other.requests().split_off(others);
        let reads = reads.iter().filter(|request| request.path == RANGE).count();
        assert_eq!(reads == 0, is_chosen, "{reads} reads of others have moved");
        proxy.assert_sound();
        is_chosen.then_some(())
    })
    .await;
}

/// One client's calls are refused by the member in use and not answered by the other one: that keeps nobody else's from being asked
/// there.
async fn refused_everywhere() {
    let easily_upset = Fake::start(|_, request| match &*request.path {
        TIME_TO_LIVE | LEASES => unavailable("etcdserver: request timed out"),
        _ => well(),
    })
    .await;
    let other = Fake::start(|_, request| match &*request.path {
        LEASES => vec![Step::Never],
        _ => well(),
    })
    .await;
    let endpoints = [easily_upset.address(), other.address()];
    // Which one is chosen is chance.
    eventually("a proxy that chooses this one", SOON, async || {
        let mut proxy = Proxy::start(&endpoints, &["--cache=off", "--workers=1"]).await;
        let wire = Wire::connect(proxy.address()).await.expect("proxy");
        let before = easily_upset.requests().len();
        assert!(read(&wire).await.is_ok());
        if easily_upset.requests().len() == before {
            return None;
        }
        let refused = Wire::connect(proxy.address()).await.expect("proxy");
        let always = tokio::spawn(async move {
            loop {
                let message = [Bytes::new()];
                let call = || refused.call(LEASES, &[], &message);
                tokio::join!(call(), call(), call(), call());
            }
        });
        eventually("its turn has come", SOON, async || {
            let asked = other.requests();
            asked.iter().any(|request| request.path == LEASES).then_some(())
        })
        .await;
        for _ in 0..5 {
            let answer = call(&wire, TIME_TO_LIVE, Vec::new()).await;
            assert!(answer.is_ok(), "{}", answer.in_short());
        }
        always.abort();
        proxy.assert_sound();
        Some(())
    })
    .await;
}

/// What the only member says for being a learner is its last word, also if there are others that can't be reached.
async fn learner_alone() {
    let learner = Fake::learner().await;
    let dead = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
    for others in 0..=dead.len() {
        let mut endpoints = dead[..others].to_vec();
        endpoints.push(learner.address());
        let mut proxy = Proxy::start(&endpoints, &["--cache=off"]).await;
        let wire = Wire::connect(proxy.address()).await.expect("proxy");
        let before = learner.requests().len();
        let answer = read(&wire).await;
        assert_eq!(answer.code(), UNAVAILABLE, "{}", answer.in_short());
        let message = answer.message();
        let message = message.as_deref();
        assert_eq!(message, Some("etcdserver: rpc not supported for learner"));
        assert_eq!(learner.requests().len(), before + 1, "beside {others} dead ones");
        proxy.assert_sound();
    }
}

/// A write whose connection is lost may have been carried out: it isn't made again, and the client is told.
async fn writes_are_not_repeated() {
    let member = Fake::start(|_, request| match &*request.path {
        GRANT | REVOKE => vec![Step::HalfClosed, Step::Hangup],
        _ => well(),
    })
    .await;
    let mut proxy = Proxy::start(&[member.address()], &["--cache=off"]).await;
    let wire = Wire::connect(proxy.address()).await.expect("proxy");
    let grant = |id| LeaseGrantRequest { ttl: 60, id }.encode_to_vec();
    let revoke = LeaseRevokeRequest { id: 7 }.encode_to_vec();
    // A lease without an id is another one each time, and nobody knows of the first one.
    for (path, request, times) in [(GRANT, grant(7), 1), (REVOKE, revoke, 1), (GRANT, grant(0), 2)] {
        let before = member.requests().len();
        let answer = call(&wire, path, request).await;
        assert_eq!(answer.code(), UNAVAILABLE, "{path}: {}", answer.in_short());
        let made = member.requests()[before..]
            .iter()
            .filter(|made| made.path == path)
            .count();
        assert_eq!(made, times, "{path}");
    }
    let answer = read(&wire).await;
    assert!(answer.is_ok(), "{}", answer.in_short());
    proxy.assert_sound();
}

/// An HTTP/2 server that isn't etcd, or not even gRPC, is no member: it isn't chosen, and the log says why.
async fn no_etcd() {
    let member = Fake::playing(well()).await;
    let web = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoints = [web.local_addr().expect("bound").to_string(), member.address()];
    let server = tokio::spawn(not_found(web));
    // Which one is tried first is chance.
    for _ in 0..8 {
        let mut proxy = Proxy::start(&endpoints, &["--cache=off"]).await;
        let wire = Wire::connect(proxy.address()).await.expect("proxy");
        for _ in 0..3 {
            let answer = read(&wire).await;
            assert!(answer.is_ok(), "{}", answer.in_short());
        }
        proxy.assert_sound();
    }
    let mut proxy = Proxy::start_unready(&endpoints[..1], &["--cache=off"]).await;
    eventually("the log says what it is", SOON, async || {
        proxy
            .log()
            .contains("no etcd: no gRPC answer, but HTTP status 404")
            .then_some(())
    })
    .await;
    proxy.assert_sound();
    server.abort();
}

/// Answers everything with 404 and nothing else.
async fn not_found(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else {
                return;
            };
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let respond: &mut SendResponse<Bytes> = &mut respond;
                let mut response = Response::new(());
                *response.status_mut() = http::StatusCode::NOT_FOUND;
                let _ = respond.send_response(response, true);
            }
        });
    }
}

/// Reads of the same wait for each other's answer, but not for longer than each would wait for a member.
async fn reads_of_a_dark_cluster() {
    let mut cluster = Cluster::start(Options::default()).await;
    let mut proxy = Proxy::start(&cluster.endpoints(), &["--dial-timeout=2s"]).await;
    let wire = Wire::connect(proxy.address()).await.expect("proxy");
    assert!(read(&wire).await.is_ok());
    cluster.kill(0);
    let answer = read(&wire).await;
    assert_eq!(answer.code(), UNAVAILABLE, "{}", answer.in_short());
    let mut one = std::pin::pin!(read(&wire));
    let mut other = std::pin::pin!(read(&wire));
    // Both answers are written together, so either may be seen first.
    let (answer, second) = tokio::select! {
        answer = &mut one => (answer, other),
        answer = &mut other => (answer, one),
    };
    assert_eq!(answer.code(), UNAVAILABLE, "{}", answer.in_short());
    // The second one has waited for as long. Waited it anew, a call that begins now and has half the time would end before it.
    let request = PutRequest {
        key: "k".into(),
        ..PutRequest::default()
    };
    let request = [Bytes::from(request.encode_to_vec())];
    tokio::select! {
        answer = second => assert_eq!(answer.code(), UNAVAILABLE, "{}", answer.in_short()),
        _ = wire.call("/etcdserverpb.KV/Put", &[("grpc-timeout", "1S")], &request) => {
            panic!("the second read waits for a member once more")
        }
    }
    proxy.assert_sound();
}
