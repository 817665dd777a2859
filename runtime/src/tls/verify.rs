//! Who is trusted: rustls's verification of chains, with revocation lists, and with what Go's allows beyond it.

use core::cell::RefCell;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use webpki::EndEntityCert;
use x509_parser::certificate::X509Certificate;

use super::crl::RevocationLists;
use crate::settings::shorten;

/// Certificates that vouch for others.
#[derive(Clone, Debug)]
pub(super) struct Roots {
    store: Arc<RootCertStore>,
    /// The certificates themselves, but the system's.
    certificates: Arc<[CertificateDer<'static>]>,
}

impl Roots {
    /// Those of a bundle.
    ///
    /// # Errors
    /// The position of the one that can't be used, and why.
    pub(super) fn of(certificates: Vec<CertificateDer<'static>>) -> Result<Self, (usize, String)> {
        let mut store = RootCertStore::empty();
        for (index, certificate) in certificates.iter().enumerate() {
            store
                .add(certificate.clone())
                .map_err(|error| (index, error.to_string()))?;
        }
        Ok(Self {
            store: Arc::new(store),
            certificates: certificates.into(),
        })
    }

    /// The system's.
    pub(super) fn of_system(certificates: Vec<CertificateDer<'static>>) -> Self {
        let mut store = RootCertStore::empty();
        // Some systems have roots that no library takes.
        store.add_parsable_certificates(certificates);
        Self {
            store: Arc::new(store),
            certificates: Arc::new([]),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.store.is_empty()
    }

    /// Whether a certificate is one of these itself, and valid now. Go takes that, and self-signed certificates are used so
    /// everywhere; rustls refuses an authority's certificate in this place.
    fn contain(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> Result<bool, Error> {
        if !self.certificates.iter().any(|root| root == certificate) {
            return Ok(false);
        }
        let (_, parsed) = parse(certificate)?;
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let validity = parsed.validity();
        if now < validity.not_before.timestamp() {
            return Err(CertificateError::NotValidYet.into());
        }
        if now > validity.not_after.timestamp() {
            return Err(CertificateError::Expired.into());
        }
        Ok(true)
    }
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<(&'a [u8], X509Certificate<'a>), Error> {
    x509_parser::parse_x509_certificate(certificate).map_err(|_| CertificateError::BadEncoding.into())
}

fn is_authority_in_place_of_its_own(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(CertificateError::Other(OtherError(source)))
            if source.downcast_ref() == Some(&webpki::Error::CaUsedAsEndEntity)
    )
}

thread_local! {
    /// The subject of the client's certificate that was verified last on this thread.
    static LAST_SUBJECT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Takes the subject of the certificate that a handshake, which has just failed on this thread, has shown; `None` if it
/// hasn't come so far.
pub(super) fn take_last_subject() -> Option<String> {
    LAST_SUBJECT.take()
}

/// Verifies clients' certificates.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    chains: Arc<dyn ClientCertVerifier>,
    roots: Roots,
    lists: RevocationLists,
}

impl ClientVerifier {
    /// # Errors
    /// Why there can be none.
    pub(super) fn new(
        roots: Roots,
        lists: RevocationLists,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let chains = WebPkiClientVerifier::builder_with_provider(roots.store.clone(), provider)
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self { chains, roots, lists })
    }

    /// Whether a chain that was good once is so still: sessions that are resumed show none.
    pub(super) fn is_good(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        let (end_entity, intermediates) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        self.verify_client_cert(end_entity, intermediates, now)
            .map(|_| ())
    }

    /// Whether a certificate of the chain has been revoked.
    pub(super) fn revokes(&self, chain: &[CertificateDer<'_>]) -> bool {
        let split = chain.split_first();
        split.is_some_and(|(end_entity, intermediates)| self.lists.revokes(end_entity, intermediates))
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chains.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let subject = parse(end_entity)
            // Whoever is refused may have written a book into it.
            .map(|(_, parsed)| shorten(&parsed.subject().to_string()).into_owned())
            .ok();
        LAST_SUBJECT.set(subject);
        match self.chains.verify_client_cert(end_entity, intermediates, now) {
            Ok(_) => {}
            Err(error)
                if is_authority_in_place_of_its_own(&error) && self.roots.contain(end_entity, now)? => {}
            Err(error) => return Err(error),
        }
        if self.lists.revokes(end_entity, intermediates) {
            return Err(CertificateError::Revoked.into());
        }
        LAST_SUBJECT.set(None);
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// Verifies members' certificates.
#[derive(Debug)]
pub(super) struct MemberVerifier {
    /// `None` if nothing is verified but that the member has the key of its certificate.
    chains: Option<(Arc<WebPkiServerVerifier>, Roots)>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl MemberVerifier {
    /// Trusts nobody but who comes with a chain up to one of these.
    ///
    /// # Errors
    /// Why there can be none.
    pub(super) fn new(roots: Roots, provider: Arc<CryptoProvider>) -> Result<Self, String> {
        let algorithms = provider.signature_verification_algorithms;
        let chains = WebPkiServerVerifier::builder_with_provider(roots.store.clone(), provider)
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self {
            chains: Some((chains, roots)),
            algorithms,
        })
    }

    /// Trusts everybody.
    pub(super) fn of_anybody(provider: &CryptoProvider) -> Self {
        Self {
            chains: None,
            algorithms: provider.signature_verification_algorithms,
        }
    }

    /// Whether the chain of a session that is resumed is good still.
    pub(super) fn is_good(
        &self,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let (end_entity, intermediates) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        self.verify_server_cert(end_entity, intermediates, name, &[], now)
            .map(|_| ())
    }
}

impl ServerCertVerifier for MemberVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some((chains, roots)) = &self.chains else {
            return Ok(ServerCertVerified::assertion());
        };
        match chains.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            Err(error) if is_authority_in_place_of_its_own(&error) && roots.contain(end_entity, now)? => {
                let parsed = EndEntityCert::try_from(end_entity);
                let parsed = parsed.map_err(|_| Error::from(CertificateError::BadEncoding))?;
                parsed
                    .verify_is_valid_for_subject_name(name)
                    .map_err(|_| Error::from(CertificateError::NotValidForName))?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
