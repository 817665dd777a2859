//! The process: command line, listening, workers, signals, exit code.

use core::num::NonZeroUsize;
use core::time::Duration;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use etcd_proxy_core::endpoints::Config;
use etcd_proxy_core::http2::PingPolicyConfig;
use etcd_proxy_core::lease::{Config as LeaseConfig, Router};
use etcd_proxy_core::range::KeyRange;
use etcd_proxy_core::read::{Cache, Config as ReadConfig, Scope};
use etcd_proxy_core::watch::{Config as WatchConfig, Hub};
use tokio::sync::{mpsc, watch as latest};

use crate::cli::{self, CacheMode, ClusterTls, Command, StartOptions, Upstream};
use crate::embedded::{self, Embedded};
use crate::forward::Worker;
use crate::lease::LeaseRouter;
use crate::listen::{self, ListenError};
use crate::logging;
use crate::metrics::Metrics;
use crate::process::{self, Asked};
use crate::read::ReadCache;
use crate::rt::{self, Runtime};
use crate::server::{self, Connections, Handle, Orders, Seen, WorkerGone};
use crate::settings::{Endpoint, Limits, OVERHEAD_BYTES};
use crate::shown::Shown;
use crate::shutdown::Phase;
use crate::tls::{self, Acceptance, Expiries, Live, Outgoing};
use crate::upstream::{
    CHECK_PATIENCE, Control, Lane, Reached, Report, Reports, Settings, Uplink, UplinkTurns,
};
use crate::watch::WatchHub;

/// Receive window of a client connection, in bytes.
const CLIENT_CONNECTION_WINDOW: u32 = 16 << 20;

/// How long the line that says that the proxy is ready waits for the first member to be reached, so that it can say which
/// one. Clients are served meanwhile.
const FIRST_REACHED_PATIENCE: Duration = Duration::from_millis(250);

/// How long the workers get for ending after everything was told to end.
const ENDING_TIMEOUT: Duration = Duration::from_secs(1);

/// The whole program: what both binaries' `main` calls.
#[must_use]
pub fn main<R: Runtime>(program: &str) -> ExitCode {
    let command = match cli::parse(program, std::env::args_os().skip(1), std::env::vars_os()) {
        Ok(command) => command,
        Err(exit) => {
            // A reader that is gone is no reason to fail.
            let _ = io::stdout().write_all(exit.stdout.as_bytes());
            let _ = io::stderr().write_all(exit.stderr.as_bytes());
            return ExitCode::from(exit.code);
        }
    };
    let (format, level) = match &command {
        Command::InMemoryEtcd(options) => (options.log_format, options.log_level),
        Command::Start(options) => (options.log_format, options.log_level),
    };
    let format = process::log_format(format);
    if logging::init(format, level).is_err() {
        let _ = writeln!(io::stderr(), "logging was set up twice");
        return ExitCode::FAILURE;
    }
    let ended = match command {
        Command::InMemoryEtcd(options) => embedded::run::<R>(&options, format).map_err(Failure::from),
        Command::Start(options) => run::<R>(*options, format),
    };
    match ended {
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
    #[error(transparent)]
    Embedded(#[from] embedded::Failure),
    #[error("the lease router has failed; this is a bug")]
    Lease,
    #[error("the read cache has failed; this is a bug")]
    Reads,
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("cannot set up the runtime: {0}")]
    Runtime(io::Error),
    #[error("cannot install signal handlers: {0}")]
    Signals(io::Error),
    #[error("cannot start a worker thread: {0}")]
    Thread(io::Error),
    #[error("{0}")]
    Tls(String),
    #[error("the watch hub has failed; this is a bug")]
    Watch,
    #[error(transparent)]
    Worker(#[from] WorkerGone),
}

fn run<R: Runtime>(options: StartOptions, format: logging::Format) -> Result<ExitCode, Failure> {
    process::warn_of(&options.notes, &options.unknown_environment);
    let tls = Tls::new(&options).map_err(Failure::Tls)?;
    let (listener, address) = listen::listen(&options.listen_address)?;
    tracing::info!(address = %address, "listening for gRPC proxy client requests");
    let embedded = match options.upstream {
        Upstream::Embedded => Some(Embedded::start::<R>(address)?),
        Upstream::Endpoints(_) => None,
    };
    R::block_on(serve::<R>(options, format, (listener, address), tls, embedded)).map_err(Failure::Runtime)?
}

/// TLS on both sides, as far as there is any.
struct Tls {
    clients: Option<Live<Acceptance>>,
    cluster: Option<Live<Outgoing>>,
    expiries: Arc<Expiries>,
}

impl Tls {
    /// Reads all files that were named.
    ///
    /// # Errors
    /// What is wrong with which.
    fn new(options: &StartOptions) -> Result<Self, String> {
        let expiries = Arc::<Expiries>::default();
        let serve = |tls| tls::serve(tls, &options.listen_address.host, &expiries);
        Ok(Self {
            clients: options.server_tls.clone().map(serve).transpose()?,
            cluster: match options.cluster_tls.clone() {
                ClusterTls::Off => None,
                ClusterTls::Idle(tls) => {
                    tls::check(&tls)?;
                    None
                }
                ClusterTls::On(tls) => Some(tls::dial(tls, &expiries)?),
            },
            expiries,
        })
    }
}

async fn serve<R: Runtime>(
    options: StartOptions,
    format: logging::Format,
    (listener, address): (TcpListener, SocketAddr),
    tls: Tls,
    mut embedded: Option<Embedded>,
) -> Result<ExitCode, Failure> {
    let mut asked = Asked::new(R::signals().map_err(Failure::Signals)?);
    let listener = R::listener(listener).map_err(Failure::Runtime)?;
    let (phase, shutdown) = latest::channel(Phase::Serving);
    let (alive, mut all_ended) = mpsc::channel::<()>(1);
    let endpoints = match (&embedded, &options.upstream) {
        (None, Upstream::Endpoints(endpoints)) => endpoints.clone(),
        (None, Upstream::Embedded) => Vec::new(),
        (Some(embedded), _) => vec![embedded.endpoint()],
    };
    let Started {
        workers,
        reports,
        watch,
        lease,
        reads,
        reached,
    } = start_workers::<R>(&options, endpoints.into(), tls, &shutdown, &alive)?;
    drop(alive);

    let is_embedded = embedded.is_some();
    let ready = async {
        say_ready::<R>(address, reached).await;
        if is_embedded {
            process::say_what_to_try(format, address);
        }
        process::notify_ready();
        core::future::pending::<core::convert::Infallible>().await
    };
    let signal = tokio::select! {
        signal = asked.until_end() => signal,
        never = ready => match never {},
        gone = accept::<R>(&listener, &workers) => return Err(gone.into()),
        failure = embedded_failure(&mut embedded) => return Err(failure.into()),
        () = watch.failed() => return Err(Failure::Watch),
        () = lease.failed() => return Err(Failure::Lease),
        () = reads.failed() => return Err(Failure::Reads),
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
        again = asked.until_end() => {
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
    if let Some(embedded) = embedded {
        embedded.stop()?;
    }
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// Logs that the proxy is ready, and which member it has reached.
async fn say_ready<R: Runtime>(address: SocketAddr, mut reached: latest::Receiver<Reached>) {
    let known = reached.wait_for(|reached| *reached != Reached::NotYet);
    let known = rt::timeout_at::<R, _>(Instant::now() + FIRST_REACHED_PATIENCE, known).await;
    let reached = match &known {
        Ok(Ok(reached)) => &**reached,
        Ok(Err(_)) | Err(rt::Elapsed) => &Reached::NotYet,
    };
    let endpoint = match reached {
        Reached::Endpoint(endpoint) => endpoint.as_str(),
        Reached::NotYet | Reached::None => "none reached yet",
    };
    tracing::info!(address = %address, endpoint, "started gRPC proxy");
}

/// Waits for the in-memory etcd's untimely end, if there is one.
async fn embedded_failure(embedded: &mut Option<Embedded>) -> embedded::Failure {
    match embedded {
        Some(embedded) => embedded.ended().await,
        None => core::future::pending().await,
    }
}

/// What runs once the workers are started.
struct Started {
    workers: Vec<Handle>,
    reports: Reports,
    watch: Arc<WatchHub>,
    lease: Arc<LeaseRouter>,
    reads: Arc<ReadCache>,
    reached: latest::Receiver<Reached>,
}

fn start_workers<R: Runtime>(
    options: &StartOptions,
    endpoints: Arc<[Endpoint]>,
    tls: Tls,
    shutdown: &latest::Receiver<Phase>,
    alive: &mpsc::Sender<()>,
) -> Result<Started, Failure> {
    let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let count = options.workers.map_or_else(cores, NonZeroUsize::get);
    let settings = Arc::new(Settings {
        dial_timeout: options.dial_timeout,
        keepalive: options.dial_keepalive,
        keepalive_without_calls: options.dial_keepalive_without_stream,
        tls: tls.cluster,
    });
    let limits = Limits {
        request_bytes_max: options.max_send_bytes.saturating_add(OVERHEAD_BYTES),
        response_bytes_max: options.max_recv_bytes,
        connection_window_bytes: CLIENT_CONNECTION_WINDOW,
        concurrent_streams_max: options.max_concurrent_streams,
        pings: PingPolicyConfig {
            interval_min: options.keepalive_min_time,
            permit_without_stream: false,
        },
        keepalive: options.server_keepalive,
    };
    let lanes: Vec<Arc<Lane>> = (0..count).map(|_| Arc::default()).collect();
    let (orders, mailboxes): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::unbounded_channel()).unzip();
    let config = endpoint_config(options, count);
    let control = Control::new(
        config,
        rt::random_seed(),
        &endpoints,
        settings.clone(),
        lanes.clone(),
        orders,
    );
    let reports = control.reports();
    let foreign = control.foreign();
    let reached = control.reached();
    let (watch_orders, watch_mailboxes): (Vec<_>, Vec<_>) =
        (0..count).map(|_| mpsc::unbounded_channel()).unzip();
    let hub = Hub::new(watch_config(options), rt::random_seed());
    let shown = Arc::<Shown>::default();
    let watch = Arc::new(WatchHub::new(hub, "watch", shown.clone(), watch_orders));
    let (lease_orders, lease_mailboxes): (Vec<_>, Vec<_>) =
        (0..count).map(|_| mpsc::unbounded_channel()).unzip();
    let router = Router::new(lease_config(options), rt::random_seed());
    let lease = Arc::new(LeaseRouter::new(router, "lease", shown.clone(), lease_orders));
    let (read_orders, read_mailboxes): (Vec<_>, Vec<_>) =
        (0..count).map(|_| mpsc::unbounded_channel()).unzip();
    let config = read_config(options);
    let scope = config.scope.clone();
    let cache = Cache::new(config, rt::random_seed());
    let reads = Arc::new(ReadCache::new(
        cache,
        scope,
        shown,
        watch.clone(),
        lease.clone(),
        read_orders,
    ));
    let metrics = Arc::new(Metrics::new(
        watch.clone(),
        lease.clone(),
        reads.clone(),
        foreign,
        tls.expiries,
        options.cache.staleness_max,
    ));
    let connections = Arc::new(Connections::new(count));
    let mut workers = Vec::with_capacity(count);
    let mailboxes = mailboxes
        .into_iter()
        .zip(watch_mailboxes)
        .zip(lease_mailboxes)
        .zip(read_mailboxes)
        .map(|(((connections, watch), lease), reads)| Orders {
            connections,
            watch,
            lease,
            reads,
        });
    for (number, (lane, orders)) in lanes.into_iter().zip(mailboxes).enumerate() {
        let worker = Worker {
            uplink: Arc::new(Uplink {
                lane,
                reports: reports.clone(),
                settings: settings.clone(),
                endpoints: endpoints.clone(),
                request_bytes_max: limits.request_bytes_max,
                judge: reads.clone(),
                turns: UplinkTurns::default(),
            }),
            watch: watch.clone(),
            lease: lease.clone(),
            reads: reads.clone(),
            limits,
            shutdown: shutdown.clone(),
            call_ends: None,
        };
        let seen = Seen {
            metrics: metrics.clone(),
            connections: connections.clone(),
            tls: tls.clients.clone(),
        };
        workers
            .push(server::start::<R>(number, worker, seen, orders, alive.clone()).map_err(Failure::Thread)?);
    }
    rt::spawn::<R>(control.run::<R>());
    Ok(Started {
        workers,
        reports,
        watch,
        lease,
        reads,
        reached,
    })
}

fn read_config(options: &StartOptions) -> ReadConfig {
    ReadConfig {
        scope: match &options.cache.mode {
            CacheMode::All => Scope::Everything,
            CacheMode::Prefixes(prefixes) => Scope::Ranges(
                prefixes
                    .iter()
                    .map(|prefix| KeyRange::prefix(prefix.as_bytes()))
                    .collect(),
            ),
            CacheMode::Off => Scope::Nothing,
        },
        bytes_max: options.cache.bytes_max,
        staleness_max: options.cache.staleness_max,
        linearizable: options.cache.linearizable,
        // Each member is asked for its version first.
        trusts_progress: false,
        ..ReadConfig::default()
    }
}

fn watch_config(options: &StartOptions) -> WatchConfig {
    let default = WatchConfig::default();
    let notify_interval = options.watch_progress_notify_interval;
    WatchConfig {
        progress_notify_interval: notify_interval.unwrap_or(default.progress_notify_interval),
        learns_notify_interval: notify_interval.is_none(),
        // As any call, and then there are questions to be asked.
        create_timeout: options.dial_timeout.saturating_add(CHECK_PATIENCE),
        request_bytes_max: options.max_send_bytes.saturating_add(OVERHEAD_BYTES),
        // Each member is asked for its version first.
        trusts_progress: false,
        ..default
    }
}

fn lease_config(options: &StartOptions) -> LeaseConfig {
    LeaseConfig {
        // As a watch. Longer if the lease is known to live longer.
        answer_timeout: options.dial_timeout.saturating_add(CHECK_PATIENCE),
        share_within: options.lease_share_within,
        ..LeaseConfig::default()
    }
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

/// Hands each new connection to the worker that has the fewest. Returns only when a worker is gone.
async fn accept<R: Runtime>(listener: &R::Listener, workers: &[Handle]) -> WorkerGone {
    loop {
        let socket = listen::accept::<R>(listener).await;
        // There is at least one worker.
        let Some(worker) = workers.iter().min_by_key(|worker| worker.load()) else {
            return WorkerGone;
        };
        if let Err(gone) = worker.adopt(socket).await {
            return gone;
        }
    }
}
