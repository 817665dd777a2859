//! Watch calls: clients' streams go to the core's hub, which makes the few that the cluster sees.
//!
//! ```text
//!  client ──h2──► client.rs ──► hub.rs ────────────► upstream.rs ──h2──► member
//!                     ▲           │ (core's Hub          │  a Watch call, on the worker's
//!                     │           │  behind a lock)      │  connection in use
//!                  outbox ◄───────┤◄─────────────────────┘
//!                                 └────────────────► checks.rs ──h2──► member
//!                                                       revisions, permissions
//! ```
//!
//! Whichever thread has something to tell the hub does its work there, under its lock: a call of the hub, then the moves
//! into outboxes. Wake-ups and orders to other threads follow when the lock is free. So whatever reaches a client
//! is in the hub's order, and nobody waits under the lock.

mod checks;
mod client;
mod hub;
mod lock;
mod outbox;
mod upstream;

use std::sync::Arc;

pub(crate) use checks::CHECK_PATIENCE;
pub(crate) use client::serve;
pub(crate) use hub::{Order, WatchHub};
pub(crate) use upstream::PATH;

use crate::rt::{self, Runtime};
use crate::server::Worker;

impl Order {
    /// Carries the order out on the current thread.
    pub(crate) fn carry_out<R: Runtime>(self, worker: Arc<Worker>) {
        match self {
            Self::Open(open) => rt::spawn::<R>(upstream::run::<R>(worker, open)),
            Self::Check(check) => rt::spawn::<R>(check.run::<R>(worker)),
        }
    }
}
