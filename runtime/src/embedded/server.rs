//! The port of the in-memory etcd.

use core::time::Duration;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Instant;

use etcd_proxy_core::http2::PingPolicyConfig;
use etcd_proxy_model::cluster::Config;
use tokio::sync::{mpsc, watch};

use super::hub::Hub;
use super::{Failure, call};
use crate::listen;
use crate::rt::{self, Runtime};
use crate::server::connection;
use crate::settings::{Keepalive, Limits, OVERHEAD_BYTES};
use crate::shutdown::Phase;
use crate::tls::Wire;

/// What an etcd server that is started without flags allows its clients and asks of them (3.5).
fn limits(config: &Config) -> Limits {
    Limits {
        request_bytes_max: (config.request_bytes_max as u64).saturating_add(OVERHEAD_BYTES),
        response_bytes_max: u64::from(u32::MAX),
        // As grpc-go, which gives a connection's window back before the call has read: a proxy's connection carries the
        // calls of many clients, of which one that is stuck must not stop the others.
        connection_window_bytes: (1 << 31) - 1,
        concurrent_streams_max: u32::MAX,
        pings: PingPolicyConfig {
            interval_min: Duration::from_secs(5),
            permit_without_stream: false,
        },
        keepalive: Some(Keepalive {
            interval: Duration::from_secs(2 * 60 * 60),
            timeout: Duration::from_secs(20),
        }),
    }
}

/// Serves clients on the current thread, `advertised` to them as the one member's address, until the phase is [`Phase::Draining`] or its sender is gone, and then for
/// as long as connections are open, `drain` at most.
///
/// # Errors
/// When the model fails, which is a bug of it, or the listener can't be used.
pub(super) async fn run<R: Runtime>(
    listener: TcpListener,
    advertised: SocketAddr,
    shutdown: watch::Receiver<Phase>,
    drain: impl Fn() -> Duration,
) -> Result<(), Failure> {
    let listener = R::listener(listener).map_err(Failure::Runtime)?;
    // There is no other member, and no address for one.
    let url = format!("http://{advertised}");
    let config = Config {
        seed: rt::random_seed(),
        client_urls: vec![url.clone()],
        peer_urls: vec![url],
        ..Config::default()
    };
    let limits = limits(&config);
    let hub = Arc::new(Hub::new(config));
    let (open, mut all_ended) = mpsc::channel::<()>(1);
    let connections = async {
        loop {
            let socket = listen::accept::<R>(&listener).await;
            let peer = socket.peer_addr().ok();
            let stream = match R::adopt(socket) {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(error = %error, "an accepted connection can't be used");
                    continue;
                }
            };
            let (hub, phase, open) = (hub.clone(), shutdown.clone(), open.clone());
            let calls_phase = shutdown.clone();
            rt::spawn::<R>(async move {
                let call = |request, respond| {
                    let (hub, phase) = (hub.clone(), calls_phase.clone());
                    call::serve::<R>(hub, limits.request_bytes_max, phase, request, respond)
                };
                connection::serve::<R, _>(Wire::Plain(stream), peer, limits, None, phase, call).await;
                drop(open);
            });
        }
    };
    let mut work = core::pin::pin!(async {
        tokio::select! {
            () = hub.run_timer::<R>() => {}
            () = hub.failed() => {}
        }
    });
    let mut told = shutdown.clone();
    tokio::select! {
        () = connections => {}
        () = &mut work => return Err(Failure::Model),
        _ = told.wait_for(|phase| *phase == Phase::Draining) => {}
    }
    drop((listener, open));
    let deadline = Instant::now() + drain();
    tokio::select! {
        ended = rt::timeout_at::<R, _>(deadline, all_ended.recv()) => {
            if ended.is_err() {
                tracing::warn!("calls of the in-memory etcd are still open; ending them");
            }
            Ok(())
        }
        () = &mut work => Err(Failure::Model),
    }
}
