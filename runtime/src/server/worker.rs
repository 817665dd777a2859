//! Worker threads: each an executor of its own, with the client connections and the member connections it drives.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use etcd_proxy_core::lease::Router;
use etcd_proxy_core::watch::Hub;
use tokio::sync::mpsc;

use super::connections::OpenConnection;
use super::entrance::Entrance;
use super::{Connections, connection};
use crate::forward::{self, ClientConnection, Worker};
use crate::metrics::Metrics;
use crate::read;
use crate::rt::{self, Runtime};
use crate::streams::{Multiplexer, Order, Streams};
use crate::tls::{Acceptance, Live, Wire};
use crate::upstream::{Connect, Uplink};

/// Accepted sockets that may wait for a worker; the acceptor waits when there are more.
const SOCKETS_MAX: usize = 256;

/// What the rest of the process knows of a worker thread.
pub(crate) struct Handle {
    number: usize,
    sockets: mpsc::Sender<(TcpStream, OpenConnection)>,
    connections: Arc<Connections>,
    thread: JoinHandle<io::Result<()>>,
}

impl Handle {
    /// Client connections that it has open.
    pub(crate) fn load(&self) -> usize {
        self.connections.of(self.number)
    }

    /// Hands it an accepted socket.
    ///
    /// # Errors
    /// When the worker is gone.
    pub(crate) async fn adopt(&self, socket: TcpStream) -> Result<(), WorkerGone> {
        // Counted from here on, so that a burst is spread.
        let open = self.connections.begin(self.number);
        self.sockets.send((socket, open)).await.map_err(|_| WorkerGone)
    }

    /// Takes it apart: the worker ends once the sender is dropped and its connections are closed.
    pub(crate) fn stop(
        self,
    ) -> (
        JoinHandle<io::Result<()>>,
        mpsc::Sender<(TcpStream, OpenConnection)>,
    ) {
        (self.thread, self.sockets)
    }
}

/// Waits for a worker's end.
///
/// # Errors
/// When it couldn't run, or panicked.
pub(crate) fn join(thread: JoinHandle<io::Result<()>>) -> io::Result<()> {
    thread
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("a worker thread panicked")))
}

/// A worker thread has ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a worker thread has ended")]
pub(crate) struct WorkerGone;

/// What a worker is told to do beside serving its sockets.
pub(crate) struct Orders {
    /// For its member connections.
    pub(crate) connections: mpsc::UnboundedReceiver<Connect>,
    /// The watch hub's.
    pub(crate) watch: mpsc::UnboundedReceiver<Order<Hub>>,
    /// The lease router's.
    pub(crate) lease: mpsc::UnboundedReceiver<Order<Router>>,
    /// The read cache's.
    pub(crate) reads: mpsc::UnboundedReceiver<read::Order>,
}

/// What clients and the rest of the process see of the workers.
pub(crate) struct Seen {
    pub(crate) metrics: Arc<Metrics>,
    /// Client connections that are open, of every worker.
    pub(crate) connections: Arc<Connections>,
    /// TLS towards clients, if there is any.
    pub(crate) tls: Option<Live<Acceptance>>,
}

/// Starts worker number `number`. It holds `alive` until it ends. The first one has the timers of the core's machines.
///
/// # Errors
/// The operating system's.
pub(crate) fn start<R: Runtime>(
    number: usize,
    worker: Worker,
    seen: Seen,
    orders: Orders,
    alive: mpsc::Sender<()>,
) -> io::Result<Handle> {
    let (sockets, inbox) = mpsc::channel(SOCKETS_MAX);
    let connections = seen.connections.clone();
    let thread = thread::Builder::new()
        .name(format!("worker-{number}"))
        .spawn(move || {
            let ended = R::block_on(run::<R>(worker, seen, number == 0, inbox, orders));
            drop(alive);
            ended
        })?;
    Ok(Handle {
        number,
        sockets,
        connections,
        thread,
    })
}

async fn run<R: Runtime>(
    worker: Worker,
    seen: Seen,
    has_timer: bool,
    mut sockets: mpsc::Receiver<(TcpStream, OpenConnection)>,
    orders: Orders,
) {
    let Orders {
        mut connections,
        watch,
        lease,
        mut reads,
    } = orders;
    let worker = Arc::new(worker);
    let uplink = worker.uplink.clone();
    rt::spawn::<R>(async move {
        while let Some(order) = connections.recv().await {
            rt::spawn::<R>(order.run::<R>(uplink.settings.clone(), uplink.reports.clone()));
        }
    });
    drive::<R, _>(&worker.uplink, &worker.watch, watch, has_timer);
    drive::<R, _>(&worker.uplink, &worker.lease, lease, has_timer);
    let (cache, uplink) = (worker.reads.clone(), worker.uplink.clone());
    rt::spawn::<R>(async move {
        while let Some(order) = reads.recv().await {
            order.carry_out::<R>(cache.clone(), uplink.clone());
        }
    });
    if has_timer {
        let cache = worker.reads.clone();
        rt::spawn::<R>(async move { cache.run_timer::<R>().await });
    }
    let entrance = seen.tls.map(Entrance::new);
    while let Some((socket, open)) = sockets.recv().await {
        let peer = socket.peer_addr().ok();
        match R::adopt(socket) {
            Ok(stream) => {
                let client = Arc::new(ClientConnection::new(worker.clone()));
                let call = move |request, respond| forward::forward::<R>(client.clone(), request, respond);
                let metrics = Some(seen.metrics.clone());
                let shutdown = worker.shutdown.clone();
                let (limits, entrance, phase) = (worker.limits, entrance.clone(), shutdown.clone());
                let serve = move |wire| connection::serve::<R, _>(wire, peer, limits, metrics, phase, call);
                rt::spawn::<R>(async move {
                    match entrance {
                        Some(entrance) => entrance.serve::<R, _>(stream, peer, shutdown, serve).await,
                        None => serve(Wire::Plain(stream)).await,
                    }
                    drop(open);
                });
            }
            Err(error) => tracing::warn!(error = %error, "an accepted connection can't be used"),
        }
    }
    // Of all workers: while calls go on anywhere, the control task needs every worker to carry its orders out.
    seen.connections.none_left().await;
}

/// Carries out a machine's orders, and has its timer if it is to.
fn drive<R: Runtime, M: Multiplexer>(
    uplink: &Arc<Uplink>,
    streams: &Arc<Streams<M>>,
    mut orders: mpsc::UnboundedReceiver<Order<M>>,
    has_timer: bool,
) {
    let (uplink, shared) = (uplink.clone(), streams.clone());
    rt::spawn::<R>(async move {
        while let Some(order) = orders.recv().await {
            order.carry_out::<R>(uplink.clone(), shared.clone());
        }
    });
    if has_timer {
        let streams = streams.clone();
        rt::spawn::<R>(async move { streams.run_timer::<R>().await });
    }
}
