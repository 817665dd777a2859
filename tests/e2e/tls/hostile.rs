//! Who comes and doesn't mean a handshake. Others notice nothing.

use std::time::Duration;

use etcd_proxy_tests::{
    client::Client,
    procstat::ProcStat,
    suite::{eventually, within},
};
use libtest_mimic::Trial;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{SOON, Shared, gets_in, of, to_clients, world};

/// More memory than this is not sane for a proxy that holds next to nothing (KiB).
const SANE_KIB: u64 = 250 * 1024;

/// Handshakes that are begun and never ended.
const HALF_OPEN: usize = 10_000;

pub(crate) fn trials(shared: &Shared) -> Vec<Trial> {
    vec![
        of(shared, "half_open_handshakes", half_open_handshakes),
        of(shared, "garbage_instead_of_a_hello", garbage_instead_of_a_hello),
        of(shared, "silent_and_slow", silent_and_slow),
    ]
}

/// The beginning of a hello: a record of 512 bytes, of which the first come.
const HALF_A_HELLO: &[u8] = &[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];

async fn half_open_handshakes(shared: Shared) {
    let world = world(&shared).await;
    let mut proxy = world.proxy(&to_clients(&world.server, None)).await;
    let address = proxy.address().to_owned();
    let before = Client::connect_tls(&address, world.authority.client(None))
        .await
        .expect("a connection");
    let flood = {
        let address = address.clone();
        tokio::spawn(async move {
            // Each is held for a while by its task, as far as this process may have so many open.
            for _ in 0..HALF_OPEN {
                if let Ok(mut socket) = TcpStream::connect(&address).await {
                    tokio::spawn(async move {
                        let _ = socket.write_all(HALF_A_HELLO).await;
                        let _ = tokio::time::timeout(Duration::from_secs(5), socket.read_u8()).await;
                    });
                }
            }
        })
    };
    let mut served = 0;
    while !flood.is_finished() || served < 20 {
        within("a call of somebody connected", SOON, before.get(b"k"))
            .await
            .expect("an answer");
        assert!(
            gets_in(&address, world.authority.client(None)).await,
            "nobody gets in any more"
        );
        served += 1;
    }
    flood.await.expect("the flood");
    let kib = ProcStat::of(proxy.process().pid()).expect("it runs").rss_peak_kib;
    assert!(kib < SANE_KIB, "{kib} KiB");
    proxy.assert_sound();
}

async fn garbage_instead_of_a_hello(shared: Shared) {
    let world = world(&shared).await;
    let mut proxy = world.proxy(&to_clients(&world.server, None)).await;
    let mut hello_of_16_mib = vec![22, 3, 1, 64, 0, 1, 255, 255, 255];
    hello_of_16_mib.resize(16 * 1024 + 5, 0);
    for garbage in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        vec![0; 100_000],
        vec![22, 3, 1, 255, 255, 255],
        hello_of_16_mib,
        // An alert.
        vec![21, 3, 1, 0, 2, 2, 40],
    ] {
        let mut socket = TcpStream::connect(proxy.address()).await.expect("a connection");
        // It may be closed before all is written.
        let _ = socket.write_all(&garbage).await;
        let mut rest = Vec::new();
        let closed = within("the connection is closed", SOON, socket.read_to_end(&mut rest)).await;
        assert!(
            closed.is_err() || rest.len() < 100,
            "{} bytes for {garbage:?}",
            rest.len()
        );
    }
    assert!(gets_in(proxy.address(), world.authority.client(None)).await);
    assert!(
        proxy.log().contains("a client's TLS handshake has failed"),
        "{}",
        proxy.log()
    );
    proxy.assert_sound();
}

/// Who says nothing, or a byte now and then, is closed in the end.
async fn silent_and_slow(shared: Shared) {
    let world = world(&shared).await;
    let mut proxy = world.proxy(&to_clients(&world.server, None)).await;
    let mut silent = TcpStream::connect(proxy.address()).await.expect("a connection");
    let mut slow = TcpStream::connect(proxy.address()).await.expect("a connection");
    let dripping = async {
        for byte in HALF_A_HELLO.iter().chain(std::iter::repeat(&0)) {
            if slow.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let mut rest = Vec::new();
    let (ended, ()) = tokio::join!(
        within(
            "the silent one is closed",
            SOON * 2,
            silent.read_to_end(&mut rest)
        ),
        within("the slow one is closed", SOON * 2, dripping),
    );
    ended.expect("it is closed");
    eventually("the log tells", SOON, async || {
        proxy
            .log()
            .contains("has not ended its TLS handshake within 10s")
            .then_some(())
    })
    .await;
    proxy.assert_sound();
}
