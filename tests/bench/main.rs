//! Load generator for etcd endpoints and side-by-side benchmark of proxies; see `README.md` beside
//! this file.

mod args;
mod compare;
mod connect;
mod create;
mod fanout;
mod keepalive;
mod load;
mod measure;
mod mixed;
mod report;
mod servers;
mod table;
mod unary;
mod watchers;

use std::process::ExitCode;

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    allow_many_sockets();
    // One thread: the load generator shares the machine with what it measures.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime needs only a few file descriptors");
    let done = runtime.block_on(async {
        tokio::select! {
            done = run(cli) => done,
            // Leaving this way drops, and thereby kills, what was started.
            () = told_to_stop() => Err(load::Failure::new("interrupted")),
        }
    });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Tells whether all that was measured can be trusted.
async fn run(cli: Cli) -> Result<bool, load::Failure> {
    match cli.command {
        Command::Compare(args) => compare::run(&args).await,
        Command::Load(args) => {
            let report = load::run(&args).await?;
            if args.json {
                println!("{:#}", report.to_json());
            } else {
                print!("{report}");
            }
            Ok(report.is_sound())
        }
    }
}

async fn told_to_stop() {
    let mut interrupt = signal(SignalKind::interrupt()).expect("SIGINT can be handled");
    let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be handled");
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// A thousand watchers on a connection each need more than the usual 1024 descriptors, here and in
/// the processes started, which inherit this.
fn allow_many_sockets() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // Where that is not allowed, connecting fails later with a message of its own.
    let _ = setrlimit(Resource::Nofile, raised);
}
