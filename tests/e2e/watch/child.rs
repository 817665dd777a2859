//! A watching client in a process of its own, so that it can be stopped as a whole: this program, called differently.
//!
//! It prints a line for each stream and revision it has seen (`STREAM REVISION EVENTS`), and `created` once all
//! streams are.

use std::{
    io::{self, Write as _},
    path::Path,
};

use etcd_proxy_tests::{
    process::Process,
    suite::runtime,
    watching::{Account, Watching, on_prefix, since},
    wire::Wire,
};

/// First argument that asks for the client instead of the tests.
const MARK: &str = "watching-client";

/// What the client is to do.
pub(crate) struct Order {
    address: String,
    prefix: String,
    start: i64,
    streams: usize,
}

/// The order in this process's arguments, if there is one.
pub(crate) fn order() -> Option<Order> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mark, address, prefix, start, streams] = &arguments[..] else {
        return None;
    };
    (mark == MARK).then(|| Order {
        address: address.clone(),
        prefix: prefix.clone(),
        start: start.parse().expect("a revision"),
        streams: streams.parse().expect("a number of streams"),
    })
}

/// Starts such a client: `streams` connections with a watcher each, of `prefix` from `start` on.
pub(crate) fn start(address: &str, prefix: &str, start: i64, streams: usize, log: &Path) -> Process {
    let program = std::env::current_exe().expect("path of this test");
    let arguments = [MARK, address, prefix, &start.to_string(), &streams.to_string()].map(str::to_owned);
    Process::start("watching client", &program, &arguments, log)
}

/// Watches until it is killed.
pub(crate) fn run(order: &Order) {
    runtime().block_on(async {
        let mut streams = Vec::new();
        for number in 0..order.streams {
            let wire = Wire::connect(&order.address).await.expect("a connection");
            let (watching, created) =
                Watching::one(&wire, since(order.start, on_prefix(&order.prefix))).await;
            let mut account = Account::default();
            account.take(&created).expect("created");
            streams.push((number, watching, account));
        }
        println!("created");
        let tasks: Vec<_> = streams
            .into_iter()
            .map(|(number, watching, account)| tokio::spawn(print(number, watching, account)))
            .collect();
        for task in tasks {
            task.await.expect("a stream");
        }
    });
}

async fn print(number: usize, mut watching: Watching, mut account: Account) {
    let mut known = 0;
    loop {
        let answer = match watching.answer().await {
            Ok(answer) => answer,
            Err(end) => {
                println!("stream {number} ended: {}", end.in_short());
                return;
            }
        };
        if let Err(broken) = account.take(&answer) {
            println!("stream {number}: {broken}");
            return;
        }
        let mut text = String::new();
        for mark in &account.only().marks[known..] {
            text.push_str(&format!("{number} {} {}\n", mark.revision, mark.digest));
        }
        known = account.only().marks.len();
        // The test reads what is there; it can't do anything about a full disk.
        io::stdout()
            .lock()
            .write_all(text.as_bytes())
            .expect("standard output");
    }
}
