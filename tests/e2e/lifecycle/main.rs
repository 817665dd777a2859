//! Start, stop, and what the command line says.

mod adapter;
mod command_line;
mod log;
mod shutdown;
mod silent;
mod told;

use etcd_proxy_tests::suite;

fn main() {
    let mut trials = Vec::new();
    trials.extend(adapter::trials());
    trials.extend(command_line::trials());
    trials.extend(log::trials());
    trials.extend(shutdown::trials());
    trials.extend(silent::trials());
    trials.extend(told::trials());
    suite::main(2, trials, || ());
}
