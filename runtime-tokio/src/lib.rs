//! [`Runtime`] for tokio: current-thread executors, tokio's sockets, timers and signals.

mod socket;

use core::future::Future;
use core::time::Duration;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use etcd_proxy_runtime::Endpoint;
use etcd_proxy_runtime::{Runtime, Signal, Signals, prepare_connected};
use tokio::net::UnixStream;
use tokio::signal::unix::{Signal as TokioSignal, SignalKind, signal};

pub use socket::Socket;

/// tokio as the proxy uses it.
#[derive(Clone, Copy, Debug)]
pub struct Tokio;

impl Runtime for Tokio {
    type Stream = Socket;
    type Listener = tokio::net::TcpListener;
    type Sleep = tokio::time::Sleep;

    fn block_on<F: Future>(future: F) -> io::Result<F::Output> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let output = runtime.block_on(future);
        // A name that is still being resolved must not hold up the end.
        runtime.shutdown_timeout(Duration::ZERO);
        Ok(output)
    }

    fn spawn(future: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(future);
    }

    fn sleep_until(deadline: Instant) -> Self::Sleep {
        tokio::time::sleep_until(deadline.into())
    }

    fn listener(listener: TcpListener) -> io::Result<Self::Listener> {
        tokio::net::TcpListener::from_std(listener)
    }

    async fn accept(listener: &Self::Listener) -> io::Result<(TcpStream, SocketAddr)> {
        let (socket, peer) = listener.accept().await?;
        Ok((socket.into_std()?, peer))
    }

    fn adopt(socket: TcpStream) -> io::Result<Socket> {
        tokio::net::TcpStream::from_std(socket).map(Socket::Tcp)
    }

    async fn connect(endpoint: &Endpoint) -> io::Result<Socket> {
        match endpoint {
            Endpoint::Tcp { host, port } => {
                let stream = tokio::net::TcpStream::connect((host.as_str(), *port)).await?;
                prepare_connected(&stream)?;
                Ok(Socket::Tcp(stream))
            }
            Endpoint::Unix { path } => UnixStream::connect(path).await.map(Socket::Unix),
            other => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("cannot connect to {other}"),
            )),
        }
    }

    fn signals() -> io::Result<impl Signals> {
        Ok(ProcessSignals {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }
}

struct ProcessSignals {
    hangup: TokioSignal,
    interrupt: TokioSignal,
    terminate: TokioSignal,
}

impl Signals for ProcessSignals {
    async fn next(&mut self) -> Signal {
        let next = core::future::poll_fn(|cx| {
            if self.terminate.poll_recv(cx).is_ready() {
                return core::task::Poll::Ready(Signal::Terminate);
            }
            if self.interrupt.poll_recv(cx).is_ready() {
                return core::task::Poll::Ready(Signal::Interrupt);
            }
            self.hangup.poll_recv(cx).map(|_| Signal::Hangup)
        });
        next.await
    }
}
