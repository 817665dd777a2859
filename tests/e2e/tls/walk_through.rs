//! What the proxy is asked for first: clients without TLS in front, a cluster with client certificates behind; and TLS on both
//! sides.

use std::sync::Arc;

use etcd_proxy_tests::{
    client::Client,
    etcdctl::Etcdctl,
    pki::{Pair, Subject},
    suite::{eventually, within},
};
use libtest_mimic::Trial;

use crate::{SOON, Shared, gets_in, of, to_clients, world};

pub(crate) fn trials(shared: &Shared) -> Vec<Trial> {
    vec![
        of(shared, "plain_clients", plain_clients),
        of(shared, "both_sides", both_sides),
        of(shared, "versions", versions),
        of(shared, "application_protocols", application_protocols),
    ]
}

fn etcdctl_flags(ca: &std::path::Path, pair: &Pair) -> Vec<String> {
    vec![
        format!("--cacert={}", ca.display()),
        format!("--cert={}", pair.cert.display()),
        format!("--key={}", pair.key.display()),
    ]
}

async fn plain_clients(shared: Shared) {
    let world = world(&shared).await;
    let member = &world.cluster.tls_endpoints()[0];
    let plain = Etcdctl::new(&member.replace("https://", "http://"));
    let refused = plain
        .flags(&["--command-timeout=2s".to_owned()])
        .run(&["endpoint", "status"])
        .await;
    assert_ne!(
        refused.code,
        Some(0),
        "the member takes clients without TLS: {refused:?}"
    );
    let flags = etcdctl_flags(&world.authority.file(), &world.client);
    let direct = Etcdctl::new(member)
        .flags(&flags)
        .run(&["endpoint", "status"])
        .await;
    assert_eq!(direct.code, Some(0), "{direct:?}");

    let mut proxy = world.proxy(&["--insecure-skip-tls-verify".to_owned()]).await;
    let etcdctl = Etcdctl::new(&format!("http://{}", proxy.address()));
    let put = etcdctl.run(&["put", "abc", "def"]).await;
    assert_eq!((put.code, put.stdout.trim()), (Some(0), "OK"), "{put:?}");
    let log = proxy.log();
    assert!(log.contains("gRPC proxy client TLS"), "{log}");
    assert!(log.contains("members' certificates are not verified"), "{log}");
    proxy.assert_sound();
}

async fn both_sides(shared: Shared) {
    let world = world(&shared).await;
    let ca = world.authority.file();
    let mut proxy = world.proxy(&to_clients(&world.server, Some(&ca))).await;
    let etcdctl = Etcdctl::new(&format!("https://{}", proxy.address()));
    let put = etcdctl
        .flags(&etcdctl_flags(&ca, &world.client))
        .run(&["put", "both", "sides"])
        .await;
    assert_eq!((put.code, put.stdout.trim()), (Some(0), "OK"), "{put:?}");
    let tls = world.authority.client(Some(&world.client));
    let client = Client::connect_tls(proxy.address(), tls)
        .await
        .expect("handshake");
    let read = within("a read", SOON, client.get(b"both"))
        .await
        .expect("an answer");
    assert_eq!(&read.kvs[0].value[..], b"sides");
    // Whoever comes without TLS is no client.
    assert!(
        within("a call without TLS", SOON, async {
            let client = Client::connect(proxy.address()).await.ok()?;
            client.get(b"both").await.ok()
        })
        .await
        .is_none()
    );
    assert!(proxy.log().contains("gRPC proxy server TLS"), "{}", proxy.log());
    eventually("the log tells", SOON, async || {
        proxy.log().contains("doesn't speak TLS").then_some(())
    })
    .await;
    proxy.assert_sound();
}

async fn versions(shared: Shared) {
    use rustls::version::{TLS12, TLS13};
    let world = world(&shared).await;
    for (flags, tls12, tls13) in [
        (&[][..], true, true),
        (&["--tls-min-version=TLS1.3"], false, true),
        (&["--tls-max-version=TLS1.2"], true, false),
        // Suites of TLS 1.2 for certificates that are not the proxy's leave 1.3 alone.
        (
            &["--listen-cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"],
            false,
            true,
        ),
        (
            &["--listen-cipher-suites=TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"],
            true,
            true,
        ),
    ] {
        let mut all = to_clients(&world.server, None);
        all.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let mut proxy = world.proxy(&all).await;
        for (version, expected) in [(&TLS12, tls12), (&TLS13, tls13)] {
            let tls = world.authority.client_of(None, &[version]);
            let got_in = gets_in(proxy.address(), tls).await;
            assert_eq!(got_in, expected, "{flags:?}: {:?}", version.version);
        }
        proxy.assert_sound();
    }
}

/// As with etcd: who names no protocol is served by what it speaks.
async fn application_protocols(shared: Shared) {
    let world = world(&shared).await;
    let mut proxy = world.proxy(&to_clients(&world.server, None)).await;
    for (protocols, expected) in [
        (&[][..], true),
        (&[&b"h2"[..]], true),
        (&[&b"http/1.1"[..], b"h2"], true),
        (&[&b"imap"[..]], false),
    ] {
        let mut tls = (*world.authority.client(None)).clone();
        tls.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let got_in = gets_in(proxy.address(), Arc::new(tls)).await;
        assert_eq!(got_in, expected, "{protocols:?}");
    }
    // A certificate without client authentication is nobody's business here.
    let stranger = world.authority.sign("application", &Subject::server());
    assert!(gets_in(proxy.address(), world.authority.client(Some(&stranger))).await);
    proxy.assert_sound();
}
