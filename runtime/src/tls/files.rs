//! Files of certificates, keys and revocation lists: reading them, and what is wrong with them in words that say where.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Largest file that is read, in bytes. The bundles of whole countries' authorities are below 1 MiB.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// A file as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    /// What it is to the proxy, as the flag says it: `--cacert`.
    pub(super) flag: &'static str,
    pub(super) path: PathBuf,
    pub(super) bytes: Vec<u8>,
}

impl Content {
    /// Reads a file.
    ///
    /// # Errors
    /// The operating system's, with the name of the file; or that it is too large.
    pub(super) fn read(flag: &'static str, path: &Path) -> Result<Self, String> {
        // In Go's words but for the system call: what scripts look for.
        let failed = |error: &std::io::Error| {
            let text = error.to_string();
            let reason = text.split(" (os error").next().unwrap_or_default().to_lowercase();
            format!("{flag}: open {}: {reason}", path.display())
        };
        let file = File::open(path).map_err(|error| failed(&error))?;
        let mut bytes = Vec::new();
        let read = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
        read.map_err(|error| failed(&error))?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(format!("{flag}: {} is larger than 16 MiB", path.display()));
        }
        Ok(Self {
            flag,
            path: path.to_owned(),
            bytes,
        })
    }

    /// The certificates in it, in their order; at least one.
    ///
    /// # Errors
    /// What is wrong and in which line.
    pub(super) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, String> {
        let mut found = Vec::new();
        for item in CertificateDer::pem_slice_iter(&self.bytes) {
            let certificate: CertificateDer<'static> = item.map_err(|error| self.broken(&error))?;
            x509_parser::parse_x509_certificate(&certificate)
                .map_err(|error| self.wrong(found.len(), &format!("no valid certificate: {error}")))?;
            found.push(certificate);
        }
        if found.is_empty() {
            return Err(
                self.says("there is no certificate in it; one begins with -----BEGIN CERTIFICATE-----")
            );
        }
        Ok(found)
    }

    /// The private key in it.
    ///
    /// # Errors
    /// What is wrong and in which line.
    pub(super) fn key(&self) -> Result<PrivateKeyDer<'static>, String> {
        let text = String::from_utf8_lossy(&self.bytes);
        if text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
            return Err(
                self.says("the key is encrypted; decrypt it first: openssl pkey -in ENCRYPTED -out PLAIN")
            );
        }
        PrivateKeyDer::from_pem_slice(&self.bytes).map_err(|error| match error {
            PemError::NoItemsFound => {
                self.says("there is no private key in it; one begins with -----BEGIN PRIVATE KEY-----")
            }
            other => self.broken(&other),
        })
    }

    /// The revocation lists in it, in DER: it is one itself, or holds some in PEM.
    ///
    /// # Errors
    /// What is wrong and in which line.
    pub(super) fn revocation_lists(&self) -> Result<Vec<Vec<u8>>, String> {
        // DER begins with a sequence.
        if self.bytes.first() == Some(&0x30) {
            return Ok(vec![self.bytes.clone()]);
        }
        let lists: Result<Vec<_>, _> =
            rustls::pki_types::CertificateRevocationListDer::pem_slice_iter(&self.bytes)
                .map(|item| item.map(|list| list.to_vec()))
                .collect();
        let lists = lists.map_err(|error| self.broken(&error))?;
        if lists.is_empty() {
            return Err(self.says("there is no revocation list in it, neither in DER nor in PEM"));
        }
        Ok(lists)
    }

    /// Something of this file, in words.
    pub(super) fn says(&self, what: &str) -> String {
        format!("{}: {}: {what}", self.flag, self.path.display())
    }

    /// Something of its certificate number `index`, with the line that it begins in.
    pub(super) fn wrong(&self, index: usize, what: &str) -> String {
        let lines = self.bytes.split(|byte| *byte == b'\n').enumerate();
        let line = lines
            .filter(|(_, line)| line.trim_ascii() == b"-----BEGIN CERTIFICATE-----")
            .nth(index)
            .map_or(1, |(line, _)| line + 1);
        format!("{}: {}:{line}: {what}", self.flag, self.path.display())
    }

    /// The file isn't well-formed PEM.
    fn broken(&self, error: &PemError) -> String {
        let lines = || self.bytes.split(|byte| *byte == b'\n').enumerate();
        let position = |wanted: &[u8]| {
            let found = lines().find(|(_, line)| line.trim_ascii() == wanted);
            found.map_or(1, |(line, _)| line + 1)
        };
        let at = |line: usize, what: &str| format!("{}: {}:{line}: {what}", self.flag, self.path.display());
        match error {
            PemError::MissingSectionEnd { end_marker } => {
                let begins = String::from_utf8_lossy(end_marker).replace("END", "BEGIN");
                at(
                    position(begins.trim().as_bytes()),
                    "this section has no end; the file is cut off",
                )
            }
            PemError::IllegalSectionStart { line } => at(
                position(line.trim_ascii()),
                "a section begins in a way that is not PEM",
            ),
            PemError::Base64Decode(_) => {
                let line = lines()
                    .find(|(_, line)| !is_pem(line))
                    .map_or(1, |(line, _)| line + 1);
                at(line, "this is not base64")
            }
            _ => self.says("it is not PEM"),
        }
    }
}

/// Whether a line may stand in a PEM file: text around sections aside.
fn is_pem(line: &[u8]) -> bool {
    let line = line.trim_ascii();
    line.starts_with(b"-----")
        || line
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(byte))
}
