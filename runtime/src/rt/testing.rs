//! A [`Runtime`] for unit tests: an executor on the test's own thread, and a network in memory.
//!
//! What listens is found by the name of its endpoint, on the thread that it was made on. Nothing here is a socket; what needs
//! one is for the end-to-end tests.

use core::cell::RefCell;
use core::time::Duration;
use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream};

use tokio::io::DuplexStream;
use tokio::sync::mpsc;

use super::*;

/// Bytes on their way in one direction of a connection.
const PIPE_BYTES: usize = 1 << 20;

/// What a test that hangs gets before it fails.
const LIMIT: Duration = Duration::from_secs(20);

thread_local! {
    static LISTENERS: RefCell<HashMap<String, mpsc::UnboundedSender<DuplexStream>>> = RefCell::default();
}

/// The runtime of unit tests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Testing;

/// Runs a test.
pub(crate) fn run<F: Future>(test: F) -> F::Output {
    let bounded = async { timeout_at::<Testing, _>(Instant::now() + LIMIT, test).await };
    let ended = Testing::block_on(bounded).expect("an executor");
    ended.expect("a test that ends")
}

/// An endpoint at which connections are taken from now on, until what takes them is dropped.
pub(crate) fn listen(name: &str) -> (Endpoint, mpsc::UnboundedReceiver<DuplexStream>) {
    let endpoint = Endpoint::Unix {
        path: format!("/{name}"),
    };
    let (sender, receiver) = mpsc::unbounded_channel();
    LISTENERS.with_borrow_mut(|listeners| listeners.insert(endpoint.to_string(), sender));
    (endpoint, receiver)
}

/// Polls until something holds that other tasks bring about.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        sleep::<Testing>(Duration::from_millis(1)).await;
    }
}

impl Runtime for Testing {
    type Stream = DuplexStream;
    type Listener = ();
    type Sleep = tokio::time::Sleep;

    fn block_on<F: Future>(future: F) -> io::Result<F::Output> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        Ok(runtime.block_on(future))
    }

    fn spawn(future: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(future);
    }

    fn sleep_until(deadline: Instant) -> Self::Sleep {
        tokio::time::sleep_until(deadline.into())
    }

    fn listener(_: TcpListener) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn accept((): &()) -> io::Result<(TcpStream, SocketAddr)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn adopt(_: TcpStream) -> io::Result<DuplexStream> {
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn connect(endpoint: &Endpoint) -> io::Result<DuplexStream> {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let listener = LISTENERS.with_borrow(|listeners| listeners.get(&endpoint.to_string()).cloned());
        let (here, there) = tokio::io::duplex(PIPE_BYTES);
        listener.ok_or_else(refused)?.send(there).map_err(|_| refused())?;
        Ok(here)
    }

    fn signals() -> io::Result<impl Signals> {
        Err::<NoSignals, _>(io::ErrorKind::Unsupported.into())
    }
}

enum NoSignals {}

impl Signals for NoSignals {
    async fn next(&mut self) -> Signal {
        match *self {}
    }
}
