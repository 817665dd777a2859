//! The process: command line, listening, workers, signals, exit code.

use core::num::NonZeroUsize;
use core::time::Duration;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use etcd_proxy_core::endpoints::Config;
use etcd_proxy_core::http2::PingPolicyConfig;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::sync::{mpsc, watch};

use crate::cli::{self, Command, Endpoint, ListenAddress, StartOptions};
use crate::logging;
use crate::rt::{self, Runtime, Signals as _};
use crate::server::{self, Handle, Limits, Phase, Worker, WorkerGone};
use crate::upstream::{Control, Lane, Report, Reports, Settings};

/// Connections that the kernel may hold until they are accepted.
const BACKLOG: i32 = 4096;

/// TCP keepalive of client connections, as Go's listeners set it.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// What etcd adds to its `--max-request-bytes` to get the largest message that its gRPC server takes, in bytes
/// (etcd's `grpcOverheadBytes`): a request a little too large is refused by name, not by the transport.
const OVERHEAD_BYTES: u64 = 512 * 1024;

/// How long to wait before the next connection is accepted when none can be, for want of file descriptors mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long the workers get for ending after everything was told to end.
const ENDING_TIMEOUT: Duration = Duration::from_secs(1);

/// The whole program: what both binaries' `main` calls.
#[must_use]
pub fn main<R: Runtime>(program: &str) -> ExitCode {
    let options = match cli::parse(program, std::env::args_os().skip(1), std::env::vars_os()) {
        Ok(Command::Start(options)) => options,
        Err(exit) => {
            // A reader that is gone is no reason to fail.
            let _ = io::stdout().write_all(exit.stdout.as_bytes());
            let _ = io::stderr().write_all(exit.stderr.as_bytes());
            return ExitCode::from(exit.code);
        }
    };
    if logging::init(options.log_format, options.log_level).is_err() {
        let _ = writeln!(io::stderr(), "logging was set up twice");
        return ExitCode::FAILURE;
    }
    match run::<R>(*options) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

/// Why the proxy can't start or go on.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// In the words of Go's `net.Listen`, which scripts may look for.
    #[error("listen tcp {address}: {reason}")]
    Listen { address: ListenAddress, reason: String },
    #[error("cannot set up the runtime: {0}")]
    Runtime(io::Error),
    #[error("cannot install signal handlers: {0}")]
    Signals(io::Error),
    #[error("cannot start a worker thread: {0}")]
    Thread(io::Error),
    #[error(transparent)]
    Worker(#[from] WorkerGone),
}

fn run<R: Runtime>(options: StartOptions) -> Result<ExitCode, Failure> {
    for name in &options.unknown_environment {
        tracing::warn!(variable = name.as_str(), "unknown environment variable");
    }
    let (listener, address) = listen(&options.listen_address)?;
    tracing::info!(address = %address, "listening for gRPC proxy client requests");
    R::block_on(serve::<R>(options, listener, address)).map_err(Failure::Runtime)?
}

async fn serve<R: Runtime>(
    options: StartOptions,
    listener: TcpListener,
    address: SocketAddr,
) -> Result<ExitCode, Failure> {
    let mut signals = R::signals().map_err(Failure::Signals)?;
    let listener = R::listener(listener).map_err(Failure::Runtime)?;
    let (phase, shutdown) = watch::channel(Phase::Serving);
    let (alive, mut all_ended) = mpsc::channel::<()>(1);
    let (workers, reports) = start_workers::<R>(&options, &shutdown, &alive)?;
    drop(alive);

    tracing::info!(address = %address, "started gRPC proxy");
    notify_ready();

    let signal = tokio::select! {
        signal = signals.next() => signal,
        gone = accept::<R>(&listener, &workers) => return Err(gone.into()),
    };
    drop(listener);
    tracing::info!(signal = signal.number(), "shutting down; open calls may finish");
    phase.send_replace(Phase::Draining);
    let (handles, sockets): (Vec<_>, Vec<_>) = workers.into_iter().map(Handle::stop).unzip();
    drop(sockets);
    let deadline = Instant::now() + options.shutdown_timeout;
    tokio::select! {
        drained = rt::timeout_at::<R, _>(deadline, all_ended.recv()) => if drained.is_err() {
            tracing::warn!("calls are still open at the end of --shutdown-timeout; ending them");
        },
        again = signals.next() => {
            tracing::warn!(signal = again.number(), "ending at once");
            return Ok(ExitCode::from(128 + again.number()));
        }
    }
    // Nobody listens if the control task has failed; then calls end with their connections.
    let _ = reports.send(Report::End).await;
    if rt::timeout_at::<R, _>(Instant::now() + ENDING_TIMEOUT, all_ended.recv())
        .await
        .is_ok()
    {
        for handle in handles {
            if let Err(error) = server::join(handle) {
                tracing::error!(error = %error, "a worker failed");
            }
        }
    }
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

fn start_workers<R: Runtime>(
    options: &StartOptions,
    shutdown: &watch::Receiver<Phase>,
    alive: &mpsc::Sender<()>,
) -> Result<(Vec<Handle>, Reports), Failure> {
    let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let count = options.workers.map_or_else(cores, NonZeroUsize::get);
    let settings = Arc::new(Settings {
        dial_timeout: options.dial_timeout,
        keepalive: options.dial_keepalive,
        keepalive_without_calls: options.dial_keepalive_without_stream,
    });
    let limits = Limits {
        request_bytes_max: options.max_send_bytes.saturating_add(OVERHEAD_BYTES),
        response_bytes_max: options.max_recv_bytes,
        concurrent_streams_max: options.max_concurrent_streams,
        pings: PingPolicyConfig {
            interval_min: options.keepalive_min_time,
            permit_without_stream: false,
        },
        keepalive: options.server_keepalive,
    };
    let lanes: Vec<Arc<Lane>> = (0..count).map(|_| Arc::default()).collect();
    let (orders, mailboxes): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::unbounded_channel()).unzip();
    let endpoints: Arc<[Endpoint]> = options.endpoints.clone().into();
    let config = endpoint_config(options, count);
    let control = Control::new(
        config,
        random_seed(),
        &endpoints,
        settings.clone(),
        lanes.clone(),
        orders,
    );
    let reports = control.reports();
    let connections_open: Arc<[Arc<AtomicUsize>]> = (0..count).map(|_| Arc::default()).collect();
    let mut workers = Vec::with_capacity(count);
    for (number, (lane, orders)) in lanes.into_iter().zip(mailboxes).enumerate() {
        let worker = Worker {
            lane,
            reports: reports.clone(),
            settings: settings.clone(),
            endpoints: endpoints.clone(),
            limits,
            shutdown: shutdown.clone(),
            connections_open: connections_open.clone(),
        };
        workers.push(server::start::<R>(number, worker, orders, alive.clone()).map_err(Failure::Thread)?);
    }
    rt::spawn::<R>(control.run::<R>());
    Ok((workers, reports))
}

fn endpoint_config(options: &StartOptions, workers: usize) -> Config {
    let default = Config::default();
    Config {
        // The command line allows 1024 at most.
        lanes: u32::try_from(workers).unwrap_or(u32::MAX),
        connect_timeout: default.connect_timeout.min(options.dial_timeout),
        probe_interval: options.endpoint_probe.map(|probe| probe.interval),
        probe_timeout: options
            .endpoint_probe
            .map_or(default.probe_timeout, |probe| probe.timeout),
        ..default
    }
}

/// A number that differs from process to process: many proxies must not choose the same endpoint.
fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Hands each new connection to the worker that has the fewest. Returns only when a worker is gone.
async fn accept<R: Runtime>(listener: &R::Listener, workers: &[Handle]) -> WorkerGone {
    loop {
        match R::accept(listener).await {
            Ok((socket, _)) => {
                prepare(&socket);
                // There is at least one worker.
                let Some(worker) = workers.iter().min_by_key(|worker| worker.load()) else {
                    return WorkerGone;
                };
                if let Err(gone) = worker.adopt(socket).await {
                    return gone;
                }
            }
            Err(error) => {
                tracing::warn!(error = %error, "cannot accept connections");
                rt::sleep::<R>(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Socket options are wishes: a connection that is already broken fails at its first read.
fn prepare(socket: &TcpStream) {
    let socket = SockRef::from(socket);
    let keepalive = TcpKeepalive::new()
        .with_time(TCP_KEEPALIVE)
        .with_interval(TCP_KEEPALIVE);
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&keepalive);
}

/// Binds the first of the addresses that can be bound.
fn listen(address: &ListenAddress) -> Result<(TcpListener, SocketAddr), Failure> {
    let failure = |error: &io::Error| Failure::Listen {
        address: address.clone(),
        reason: in_go_words(error),
    };
    let candidates: Vec<SocketAddr> = if address.host.is_empty() {
        // All addresses of both families with one socket, or of the one that the machine has.
        vec![
            SocketAddr::from(([0u16; 8], address.port)),
            SocketAddr::from(([0u8; 4], address.port)),
        ]
    } else {
        (address.host.as_str(), address.port)
            .to_socket_addrs()
            .map_err(|error| failure(&error))?
            .collect()
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "lookup: no address");
    for candidate in candidates {
        match bind(candidate) {
            Ok(listener) => {
                let address = listener.local_addr().map_err(|error| failure(&error))?;
                return Ok((listener, address));
            }
            Err(error) => last = error,
        }
    }
    Err(failure(&last))
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// `bind: address already in use` for `Address already in use (os error 98)`.
fn in_go_words(error: &io::Error) -> String {
    let text = error.to_string();
    let Some((reason, _)) = text.split_once(" (os error") else {
        return text;
    };
    let mut letters = reason.chars();
    let first = letters
        .next()
        .map(|letter| letter.to_lowercase().to_string())
        .unwrap_or_default();
    format!("bind: {first}{}", letters.as_str())
}

/// Tells the init daemon, if it asked to be told.
fn notify_ready() {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    tracing::info!("notifying init daemon");
    match sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        Ok(()) => tracing::info!("successfully notified init daemon"),
        Err(error) => tracing::warn!(error = %error, "failed to notify init daemon"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_told_in_go_words() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = listen(&ListenAddress {
            host: "127.0.0.1".into(),
            port,
        })
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("listen tcp 127.0.0.1:{port}: bind: address already in use")
        );
    }

    #[test]
    fn an_empty_host_means_every_address() {
        let (_listener, address) = listen(&ListenAddress {
            host: String::new(),
            port: 0,
        })
        .unwrap();
        assert!(address.ip().is_unspecified());
        let loopback = SocketAddr::from(([127, 0, 0, 1], address.port()));
        TcpStream::connect(loopback).unwrap();
    }

    #[test]
    fn signals_have_their_numbers() {
        use crate::rt::Signal;
        assert_eq!((Signal::Interrupt.number(), Signal::Terminate.number()), (2, 15));
    }
}
