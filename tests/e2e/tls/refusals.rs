//! Who isn't trusted, on either side, and that the log says why.

use std::sync::Arc;

use etcd_proxy_tests::{
    pki::{Authority, Pair, Subject},
    proxy::{Proxy, run_binary},
    suite::{eventually, trial},
};
use libtest_mimic::Trial;
use rcgen::ExtendedKeyUsagePurpose;
use rustls::{RootCertStore, ServerConfig, pki_types::pem::PemObject as _, server::WebPkiClientVerifier};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::{SOON, Shared, gets_in, of, start, to_clients, world};

pub(crate) fn trials(shared: &Shared) -> Vec<Trial> {
    vec![
        of(shared, "clients_that_are_refused", clients_that_are_refused),
        of(shared, "common_names", common_names),
        trial("members_that_are_not_trusted", members_that_are_not_trusted),
        trial("members_that_refuse_the_proxy", members_that_refuse_the_proxy),
        trial("files_with_mistakes", files_with_mistakes),
    ]
}

/// A line of the log has both.
async fn says(proxy: &Proxy, what: &str, more: &str) {
    let wanted = format!("the log says {what:?} and {more:?}");
    eventually(&wanted, SOON, async || {
        let log = proxy.log();
        log.lines()
            .any(|line| line.contains(what) && line.contains(more))
            .then_some(())
    })
    .await;
}

async fn clients_that_are_refused(shared: Shared) {
    let world = world(&shared).await;
    let ours = &world.authority;
    let named = |name: &str, subject: Subject| {
        ours.sign(
            name,
            &Subject {
                common_name: name.to_owned(),
                ..subject
            },
        )
    };
    let stranger = Authority::new("stranger");
    let cases: Vec<(Option<Pair>, &str, &str)> = vec![
        (None, "has shown no certificate", "peer"),
        (
            Some(stranger.sign(
                "unknown",
                &Subject {
                    common_name: "unknown".to_owned(),
                    ..Subject::client()
                },
            )),
            "an authority that isn't trusted",
            "CN=unknown",
        ),
        (
            Some(named(
                "expired",
                Subject {
                    hours: (-48, -24),
                    ..Subject::client()
                },
            )),
            "it has expired",
            "CN=expired",
        ),
        (
            Some(named(
                "early",
                Subject {
                    hours: (24, 48),
                    ..Subject::client()
                },
            )),
            "isn't valid before",
            "CN=early",
        ),
        (
            Some(named(
                "usage",
                Subject {
                    usages: vec![ExtendedKeyUsagePurpose::ServerAuth],
                    ..Subject::client()
                },
            )),
            "extended key usage",
            "CN=usage",
        ),
        (
            Some(named(
                "revoked",
                Subject {
                    serial: 4711,
                    ..Subject::client()
                },
            )),
            "it is revoked",
            "CN=revoked",
        ),
    ];
    let mut flags = to_clients(&world.server, Some(&ours.file()));
    let list = ours.revoke("refusals.crl", &[4711], 24);
    flags.push(format!("--client-crl-file={}", list.display()));
    for (pair, why, subject) in cases {
        // The log has a line about such clients now and then only.
        let mut proxy = world.proxy(&flags).await;
        assert!(
            !gets_in(proxy.address(), ours.client(pair.as_ref())).await,
            "{why}"
        );
        says(&proxy, why, subject).await;
        assert!(
            gets_in(proxy.address(), ours.client(Some(&world.client))).await,
            "beside {why}"
        );
        proxy.assert_sound();
    }
}

/// A server that takes handshakes and nothing more.
async fn member(config: ServerConfig) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(socket).await {
                    // Whoever waits for an answer gets none.
                    tokio::time::sleep(SOON).await;
                    drop(stream);
                }
            });
        }
    });
    format!("https://{address}")
}

fn server(pair: &Pair, clients: Option<&Authority>) -> ServerConfig {
    let builder =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            let root = rustls::pki_types::CertificateDer::from_pem_slice(authority.pem().as_bytes());
            roots.add(root.expect("PEM")).expect("a root");
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
        }
    };
    let chain = rustls::pki_types::CertificateDer::pem_file_iter(&pair.cert).expect("PEM");
    let chain = chain.collect::<Result<Vec<_>, _>>().expect("certificates");
    let key = rustls::pki_types::PrivateKeyDer::from_pem_file(&pair.key).expect("a key");
    let mut config = builder.with_single_cert(chain, key).expect("a pair");
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

async fn members_that_are_not_trusted() {
    let (ours, stranger) = (Authority::new("ours"), Authority::new("stranger"));
    let cases = [
        (
            ours.sign(
                "host",
                &Subject {
                    names: vec!["other.example".to_owned()],
                    ..Subject::server()
                },
            ),
            "it isn't for 127.0.0.1, but for",
        ),
        (
            ours.sign(
                "expired",
                &Subject {
                    hours: (-48, -24),
                    ..Subject::server()
                },
            ),
            "it has expired",
        ),
        (
            ours.sign(
                "early",
                &Subject {
                    hours: (24, 48),
                    ..Subject::server()
                },
            ),
            "isn't valid before",
        ),
        (
            ours.sign(
                "usage",
                &Subject {
                    usages: vec![ExtendedKeyUsagePurpose::ClientAuth],
                    ..Subject::server()
                },
            ),
            "extended key usage",
        ),
        (
            stranger.sign("unknown", &Subject::server()),
            "an authority that isn't trusted",
        ),
    ];
    for (pair, why) in cases {
        let endpoint = member(server(&pair, None)).await;
        let flags = [format!("--cacert={}", ours.file().display())];
        let mut proxy = start(&[endpoint], &flags).await;
        says(&proxy, "the peer's certificate is refused", why).await;
        proxy.assert_sound();
    }
}

async fn members_that_refuse_the_proxy() {
    let (ours, stranger) = (Authority::new("ours"), Authority::new("stranger"));
    let pair = ours.sign("member", &Subject::server());
    let shown = stranger.sign("shown", &Subject::client());
    for (pair_shown, why) in [
        (None, "it requires a certificate of this side"),
        (
            Some(&shown),
            "it doesn't know the authority that signed the certificate of this side",
        ),
    ] {
        let endpoint = member(server(&pair, Some(&ours))).await;
        let mut flags = vec![format!("--cacert={}", ours.file().display())];
        if let Some(pair) = pair_shown {
            flags.push(format!("--cert={}", pair.cert.display()));
            flags.push(format!("--key={}", pair.key.display()));
        }
        let mut proxy = start(&[endpoint], &flags).await;
        says(&proxy, "endpoint failed", why).await;
        proxy.assert_sound();
    }
}

async fn common_names(shared: Shared) {
    let world = world(&shared).await;
    let bob = Subject {
        common_name: "bob".to_owned(),
        ..Subject::client()
    };
    let bob = world.authority.sign("bob", &bob);
    let endpoints = world.cluster.tls_endpoints().join(",");
    let flags = [
        format!("--cacert={}", world.authority.file().display()),
        format!("--cert={}", bob.cert.display()),
        format!("--key={}", bob.key.display()),
    ];
    let mut args = vec!["start", "--endpoints", &endpoints, "--listen-addr=127.0.0.1:0"];
    args.extend(flags.iter().map(String::as_str));
    let refused = run_binary(&args, SOON).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let words = format!("cert has non empty Common Name (bob): {}", bob.cert.display());
    assert!(refused.stderr.contains(&words), "{}", refused.stderr);

    let mut allowed = flags.to_vec();
    allowed.push("--allow-client-cert-common-name".to_owned());
    let mut proxy = start(&world.cluster.tls_endpoints(), &allowed).await;
    says(&proxy, "acts as that user", "common name bob").await;
    proxy.assert_sound();
}

async fn files_with_mistakes() {
    let authority = Authority::new("authority");
    let (one, other) = (
        authority.sign("one", &Subject::server()),
        authority.sign("other", &Subject::server()),
    );
    let cut = std::fs::read_to_string(&one.cert).expect("a certificate");
    let cut = authority.write("cut.crt", &cut[..cut.len() - 40]);
    let empty = authority.write("empty.crt", "nothing\n");
    let path = |path: &std::path::Path| path.display().to_string();
    let cases = [
        (
            vec![
                format!("--cert-file={}", path(&one.cert)),
                "--key-file=/nowhere".to_owned(),
            ],
            "--key-file: open /nowhere: no such file or directory".to_owned(),
        ),
        (
            vec![
                format!("--cert-file={}", path(&one.cert)),
                format!("--key-file={}", path(&other.key)),
            ],
            "is not the one of the certificate".to_owned(),
        ),
        (
            vec![
                format!("--cert-file={}", path(&cut)),
                format!("--key-file={}", path(&one.key)),
            ],
            format!("--cert-file: {}:1: this section has no end", path(&cut)),
        ),
        (
            vec![
                format!("--cert-file={}", path(&empty)),
                format!("--key-file={}", path(&one.key)),
            ],
            "there is no certificate in it".to_owned(),
        ),
        (
            vec![
                format!("--cert-file={}", path(&one.key)),
                format!("--key-file={}", path(&one.cert)),
            ],
            "there is no certificate in it".to_owned(),
        ),
        (
            vec![
                "--endpoints=http://127.0.0.1:1".to_owned(),
                "--cacert=/nowhere".to_owned(),
            ],
            "--cacert: open /nowhere: no such file or directory".to_owned(),
        ),
        (
            vec![
                format!("--cert-file={}", path(&one.cert)),
                format!("--key-file={}", path(&one.key)),
                "--listen-cipher-suites=AES".to_owned(),
            ],
            "unexpected TLS cipher suite \"AES\"".to_owned(),
        ),
        (
            vec!["--cert-file=a".to_owned()],
            "KeyFile and CertFile must both be present[key: , cert: a]".to_owned(),
        ),
    ];
    for (flags, why) in cases {
        let mut args = vec!["start", "--listen-addr=127.0.0.1:0"];
        args.extend(flags.iter().map(String::as_str));
        let ended = run_binary(&args, SOON).await;
        assert_eq!(ended.code, Some(1), "{flags:?}: {ended:?}");
        assert!(ended.stderr.contains(&why), "{flags:?}: {}", ended.stderr);
    }
}
