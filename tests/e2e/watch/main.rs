//! Watches through the proxy: that many cost the cluster what one costs, and that nobody can tell from what comes.
//!
//! A test here is about what the existing proxy gets wrong, or about the crowd: thousands at once, slow clients,
//! members that die. What one watcher alone sees is compared with a server's byte for byte in the differential suite.

mod batches;
mod child;
mod churn;
mod crowd;
mod cuts;
mod down;
mod facts;
mod history;
mod identity;
mod leader;
mod lockstep;
mod members;
mod progress;
mod protocol;
mod stopped;
mod storm;
mod upstream;
mod world;
mod writers;

use etcd_proxy_tests::suite;

use crate::world::Upstream;

fn main() {
    if let Some(order) = child::order() {
        child::run(&order);
        return;
    }
    let upstream = Upstream::default();
    let mut trials = Vec::new();
    trials.extend(facts::trials());
    trials.extend(protocol::trials(&upstream));
    trials.extend(history::trials(&upstream));
    trials.extend(batches::trials(&upstream));
    trials.extend(cuts::trials(&upstream));
    trials.extend(upstream::trials(&upstream));
    trials.extend(crowd::trials(&upstream));
    trials.extend(churn::trials(&upstream));
    trials.extend(progress::trials());
    trials.extend(stopped::trials());
    trials.extend(identity::trials());
    trials.extend(down::trials());
    trials.extend(members::trials());
    trials.extend(leader::trials());
    trials.extend(storm::trials());
    suite::main(1, trials, move || drop(upstream));
}
