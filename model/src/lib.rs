//! A deterministic etcd in memory, as a state machine.
//!
//! # What it is for
//!
//! A proxy is right if no client can tell it from etcd, so something must say what etcd would have
//! answered. That is the model. It is
//!
//! * the oracle and the upstream of the simulated world in `tests/sim`, where every answer, event
//!   and revision that a client sees through the proxy is held against it;
//! * the upstream of benchmarks, where a real etcd would be the bottleneck;
//! * the etcd inside the binary (`etcd-proxy start --embedded`), in memory and for trying things
//!   out, so that one command is enough to see the proxy work.
//!
//! # Where to find what
//!
//! * [`store`]: keys with all their revisions; ranges with every option, puts, deletes, nested
//!   transactions with etcd's validation, compaction.
//! * [`lease`]: leases, and the leader's memory of when they end.
//! * [`auth`]: users, roles, permissions and tokens.
//! * [`state`]: all of that together, as what the log of a cluster is applied to.
//! * [`watch`]: watch streams over a store, as a server serves them: catch-up in batches, progress
//!   notifications, fragments, filters, previous values, cancellation by compaction.
//! * [`cluster`]: members that share one log, each with a lag of its own and able to lose its
//!   leader; the door through which calls, streams and faults come in.
//!
//! # Rules
//!
//! It works as `etcd-proxy-core` does: no IO, no clock, no thread, no randomness of its own. Time
//! and seeds are arguments, and the same inputs give the same outputs, byte for byte. Nothing that
//! a client sends makes it panic. The answers of etcd 3.5.30 are the standard; the model is kept
//! honest by tests that run generated programs on it and on a real etcd and compare, and what it
//! does not cover stands in [a list](cluster#what-is-not-covered), so that the gaps can be seen.
#![no_std]

extern crate alloc;

pub mod auth;
pub mod cluster;
pub mod error;
pub mod lease;
pub mod state;
pub mod status;
pub mod store;
pub mod watch;
