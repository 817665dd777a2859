//! TLS on both sides of every proxy, for suites that say nothing of TLS: with `E2E_TLS=1`, or once it is
//! [switched on](enable).
//!
//! Members get one more client port, with TLS and mandatory client certificates, and proxies are sent there; proxies ask clients for
//! certificates, and clients of these tests show one. What speaks bytes of its own to a proxy, and endpoints that are no members, stay
//! as they are.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use rustls::{ClientConfig, client::Resumption};

use crate::pki::{Authority, Pair, Subject};

/// An authority, what it has signed, and who speaks TLS.
#[derive(Debug)]
pub struct Everywhere {
    authority: Authority,
    server: Pair,
    client: Pair,
    config: Arc<ClientConfig>,
    /// Addresses with TLS.
    with_tls: Mutex<HashSet<String>>,
    /// What a proxy is to be given in place of a member's address.
    members: Mutex<HashMap<String, String>>,
}

/// Tests that are about connections without TLS, or compare them with a member's: the URL that etcdctl prints; what a member says
/// to a client without token (with a certificate that has no common name another thing than without one); and, of the suite that
/// compares byte for byte, what the proxy answers itself: a member with TLS serves gRPC through Go's HTTP server, which adds headers.
pub(crate) const WITHOUT_TLS: &[&str] = &[
    "auth",
    "auth_is_on",
    "auth_is_switched",
    "auth_on",
    "call_by_get",
    "defrag",
    "endpoint_status",
    "lease_keep_alive",
    "log/strangers",
    "odd_calls",
    "odd_headers",
    "odd_requests",
    "range_frames",
    "request_sizes",
    "told/head_is_get_without_body",
    "upstream_stream_limit_queue",
    "users",
    "watch_ends",
];

static EVERYWHERE: OnceLock<Option<Everywhere>> = OnceLock::new();

/// All that it takes, if TLS is to be everywhere.
pub fn everywhere() -> Option<&'static Everywhere> {
    let wanted = || std::env::var_os("E2E_TLS").is_some_and(|value| value == "1");
    EVERYWHERE.get_or_init(|| wanted().then(Everywhere::new)).as_ref()
}

/// Switches it on, before anything is started.
pub fn enable() {
    EVERYWHERE.get_or_init(|| Some(Everywhere::new()));
}

/// What a client needs for an address with TLS; `None` for one without.
pub(crate) fn client_of(address: &str) -> Option<Arc<ClientConfig>> {
    let everywhere = everywhere()?;
    let with_tls = everywhere.with_tls.lock().unwrap_or_else(PoisonError::into_inner);
    with_tls.contains(address).then(|| Arc::clone(&everywhere.config))
}

impl Everywhere {
    fn new() -> Self {
        let authority = Authority::new("everywhere");
        let (server, client) = (
            authority.sign("server", &Subject::server()),
            authority.sign("client", &Subject::client()),
        );
        let mut config = (*authority.client(Some(&client))).clone();
        // As etcd's own client, which keeps no sessions either.
        config.resumption = Resumption::disabled();
        let config = Arc::new(config);
        Self {
            authority,
            server,
            client,
            config,
            with_tls: Mutex::default(),
            members: Mutex::default(),
        }
    }

    /// The certificate of servers.
    #[must_use]
    pub fn server(&self) -> &Pair {
        &self.server
    }

    /// The file of the authority that has signed all.
    #[must_use]
    pub fn ca(&self) -> std::path::PathBuf {
        self.authority.file()
    }

    /// From now on clients connect to this address with TLS.
    pub fn serves(&self, address: &str) {
        let mut with_tls = self.with_tls.lock().unwrap_or_else(PoisonError::into_inner);
        with_tls.insert(address.to_owned());
    }

    /// From now on proxies are given this URL in place of a member's address.
    pub fn is_member(&self, address: &str, url: &str) {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.insert(address.to_owned(), url.to_owned());
    }

    /// What a proxy is given in place of these addresses; `None` unless all are members'.
    #[must_use]
    pub fn members(&self, addresses: &[String]) -> Option<Vec<String>> {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        addresses
            .iter()
            .map(|address| members.get(address).cloned())
            .collect()
    }

    /// Flags of a proxy, or of etcd's, for TLS towards members.
    #[must_use]
    pub fn to_members(&self) -> Vec<String> {
        client_flags(&self.ca(), &self.client)
    }

    /// Flags of a proxy, or of etcd or its proxy, for TLS towards clients.
    #[must_use]
    pub fn to_clients(&self) -> Vec<String> {
        vec![
            format!("--cert-file={}", self.server.cert.display()),
            format!("--key-file={}", self.server.key.display()),
            format!("--trusted-ca-file={}", self.ca().display()),
        ]
    }

    /// Flags of etcdctl for an address; none for one without TLS.
    pub(crate) fn etcdctl(&self, address: &str) -> Vec<String> {
        if client_of(address).is_none() {
            return Vec::new();
        }
        client_flags(&self.ca(), &self.client)
    }
}

fn client_flags(ca: &Path, pair: &Pair) -> Vec<String> {
    vec![
        format!("--cacert={}", ca.display()),
        format!("--cert={}", pair.cert.display()),
        format!("--key={}", pair.key.display()),
    ]
}
