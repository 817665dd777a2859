//! Values that the process is set up with, and that its parts take: addresses, times, limits. Nothing of where they come from.

mod address;
mod limits;
mod number;
mod tls;

use core::time::Duration;

pub(crate) use address::Security;
pub use address::{Endpoint, ListenAddress};
pub(crate) use limits::{Limits, OVERHEAD_BYTES};
pub(crate) use number::{from_to, parse_bool, parse_int, parse_uint, plain, quote, shorten};
pub use tls::{ClientTls, KeyPair, ServerCertificate, ServerTls, TlsVersion};

/// A question asked again and again, and how long its answer may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Time between two questions; above zero.
    pub interval: Duration,
    /// How long to wait for the answer before the connection counts as dead; above zero.
    pub timeout: Duration,
}
