//! How the process ends.

/// How far the process has come on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It isn't on its way out.
    Serving,
    /// No new connections or calls; streams without an end are ended, other calls may finish.
    Draining,
}
