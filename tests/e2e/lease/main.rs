//! Heartbeats of leases through the proxy: each is answered, at once, and none is made up, so that a lease ends when it
//! would end without the proxy. Many client streams cost the cluster what one costs.
//!
//! The rows and DEV-18 of the existing proxy's faults: a lease that outlives its client (16), heartbeats lost on half-close
//! (19), answers as late as a third of the TTL (20), wrong answers for leases that are gone (21), and no renewal when
//! authentication is on.

mod answers;
mod crowd;
mod ends;
mod identity;
mod leader;
mod world;

use etcd_proxy_tests::suite;

use crate::world::Upstream;

fn main() {
    let upstream = Upstream::default();
    let mut trials = Vec::new();
    trials.extend(answers::trials(&upstream));
    trials.extend(ends::trials(&upstream));
    trials.extend(identity::trials());
    trials.extend(leader::trials());
    trials.extend(crowd::trials());
    // One at a time: the heartbeats that reach the shared member are counted.
    suite::main(1, trials, move || drop(upstream));
}
