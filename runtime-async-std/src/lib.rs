//! The adapter of `etcd-proxy-runtime` for async-std. **Nothing of it is written yet**: this page
//! says what the crate is for.
//!
//! # What it is for
//!
//! It will implement the runtime's `Runtime` trait (sockets, timers, spawning, signals, name
//! resolution) and yield the binary `etcd-proxy-async-std`, with the same flags and the same
//! behaviour as `etcd-proxy`. The proxy itself is written once, in `etcd-proxy-core` and
//! `etcd-proxy-runtime`; two adapters that differ in nothing but the runtime are the proof that
//! this seam holds, and show what a third one would have to bring.
//!
//! # Rules
//!
//! * No tokio runtime is ever started: tokio is in the dependency tree for its IO traits and sync
//!   types only, without the features `rt`, `net` and `time`.
//! * What both adapters need belongs in `etcd-proxy-runtime`. This crate stays small enough to be
//!   read in one sitting.
//! * One executor per core, each on a thread of its own, as in the tokio adapter.
//! * The name async-std appears in as few files as possible, because async-std is no longer
//!   maintained. The README beside this crate says what follows from that.
