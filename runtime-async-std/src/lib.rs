//! [`Runtime`] for async-std.
//!
//! async-std's sockets connect; everything else stands on the maintained crates beneath it: `async-io` is its reactor
//! and its timers, `async-executor` its executor, `blocking` its thread pool. Its own tasks can't be used: they run on
//! a pool that every core shares, and the proxy keeps a call on the thread that accepted it.
//!
//! The reactor is one for the whole process: the thread that holds it wakes the others. That is what this adapter
//! costs more than tokio's, which has a reactor for each thread.

mod socket;

use core::cell::RefCell;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::os::fd::AsFd as _;
use std::rc::Rc;
use std::time::Instant;

use async_executor::LocalExecutor;
use async_io::{Async, Timer};
use etcd_proxy_runtime::Endpoint;
use etcd_proxy_runtime::{Runtime, Signal, Signals, prepare_connected};
use futures_util::StreamExt as _;

pub use socket::Socket;

thread_local! {
    /// The executor that [`AsyncStd::block_on`] runs on this thread.
    static EXECUTOR: RefCell<Option<Rc<LocalExecutor<'static>>>> = const { RefCell::new(None) };
}

/// async-std as the proxy uses it: an executor for each thread, over the one reactor of the process.
#[derive(Clone, Copy, Debug)]
pub struct AsyncStd;

impl Runtime for AsyncStd {
    type Stream = Socket;
    type Listener = Async<TcpListener>;
    type Sleep = Sleep;

    fn block_on<F: Future>(future: F) -> io::Result<F::Output> {
        let executor = Rc::new(LocalExecutor::new());
        let outer = EXECUTOR.replace(Some(executor.clone()));
        let output = async_io::block_on(executor.run(future));
        EXECUTOR.set(outer);
        Ok(output)
    }

    fn spawn(future: impl Future<Output = ()> + Send + 'static) {
        EXECUTOR.with_borrow(|executor| match executor {
            Some(executor) => executor.spawn(future).detach(),
            // As tokio does: a mistake of the caller, not of a peer.
            None => panic!("spawn outside of block_on"),
        });
    }

    fn sleep_until(deadline: Instant) -> Sleep {
        Sleep(Timer::at(deadline))
    }

    fn listener(listener: TcpListener) -> io::Result<Self::Listener> {
        Async::new(listener)
    }

    async fn accept(listener: &Self::Listener) -> io::Result<(TcpStream, SocketAddr)> {
        let (socket, peer) = listener.accept().await?;
        Ok((socket.into_inner()?, peer))
    }

    fn adopt(socket: TcpStream) -> io::Result<Socket> {
        Socket::tcp(socket)
    }

    async fn connect(endpoint: &Endpoint) -> io::Result<Socket> {
        match endpoint {
            Endpoint::Tcp { host, port } => {
                let addresses = resolve(host.clone(), *port).await?;
                let stream = async_std::net::TcpStream::connect(addresses.as_slice()).await?;
                prepare_connected(&stream)?;
                Socket::tcp(stream.as_fd().try_clone_to_owned()?.into())
            }
            Endpoint::Unix { path } => {
                let stream = async_std::os::unix::net::UnixStream::connect(path).await?;
                Socket::unix(stream.as_fd().try_clone_to_owned()?.into())
            }
            other => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("cannot connect to {other}"),
            )),
        }
    }

    fn signals() -> io::Result<impl Signals> {
        use async_signal::Signal::{Hup, Int, Term};
        async_signal::Signals::new([Hup, Int, Term]).map(ProcessSignals)
    }
}

/// The addresses of a host. async-std's own look-up would start its global executor, whose threads would take the
/// reactor away from the workers.
async fn resolve(host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    blocking::unblock(move || (host.as_str(), port).to_socket_addrs().map(Iterator::collect)).await
}

/// A timer of async-io.
#[derive(Debug)]
pub struct Sleep(Timer);

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx).map(drop)
    }
}

struct ProcessSignals(async_signal::Signals);

impl Signals for ProcessSignals {
    async fn next(&mut self) -> Signal {
        loop {
            match self.0.next().await {
                Some(Ok(async_signal::Signal::Hup)) => return Signal::Hangup,
                Some(Ok(async_signal::Signal::Int)) => return Signal::Interrupt,
                Some(Ok(_)) => return Signal::Terminate,
                Some(Err(_)) => {}
                // The source of signals never ends while it is held.
                None => core::future::pending().await,
            }
        }
    }
}
