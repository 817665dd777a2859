//! The certificate of `--auto-tls`: made at the first start, kept below `--data-dir`, and signed by itself, as etcd's.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyUsagePurpose};
use time::{Duration, OffsetDateTime};

use crate::settings::KeyPair;

/// Where etcd keeps it below the data directory.
const PLACE: &str = "fixtures/proxy";

/// Years beyond which a date can't be written in a certificate any more.
const YEARS_MAX: u64 = 5000;

/// The files of the certificate, made if there are none.
///
/// # Errors
/// What can't be written.
pub(super) fn find_or_make(data_dir: &Path, years: u64, hosts: &[String]) -> Result<KeyPair, String> {
    let place = data_dir.join(PLACE);
    let pair = KeyPair {
        cert: place.join("cert.pem"),
        key: place.join("key.pem"),
    };
    if pair.cert.exists() && pair.key.exists() {
        return Ok(pair);
    }
    let failed =
        |path: &Path, error: &io::Error| format!("--auto-tls: cannot write {}: {error}", path.display());
    let (cert, key) = make(years, hosts).map_err(|error| format!("--auto-tls: {error}"))?;
    fs::create_dir_all(&place).map_err(|error| failed(&place, &error))?;
    // The certificate last: a start that is cut off leaves a key without one, and both are made again.
    write(&pair.key, &key, 0o600).map_err(|error| failed(&pair.key, &error))?;
    write(&pair.cert, &cert, 0o644).map_err(|error| failed(&pair.cert, &error))?;
    Ok(pair)
}

fn write(path: &PathBuf, text: &str, mode: u32) -> io::Result<()> {
    // What was there may have another mode.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// A certificate and its key, in PEM: ECDSA with P-521, as etcd's.
fn make(years: u64, hosts: &[String]) -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::new(hosts)?;
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "etcd");
    params.distinguished_name = name;
    params.not_before = OffsetDateTime::now_utc();
    let days = 365 * i64::try_from(years.min(YEARS_MAX)).unwrap_or_default();
    params.not_after = params.not_before + Duration::days(days);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512)?;
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}
