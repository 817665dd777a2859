//! Members that die, freeze, are sick, lose their peers or vanish behind the network, under load; stores that go back.

mod foreign;
mod former;
mod history;
mod load;
mod members;
mod outage;
mod poison;
mod shown;
mod sick;

use etcd_proxy_tests::suite;

fn main() {
    let mut trials = Vec::new();
    trials.extend(members::trials());
    trials.extend(outage::trials());
    trials.extend(poison::trials());
    trials.extend(sick::trials());
    trials.extend(foreign::trials());
    trials.extend(former::trials());
    trials.extend(history::trials());
    trials.extend(shown::trials());
    // They mostly wait, each for a cluster of its own.
    suite::main(3, trials, || ());
}
