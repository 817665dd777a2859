//! A deterministic etcd in memory, as a state machine. **Nothing of it is written yet**: this page
//! says what the crate is for, so that nothing else is put here and nothing of it elsewhere.
//!
//! # What it is for
//!
//! A proxy is right if no client can tell it from etcd, so something must say what etcd would have
//! answered. That is the model. It will be
//!
//! * the oracle and the upstream of the simulated world in `tests/sim`, where every answer, event
//!   and revision that a client sees through the proxy is held against it;
//! * the upstream of benchmarks, where a real etcd would be the bottleneck;
//! * the etcd inside the binary (`etcd-proxy start --embedded`), in memory and for trying things
//!   out, so that one command is enough to see the proxy work.
//!
//! # What it will contain
//!
//! * The store: revisions and sub-revisions, ranges with every option, puts, deletes, nested
//!   transactions with etcd's validation, compaction.
//! * Leases on virtual time, with the deletes that their expiry causes.
//! * Watches as a server serves them: catch-up in batches, progress notifications, fragments,
//!   filters, previous values, cancellation by compaction.
//! * Authentication, membership, status and alarms as far as clients of a proxy meet them.
//! * Several members that share one log, each with a lag of its own and able to lose its leader, so
//!   that failover can be simulated.
//!
//! # Rules
//!
//! It works as `etcd-proxy-core` does: no IO, no clock, no thread, no randomness of its own. Time
//! and seeds are arguments, and the same inputs give the same outputs, byte for byte. The model is
//! kept honest by tests that run generated programs on it and on a real etcd and compare; what it
//! does not cover is to stand in a list, so that the gaps can be seen.
