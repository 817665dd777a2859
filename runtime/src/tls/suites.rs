//! Cipher suites by the names that Go has for them, and versions.

use rustls::crypto::aws_lc_rs::cipher_suite as ours;
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

use crate::settings::{TlsVersion, quote};

/// Names that etcd takes and what they are here, if there is such a thing.
const SUITES: &[(&str, Option<SupportedCipherSuite>)] = &[
    ("TLS_AES_128_GCM_SHA256", Some(ours::TLS13_AES_128_GCM_SHA256)),
    ("TLS_AES_256_GCM_SHA384", Some(ours::TLS13_AES_256_GCM_SHA384)),
    (
        "TLS_CHACHA20_POLY1305_SHA256",
        Some(ours::TLS13_CHACHA20_POLY1305_SHA256),
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        Some(ours::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        Some(ours::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        Some(ours::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
        Some(ours::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ),
    (
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        Some(ours::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ),
    (
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        Some(ours::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        Some(ours::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    ),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
        Some(ours::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    ),
    // Go's other ones: without forward secrecy, with CBC, RC4 or 3DES. No provider of rustls has any.
    ("TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA", None),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256", None),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA", None),
    ("TLS_ECDHE_ECDSA_WITH_RC4_128_SHA", None),
    ("TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA", None),
    ("TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", None),
    ("TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256", None),
    ("TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA", None),
    ("TLS_ECDHE_RSA_WITH_RC4_128_SHA", None),
    ("TLS_RSA_WITH_3DES_EDE_CBC_SHA", None),
    ("TLS_RSA_WITH_AES_128_CBC_SHA", None),
    ("TLS_RSA_WITH_AES_128_CBC_SHA256", None),
    ("TLS_RSA_WITH_AES_128_GCM_SHA256", None),
    ("TLS_RSA_WITH_AES_256_CBC_SHA", None),
    ("TLS_RSA_WITH_AES_256_GCM_SHA384", None),
    ("TLS_RSA_WITH_RC4_128_SHA", None),
];

/// What `--listen-cipher-suites` comes to.
#[derive(Debug)]
pub(super) struct Chosen {
    /// Those to offer, best first.
    pub(super) suites: Vec<SupportedCipherSuite>,
    /// Those that were named and that there aren't here.
    pub(super) left_out: Vec<String>,
}

/// Chooses suites by their names; all there are if none is named. As in Go, the list is for TLS 1.2 alone: those of 1.3 are
/// always offered.
///
/// # Errors
/// etcd's message for a name that it doesn't know; or that none of those that were named is here.
pub(super) fn choose(names: &[String]) -> Result<Chosen, String> {
    let all = rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES;
    if names.is_empty() {
        return Ok(Chosen {
            suites: all.to_vec(),
            left_out: Vec::new(),
        });
    }
    let mut named = Vec::new();
    let mut left_out = Vec::new();
    for name in names {
        match SUITES.iter().find(|(known, _)| known == name) {
            Some((_, Some(suite))) => named.push(*suite),
            Some((_, None)) => left_out.push(name.clone()),
            None => return Err(format!("unexpected TLS cipher suite {}", quote(name))),
        }
    }
    if named.is_empty() {
        return Err(format!(
            "--listen-cipher-suites: none of {} is supported; etcd-proxy has those with ECDHE and AES-GCM or ChaCha20",
            left_out.join(", ")
        ));
    }
    let is_offered = |suite: &&SupportedCipherSuite| suite.tls13().is_some() || named.contains(suite);
    Ok(Chosen {
        suites: all.iter().filter(is_offered).copied().collect(),
        left_out,
    })
}

/// The versions between two of them.
pub(super) fn versions(min: TlsVersion, max: TlsVersion) -> Vec<&'static SupportedProtocolVersion> {
    let all = [
        (TlsVersion::Tls13, &rustls::version::TLS13),
        (TlsVersion::Tls12, &rustls::version::TLS12),
    ];
    let within = all
        .into_iter()
        .filter(|(version, _)| (min..=max).contains(version));
    within.map(|(_, version)| version).collect()
}

#[cfg(test)]
mod tests {
    use rustls::CipherSuite;

    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn tls_13_is_always_offered() {
        let chosen = choose(&names(&["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"])).expect("known");
        let offered: Vec<_> = chosen.suites.iter().map(|suite| suite.suite()).collect();
        assert_eq!(offered.len(), 4, "{offered:?}");
        assert!(offered.contains(&CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256));
        assert!(chosen.left_out.is_empty());
    }

    #[test]
    fn what_go_alone_has_is_left_out() {
        let chosen = choose(&names(&[
            "TLS_RSA_WITH_AES_128_CBC_SHA",
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
        ]));
        let chosen = chosen.expect("one is left");
        assert_eq!(chosen.left_out, ["TLS_RSA_WITH_AES_128_CBC_SHA"]);
        let none = choose(&names(&["TLS_RSA_WITH_RC4_128_SHA"])).expect_err("none is left");
        assert!(none.contains("none of TLS_RSA_WITH_RC4_128_SHA"), "{none}");
    }

    #[test]
    fn an_unknown_name_is_refused_in_etcds_words() {
        let refused = choose(&names(&["AES"])).expect_err("unknown");
        assert_eq!(refused, "unexpected TLS cipher suite \"AES\"");
    }

    #[test]
    fn versions_are_those_between() {
        let only = |min, max| versions(min, max).iter().map(|v| v.version).collect::<Vec<_>>();
        use rustls::ProtocolVersion::{TLSv1_2, TLSv1_3};
        assert_eq!(only(TlsVersion::Tls12, TlsVersion::Tls13), [TLSv1_3, TLSv1_2]);
        assert_eq!(only(TlsVersion::Tls12, TlsVersion::Tls12), [TLSv1_2]);
        assert_eq!(only(TlsVersion::Tls13, TlsVersion::Tls13), [TLSv1_3]);
    }
}
