//! What every command does as a process: its log, its signals, its init daemon, and what a person is told.

use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::time::Instant;

use crate::cli;
use crate::logging::{Format, Seldom};
use crate::rt::{Signal, Signals};

/// The form of the log where none was asked for: for a person on a terminal, else for machines.
pub(crate) fn log_format(asked_for: Option<Format>) -> Format {
    asked_for.unwrap_or_else(|| {
        if io::stderr().is_terminal() {
            Format::Console
        } else {
            Format::Json
        }
    })
}

/// Logs what was asked for and isn't done as it was written. An unknown variable is probably a misspelt setting.
pub(crate) fn warn_of(notes: &[String], unknown_environment: &[String]) {
    for note in notes {
        tracing::warn!("{note}");
    }
    for name in unknown_environment {
        let variable = name.as_str();
        match cli::variable_meant_by(name) {
            Some(meant) => tracing::warn!(variable, did_you_mean = meant, "unknown environment variable"),
            None => tracing::warn!(variable, "unknown environment variable"),
        }
    }
}

/// Commands that a person could try next, for an etcd at this address.
const NEXT: [&str; 4] = [
    "etcdctl put greeting hello",
    "etcdctl get greeting",
    "etcdctl watch --prefix g",
    "etcdctl lease grant 60",
];

/// Says what to try next, in the form of the log: nothing but JSON comes between JSON lines.
pub(crate) fn say_what_to_try(format: Format, address: SocketAddr) {
    let variable = format!("ETCDCTL_ENDPOINTS={}", reachable(address));
    match format {
        Format::Console => {
            let commands = NEXT.map(|command| format!("  {command}\n")).concat();
            let text = format!(
                "\n\
                 This is an in-memory etcd for trying out and tests; its data is lost at exit. In another terminal, try:\n\
                 \n  \
                 export {variable}\n\
                 {commands}\
                 \n\
                 Press Ctrl-C here to end it.\n\
                 \n"
            );
            // One write, so that no line of the log comes between. A reader that is gone is no reason to fail.
            let _ = io::stderr().write_all(text.as_bytes());
        }
        Format::Json => tracing::info!(
            environment = variable,
            commands = NEXT.join("; "),
            "what to try next with the in-memory etcd"
        ),
    }
}

/// An address of this machine that leads to who listens on `address`.
pub(crate) fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip([127, 0, 0, 1].into());
    }
    address
}

/// Tells the init daemon, if it asked to be told.
pub(crate) fn notify_ready() {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    tracing::info!("notifying init daemon");
    match sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        Ok(()) => tracing::info!("successfully notified init daemon"),
        Err(error) => tracing::warn!(error = %error, "failed to notify init daemon"),
    }
}

/// The signals of a process.
pub(crate) struct Asked<S> {
    signals: S,
    /// Whether a terminal was there at the start. Once it is gone it can't be told from none.
    on_terminal: bool,
}

impl<S: Signals> Asked<S> {
    pub(crate) fn new(signals: S) -> Self {
        let on_terminal = io::stdin().is_terminal();
        Self { signals, on_terminal }
    }

    /// Waits for the next signal that asks the process to end. SIGHUP does that when the terminal goes away that the process
    /// was started on; a daemon has none, logs it, and goes on.
    pub(crate) async fn until_end(&mut self) -> Signal {
        static SELDOM: Seldom = Seldom::new();
        loop {
            let signal = self.signals.next().await;
            if signal != Signal::Hangup || self.on_terminal {
                return signal;
            }
            if let Some(left_out) = SELDOM.admit(Instant::now()) {
                tracing::warn!(
                    signal = signal.number(),
                    left_out = (left_out > 0).then_some(left_out),
                    "SIGHUP changes nothing: there is no configuration file to read again; SIGTERM ends the process"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_printed_can_be_used() {
        for (listening, printed) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "127.0.0.1:1"),
            ("127.0.0.1:2", "127.0.0.1:2"),
            ("[::1]:3", "[::1]:3"),
        ] {
            assert_eq!(reachable(listening.parse().unwrap()).to_string(), printed);
        }
    }

    #[test]
    fn what_was_asked_for_is_the_form_of_the_log() {
        for format in [Format::Console, Format::Json] {
            assert_eq!(log_format(Some(format)), format);
        }
    }
}
