//! Revocation lists, sessions that are resumed, and what is wrong with files.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use time::{Duration, OffsetDateTime};

use super::crl::RevocationLists;
use super::files::Content;
use super::provider;
use super::verify::{ClientVerifier, Roots};

/// The number of each authority's certificate.
const BETWEEN: u64 = 5;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    fn new(name: &str, by: Option<&Self>) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(SerialNumber::from(BETWEEN));
        let key = KeyPair::generate().expect("a key");
        let certificate = match by {
            None => params.self_signed(&key),
            Some(by) => params.signed_by(&key, &by.issuer),
        };
        let certificate = certificate.expect("a certificate").der().clone();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    fn sign(&self, serial: u64, seconds: i64) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(["client".to_owned()]).expect("a name");
        params.distinguished_name = named("client");
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_before = OffsetDateTime::now_utc() - Duration::hours(1);
        params.not_after = OffsetDateTime::now_utc() + Duration::seconds(seconds);
        let key = KeyPair::generate().expect("a key");
        params
            .signed_by(&key, &self.issuer)
            .expect("a certificate")
            .der()
            .clone()
    }

    /// A list in DER.
    fn revoke(&self, serials: &[u64], next_hours: i64) -> Vec<u8> {
        let now = OffsetDateTime::now_utc();
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: now - Duration::hours(48),
            next_update: now + Duration::hours(next_hours),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).expect("a list").der().to_vec()
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn file(flag: &'static str, bytes: impl Into<Vec<u8>>) -> Content {
    Content {
        flag,
        path: PathBuf::from("file"),
        bytes: bytes.into(),
    }
}

fn read(list: &[u8], roots: &[&CertificateDer<'static>]) -> Result<(RevocationLists, Vec<String>), String> {
    let roots: Vec<_> = roots.iter().map(|root| (*root).clone()).collect();
    let now = i64::try_from(UnixTime::now().as_secs()).expect("a time");
    let mut notes = Vec::new();
    let algorithms = provider().signature_verification_algorithms.all;
    let lists = RevocationLists::read(
        &file("--client-crl-file", list),
        &roots,
        algorithms,
        now,
        &mut notes,
    )?;
    Ok((lists, notes))
}

#[test]
fn a_list_binds_its_own_issuers_certificates() {
    let (one, other) = (Authority::new("one", None), Authority::new("other", None));
    let (lists, notes) =
        read(&one.revoke(&[7, 300], 1), &[&one.certificate, &other.certificate]).expect("a list");
    assert!(notes.is_empty(), "{notes:?}");
    assert!(lists.revokes(&one.sign(7, 60), &[]));
    assert!(lists.revokes(&one.sign(300, 60), &[]));
    assert!(!lists.revokes(&one.sign(8, 60), &[]));
    assert!(
        !lists.revokes(&other.sign(7, 60), &[]),
        "another authority's number"
    );
    assert!(!RevocationLists::default().revokes(&one.sign(7, 60), &[]));
}

#[test]
fn a_namesakes_list_is_refused() {
    let (one, namesake) = (Authority::new("one", None), Authority::new("one", None));
    let refused =
        read(&namesake.revoke(&[7], 1), &[&one.certificate]).expect_err("somebody else's signature");
    assert!(refused.contains("has not signed it"), "{refused}");
    // While authorities change there are two of a name.
    let both = [&one.certificate, &namesake.certificate];
    read(&namesake.revoke(&[7], 1), &both).expect("one of them has signed it");
}

#[test]
fn a_list_of_an_authority_in_between_binds_too() {
    let root = Authority::new("root", None);
    let between = Authority::new("between", Some(&root));
    let impostor = Authority::new("between", None);
    let (lists, _) = read(&between.revoke(&[7], 1), &[&root.certificate]).expect("a list");
    let chain = [between.certificate.clone()];
    assert!(lists.revokes(&between.sign(7, 60), &chain));
    assert!(!lists.revokes(&between.sign(8, 60), &chain));
    let (forged, _) = read(&impostor.revoke(&[7], 1), &[&root.certificate]).expect("nobody knows yet");
    assert!(
        !forged.revokes(&between.sign(7, 60), &chain),
        "it hasn't signed that list"
    );
    // The authority itself can be revoked.
    let (of_root, _) = read(&root.revoke(&[BETWEEN], 1), &[&root.certificate]).expect("a list");
    assert!(of_root.revokes(&between.sign(8, 60), &chain));
}

#[test]
fn a_list_past_its_date_is_in_force_and_told() {
    let one = Authority::new("one", None);
    let (lists, notes) = read(&one.revoke(&[7], -1), &[&one.certificate]).expect("a list");
    assert!(lists.revokes(&one.sign(7, 60), &[]));
    assert!(notes[0].contains("stays in force"), "{notes:?}");
}

/// Lists that openssl has made, one of them without a date for the next: rustls takes neither.
#[test]
fn lists_of_version_1_and_without_next_update() {
    let pem = |text: &str| CertificateDer::from_pem_slice(text.as_bytes()).expect("PEM");
    let ca = pem(include_str!("tests/v1-ca.crt"));
    let client = pem(include_str!("tests/v1-client.crt"));
    for list in [
        include_str!("tests/v1.crl"),
        include_str!("tests/no-next-update.crl"),
    ] {
        let (lists, _) = read(list.as_bytes(), &[&ca]).expect("a list");
        assert!(lists.revokes(&client, &[]));
    }
    let both = [
        include_str!("tests/v1.crl"),
        include_str!("tests/no-next-update.crl"),
    ]
    .concat();
    read(both.as_bytes(), &[&ca]).expect("several in one file");
    for broken in [
        "",
        "x",
        "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
        "\u{30}\u{3}abc",
    ] {
        read(broken.as_bytes(), &[&ca]).expect_err(broken);
    }
}

/// Sessions that are resumed show no certificate: the one from before is looked at again.
#[test]
fn what_a_session_began_with_is_verified_again() {
    let one = Authority::new("one", None);
    let verifier = |list: &[u64]| {
        let (lists, _) = read(&one.revoke(list, 1), &[&one.certificate]).expect("a list");
        let roots = Roots::of(vec![one.certificate.clone()]).expect("a root");
        ClientVerifier::new(roots, lists, Arc::new(provider())).expect("a verifier")
    };
    let (now, later) = (UnixTime::now(), |seconds| {
        UnixTime::since_unix_epoch(core::time::Duration::from_secs(
            UnixTime::now().as_secs() + seconds,
        ))
    });
    let chain = [one.sign(7, 60)];
    verifier(&[]).is_good(&chain, now).expect("it is valid");
    let expired = verifier(&[])
        .is_good(&chain, later(61))
        .expect_err("it has ended");
    assert!(
        super::explain::of_tls(&expired).contains("it has expired"),
        "{expired}"
    );
    let revoked = verifier(&[7]).is_good(&chain, now).expect_err("it is revoked");
    assert!(
        super::explain::of_tls(&revoked).contains("it is revoked"),
        "{revoked}"
    );
    verifier(&[]).is_good(&[], now).expect_err("there is none");
    let stranger = Authority::new("stranger", None);
    verifier(&[])
        .is_good(&[stranger.sign(7, 60)], now)
        .expect_err("a stranger's");
}

/// As Go does: a certificate that is in the bundle itself is trusted, while it is valid.
#[test]
fn a_certificate_of_the_bundle_vouches_for_itself() {
    let one = Authority::new("one", None);
    let other = Authority::new("other", None);
    let roots = Roots::of(vec![one.certificate.clone()]).expect("a root");
    let verifier =
        ClientVerifier::new(roots, RevocationLists::default(), Arc::new(provider())).expect("a verifier");
    let now = UnixTime::now();
    verifier
        .is_good(std::slice::from_ref(&one.certificate), now)
        .expect("it is in the bundle");
    verifier
        .is_good(std::slice::from_ref(&other.certificate), now)
        .expect_err("it isn't");
    let long_ago = UnixTime::since_unix_epoch(core::time::Duration::from_secs(1));
    verifier
        .is_good(std::slice::from_ref(&one.certificate), long_ago)
        .expect_err("it wasn't valid then");
}

#[test]
fn mistakes_have_their_line() {
    let good = include_str!("tests/v1-ca.crt");
    let of = |text: &str| file("--cacert", text).certificates().map(|found| found.len());
    assert_eq!(of(good), Ok(1));
    assert_eq!(of(&format!("a comment\n{good}{good}")), Ok(2));
    for (text, why) in [
        (String::new(), "--cacert: file: there is no certificate in it"),
        (format!("{good}{}", &good[..100]), "this section has no end"),
        (
            format!("{good}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            &format!(
                "--cacert: file:{}: no valid certificate",
                good.lines().count() + 1
            ),
        ),
        (
            "-----BEGIN CERTIFICATE-----\nAA$A\n-----END CERTIFICATE-----\n".to_owned(),
            "--cacert: file:2: this is not base64",
        ),
    ] {
        let said = of(&text).expect_err(why);
        assert!(said.contains(why), "{said}, not {why}");
    }
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let said = file("--key", encrypted).key().expect_err("it is encrypted");
    assert!(said.contains("decrypt it first"), "{said}");
}
