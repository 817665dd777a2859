//! TLS towards the cluster: what it takes to connect to a member.

use core::cell::Cell;
use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::pki_types::{IpAddr, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, SignatureScheme};

use super::files::Content;
use super::identity::{certified, common_name, expiries};
use super::verify::{MemberVerifier, Roots};
use super::{Built, provider};
use crate::settings::{ClientTls, Endpoint};

/// HTTP/2 alone: gRPC has nothing else.
const NAME_HTTP2: &[u8] = b"h2";

/// Sessions with members that are kept for the next connection.
const SESSIONS_MAX: usize = 256;

/// All that it takes to connect to members; replaced as a whole when a file has changed.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(super) config: Arc<ClientConfig>,
    members: Arc<MemberVerifier>,
}

/// The files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Files {
    pair: Option<(Content, Content)>,
    ca: Option<Content>,
}

impl Files {
    /// Reads them.
    ///
    /// # Errors
    /// Which one can't be read.
    pub(super) fn read(options: &ClientTls) -> Result<Self, String> {
        let pair = options.certificate.as_ref().map(|pair| {
            let cert = Content::read("--cert", &pair.cert)?;
            Ok::<_, String>((cert, Content::read("--key", &pair.key)?))
        });
        let ca = options.ca.as_deref().map(|path| Content::read("--cacert", path));
        Ok(Self {
            pair: pair.transpose()?,
            ca: ca.transpose()?,
        })
    }

    /// Makes of them what is used.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub(super) fn build(&self, options: &ClientTls) -> Result<Built<Outgoing>, String> {
        let (mut notes, mut ends) = (Vec::new(), Vec::new());
        let provider = Arc::new(provider());
        let members = if options.skip_verify {
            MemberVerifier::of_anybody(&provider)
        } else {
            let (roots, source) = self.roots(&mut ends, &mut notes)?;
            MemberVerifier::new(roots, provider.clone()).map_err(|why| format!("{source}: {why}"))?
        };
        let members = Arc::new(members);
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS towards the cluster: {error}"))?
            .dangerous()
            .with_custom_certificate_verifier(members.clone() as Arc<dyn ServerCertVerifier>);
        let shown = match &self.pair {
            None => None,
            Some((cert, key)) => {
                let (certified, expiries) = certified(cert, key, &provider)?;
                if let Some(name) = certified.cert.first().and_then(common_name) {
                    // In the existing proxy's words, for who looks for them.
                    if !options.allow_common_name {
                        return Err(format!(
                            "cert has non empty Common Name ({name}): {}; with etcd's --client-cert-auth every client \
                             without a token would act as that user; --allow-client-cert-common-name allows it",
                            cert.path.display()
                        ));
                    }
                    notes.push(format!(
                        "the certificate of --cert has the common name {name}: where etcd has --client-cert-auth and \
                         authentication, every client without a token acts as that user"
                    ));
                }
                ends.extend(expiries);
                Some(certified)
            }
        };
        let mut config = builder.with_client_cert_resolver(Arc::new(Shown(shown)));
        config.alpn_protocols = vec![NAME_HTTP2.to_vec()];
        config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
        Ok(Built {
            made: Outgoing {
                config: Arc::new(config),
                members,
            },
            expiries: ends,
            notes,
        })
    }

    /// Who signs members' certificates, and where that is from.
    fn roots(
        &self,
        ends: &mut Vec<super::Expiry>,
        notes: &mut Vec<String>,
    ) -> Result<(Roots, String), String> {
        if let Some(ca) = &self.ca {
            let certificates = ca.certificates()?;
            ends.extend(expiries(ca, &certificates));
            let roots = Roots::of(certificates).map_err(|(index, why)| ca.wrong(index, &why))?;
            return Ok((roots, ca.says("")));
        }
        let system = rustls_native_certs::load_native_certs();
        let roots = Roots::of_system(system.certs);
        if roots.is_empty() {
            let errors: Vec<_> = system.errors.iter().map(ToString::to_string).collect();
            return Err(format!(
                "there is no --cacert, and the system has no root certificates {}",
                errors.join(", ")
            ));
        }
        notes.push(
            "members' certificates are verified with the system's roots as there is no --cacert".to_owned(),
        );
        Ok((roots, "the system's root certificates".to_owned()))
    }
}

impl Outgoing {
    /// Whether a handshake that is over is with a member that is trusted: a session that was resumed was verified when it
    /// began, and that may be long ago.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn verify_resumed(
        &self,
        connection: &ClientConnection,
        name: &ServerName<'_>,
    ) -> Result<(), rustls::Error> {
        if connection.handshake_kind() != Some(HandshakeKind::Resumed) {
            return Ok(());
        }
        let chain = connection.peer_certificates().unwrap_or_default();
        self.members.is_good(chain, name, UnixTime::now())
    }
}

thread_local! {
    /// Whether a member has asked for a certificate, in the handshake that went on last on this thread.
    static WAS_ASKED: Cell<bool> = const { Cell::new(false) };
}

/// Tells whether the member has asked for a certificate in the handshake that has just been polled on this thread, or in
/// one that was so since this was last told.
pub(super) fn take_was_asked() -> bool {
    WAS_ASKED.replace(false)
}

/// The certificate that members are shown if they ask for one.
#[derive(Debug)]
struct Shown(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        WAS_ASKED.set(true);
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

/// The name that a member's certificate must have: its endpoint's host, and `localhost` for a Unix socket, as clientv3.
///
/// # Errors
/// The host can't be in a certificate.
pub(super) fn name_of(endpoint: &Endpoint) -> Result<ServerName<'static>, String> {
    let host = match endpoint {
        Endpoint::Tcp { host, .. } => host,
        Endpoint::Unix { .. } => "localhost",
    };
    // A zone means something on this machine only.
    let host = host.split_once('%').map_or(host, |(address, _)| address);
    if let Ok(address) = IpAddr::try_from(host) {
        return Ok(address.into());
    }
    let name = ServerName::try_from(host.to_owned());
    name.map_err(|_| format!("a certificate can't be for the host {host}"))
}
