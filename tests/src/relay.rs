//! A TCP relay that can be told to stall, close or refuse connections, also by where they come from.

use std::{collections::BTreeMap, fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// What the relay does with connections.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mode {
    /// Bytes go through.
    #[default]
    Forward,
    /// Connections stay open, new ones are accepted, and no byte goes through.
    BlackHole,
    /// Connections are closed, new ones right after they were accepted.
    Close,
    /// Connections are closed and nothing listens.
    Refuse,
}

/// The modes in force: one for everybody, and one per source that goes before it.
#[derive(Clone, Debug, Default)]
struct Policy {
    all: Mode,
    from: BTreeMap<usize, Mode>,
}

impl Policy {
    fn mode(&self, source: Option<usize>) -> Mode {
        source
            .and_then(|source| self.from.get(&source))
            .copied()
            .unwrap_or(self.all)
    }
}

/// Tells from the address of a connection's other end where the connection comes from.
pub type Identify = Arc<dyn Fn(SocketAddr) -> Option<usize> + Send + Sync>;

/// A listener on 127.0.0.1 in front of one address. It stops when dropped.
pub struct Relay {
    address: SocketAddr,
    policy: watch::Sender<Policy>,
    task: JoinHandle<()>,
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Relay {
    /// Listens on a port of 127.0.0.1 and forwards to `target`. Must run on a tokio runtime.
    ///
    /// # Panics
    /// If it cannot listen on `port`.
    pub async fn start(port: u16, target: SocketAddr, identify: Option<Identify>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("relay port");
        let address = listener.local_addr().expect("bound address");
        let (policy, watched) = watch::channel(Policy::default());
        let task = tokio::spawn(accept(listener, address, target, identify, watched));
        Self {
            address,
            policy,
            task,
        }
    }

    /// Where it listens, as `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Sets the mode for all connections that no [`set_from`](Self::set_from) speaks of.
    pub fn set(&self, mode: Mode) {
        self.policy.send_modify(|policy| policy.all = mode);
    }

    /// Sets the mode for the connections of one source.
    pub fn set_from(&self, source: usize, mode: Mode) {
        self.policy.send_modify(|policy| {
            policy.from.insert(source, mode);
        });
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    address: SocketAddr,
    target: SocketAddr,
    identify: Option<Identify>,
    mut policy: watch::Receiver<Policy>,
) {
    let mut listener = Some(listener);
    loop {
        let refused = policy.borrow_and_update().all == Mode::Refuse;
        if refused {
            listener = None;
            if policy.changed().await.is_err() {
                return;
            }
            continue;
        }
        let open = match listener.take() {
            Some(open) => open,
            None => match TcpListener::bind(address).await {
                Ok(open) => open,
                Err(_) => {
                    // The port is still held by a closing connection.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            },
        };
        tokio::select! {
            accepted = open.accept() => {
                if let Ok((stream, from)) = accepted {
                    let source = identify.as_ref().and_then(|identify| identify(from));
                    tokio::spawn(carry(stream, target, source, policy.clone()));
                }
            }
            changed = policy.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
        listener = Some(open);
    }
}

/// Waits until the mode lets bytes through. An error means that the connection must be closed.
async fn passable(source: Option<usize>, policy: &mut watch::Receiver<Policy>) -> io::Result<()> {
    loop {
        match policy.borrow_and_update().mode(source) {
            Mode::Forward => return Ok(()),
            Mode::BlackHole => {}
            Mode::Close | Mode::Refuse => return Err(io::ErrorKind::ConnectionAborted.into()),
        }
        if policy.changed().await.is_err() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
    }
}

async fn carry(
    near: TcpStream,
    target: SocketAddr,
    source: Option<usize>,
    mut policy: watch::Receiver<Policy>,
) {
    if passable(source, &mut policy).await.is_err() {
        return;
    }
    let Ok(far) = TcpStream::connect(target).await else {
        return;
    };
    // The relay must not add delays of its own; failing to say so only makes it slower.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let both = async {
        // Whichever direction fails first takes the other with it, so that both sides see the close.
        // A clean end of one direction is passed on and the other goes on.
        let _ = tokio::try_join!(
            pump(near_read, far_write, source, policy.clone()),
            pump(far_read, near_write, source, policy.clone()),
        );
    };
    let mut closing = policy.clone();
    tokio::select! {
        () = both => {}
        // Also ends a direction that is stuck in a write.
        () = closed(source, &mut closing) => {}
    }
}

/// Resolves when the mode says that connections must go.
async fn closed(source: Option<usize>, policy: &mut watch::Receiver<Policy>) {
    loop {
        let mode = policy.borrow_and_update().mode(source);
        if matches!(mode, Mode::Close | Mode::Refuse) || policy.changed().await.is_err() {
            return;
        }
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    source: Option<usize>,
    mut policy: watch::Receiver<Policy>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        passable(source, &mut policy).await?;
        let count = tokio::select! {
            count = from.read(&mut buffer) => count?,
            changed = policy.changed() => {
                changed.map_err(|_| io::Error::from(io::ErrorKind::ConnectionAborted))?;
                continue;
            }
        };
        // The mode may have changed while the bytes were on their way.
        passable(source, &mut policy).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..count]).await?;
    }
}
