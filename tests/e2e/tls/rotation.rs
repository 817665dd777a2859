//! Files change while clients are served: certificates, keys, authorities and revocation lists.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use etcd_proxy_tests::{
    client::Client,
    pki::{Authority, Subject},
    proxy::Proxy,
    suite::{TempDir, eventually, within},
};
use libtest_mimic::Trial;
use rustls::ClientConfig;
use tokio::task::JoinHandle;

use crate::{CHANGED, SOON, Shared, gets_in, of, to_clients, world};

pub(crate) fn trials(shared: &Shared) -> Vec<Trial> {
    vec![
        of(
            shared,
            "certificates_change_under_load",
            certificates_change_under_load,
        ),
        of(shared, "authorities_change", authorities_change),
        of(shared, "revoked_while_connected", revoked_while_connected),
        of(shared, "broken_files", broken_files),
        of(shared, "certificate_towards_members", certificate_towards_members),
    ]
}

/// Clients that come and go, and one that stays. None of their calls fails.
struct Load {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(address: &str, tls: &Arc<ClientConfig>) -> Self {
        let (stop, calls) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let tasks = [false, true].map(|stays| {
            let (address, tls) = (address.to_owned(), Arc::clone(tls));
            let (stop, calls) = (Arc::clone(&stop), Arc::clone(&calls));
            tokio::spawn(async move {
                let connect = async || {
                    Client::connect_tls(&address, Arc::clone(&tls))
                        .await
                        .expect("a connection")
                };
                let mut client = connect().await;
                while !stop.load(Ordering::Relaxed) {
                    within("a write", SOON, client.put(b"load", b"v"))
                        .await
                        .expect("an answer");
                    calls.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                    if !stays {
                        client = connect().await;
                    }
                }
            })
        });
        Self {
            stop,
            calls,
            tasks: tasks.into(),
        }
    }

    async fn goes_on(&self) {
        let before = self.calls.load(Ordering::Relaxed);
        eventually("20 more calls", SOON, async || {
            (self.calls.load(Ordering::Relaxed) >= before + 20).then_some(())
        })
        .await;
    }

    async fn end(self) {
        self.goes_on().await;
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("no call has failed");
        }
    }
}

/// Waits until the files of a side are in use, so many times.
async fn in_use(proxy: &Proxy, times: usize) {
    eventually("the new files are in use", CHANGED, async || {
        let log = proxy.log();
        (log.matches("the new ones are in use").count() >= times).then_some(())
    })
    .await;
}

/// The serial number of the certificate that a server shows.
async fn shown(address: &str, authority: &Authority) -> Vec<u8> {
    let config = authority.client(None);
    let socket = tokio::net::TcpStream::connect(address)
        .await
        .expect("a connection");
    let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
    let stream = tokio_rustls::TlsConnector::from(config)
        .connect(name, socket)
        .await
        .expect("a handshake");
    stream.get_ref().1.peer_certificates().expect("a certificate")[0].to_vec()
}

/// A pair whose folder is swapped behind a symbolic link, as Kubernetes swaps secrets; then file by file, key first.
async fn certificates_change_under_load(shared: Shared) {
    let world = world(&shared).await;
    let dir = TempDir::new("secret");
    let link = dir.path().join("data");
    let swap = |number: u64| {
        let signed = world.authority.sign(
            &format!("rotated-{number}"),
            &Subject {
                serial: number,
                ..Subject::server()
            },
        );
        let folder = dir.path().join(format!("v{number}"));
        fs::create_dir(&folder).expect("a folder");
        fs::copy(&signed.cert, folder.join("tls.crt")).expect("a certificate");
        fs::copy(&signed.key, folder.join("tls.key")).expect("a key");
        let aside = dir.path().join("aside");
        std::os::unix::fs::symlink(&folder, &aside).expect("a link");
        fs::rename(&aside, &link).expect("its name");
    };
    swap(1);
    let pair = etcd_proxy_tests::pki::Pair {
        cert: link.join("tls.crt"),
        key: link.join("tls.key"),
    };
    let mut proxy = world.proxy(&to_clients(&pair, None)).await;
    let load = Load::start(proxy.address(), &world.authority.client(None));
    load.goes_on().await;
    let first = shown(proxy.address(), &world.authority).await;
    swap(2);
    in_use(&proxy, 1).await;
    let second = shown(proxy.address(), &world.authority).await;
    assert_ne!(first, second, "the old certificate is shown");
    load.goes_on().await;

    // The key alone is no pair: the old one stays, and nothing is said of it while it is young.
    let third = world.authority.sign(
        "rotated-3",
        &Subject {
            serial: 3,
            ..Subject::server()
        },
    );
    fs::copy(&third.key, &pair.key).expect("a key");
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(shown(proxy.address(), &world.authority).await, second);
    fs::copy(&third.cert, &pair.cert).expect("a certificate");
    in_use(&proxy, 2).await;
    assert_ne!(shown(proxy.address(), &world.authority).await, second);
    load.end().await;
    proxy.assert_sound();
}

/// Clients of a new authority get in, those of the old one don't any more: not with what they remember either.
async fn authorities_change(shared: Shared) {
    let world = world(&shared).await;
    let new = Authority::new("successor");
    let new_client = new.sign("client", &Subject::client());
    let bundle = world.authority.write("bundle.crt", world.authority.pem());
    let mut proxy = world.proxy(&to_clients(&world.server, Some(&bundle))).await;
    // The server's certificate stays the old authority's.
    let old_tls = world.authority.client(Some(&world.client));
    let new_tls = world.authority.client(Some(&new_client));
    let stays = Client::connect_tls(proxy.address(), Arc::clone(&old_tls))
        .await
        .expect("a connection");
    assert!(gets_in(proxy.address(), Arc::clone(&old_tls)).await);
    assert!(!gets_in(proxy.address(), Arc::clone(&new_tls)).await);
    let load = Load::start(proxy.address(), &old_tls);

    // Both for a while, as one changes authorities.
    world
        .authority
        .write("bundle.crt", &format!("{}{}", world.authority.pem(), new.pem()));
    in_use(&proxy, 1).await;
    assert!(gets_in(proxy.address(), Arc::clone(&new_tls)).await);
    assert!(gets_in(proxy.address(), Arc::clone(&old_tls)).await);
    load.end().await;

    world.authority.write("bundle.crt", new.pem());
    in_use(&proxy, 2).await;
    assert!(gets_in(proxy.address(), new_tls).await);
    // This configuration has tickets from before.
    assert!(
        !gets_in(proxy.address(), old_tls).await,
        "a client of the old authority gets in"
    );
    within("a call on a connection from before", SOON, stays.get(b"k"))
        .await
        .expect("it stays open");
    proxy.assert_sound();
}

/// A client is refused from the change of the list on, and its open connection is closed. Nobody else's is.
async fn revoked_while_connected(shared: Shared) {
    let world = world(&shared).await;
    let ca = world.authority.file();
    let doomed = world.authority.sign(
        "doomed",
        &Subject {
            serial: 99,
            ..Subject::client()
        },
    );
    let list = world.authority.revoke("rotation.crl", &[7], 24);
    let mut flags = to_clients(&world.server, Some(&ca));
    flags.push(format!("--client-crl-file={}", list.display()));
    let mut proxy = world.proxy(&flags).await;
    let tls = world.authority.client(Some(&doomed));
    let others = world.authority.client(Some(&world.client));
    let connected = Client::connect_tls(proxy.address(), Arc::clone(&tls))
        .await
        .expect("a connection");
    connected.get(b"k").await.expect("an answer");
    let beside = Client::connect_tls(proxy.address(), Arc::clone(&others))
        .await
        .expect("a connection");
    let load = Load::start(proxy.address(), &others);

    // Expired too, the list is in force.
    world.authority.revoke("rotation.crl", &[7, 99], -24);
    within("its connection is closed", CHANGED, connected.wire.closed()).await;
    assert!(!gets_in(proxy.address(), tls).await, "a revoked client gets in");
    beside.get(b"k").await.expect("others stay connected");
    load.end().await;
    let log = proxy.log();
    assert!(
        log.contains("has been revoked; its connection is closed"),
        "{log}"
    );
    assert!(log.contains("it stays in force"), "{log}");
    proxy.assert_sound();
}

/// What can't be used is told once, and what was read before stays in use.
async fn broken_files(shared: Shared) {
    let world = world(&shared).await;
    let pair = world.authority.sign(
        "broken",
        &Subject {
            serial: 11,
            ..Subject::server()
        },
    );
    let mut proxy = world.proxy(&to_clients(&pair, None)).await;
    let good = fs::read(&pair.cert).expect("a certificate");
    fs::write(&pair.cert, &good[..good.len() / 2]).expect("half a certificate");
    let told = "files of certificates have changed and can't be used";
    eventually("it is told", CHANGED, async || {
        proxy.log().contains(told).then_some(())
    })
    .await;
    assert!(
        gets_in(proxy.address(), world.authority.client(None)).await,
        "the old one is in use"
    );
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    assert_eq!(proxy.log().matches(told).count(), 1, "told again and again");
    // As it was: nothing has changed.
    fs::write(&pair.cert, &good).expect("the certificate");
    let next = world.authority.sign(
        "broken",
        &Subject {
            serial: 12,
            ..Subject::server()
        },
    );
    assert_eq!(next.cert, pair.cert);
    in_use(&proxy, 1).await;
    assert!(gets_in(proxy.address(), world.authority.client(None)).await);
    proxy.assert_sound();
}

/// The certificate that members are shown, and who is trusted to be a member.
async fn certificate_towards_members(shared: Shared) {
    let world = world(&shared).await;
    let stranger = Authority::new("stranger");
    let shown = world.authority.sign(
        "to-members",
        &Subject {
            serial: 21,
            ..Subject::client()
        },
    );
    let ca = world.authority.write("members.crt", world.authority.pem());
    let flags = [
        format!("--cacert={}", ca.display()),
        format!("--cert={}", shown.cert.display()),
        format!("--key={}", shown.key.display()),
        "--dial-timeout=1s".to_owned(),
    ];
    let mut proxy = crate::start(&world.cluster.tls_endpoints(), &flags).await;
    let client = Client::connect(proxy.address()).await.expect("a connection");
    client.put(b"k", b"v").await.expect("an answer");
    world.authority.sign(
        "to-members",
        &Subject {
            serial: 22,
            ..Subject::client()
        },
    );
    in_use(&proxy, 1).await;
    client
        .put(b"k", b"v")
        .await
        .expect("the connection to the member stays");
    world.authority.write("members.crt", stranger.pem());
    in_use(&proxy, 2).await;
    client
        .put(b"k", b"v")
        .await
        .expect("the connection to the member stays");
    proxy.assert_sound();
}
