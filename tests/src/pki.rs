//! Certificates for tests: an authority, and what it signs.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SerialNumber,
};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use time::{Duration, OffsetDateTime};

use crate::suite::TempDir;

/// An authority with a folder for what it signs.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
    dir: TempDir,
}

/// What a certificate says.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its common name; none if it is empty.
    pub common_name: String,
    /// Its names and addresses.
    pub names: Vec<String>,
    /// What it is for.
    pub usages: Vec<ExtendedKeyUsagePurpose>,
    /// Hours from now until it is valid, and until it is so no more.
    pub hours: (i64, i64),
    /// Its number.
    pub serial: u64,
}

impl Subject {
    /// A server on this machine.
    #[must_use]
    pub fn server() -> Self {
        Self {
            common_name: String::new(),
            names: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
            // A member is a client of the others, and of itself in its gateway.
            usages: vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
            hours: (-1, 24),
            serial: 1,
        }
    }

    /// A client without a common name.
    #[must_use]
    pub fn client() -> Self {
        Self {
            names: vec!["client".to_owned()],
            usages: vec![ExtendedKeyUsagePurpose::ClientAuth],
            ..Self::server()
        }
    }
}

/// Files of a certificate and its key.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

impl Authority {
    /// An authority of a name.
    ///
    /// # Panics
    /// If it can't be made.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let key = KeyPair::generate().expect("a key");
        let certificate = params
            .self_signed(&key)
            .expect("an authority's certificate")
            .pem();
        let authority = Self {
            issuer: Issuer::new(params, key),
            certificate,
            dir: TempDir::new("pki"),
        };
        authority.write("ca.crt", &authority.certificate);
        authority
    }

    /// The file of its certificate.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.path("ca.crt")
    }

    /// Its certificate in PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.certificate
    }

    /// A file in its folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file into its folder at one stroke, as a well-behaved tool does.
    ///
    /// # Panics
    /// If it can't be written.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        let aside = self.path(&format!("{name}.new"));
        fs::write(&aside, text).expect("a file");
        fs::rename(&aside, &path).expect("its name");
        path
    }

    /// Signs a certificate, and writes it and its key as `NAME.crt` and `NAME.key`.
    ///
    /// # Panics
    /// If it can't be made.
    pub fn sign(&self, name: &str, subject: &Subject) -> Pair {
        let mut params = CertificateParams::new(subject.names.clone()).expect("names");
        params.distinguished_name = named(&subject.common_name);
        params.extended_key_usages.clone_from(&subject.usages);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.serial_number = Some(SerialNumber::from(subject.serial));
        let now = OffsetDateTime::now_utc();
        params.not_before = now + Duration::hours(subject.hours.0);
        params.not_after = now + Duration::hours(subject.hours.1);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        // A key without its certificate is no pair: what follows the files must wait for both.
        let key = self.write(&format!("{name}.key"), &key.serialize_pem());
        let cert = self.write(&format!("{name}.crt"), &certificate.pem());
        Pair { cert, key }
    }

    /// Writes a list of revoked numbers, in PEM. A negative number of hours: it should have been replaced before now.
    ///
    /// # Panics
    /// If it can't be made.
    pub fn revoke(&self, name: &str, serials: &[u64], hours: i64) -> PathBuf {
        let now = OffsetDateTime::now_utc();
        let list = CertificateRevocationListParams {
            this_update: now - Duration::hours(48),
            next_update: now + Duration::hours(hours),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials
                .iter()
                .map(|serial| RevokedCertParams {
                    serial_number: SerialNumber::from(*serial),
                    revocation_time: now - Duration::hours(1),
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list
            .signed_by(&self.issuer)
            .expect("a list")
            .pem()
            .expect("in PEM");
        self.write(name, &list)
    }

    /// What a client trusts this authority with, and shows.
    ///
    /// # Panics
    /// If it can't be made.
    #[must_use]
    pub fn client(&self, shows: Option<&Pair>) -> Arc<ClientConfig> {
        self.client_of(shows, rustls::DEFAULT_VERSIONS)
    }

    /// The same with these versions alone.
    ///
    /// # Panics
    /// If it can't be made.
    #[must_use]
    pub fn client_of(
        &self,
        shows: Option<&Pair>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("PEM");
        roots.add(certificate).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match shows {
            Some(pair) => builder
                .with_client_auth_cert(chain(&pair.cert), key(&pair.key))
                .expect("a pair"),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "etcd");
    if !common_name.is_empty() {
        name.push(DnType::CommonName, common_name);
    }
    name
}

fn chain(path: &Path) -> Vec<CertificateDer<'static>> {
    let chain = CertificateDer::pem_file_iter(path).expect("a certificate");
    chain.collect::<Result<_, _>>().expect("PEM")
}

fn key(path: &Path) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_file(path).expect("a key")
}
