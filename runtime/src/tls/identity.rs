//! A certificate with its key, and what is known of certificates.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use x509_parser::certificate::X509Certificate;

use super::files::Content;

/// When a certificate of a file ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expiry {
    /// What the file is to the proxy: `--cert-file`.
    pub(crate) flag: &'static str,
    /// The file.
    pub(crate) path: String,
    /// The certificate's subject, or its first name if it has none.
    pub(crate) subject: String,
    /// When it ends, in seconds since 1970.
    pub(crate) at: i64,
}

/// When the certificates of a file end, each of them.
pub(super) fn expiries(file: &Content, certificates: &[CertificateDer<'_>]) -> Vec<Expiry> {
    let parsed = certificates
        .iter()
        .filter_map(|certificate| x509_parser::parse_x509_certificate(certificate).ok());
    parsed
        .map(|(_, certificate)| Expiry {
            flag: file.flag,
            path: file.path.display().to_string(),
            subject: name_of(&certificate),
            at: certificate.validity().not_after.timestamp(),
        })
        .collect()
}

fn name_of(certificate: &X509Certificate<'_>) -> String {
    let subject = certificate.subject().to_string();
    if !subject.is_empty() {
        return subject;
    }
    let names = certificate.subject_alternative_name().ok().flatten();
    names
        .and_then(|names| names.value.general_names.first().map(ToString::to_string))
        .unwrap_or_default()
}

/// Puts a certificate and its key together.
///
/// # Errors
/// What is wrong with which file, or that they don't belong together.
pub(super) fn certified(
    cert: &Content,
    key: &Content,
    provider: &CryptoProvider,
) -> Result<(Arc<CertifiedKey>, Vec<Expiry>), String> {
    let chain = cert.certificates()?;
    let expiries = expiries(cert, &chain);
    let signer = provider
        .key_provider
        .load_private_key(key.key()?)
        .map_err(|error| key.says(&format!("the key can't be used: {error}")))?;
    let certified = CertifiedKey::new(chain, signer);
    match certified.keys_match() {
        // Unknown: the provider can't tell the public key.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok((Arc::new(certified), expiries))
        }
        Err(_) => Err(format!(
            "{} and {}: the key {} is not the one of the certificate {}",
            cert.flag,
            key.flag,
            key.path.display(),
            cert.path.display()
        )),
    }
}

/// The common name of a certificate, if it has one that isn't empty.
pub(super) fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?;
    // What isn't text is a name all the same.
    let name = name.as_str().unwrap_or("?").to_owned();
    (!name.is_empty()).then_some(name)
}
