//! What the flags for TLS come to, with etcd's checks.

use super::check::Typed;
use super::options::ClusterTls;
use crate::settings::{
    ClientTls, Endpoint, KeyPair, ListenAddress, Security, ServerCertificate, ServerTls, TlsVersion, plain,
};

/// TLS towards clients.
///
/// # Errors
/// etcd's message for half of a certificate, or none.
pub(super) fn to_clients(values: Typed<'_>, listen: &ListenAddress) -> Result<Option<ServerTls>, String> {
    let certificate = match pair(values, "cert-file", "key-file")? {
        Some(pair) => ServerCertificate::Files(pair),
        // Without this the proxy would be open to everybody.
        None if !values.text("trusted-ca-file").is_empty() => {
            return Err(format!(
                "cannot listen on TLS for {listen}: KeyFile and CertFile are not presented"
            ));
        }
        None if values.bool("auto-tls") => ServerCertificate::SelfSigned {
            data_dir: values.text("data-dir").into(),
            years: values.uint("self-signed-cert-validity"),
        },
        None => return Ok(None),
    };
    let path = |name| Some(values.text(name)).filter(|path| !path.is_empty());
    let version = |name, unsaid| match values.text(name) {
        "TLS1.2" => TlsVersion::Tls12,
        "TLS1.3" => TlsVersion::Tls13,
        _ => unsaid,
    };
    Ok(Some(ServerTls {
        certificate,
        client_ca: path("trusted-ca-file").map(Into::into),
        client_crl: path("client-crl-file").map(Into::into),
        cipher_suites: values.list("listen-cipher-suites").to_vec(),
        version_min: version("tls-min-version", TlsVersion::Tls12),
        version_max: version("tls-max-version", TlsVersion::Tls13),
    }))
}

/// TLS towards the cluster; `first` is what the first endpoint says of it.
///
/// # Errors
/// etcd's message for half of a certificate.
pub(super) fn to_cluster(values: Typed<'_>, first: Security) -> Result<ClusterTls, String> {
    let tls = ClientTls {
        certificate: pair(values, "cert", "key")?,
        ca: Some(values.text("cacert"))
            .filter(|path| !path.is_empty())
            .map(Into::into),
        skip_verify: values.bool("insecure-skip-tls-verify"),
        allow_common_name: values.bool("allow-client-cert-common-name"),
    };
    let is_asked_for = tls.certificate.is_some() || tls.ca.is_some() || tls.skip_verify;
    Ok(match first {
        Security::Tls => ClusterTls::On(tls),
        Security::Unsaid if is_asked_for => ClusterTls::On(tls),
        Security::Plain if is_asked_for => ClusterTls::Idle(tls),
        Security::Plain | Security::Unsaid => ClusterTls::Off,
    })
}

/// A certificate with its key, if both were named.
fn pair(values: Typed<'_>, cert: &str, key: &str) -> Result<Option<KeyPair>, String> {
    let (cert, key) = (values.text(cert), values.text(key));
    match (cert.is_empty(), key.is_empty()) {
        (true, true) => Ok(None),
        (false, false) => Ok(Some(KeyPair {
            cert: cert.into(),
            key: key.into(),
        })),
        _ => Err(format!(
            "KeyFile and CertFile must both be present[key: {}, cert: {}]",
            plain(key),
            plain(cert)
        )),
    }
}

/// Why a flag for TLS changes nothing, as in etcd.
pub(super) fn idle(values: Typed<'_>, name: &str) -> Option<&'static str> {
    let is_named = |flag: &&str| !values.text(flag).is_empty();
    let has_files = ["cert-file", "key-file", "trusted-ca-file"].iter().any(is_named);
    let is_plain = || {
        let first = values
            .list("endpoints")
            .first()
            .map(|first| Endpoint::parse(first));
        matches!(first, Some(Ok((_, Security::Plain))))
    };
    match name {
        "data-dir" | "self-signed-cert-validity" if !values.bool("auto-tls") => {
            Some("there is no --auto-tls")
        }
        "auto-tls" | "data-dir" | "self-signed-cert-validity" if has_files => {
            Some("there is a certificate of --cert-file")
        }
        "client-crl-file" | "listen-cipher-suites" | "tls-min-version" | "tls-max-version"
            if !has_files && !values.bool("auto-tls") =>
        {
            Some("clients connect without TLS")
        }
        "client-crl-file" if !is_named(&"trusted-ca-file") => {
            Some("clients are asked for no certificate without --trusted-ca-file")
        }
        "cacert" if values.bool("insecure-skip-tls-verify") && !is_plain() => {
            Some("--insecure-skip-tls-verify was given")
        }
        "allow-client-cert-common-name" if !is_named(&"cert") => Some("there is no --cert"),
        "cert" | "key" | "cacert" | "insecure-skip-tls-verify" | "allow-client-cert-common-name"
            if is_plain() =>
        {
            Some("the first endpoint is without TLS")
        }
        _ => None,
    }
}

/// What is to be said of endpoints that say something else of TLS than what is done.
pub(super) fn mixed(values: Typed<'_>) -> Option<String> {
    let parsed = values.list("endpoints").iter();
    let said: Vec<Security> = parsed
        .filter_map(|text| Endpoint::parse(text).ok())
        .map(|(_, security)| security)
        .collect();
    let is_on = matches!(to_cluster(values, *said.first()?), Ok(ClusterTls::On(_)));
    let (with, other) = if is_on {
        ("with TLS", Security::Plain)
    } else {
        ("without TLS", Security::Tls)
    };
    said.contains(&other).then(|| {
        format!("--endpoints have different schemes: as in etcd the first one decides, so all are connected to {with}")
    })
}
