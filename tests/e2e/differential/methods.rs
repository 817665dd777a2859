//! Requests that the usual client cannot make.

use bytes::Bytes;
use etcd_proxy_tests::{
    etcd::{Cluster, Options},
    proxy::Proxy,
    suite::{eventually, trial},
};
use http::Request;
use libtest_mimic::Trial;
use tokio::net::TcpStream;

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("call_by_get", call_by_get)]
}

/// What came back for a request that the usual client cannot make: HTTP status, sorted headers or
/// trailers, number of body bytes, or the error.
async fn raw(address: &str, request: Request<()>, body: Bytes) -> String {
    let stream = TcpStream::connect(address).await.expect("connection");
    let (client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    let driver = tokio::spawn(connection);
    let mut client = client.ready().await.expect("ready");
    let answer = async {
        let (response, mut send) = client.send_request(request, false)?;
        send.send_data(body, true)?;
        let response = response.await?;
        let (head, mut body) = response.into_parts();
        let mut bytes = 0;
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            bytes += chunk.len();
            body.flow_control().release_capacity(chunk.len())?;
        }
        let trailers = body.trailers().await?;
        let mut fields: Vec<String> = head
            .headers
            .iter()
            .map(|field| format!("header {field:?}"))
            .chain(
                trailers
                    .iter()
                    .flatten()
                    .map(|field| format!("trailer {field:?}")),
            )
            .collect();
        fields.sort_unstable();
        Ok::<_, h2::Error>(format!("{} {fields:?} {bytes} bytes", head.status))
    };
    let answer = answer.await.unwrap_or_else(|error| error.to_string());
    driver.abort();
    answer
}

async fn compare(request: impl Fn(&str) -> Request<()>, body: &'static [u8]) -> String {
    let cluster = Cluster::start(Options::default()).await;
    let proxy = Proxy::start(&cluster.endpoints(), &[]).await;
    let member = cluster.address(0);
    eventually("the proxy answers", crate::pair::ANSWER_LIMIT, async || {
        let client = etcd_proxy_tests::client::Client::connect(proxy.address())
            .await
            .ok()?;
        client.get(b"a").await.ok()
    })
    .await;
    let direct = raw(&member, request(&member), Bytes::from_static(body)).await;
    let proxied = raw(
        proxy.address(),
        request(proxy.address()),
        Bytes::from_static(body),
    )
    .await;
    assert_eq!(direct, proxied);
    direct
}

/// gRPC is POST only.
async fn call_by_get() {
    let request = |address: &str| {
        Request::get(format!("http://{address}/etcdserverpb.KV/Range"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .expect("request")
    };
    compare(request, b"\0\0\0\0\x03\x0a\x01a").await;
}
