//! Certificates that nobody else has signed: the proxy's own, and a member's.

use etcd_proxy_tests::{
    etcd::{Cluster, MemberTls, Options},
    etcdctl::Etcdctl,
    pki::Authority,
    suite::{TempDir, trial},
};
use libtest_mimic::Trial;

use crate::{Shared, of, start, world};

pub(crate) fn trials(shared: &Shared) -> Vec<Trial> {
    vec![
        of(shared, "own_certificate", own_certificate),
        trial("member_with_auto_tls", member_with_auto_tls),
    ]
}

/// It is made once, verifies by itself, and its key is nobody else's to read.
async fn own_certificate(shared: Shared) {
    use std::os::unix::fs::PermissionsExt as _;
    let world = world(&shared).await;
    let dir = TempDir::new("auto-tls");
    let flags = [
        "--auto-tls".to_owned(),
        format!("--data-dir={}", dir.path().display()),
    ];
    let place = dir.path().join("fixtures/proxy");
    let mut made = None;
    for _ in 0..2 {
        let mut proxy = world.proxy(&flags).await;
        let certificate = std::fs::read(place.join("cert.pem")).expect("a certificate");
        assert_eq!(
            *made.get_or_insert_with(|| certificate.clone()),
            certificate,
            "made again"
        );
        let mode = std::fs::metadata(place.join("key.pem"))
            .expect("a key")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        for flags in [
            // etcdctl listens to the first only beside the second.
            vec![
                "--insecure-skip-tls-verify".to_owned(),
                "--insecure-transport=false".to_owned(),
            ],
            vec![format!("--cacert={}", place.join("cert.pem").display())],
        ] {
            let etcdctl = Etcdctl::new(&format!("https://{}", proxy.address())).flags(&flags);
            let read = etcdctl.run(&["get", "k"]).await;
            assert_eq!(read.code, Some(0), "{flags:?}: {read:?}");
        }
        proxy.assert_sound();
    }
}

/// Its certificate is ECDSA with P-521, and it signs itself: trusted as such, as by etcd's own clients, or not looked at.
async fn member_with_auto_tls() {
    let tls = MemberTls {
        pair: None,
        client_ca: None,
    };
    let options = Options {
        tls: Some(tls),
        ..Options::default()
    };
    let cluster = Cluster::start(options).await;
    let certificate = cluster.data_dir(0).join("fixtures/client/cert.pem");
    assert!(certificate.exists(), "{}", certificate.display());
    for flag in [
        "--insecure-skip-tls-verify".to_owned(),
        format!("--cacert={}", certificate.display()),
    ] {
        let mut proxy = start(&cluster.tls_endpoints(), std::slice::from_ref(&flag)).await;
        let put = Etcdctl::new(proxy.address()).run(&["put", "k", "v"]).await;
        assert_eq!(put.code, Some(0), "{flag}: {put:?}\n{}", proxy.log());
        proxy.assert_sound();
    }
    // Not by somebody else.
    let other = Authority::new("other");
    let flags = [
        format!("--cacert={}", other.file().display()),
        "--dial-timeout=1s".to_owned(),
    ];
    let proxy = start(&cluster.tls_endpoints(), &flags).await;
    let put = Etcdctl::new(proxy.address()).run(&["put", "k", "v"]).await;
    assert_ne!(put.code, Some(0), "{put:?}");
}
