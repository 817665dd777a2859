//! TLS on both sides of the proxy: who is let in, who is trusted, and that files may change at any time.

mod auto;
mod hostile;
mod refusals;
mod rotation;
mod walk_through;

use std::{sync::Arc, time::Duration};

use etcd_proxy_tests::{
    client::Client,
    etcd::{Cluster, MemberTls, Options},
    pki::{Authority, Pair, Subject},
    proxy::Proxy,
    suite::{self, trial, within},
};
use libtest_mimic::Trial;
use tokio::sync::OnceCell;

/// An answer to anybody, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A change of a file is in use within this time, with some reserve for a busy machine.
pub(crate) const CHANGED: Duration = Duration::from_secs(30);

/// What most tests share: an authority, what it has signed, and a member that asks clients for certificates.
pub(crate) struct World {
    pub(crate) authority: Authority,
    pub(crate) server: Pair,
    pub(crate) client: Pair,
    pub(crate) cluster: Cluster,
}

/// The world, made when it is first needed.
pub(crate) type Shared = Arc<OnceCell<World>>;

/// A test that is given the world.
pub(crate) fn of<F, Fut>(shared: &Shared, name: &str, test: F) -> Trial
where
    F: FnOnce(Shared) -> Fut + Send + 'static,
    Fut: Future<Output = ()>,
{
    let shared = Arc::clone(shared);
    trial(name, move || test(shared))
}

/// Waits for the world.
pub(crate) async fn world(shared: &Shared) -> &World {
    shared
        .get_or_init(|| async {
            let authority = Authority::new("authority");
            let server = authority.sign("server", &Subject::server());
            let client = authority.sign("client", &Subject::client());
            let tls = MemberTls {
                pair: Some(server.clone()),
                client_ca: Some(authority.file()),
            };
            let options = Options {
                tls: Some(tls),
                ..Options::default()
            };
            let cluster = Cluster::start(options).await;
            World {
                authority,
                server,
                client,
                cluster,
            }
        })
        .await
}

impl World {
    /// Flags for TLS towards the member.
    pub(crate) fn to_member(&self) -> Vec<String> {
        vec![
            format!("--cacert={}", self.authority.file().display()),
            format!("--cert={}", self.client.cert.display()),
            format!("--key={}", self.client.key.display()),
        ]
    }

    /// A proxy with TLS towards the member and these flags.
    pub(crate) async fn proxy(&self, flags: &[String]) -> Proxy {
        let mut all = self.to_member();
        all.extend(flags.iter().cloned());
        start(&self.cluster.tls_endpoints(), &all).await
    }
}

/// Starts a proxy.
pub(crate) async fn start(endpoints: &[String], flags: &[String]) -> Proxy {
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    Proxy::start(endpoints, &flags).await
}

/// Flags for TLS towards clients.
pub(crate) fn to_clients(pair: &Pair, ca: Option<&std::path::Path>) -> Vec<String> {
    let mut flags = vec![
        format!("--cert-file={}", pair.cert.display()),
        format!("--key-file={}", pair.key.display()),
    ];
    flags.extend(ca.map(|ca| format!("--trusted-ca-file={}", ca.display())));
    flags
}

/// Tells whether a call gets through; a refusal may come with the handshake or behind it.
pub(crate) async fn gets_in(address: &str, tls: Arc<rustls::ClientConfig>) -> bool {
    let call = async {
        let client = Client::connect_tls(address, tls).await.ok()?;
        client.get(b"k").await.ok()
    };
    within("a call with TLS", SOON, call).await.is_some()
}

fn main() {
    let shared = Shared::default();
    let mut trials = Vec::new();
    trials.extend(walk_through::trials(&shared));
    trials.extend(refusals::trials(&shared));
    trials.extend(rotation::trials(&shared));
    trials.extend(auto::trials(&shared));
    trials.extend(hostile::trials(&shared));
    suite::main(4, trials, || ());
}
