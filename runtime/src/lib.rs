//! What the binaries share: the command line, logging, the side that clients see, the side that members see, and
//! the calls between the two.
//!
//! Everything is generic over [`Runtime`], the seam to tokio or async-std: no runtime's own names occur here.
//! tokio is present as IO traits and sync types only, which need no tokio runtime.
//!
//! A process is one control thread and some worker threads. Each worker has an executor of its own on which its
//! client connections, their calls and its member connections run, so a call never changes threads:
//!
//! ```text
//!  control thread                          worker thread (one per core)
//!  ┌──────────────────────────┐  sockets   ┌──────────────────────────────────────────────┐
//!  │ accepts, signals         │ ─────────► │ client connection ─► call ─► member          │
//!  │                          │  orders    │  (h2 server)        (bytes)   connection     │
//!  │ endpoint machine (core)  │ ─────────► │                               (h2 client)    │
//!  │   events in, actions out │ ◄───────── │                                              │
//!  └──────────────────────────┘  reports   └──────────────────────────────────────────────┘
//! ```
//!
//! A module imports only what stands below it. ARCHITECTURE.md has the floors, `tests/layers.rs` holds the sources to them.

mod app;
pub mod cli;
#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "embedded")]
mod embedded;
#[cfg(not(feature = "embedded"))]
#[path = "embedded/none.rs"]
mod embedded;
mod forward;
mod grpc;
mod keepalive;
mod lease;
mod listen;
pub mod logging;
mod machine;
mod metrics;
mod process;
mod read;
mod rt;
mod server;
mod settings;
mod shown;
mod shutdown;
mod streams;
mod tls;
mod transport;
mod upstream;
mod watch;

pub use app::main;
pub use rt::{Runtime, Signal, Signals, prepare_connected};
pub use settings::{
    ClientTls, Endpoint, Keepalive, KeyPair, ListenAddress, ServerCertificate, ServerTls, TlsVersion,
};
