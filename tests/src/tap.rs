//! An HTTP/2 hop between a proxy and a member that counts what goes by, takes its time, and breaks Watch calls in any
//! way a server or a network can.
//!
//! Where a scripted upstream knows nothing of revisions, what is behind a tap is a real member: whatever was cut off,
//! the rest of its history is there.

mod carry;
mod record;

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::broadcast,
    task::{JoinHandle, JoinSet},
};

pub use self::record::Record;
use crate::suite::free_port;

/// How a Watch call ends.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Cut {
    /// Trailers with this code and message.
    Status(u8, &'static str),
    /// RST_STREAM with this code.
    Reset(u32),
    /// END_STREAM without trailers.
    Bare,
}

/// What a command is about.
#[derive(Clone, Debug)]
enum Order {
    /// All open Watch calls.
    Cut(Cut),
    /// All connections: GOAWAY, calls go on.
    GoAway,
    /// All connections: TCP reset.
    Reset,
}

struct Shared {
    target: SocketAddr,
    /// Added to each direction's way.
    one_way: Duration,
    orders: broadcast::Sender<Order>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    record: Record,
    /// Watch calls that are still to be ended as soon as they come, and how.
    refusals: Vec<Cut>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running hop on 127.0.0.1. It stops when dropped.
pub struct Tap {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tap")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Tap {
    /// Starts a hop to the member at `host:port`. Everything takes `one_way` longer in each direction.
    ///
    /// # Panics
    /// If it can't listen, or the address isn't one.
    pub async fn start(member: &str, one_way: Duration) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", free_port()))
            .await
            .expect("tap's port");
        let address = listener.local_addr().expect("bound address");
        let shared = Arc::new(Shared {
            target: member.parse().expect("host:port"),
            one_way,
            orders: broadcast::channel(64).0,
            state: Mutex::default(),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self {
            address,
            shared,
            task,
        }
    }

    /// Where it listens, as `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// What went by so far.
    #[must_use]
    pub fn record(&self) -> Record {
        self.shared.lock().record.clone()
    }

    /// Watch calls that are open now.
    #[must_use]
    pub fn open_watches(&self) -> usize {
        self.shared.lock().record.open_watches
    }

    /// Ends all open Watch calls.
    pub fn cut(&self, cut: Cut) {
        self.order(Order::Cut(cut));
    }

    /// Ends the next Watch calls as soon as they come, one for each element.
    pub fn refuse(&self, mut cuts: Vec<Cut>) {
        cuts.reverse();
        self.shared.lock().refusals = cuts;
    }

    /// Whether all refusals were used up.
    #[must_use]
    pub fn has_refused(&self) -> bool {
        self.shared.lock().refusals.is_empty()
    }

    /// Sends GOAWAY (NO_ERROR) on all connections; open calls go on.
    pub fn go_away(&self) {
        self.order(Order::GoAway);
    }

    /// Resets all connections (TCP RST).
    pub fn reset_connections(&self) {
        self.order(Order::Reset);
    }

    fn order(&self, order: Order) {
        // Without a connection there is nobody to obey.
        let _ = self.shared.orders.send(order);
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Connections end with the tap: a task set aborts its tasks when dropped.
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        let orders = shared.orders.subscribe();
        connections.spawn(connection(near, Arc::clone(&shared), orders));
    }
}

async fn connection(near: TcpStream, shared: Arc<Shared>, mut orders: broadcast::Receiver<Order>) {
    let Ok(far) = TcpStream::connect(shared.target).await else {
        return;
    };
    // The tap must not add delays of its own, and whoever it hangs up on sees a reset. If that can't be had, the
    // tests that need it say so by failing.
    let _ = (
        near.set_nodelay(true),
        far.set_nodelay(true),
        near.set_zero_linger(),
    );
    let server = h2::server::Builder::new()
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_header_list_size(1 << 20)
        .handshake::<_, Bytes>(near);
    let client = h2::client::Builder::new()
        .enable_push(false)
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .handshake::<_, Bytes>(far);
    let (Ok(mut near), Ok((send, far))) = tokio::join!(server, client) else {
        return;
    };
    let mut tasks = JoinSet::new();
    let ended = tasks.spawn(async move {
        // However it ends, the calls on it tell.
        let _ = far.await;
    });
    loop {
        tokio::select! {
            biased;
            order = orders.recv() => match order {
                Ok(Order::Reset) => return,
                Ok(Order::GoAway) => near.graceful_shutdown(),
                Ok(Order::Cut(_)) => {}
                Err(_) => return,
            },
            accepted = near.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    tasks.spawn(carry::call(request, respond, send.clone(), Arc::clone(&shared)));
                }
                Some(Err(_)) | None => return,
            },
            _ = tasks.join_next(), if !ended.is_finished() => {}
        }
        if ended.is_finished() {
            // The member is gone, and so is its end of this connection.
            return;
        }
    }
}

/// Large: a tap doesn't hold anything back.
const WINDOW_BYTES: u32 = 16 << 20;
