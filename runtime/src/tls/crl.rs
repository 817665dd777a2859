//! Certificate revocation lists (RFC 5280, section 5) as etcd's users have them: of version 1 too, and without a next update.
//!
//! A list binds the certificates of its own issuer alone, whose key has signed it. An authority without a list revokes nothing.
//! A list that is past its next update stays in force: what it revoked is still revoked.

use std::collections::HashSet;

use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm};
use webpki::EndEntityCert;
use x509_parser::prelude::{CertificateRevocationList, FromDer as _};

use super::files::Content;

/// The lists in force.
#[derive(Debug, Default)]
pub(super) struct RevocationLists {
    lists: Vec<List>,
    algorithms: &'static [&'static dyn SignatureVerificationAlgorithm],
}

#[derive(Debug)]
struct List {
    /// The issuer's name, in DER.
    issuer: Vec<u8>,
    /// Serial numbers, without leading zeros.
    revoked: HashSet<Vec<u8>>,
    /// What is signed.
    signed: Vec<u8>,
    signature: Vec<u8>,
    /// A root that is trusted has signed it. Otherwise that is looked at when a chain shows a certificate of its issuer.
    is_of_root: bool,
}

impl RevocationLists {
    /// Reads the lists of a file. `notes` takes what is to be logged of them.
    ///
    /// # Errors
    /// What is wrong with the file; or that a list isn't signed by the one trusted root that has its issuer's name.
    pub(super) fn read(
        file: &Content,
        roots: &[CertificateDer<'static>],
        algorithms: &'static [&'static dyn SignatureVerificationAlgorithm],
        now: i64,
        notes: &mut Vec<String>,
    ) -> Result<Self, String> {
        let mut lists = Vec::new();
        for (number, der) in file.revocation_lists()?.iter().enumerate() {
            let wrong = |what: &str| file.says(&format!("revocation list {}: {what}", number + 1));
            let (rest, list) = CertificateRevocationList::from_der(der)
                .map_err(|error| wrong(&format!("it isn't one: {error}")))?;
            if !rest.is_empty() {
                return Err(wrong("something follows it"));
            }
            let issuer = list.issuer();
            let mut entry = List {
                issuer: issuer.as_raw().to_vec(),
                revoked: list
                    .iter_revoked_certificates()
                    .map(|revoked| serial(revoked.raw_serial()))
                    .collect(),
                signed: list.tbs_cert_list.as_ref().to_vec(),
                signature: list.signature_value.data.to_vec(),
                is_of_root: false,
            };
            let mut namesakes = roots
                .iter()
                .filter(|root| subject_of(root).is_some_and(|subject| subject == entry.issuer))
                .peekable();
            let has_namesake = namesakes.peek().is_some();
            entry.is_of_root = namesakes.any(|root| entry.is_signed_by(root, algorithms));
            if has_namesake && !entry.is_of_root {
                return Err(wrong(&format!(
                    "{issuer} has not signed it, though it names it as its issuer"
                )));
            }
            if let Some(next) = list.next_update()
                && next.timestamp() < now
            {
                notes.push(wrong(&format!(
                    "it should have been replaced by {next}; it stays in force until then"
                )));
            }
            lists.push(entry);
        }
        Ok(Self { lists, algorithms })
    }

    /// Whether a certificate of a chain is revoked. The chain has been verified.
    pub(super) fn revokes(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> bool {
        if self.lists.is_empty() {
            return false;
        }
        let chain = || core::iter::once(end_entity).chain(intermediates);
        chain().any(|certificate| {
            let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
                return false;
            };
            let (issuer, serial) = (parsed.issuer().as_raw(), serial(parsed.raw_serial()));
            self.lists.iter().any(|list| {
                list.issuer == issuer
                    && list.revoked.contains(&serial)
                    && (list.is_of_root
                        || intermediates.iter().any(|of| {
                            subject_of(of).is_some_and(|subject| subject == issuer)
                                && list.is_signed_by(of, self.algorithms)
                        }))
            })
        })
    }
}

impl List {
    fn is_signed_by(
        &self,
        issuer: &CertificateDer<'_>,
        algorithms: &[&dyn SignatureVerificationAlgorithm],
    ) -> bool {
        let Ok(issuer) = EndEntityCert::try_from(issuer) else {
            return false;
        };
        let verifies = |algorithm: &&dyn SignatureVerificationAlgorithm| {
            issuer
                .verify_signature(*algorithm, &self.signed, &self.signature)
                .is_ok()
        };
        algorithms.iter().any(verifies)
    }
}

fn subject_of(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(parsed.subject().as_raw().to_vec())
}

fn serial(raw: &[u8]) -> Vec<u8> {
    let zeros = raw.iter().take_while(|byte| **byte == 0).count();
    raw[zeros..].to_vec()
}
