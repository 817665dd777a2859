//! What comes before a connection is served: the TLS handshake; and what ends it later, the revocation of its certificate.

use core::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;

use super::stranger;
use crate::rt::Runtime;
use crate::shutdown::Phase;
use crate::tls::{Acceptance, Accepted, Handshakes, Live, Wire};

/// TLS towards the clients of one worker.
#[derive(Clone, Debug)]
pub(super) struct Entrance {
    tls: Live<Acceptance>,
    handshakes: Arc<Handshakes>,
}

impl Entrance {
    pub(super) fn new(tls: Live<Acceptance>) -> Self {
        Self {
            tls,
            handshakes: Arc::default(),
        }
    }

    /// Lets a client in, and serves it for as long as its certificate isn't revoked.
    pub(super) async fn serve<R: Runtime, F: Future<Output = ()>>(
        mut self,
        stream: R::Stream,
        peer: Option<SocketAddr>,
        mut shutdown: watch::Receiver<Phase>,
        serve: impl FnOnce(Wire<R::Stream>) -> F,
    ) {
        let acceptance = self.tls.get();
        let accepted = tokio::select! {
            accepted = self.handshakes.accept::<R, _>(&acceptance, stream) => accepted,
            _ = shutdown.wait_for(|phase| *phase == Phase::Draining) => return,
        };
        let Accepted { wire, chain } = match accepted {
            Ok(accepted) => accepted,
            Err(refusal) => return stranger::is_refused(peer, &refusal),
        };
        drop(acceptance);
        if chain.is_empty() {
            return serve(wire).await;
        }
        let revoked = async { while !self.tls.next().await.revokes(&chain) {} };
        tokio::select! {
            () = serve(wire) => {}
            () = revoked => stranger::is_revoked(peer, Acceptance::name_of(&chain)),
        }
    }
}
