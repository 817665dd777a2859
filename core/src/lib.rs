//! The proxy as state machines.
//!
//! Nothing in this crate performs IO, reads a clock, starts a thread, awaits, or draws a random
//! number it was not given a seed for. A machine has one door,
//!
//! ```text
//! fn handle(&mut self, now: Instant, event: Event, actions: &mut Actions);
//! fn next_timeout(&self) -> Option<Instant>;
//! ```
//!
//! and when `handle` returns there is nothing left to poll: everything that must happen was pushed
//! into `actions`. Unary calls are not events; they consult small values such as [`retry::Attempts`]
//! synchronously while they run as ordinary async functions elsewhere.
//!
//! What is here so far:
//!
//! - [`endpoints`]: which etcd member is in use, how its death, silence or loss of leader is
//!   noticed, and which member takes over;
//! - [`history`]: whether the store is still the one that was seen, or has gone back;
//! - [`retry`]: which calls may be sent a second time, and how often;
//! - [`rpc`]: what is known of each RPC of the etcd API;
//! - [`class`]: which calls keep others waiting on one connection, told from their requests;
//! - [`pool`]: the connections of a worker to the member in use, and which one takes a call;
//! - [`grpc`]: message framing limits, timeouts and statuses of gRPC over HTTP/2;
//! - [`http2`]: frame boundaries and the ping policy etcd servers enforce;
//! - [`range`]: ranges of keys as servers understand them;
//! - [`read`]: the cache of reads, and reads that share an answer;
//! - [`lease`]: the router of lease heartbeats, for which any number of clients cost the cluster one stream;
//! - [`watch`]: the hub, in which any number of watchers cost the cluster one.
#![no_std]

extern crate alloc;

mod backoff;
pub mod class;
pub mod endpoints;
pub mod grpc;
pub mod history;
pub mod http2;
mod interval;
pub mod lease;
pub mod pool;
pub mod range;
pub mod read;
pub mod retry;
pub mod rpc;
mod slab;
pub mod time;
pub mod timer;
pub mod watch;
mod wire;
