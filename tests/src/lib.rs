//! What the end-to-end tests and the benchmarks are made of: real etcd clusters, the proxy as a process,
//! real `etcdctl`, relays that break connections, and a gRPC client that shows every frame's worth.

pub mod client;
pub mod etcd;
pub mod etcdctl;
pub mod everywhere;
pub mod fake;
pub mod frames;
pub mod leaderless;
pub mod linearizable;
pub mod metrics;
pub mod pki;
pub mod process;
pub mod procstat;
pub mod proxy;
pub mod relay;
pub mod sockets;
pub mod suite;
pub mod tap;
pub mod watching;
pub mod wire;
