//! Reads through the proxy, from its cache or not: each shows what a member would show, whoever wrote it, and what one
//! client asks for is there for all.
//!
//! The rows of the existing proxy's faults: cached bytes for those who may not read them (6), reads that are stale for ever
//! (7), own writes that aren't seen (8), nested transactions (9), ranges with an open end (10), memory (45), reads after
//! a compaction (46), and histories that no single register has (DEV-19).

mod answers;
mod behind;
mod compaction;
mod cut_off;
mod history;
mod identity;
mod leases;
mod memory;
mod monotonic;
mod own_writes;
mod ranges;
mod reach;
mod sharing;
mod shown;
mod upstream;
mod world;
mod writers;

use etcd_proxy_tests::suite;

use crate::world::Upstream;

fn main() {
    let upstream = Upstream::default();
    let mut trials = Vec::new();
    trials.extend(writers::trials(&upstream));
    trials.extend(leases::trials(&upstream));
    trials.extend(own_writes::trials(&upstream));
    trials.extend(ranges::trials(&upstream));
    trials.extend(monotonic::trials(&upstream));
    trials.extend(answers::trials(&upstream));
    trials.extend(sharing::trials(&upstream));
    trials.extend(reach::trials(&upstream));
    trials.extend(shown::trials(&upstream));
    trials.extend(compaction::trials());
    trials.extend(identity::trials());
    trials.extend(upstream::trials());
    trials.extend(behind::trials());
    trials.extend(cut_off::trials());
    trials.extend(memory::trials());
    trials.extend(history::trials());
    // One at a time: what reaches the shared member is counted.
    suite::main(1, trials, move || drop(upstream));
}
