//! The in-memory etcd without a proxy in front: the command `in-memory-etcd`.

use core::time::Duration;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;

use tokio::sync::watch;

use super::{Failure, server, warn};
use crate::cli::InMemoryEtcdOptions;
use crate::listen::listen;
use crate::logging::Format;
use crate::process::{self, Asked};
use crate::rt::Runtime;
use crate::shutdown::Phase;

/// Serves until a signal ends the process. A second one ends it at once.
///
/// # Errors
/// Why it can't start or go on.
pub(crate) fn run<R: Runtime>(options: &InMemoryEtcdOptions, format: Format) -> Result<ExitCode, Failure> {
    process::warn_of(&options.notes, &options.unknown_environment);
    let (listener, address) = listen(&options.listen_address)?;
    warn(address);
    let served = R::block_on(serve::<R>(listener, address, options.shutdown_timeout, || {
        tracing::info!(address = %address, "ready to serve client requests");
        process::say_what_to_try(format, address);
        process::notify_ready();
    }));
    served.map_err(Failure::Runtime)?
}

async fn serve<R: Runtime>(
    listener: TcpListener,
    address: SocketAddr,
    shutdown_timeout: Duration,
    ready: impl FnOnce(),
) -> Result<ExitCode, Failure> {
    let mut asked = Asked::new(R::signals().map_err(Failure::Signals)?);
    let (phase, shutdown) = watch::channel(Phase::Serving);
    let mut server = core::pin::pin!(server::run::<R>(
        listener,
        process::reachable(address),
        shutdown,
        || shutdown_timeout
    ));
    // The socket is listening: whoever connects from here on is served.
    ready();
    let signal = tokio::select! {
        signal = asked.until_end() => signal,
        ended = &mut server => return ended.map(|()| ExitCode::SUCCESS),
    };
    tracing::info!(signal = signal.number(), "shutting down; open calls may finish");
    phase.send_replace(Phase::Draining);
    tokio::select! {
        ended = &mut server => ended?,
        again = asked.until_end() => {
            tracing::warn!(signal = again.number(), "ending at once");
            return Ok(ExitCode::from(128 + again.number()));
        }
    }
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}
