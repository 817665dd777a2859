//! Connections on which a client never says a word.

use std::time::Duration;

use etcd_proxy_tests::{
    fake::{Fake, Step},
    process::Signal,
    proxy::Proxy,
    suite::{eventually, trial, within},
    wire::Wire,
};
use libtest_mimic::Trial;
use tokio::net::TcpStream;

/// Less than a client may take for its first bytes.
const END_LIMIT: Duration = Duration::from_secs(6);

const ANSWER_LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("silent_connections_do_not_delay_the_end", silent)]
}

async fn silent() {
    let fake = Fake::playing(vec![Step::Trailers(vec![("grpc-status", "0")])]).await;
    let flags = ["--workers=2", "--shutdown-timeout=60s"];
    let mut proxy = Proxy::start(&[fake.address()], &flags).await;
    let files = |proxy: &mut Proxy| {
        let folder = format!("/proc/{}/fd", proxy.process().pid());
        std::fs::read_dir(folder).expect("the proxy runs").count()
    };
    let wire = Wire::connect(proxy.address()).await.expect("connection");
    let reply = wire.call("/etcdserverpb.KV/Put", &[], &[]);
    let reply = within("a call", ANSWER_LIMIT, reply).await;
    assert_eq!(reply.code(), Some(0), "{reply:?}");
    drop(wire);
    let before = files(&mut proxy);
    // Several for each worker. All of them are accepted; the connection of the call may close meanwhile.
    let mut connections = Vec::new();
    for _ in 0..8 {
        connections.push(TcpStream::connect(proxy.address()).await.expect("connection"));
    }
    eventually("the connections are accepted", ANSWER_LIMIT, async || {
        (files(&mut proxy) >= before + 7).then_some(())
    })
    .await;
    proxy.process().signal(Signal::TERM);
    let status = proxy.process().ended(END_LIMIT).await;
    assert_eq!(status.code(), Some(0), "{}", proxy.log());
    drop(connections);
}
