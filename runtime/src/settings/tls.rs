//! TLS on both sides, as it was asked for: names of files, not yet what is in them.

use std::path::PathBuf;

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// A certificate with its key, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPair {
    /// The certificate, and behind it those of the authorities between it and a root.
    pub cert: PathBuf,
    /// The private key of the certificate: PKCS #8, PKCS #1 or SEC 1, not encrypted.
    pub key: PathBuf,
}

/// Where the proxy's own certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerCertificate {
    /// `--cert-file` and `--key-file`.
    Files(KeyPair),
    /// `--auto-tls`: the proxy signs it itself.
    SelfSigned {
        /// `--data-dir`: it is kept below, and found there at the next start.
        data_dir: PathBuf,
        /// `--self-signed-cert-validity`, in years; not zero.
        years: u64,
    },
}

/// TLS towards clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// What clients are shown.
    pub certificate: ServerCertificate,
    /// `--trusted-ca-file`: who signs clients' certificates, which are asked for then and must be shown.
    pub client_ca: Option<PathBuf>,
    /// `--client-crl-file`: which clients' certificates are revoked.
    pub client_crl: Option<PathBuf>,
    /// `--listen-cipher-suites`, by Go's names; empty for all there are.
    pub cipher_suites: Vec<String>,
    /// `--tls-min-version`.
    pub version_min: TlsVersion,
    /// `--tls-max-version`. Not below `version_min`.
    pub version_max: TlsVersion,
}

/// TLS towards the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// `--cert` and `--key`: what members are shown.
    pub certificate: Option<KeyPair>,
    /// `--cacert`: who signs members' certificates; the system's roots if there is none.
    pub ca: Option<PathBuf>,
    /// `--insecure-skip-tls-verify`: members' certificates aren't verified.
    pub skip_verify: bool,
    /// `--allow-client-cert-common-name`: the certificate may have a common name. With etcd's `--client-cert-auth` and
    /// authentication every client without a token acts as the user of that name then.
    pub allow_common_name: bool,
}
