//! Requests that kill a member must not be walked through the cluster.

use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_tests::{
    client::Client,
    etcd::{Cluster, Options},
    proxy::Proxy,
    suite::{eventually, trial, within},
    wire::Wire,
};
use http::{HeaderValue, Request};
use libtest_mimic::Trial;
use tokio::net::TcpStream;

const SOON: Duration = Duration::from_secs(30);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("range_with_unknown_sort_target", || {
            // key "k", range_end "z", sort_order ASCEND, sort_target 9
            message("/etcdserverpb.KV/Range", b"\x0a\x01k\x12\x01z\x28\x01\x30\x09")
        }),
        trial("alarm_with_unknown_action", || {
            message("/etcdserverpb.Maintenance/Alarm", b"\x08\x09")
        }),
        trial("client_api_version_that_is_not_text", client_api_version),
    ]
}

struct World {
    cluster: Cluster,
    proxy: Proxy,
}

impl World {
    async fn start() -> Self {
        let mut cluster = Cluster::start(Options::three()).await;
        cluster.all_serve().await;
        let proxy = Proxy::start(&cluster.endpoints(), &[]).await;
        let client = Client::connect(proxy.address()).await.expect("proxy");
        for key in ["k1", "k2", "k3"] {
            client.put(key.as_bytes(), b"v").await.expect("put");
        }
        Self { cluster, proxy }
    }

    /// At most the member died that got it, and all is well after it was started again.
    async fn check(mut self) {
        // A process that is hit answers no more some time before it is gone: it prints its stack.
        let died = |cluster: &mut Cluster| 3 - cluster.running().len();
        eventually(
            "the number of dead members stays the same for a second",
            SOON,
            async || {
                let before = died(&mut self.cluster);
                tokio::time::sleep(Duration::from_secs(1)).await;
                (died(&mut self.cluster) == before).then_some(())
            },
        )
        .await;
        let alive = self.cluster.running();
        assert!(
            alive.len() >= 2,
            "the request killed {} of 3 members",
            3 - alive.len()
        );
        eprintln!("the request killed {} of 3 members", 3 - alive.len());
        self.cluster.reap();
        for member in 0..3 {
            if !alive.contains(&member) {
                self.cluster.restart(member);
            }
        }
        eventually("the cluster answers through the proxy", SOON, async || {
            let client = Client::connect(self.proxy.address()).await.ok()?;
            let put = tokio::time::timeout(Duration::from_secs(8), client.put(b"after", b"v"));
            put.await.ok()?.ok()
        })
        .await;
        // Nothing of the request is left to be sent once more.
        self.cluster.all_serve().await;
        assert_eq!(self.cluster.running().len(), 3, "a member died later");
        self.proxy.assert_sound();
    }
}

async fn message(path: &'static str, message: &'static [u8]) {
    let world = World::start().await;
    let wire = Wire::connect(world.proxy.address()).await.expect("proxy");
    let reply = within(path, SOON, wire.call(path, &[], &[Bytes::from_static(message)])).await;
    assert!(
        reply.code().is_some_and(|code| code != 0),
        "no answer but an error: {reply:?}"
    );
    world.check().await;
}

/// 3.5.30 dies of a label that is not UTF-8; etcd's own answer would be INVALID_ARGUMENT.
async fn client_api_version() {
    let world = World::start().await;
    let address = world.proxy.address().to_owned();
    let stream = TcpStream::connect(&address).await.expect("proxy");
    let (client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    let driver = tokio::spawn(connection);
    let mut client = client.ready().await.expect("ready");
    let value = HeaderValue::from_bytes(b"3.5\xff").expect("opaque bytes are a valid value");
    let request = Request::post(format!("http://{address}/etcdserverpb.KV/Range"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("client-api-version", value)
        .body(())
        .expect("request");
    let (response, mut send) = client.send_request(request, false).expect("send");
    // The answer may be there before.
    let _ = send.send_data(Bytes::from_static(b"\0\0\0\0\x03\x0a\x01k"), true);
    let answer = within("an answer", SOON, response).await;
    if let Ok(answer) = answer {
        let status = answer
            .headers()
            .get("grpc-status")
            .map(|status| status.as_bytes().to_vec());
        assert!(matches!(status.as_deref(), Some(b"3" | b"14")), "{answer:?}");
    }
    driver.abort();
    world.check().await;
}
