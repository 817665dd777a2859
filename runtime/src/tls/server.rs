//! TLS towards clients: what it takes to accept one.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ServerSessionMemoryCache;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::SingleCertAndKey;
use rustls::{HandshakeKind, ServerConfig, ServerConnection};

use super::crl::RevocationLists;
use super::files::Content;
use super::identity::{self, certified, expiries};
use super::suites::{self, versions};
use super::verify::{ClientVerifier, Roots};
use super::{Built, NAMES_HTTP, provider};
use crate::settings::{KeyPair, ServerCertificate, ServerTls};

/// Sessions that are kept for clients which come back with TLS 1.2 and no ticket.
const SESSIONS_MAX: usize = 4096;

/// All that it takes to accept clients; replaced as a whole when a file has changed.
#[derive(Debug)]
pub(crate) struct Acceptance {
    pub(super) config: Arc<ServerConfig>,
    clients: Option<Arc<ClientVerifier>>,
}

/// The files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Files {
    cert: Content,
    key: Content,
    ca: Option<Content>,
    crl: Option<Content>,
}

impl Files {
    /// Reads them.
    ///
    /// # Errors
    /// Which one can't be read.
    pub(super) fn read(options: &ServerTls, pair: &KeyPair) -> Result<Self, String> {
        let optional =
            |flag, path: &Option<_>| path.as_deref().map(|path| Content::read(flag, path)).transpose();
        let is_ours = matches!(options.certificate, ServerCertificate::SelfSigned { .. });
        let (cert, key) = if is_ours {
            ("--auto-tls certificate", "--auto-tls key")
        } else {
            ("--cert-file", "--key-file")
        };
        Ok(Self {
            cert: Content::read(cert, &pair.cert)?,
            key: Content::read(key, &pair.key)?,
            ca: optional("--trusted-ca-file", &options.client_ca)?,
            crl: optional("--client-crl-file", &options.client_crl)?,
        })
    }

    /// Makes of them what is used. Sessions of what was used before can't be resumed with it: tickets have new keys.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub(super) fn build(&self, options: &ServerTls) -> Result<Built<Acceptance>, String> {
        let mut notes = Vec::new();
        let chosen = suites::choose(&options.cipher_suites)?;
        if !chosen.left_out.is_empty() {
            let names = chosen.left_out.join(", ");
            notes.push(format!(
                "--listen-cipher-suites: left out as not supported: {names}"
            ));
        }
        let provider = Arc::new(CryptoProvider {
            cipher_suites: chosen.suites,
            ..provider()
        });
        let (certified, mut ends) = certified(&self.cert, &self.key, &provider)?;
        let clients = self
            .ca
            .as_ref()
            .map(|ca| {
                let certificates = ca.certificates()?;
                ends.extend(expiries(ca, &certificates));
                self.clients(ca, certificates, &provider, &mut notes)
            })
            .transpose()?
            .map(Arc::new);
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions(options.version_min, options.version_max))
            .map_err(|error| format!("TLS towards clients: {error}"))?;
        let builder = match &clients {
            Some(clients) => {
                builder.with_client_cert_verifier(clients.clone() as Arc<dyn ClientCertVerifier>)
            }
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = NAMES_HTTP.map(<[u8]>::to_vec).into();
        config.session_storage = ServerSessionMemoryCache::new(SESSIONS_MAX);
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()
            .map_err(|error| format!("TLS towards clients: no session tickets: {error}"))?;
        Ok(Built {
            made: Acceptance {
                config: Arc::new(config),
                clients,
            },
            expiries: ends,
            notes,
        })
    }

    fn clients(
        &self,
        ca: &Content,
        certificates: Vec<CertificateDer<'static>>,
        provider: &Arc<CryptoProvider>,
        notes: &mut Vec<String>,
    ) -> Result<ClientVerifier, String> {
        let lists = match &self.crl {
            Some(crl) => {
                let algorithms = provider.signature_verification_algorithms.all;
                let now = i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX);
                RevocationLists::read(crl, &certificates, algorithms, now, notes)?
            }
            None => RevocationLists::default(),
        };
        let roots = Roots::of(certificates).map_err(|(index, why)| ca.wrong(index, &why))?;
        ClientVerifier::new(roots, lists, provider.clone()).map_err(|why| ca.says(&why))
    }
}

impl Acceptance {
    /// Whether a handshake that is over lets the client in: a session that was resumed was verified when it began, and that
    /// may be long ago.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn verify_resumed(&self, connection: &ServerConnection) -> Result<(), rustls::Error> {
        let Some(clients) = &self.clients else {
            return Ok(());
        };
        if connection.handshake_kind() != Some(HandshakeKind::Resumed) {
            return Ok(());
        }
        clients.is_good(
            connection.peer_certificates().unwrap_or_default(),
            UnixTime::now(),
        )
    }

    /// Whether a client that came with this chain has been revoked since.
    pub(crate) fn revokes(&self, chain: &[CertificateDer<'_>]) -> bool {
        self.clients
            .as_ref()
            .is_some_and(|clients| clients.revokes(chain))
    }

    /// The common name in a certificate, for the log.
    pub(crate) fn name_of(chain: &[CertificateDer<'_>]) -> Option<String> {
        chain.first().and_then(identity::common_name)
    }
}
