//! Clients that mean harm, or just behave like it. None of them kills the proxy, wedges it, or takes
//! more than its share from the others.

mod bytes_on_the_wire;
mod connections;
mod floods;
mod given_up;
mod heartbeats;
mod limits;
mod long_links;
mod one_call;
mod pings;
mod unread;
mod watch_crowd;
mod watches;

use std::{sync::Arc, time::Duration};

use etcd_proxy_tests::{
    client::Client,
    etcd::{Cluster, Options},
    proxy::Proxy,
    suite::{self, trial, within},
};
use libtest_mimic::Trial;
use tokio::sync::OnceCell;

/// An answer to anybody, on a busy machine.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// More memory than this is not sane for a proxy that holds next to nothing (KiB).
pub(crate) const SANE_KIB: u64 = 250 * 1024;

/// One member, shared by all tests; each starts its own proxy.
pub(crate) type Upstream = Arc<OnceCell<Cluster>>;

/// A test with a proxy of its own in front of the shared member.
pub(crate) fn attack<F, Fut>(
    upstream: &Upstream,
    name: &str,
    flags: &'static [&'static str],
    test: F,
) -> Trial
where
    F: FnOnce(Proxy) -> Fut + Send + 'static,
    Fut: Future<Output = ()>,
{
    let upstream = Arc::clone(upstream);
    trial(name, async move || {
        let cluster = upstream.get_or_init(|| Cluster::start(Options::default())).await;
        let proxy = Proxy::start(&cluster.endpoints(), flags).await;
        healthy(&proxy).await;
        test(proxy).await;
    })
}

/// A client that behaves gets its answers.
pub(crate) async fn healthy(proxy: &Proxy) {
    let calls = async {
        let client = Client::connect(proxy.address()).await.expect("connection");
        client.put(b"healthy", b"yes").await.expect("put");
        let read = client.get(b"healthy").await.expect("get");
        assert_eq!(read.kvs.len(), 1);
    };
    within("a put and a get of a client that behaves", ANSWER_LIMIT, calls).await;
}

/// The state after an attack: serves, has not panicked, and has not grown.
pub(crate) async fn unharmed(mut proxy: Proxy) {
    healthy(&proxy).await;
    proxy.assert_sound();
    let resident = proxy.process().memory_kib("VmHWM");
    assert!(
        resident > 0 && resident < SANE_KIB,
        "the proxy took {resident} KiB"
    );
}

fn main() {
    let upstream = Upstream::default();
    let mut trials = Vec::new();
    trials.extend(bytes_on_the_wire::trials(&upstream));
    trials.extend(floods::trials(&upstream));
    trials.extend(heartbeats::trials(&upstream));
    trials.extend(limits::trials(&upstream));
    trials.extend(pings::trials(&upstream));
    trials.extend(unread::trials());
    trials.extend(watch_crowd::trials(&upstream));
    trials.extend(watches::trials());
    trials.extend(connections::trials());
    trials.extend(long_links::trials());
    trials.extend(given_up::trials(&upstream));
    trials.extend(one_call::trials(&upstream));
    suite::main(1, trials, move || drop(upstream));
}
