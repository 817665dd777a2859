//! The proxy's core in a simulated world.
//!
//! ```text
//!   clients ──links──► proxies ──links──► members
//!      │            (the core's machines,     │
//!      │             carried out in virtual   the model etcd
//!      │             time)                    │
//!      └──────────────► oracle ◄──────────────┘
//! ```
//!
//! Everything in it comes from a seed: how many members, proxies and clients there are, what clients ask, how long each
//! frame takes, what breaks. Everything that happens is a delivery from one heap in virtual time, and is
//! hashed; the same seed gives the same hash.
//!
//! - `members`: hosts and servers around the model;
//! - `net`: connections, in order, that break, stall and forget;
//! - `proxy`: what the runtime does around the core, and nothing that it decides;
//! - `client`: random or scripted; `watches`: its Watch calls; `leases`: its leases and LeaseKeepAlive calls;
//! - `oracle`: what must hold, judged from what clients were told, what members said, and the model's log;
//! - `world`: the loop, the faults, and the story of a run.
//!
//! A new machine of the core comes in as a part of `proxy`, with frames of its own in `delivery`; its promises come in
//! as part of `oracle`, fed by notes from where things happen.

mod client;
mod delivery;
mod io;
mod leases;
mod members;
mod net;
mod op;
mod oracle;
mod proxy;
mod queue;
mod run;
mod settings;
mod situations;
mod trace;
mod watches;
mod world;

pub use client::{Config as ClientConfig, Target};
pub use delivery::{Answer, CallTag, LeaseTag, WatchTag};
pub use io::Identity;
pub use leases::Config as LeaseConfig;
pub use op::{Key, Odd, Op};
pub use oracle::{Heartbeats, LeaseTold, Outcome};
pub use proxy::Config as ProxyConfig;
pub use proxy::read::{Cached, Config as ReadConfig};
pub use run::{Failure, Passed, run, run_twice};
pub use settings::Settings;
pub use situations::{Counts, Situation};
pub use trace::Lines;
pub use watches::Config as WatchConfig;
pub use world::{FaultKind, Manner, WatchCost, World};
