//! The in-memory etcd: the model behind a real socket, so that one command is enough to try the proxy, and so that
//! tests and benchmarks have an upstream that is never the bottleneck.
//!
//! One member, on one thread. Everything is in memory and lost at exit. Real time drives what a server does by
//! itself: leases end, watches get their progress notifications.
//!
//! ```text
//!  client ──h2──► server/connection ─► call ─┬─ unary  ─┐            ┌────────────────────┐
//!                 (as on the proxy's         └─ stream ─┴─► hub ───► │ model::Cluster     │
//!                  own port)                                 ▲       │ events in, actions │
//!                                             timer ─────────┘       │ out                │
//!                                                                    └────────────────────┘
//! ```
//!
//! On the wire it does what an etcd server does, which is what grpc-go does. What differs: compressed requests are refused
//! (etcd takes gzip), metadata whose name ends in `-bin` is not looked at, and the port has no HTTP/1 paths.

mod alone;
mod call;
mod hub;
mod server;
mod stream;

use core::time::Duration;
use std::io;
use std::net::SocketAddr;
use std::thread::{self, JoinHandle};

use tokio::sync::{oneshot, watch};

pub(crate) use alone::run;

use crate::listen::{ListenError, listen};
use crate::process::reachable;
use crate::rt::Runtime;
use crate::settings::{Endpoint, ListenAddress};
use crate::shutdown::Phase;

/// How long the connections of the proxy in front may take to end when they have no calls any more.
const ENDING_TIMEOUT: Duration = Duration::from_secs(1);

/// Why there is no in-memory etcd.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("the in-memory etcd has failed; this is a bug, and its data is lost")]
    Model,
    #[error("cannot set up the runtime: {0}")]
    Runtime(io::Error),
    #[error("cannot install signal handlers: {0}")]
    Signals(io::Error),
    #[error("cannot start the thread of the in-memory etcd: {0}")]
    Thread(io::Error),
}

/// An in-memory etcd on a thread of its own. Dropped, it ends by itself.
#[derive(Debug)]
pub(crate) struct Embedded {
    address: SocketAddr,
    phase: watch::Sender<Phase>,
    thread: JoinHandle<()>,
    /// Why the thread has ended, unless it was told to.
    ended: oneshot::Receiver<Failure>,
}

impl Embedded {
    /// Starts it on a port of 127.0.0.1 that the kernel chooses. `advertised` is where clients reach it, through a proxy.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn start<R: Runtime>(advertised: SocketAddr) -> Result<Self, Failure> {
        let any_port = ListenAddress {
            host: "127.0.0.1".into(),
            port: 0,
        };
        let (listener, address) = listen(&any_port)?;
        warn(address);
        let (phase, shutdown) = watch::channel(Phase::Serving);
        let (end, ended) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("in-memory-etcd".into())
            .spawn(move || {
                let run = server::run::<R>(listener, reachable(advertised), shutdown, || ENDING_TIMEOUT);
                if let Err(failure) = R::block_on(run).map_err(Failure::Runtime).flatten() {
                    // Nobody wants to know it once the process is ending.
                    let _ = end.send(failure);
                }
            })
            .map_err(Failure::Thread)?;
        Ok(Self {
            address,
            phase,
            thread,
            ended,
        })
    }

    /// Where it listens.
    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::Tcp {
            host: self.address.ip().to_string(),
            port: self.address.port(),
        }
    }

    /// Completes when it has ended by itself, which is a failure.
    pub(crate) async fn ended(&mut self) -> Failure {
        // An error means that the thread didn't get so far as to tell.
        (&mut self.ended).await.unwrap_or(Failure::Model)
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it had failed before.
    pub(crate) fn stop(mut self) -> Result<(), Failure> {
        self.phase.send_replace(Phase::Draining);
        self.thread.join().map_err(|_| Failure::Model)?;
        self.ended.try_recv().map_or(Ok(()), Err)
    }
}

/// Says in the log what this is.
fn warn(address: SocketAddr) {
    tracing::warn!(address = %address, "in-memory etcd for trying out and tests; data is lost at exit");
}
