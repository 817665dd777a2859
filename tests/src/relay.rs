//! A TCP relay that can be told to stall, close or refuse connections, also by where they come from.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::JoinHandle,
    time::Instant,
};

/// Bytes that a connection has under way on a link with a bandwidth before others have their turn.
const SLICE_BYTES: usize = 16 * 1024;

/// Slices that may be under way on a link with a delay.
const UNDER_WAY_MAX: usize = 4096;

/// What a relay's connections go over, each direction for itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Link {
    /// What all connections together get through, if that is bounded.
    pub bytes_per_second: Option<u32>,
    /// How long a byte takes.
    pub delay: Duration,
}

/// One direction of a [`Link`].
#[derive(Debug)]
struct Line {
    link: Link,
    /// When what was sent last has gone out.
    free_at: Mutex<Instant>,
}

impl Line {
    fn new(link: Link) -> Arc<Self> {
        let free_at = Mutex::new(Instant::now());
        Arc::new(Self { link, free_at })
    }

    /// Returns when so many bytes have gone out, with the time at which they arrive.
    async fn send(&self, count: usize) -> Instant {
        let Some(rate) = self.link.bytes_per_second else {
            return Instant::now() + self.link.delay;
        };
        let gone = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let takes = Duration::from_secs_f64(count as f64 / f64::from(rate));
            *free_at = (*free_at).max(Instant::now()) + takes;
            *free_at
        };
        tokio::time::sleep_until(gone).await;
        gone + self.link.delay
    }
}

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

/// Tells from the address of a connection's other end where the connection comes from. What it doesn't know is closed.
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
        Self::start_on(port, target, identify, Link::default()).await
    }

    /// The same over a link that isn't as fast as this machine.
    ///
    /// # Panics
    /// If it cannot listen on `port`.
    pub async fn start_on(port: u16, target: SocketAddr, identify: Option<Identify>, link: Link) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("relay port");
        let address = listener.local_addr().expect("bound address");
        let (policy, watched) = watch::channel(Policy::default());
        let lines = [Line::new(link), Line::new(link)];
        let task = tokio::spawn(accept(listener, address, target, identify, watched, lines));
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
    lines: [Arc<Line>; 2],
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
                    let source = match &identify {
                        None => None,
                        Some(identify) => match identify(from) {
                            Some(source) => Some(source),
                            // It is gone, or its process isn't known yet. What nobody can cut off mustn't go through: who
                            // dialled dials again.
                            None => {
                                drop(stream);
                                listener = Some(open);
                                continue;
                            }
                        },
                    };
                    tokio::spawn(carry(stream, target, source, policy.clone(), lines.clone()));
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
    [there, back]: [Arc<Line>; 2],
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
            pump(near_read, far_write, source, policy.clone(), there),
            pump(far_read, near_write, source, policy.clone(), back),
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
    from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    source: Option<usize>,
    mut policy: watch::Receiver<Policy>,
    line: Arc<Line>,
) -> io::Result<()> {
    if line.link.bytes_per_second.is_none() && line.link.delay.is_zero() {
        return copy(from, &mut to, source, policy).await;
    }
    let (sender, mut under_way) = mpsc::channel::<(Vec<u8>, Instant)>(UNDER_WAY_MAX);
    let mut from = from;
    let sending = async move {
        let mut buffer = vec![0; SLICE_BYTES];
        loop {
            let count = from.read(&mut buffer).await?;
            let arrives = line.send(count).await;
            let sent = sender.send((buffer[..count].to_vec(), arrives)).await;
            if count == 0 || sent.is_err() {
                return Ok::<_, io::Error>(());
            }
        }
    };
    let arriving = async move {
        while let Some((bytes, arrives)) = under_way.recv().await {
            tokio::time::sleep_until(arrives).await;
            passable(source, &mut policy).await?;
            if bytes.is_empty() {
                return to.shutdown().await;
            }
            to.write_all(&bytes).await?;
        }
        Ok(())
    };
    tokio::try_join!(sending, arriving).map(|_| ())
}

async fn copy(
    mut from: OwnedReadHalf,
    to: &mut OwnedWriteHalf,
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
