//! The log: one line per event on standard error, with the keys and forms of etcd's.
//!
//! [`init`] once at start, then `tracing`'s macros anywhere. The message is the event's text, its fields follow with
//! their types kept; a field called `logger` names the part of the program. JSON for machines:
//!
//! ```text
//! {"level":"info","ts":"2026-01-02T03:04:05.123456Z","caller":"runtime/src/serve.rs:12","msg":"started","port":2379}
//! ```
//!
//! or, for people, the tab-separated console form of zap, etcd's logging library. Times are UTC.
//!
//! - Events below the level are switched off at their callsite and cost one load of a static; those of libraries are
//!   let through from [`Level::Warn`] up only, since some of them log headers, tokens among them, at debug level.
//!   Spans are not used, nor is `tracing`'s trace level, which etcd's log has not.
//! - Lines are limited per callsite: the first [`SAMPLE_FIRST`] of each second, then every [`SAMPLE_THEREAFTER`]th, so
//!   that a hostile client can't flood the log. That is etcd's setting of zap's sampler. What is left out is not
//!   counted anywhere.
//! - A line is one write, so lines of different threads do not mix, and nothing happens if standard error is closed.
//!   Values are cut after 8 KiB.

use std::io::Write as _;
use std::time::SystemTime;

use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber, span};

mod line;
mod sampler;
mod seldom;
#[cfg(test)]
mod tests;
mod time;

pub use sampler::{SAMPLE_FIRST, SAMPLE_THEREAFTER};
pub(crate) use seldom::Seldom;

use line::Line;
use sampler::Sampler;

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Tab-separated columns, with the fields as JSON at the end.
    Console,
    /// One JSON object per line.
    Json,
}

/// How important an event is, from the least to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For finding faults.
    Debug,
    /// What happened in normal operation.
    Info,
    /// Something that deserves a look.
    Warn,
    /// Something that failed for good.
    Error,
}

impl From<&tracing::Level> for Level {
    fn from(level: &tracing::Level) -> Self {
        match *level {
            tracing::Level::ERROR => Self::Error,
            tracing::Level::WARN => Self::Warn,
            tracing::Level::INFO => Self::Info,
            tracing::Level::DEBUG | tracing::Level::TRACE => Self::Debug,
        }
    }
}

/// The log is set up already, by an earlier [`init`] or by other code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log is set up already")]
pub struct AlreadySet;

/// The time so long ago, as lines of the log have it.
pub(crate) fn before_now(ago: core::time::Duration) -> String {
    let now = SystemTime::now();
    time::format(now.checked_sub(ago).unwrap_or(now))
}

/// A time in seconds since 1970, as lines of the log have it.
pub(crate) fn at(seconds: u64) -> String {
    let time = SystemTime::UNIX_EPOCH.checked_add(core::time::Duration::from_secs(seconds));
    time.map_or_else(|| format!("{seconds} s after 1970"), time::format)
}

/// Sends all events of the process from `level` up to standard error, and makes each panic one line at level error.
///
/// # Errors
///
/// [`AlreadySet`] the second time; nothing is changed then.
pub fn init(format: Format, level: Level) -> Result<(), AlreadySet> {
    tracing::subscriber::set_global_default(Log::new(format, level, to_stderr)).map_err(|_| AlreadySet)?;
    // Its own sampler: panics are logged even when a callsite is over its limit, but not without a limit of their own.
    let log = Log::new(format, level, to_stderr);
    std::panic::set_hook(Box::new(move |panic| log.panicked(panic)));
    Ok(())
}

/// The one write of a line. Standard error may be closed, or a full disk: there is nobody left to tell.
fn to_stderr(line: &[u8]) {
    let _ = std::io::stderr().write_all(line);
}

/// Turns events into lines. `W` takes each line, with its line end.
struct Log<W> {
    format: Format,
    level: Level,
    sampler: Sampler,
    write: W,
}

impl<W: Fn(&[u8])> Log<W> {
    fn new(format: Format, level: Level, write: W) -> Self {
        Self {
            format,
            level,
            sampler: Sampler::new(),
            write,
        }
    }

    fn is_wanted(&self, metadata: &Metadata<'_>) -> bool {
        let floor = if metadata.target().starts_with(OWN_TARGETS) {
            self.level
        } else {
            self.level.max(Level::Warn)
        };
        metadata.is_event()
            && *metadata.level() != tracing::Level::TRACE
            && Level::from(metadata.level()) >= floor
    }

    fn panicked(&self, panic: &std::panic::PanicHookInfo<'_>) {
        let now = SystemTime::now();
        if !self.sampler.admit(time::unix_seconds(now), 0) {
            return;
        }
        let caller = panic
            .location()
            .map(|location| (location.file(), location.line()));
        let mut line = Line::new(self.format, Level::Error, now, caller);
        line.message(&format_args!(
            "panic: {}",
            panic.payload_as_str().unwrap_or("(not a text)")
        ));
        line.text("thread", std::thread::current().name().unwrap_or("(unnamed)"));
        // Captured only where RUST_BACKTRACE asks for it.
        let trace = std::backtrace::Backtrace::capture();
        if trace.status() == std::backtrace::BacktraceStatus::Captured {
            line.display("stacktrace", &trace);
        }
        (self.write)(&line.finish());
    }
}

impl<W: Fn(&[u8]) + 'static> Subscriber for Log<W> {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.is_wanted(metadata) {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.is_wanted(metadata)
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        use tracing::level_filters::LevelFilter;
        Some(match self.level {
            Level::Debug => LevelFilter::DEBUG,
            Level::Info => LevelFilter::INFO,
            Level::Warn => LevelFilter::WARN,
            Level::Error => LevelFilter::ERROR,
        })
    }

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let now = SystemTime::now();
        if !self
            .sampler
            .admit(time::unix_seconds(now), sampler::key_of(&metadata.callsite()))
        {
            return;
        }
        let caller = metadata.file().zip(metadata.line());
        let mut line = Line::new(self.format, metadata.level().into(), now, caller);
        event.record(&mut line);
        (self.write)(&line.finish());
    }

    // Spans are not enabled, so nothing below is called but by code that ignores `enabled`.
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// Targets of this workspace's own crates begin with this.
const OWN_TARGETS: &str = "etcd_proxy";
