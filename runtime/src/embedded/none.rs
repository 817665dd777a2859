//! A build without the in-memory etcd: whoever asks for one is told so.

use std::net::SocketAddr;
use std::process::ExitCode;

use crate::cli::InMemoryEtcdOptions;
use crate::logging::Format;
use crate::rt::Runtime;
use crate::settings::Endpoint;

/// Why there is no in-memory etcd.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("there is no in-memory etcd in this program: it was built without the feature `embedded`")]
    NotBuilt,
}

/// Nothing is one.
#[derive(Debug)]
pub(crate) enum Embedded {}

/// # Errors
/// Always.
#[expect(clippy::extra_unused_type_parameters, reason = "as with an in-memory etcd")]
pub(crate) fn run<R: Runtime>(_: &InMemoryEtcdOptions, _: Format) -> Result<ExitCode, Failure> {
    Err(Failure::NotBuilt)
}

impl Embedded {
    /// # Errors
    /// Always.
    #[expect(clippy::extra_unused_type_parameters, reason = "as with an in-memory etcd")]
    pub(crate) fn start<R: Runtime>(_: SocketAddr) -> Result<Self, Failure> {
        Err(Failure::NotBuilt)
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        match *self {}
    }

    pub(crate) async fn ended(&mut self) -> Failure {
        match *self {}
    }

    pub(crate) fn stop(self) -> Result<(), Failure> {
        match self {}
    }
}
