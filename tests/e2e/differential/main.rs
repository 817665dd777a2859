//! Every RPC with many field combinations and many errors, sent directly and through the proxy.
//!
//! Two single-member clusters with equal ids and equal histories stand side by side. A group of cases
//! runs on both in lockstep, on one directly, on the other through a proxy, and what comes back must be
//! equal: HTTP status, headers, messages byte for byte, code, message, details, trailers. Only what
//! differs between any two clusters (leases and tokens a server makes up, sizes of files) is masked,
//! case by case.

mod auth;
mod cluster;
mod election;
mod errors;
mod kv_read;
mod kv_write;
mod lease;
mod mask;
mod methods;
mod pair;
mod upstream;
mod upstream_ends;
mod upstream_limits;
mod watch;

use etcd_proxy_tests::suite;

fn main() {
    let mut trials = Vec::new();
    trials.extend(kv_read::trials());
    trials.extend(kv_write::trials());
    trials.extend(lease::trials());
    trials.extend(watch::trials());
    trials.extend(election::trials());
    trials.extend(cluster::trials());
    trials.extend(auth::trials());
    trials.extend(errors::trials());
    trials.extend(methods::trials());
    trials.extend(upstream::trials());
    trials.extend(upstream_ends::trials());
    trials.extend(upstream_limits::trials());
    suite::main(2, trials, || ());
}
