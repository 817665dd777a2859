//! The same load against etcd, real or in memory, directly and through each proxy, in turns.

use etcd_proxy_tests::everywhere::enable;
use serde_json::{Value, json};

use crate::{
    args::{CompareArgs, LoadArgs, Shape, Workload},
    load::{self, Failure},
    report::Report,
    servers::{GRPC_PROXY, ProxyBinary, Servers},
    table::{self, Measured},
};

/// Tells whether nothing went wrong in any round of any target but the existing proxy, whose
/// defects are known and shown.
pub(crate) async fn run(args: &CompareArgs) -> Result<bool, Failure> {
    if args.tls {
        enable();
    }
    let proxies: Vec<_> = args.proxies.iter().map(|text| ProxyBinary::parse(text)).collect();
    let mut names: Vec<_> = proxies.iter().map(|proxy| &proxy.name).collect();
    names.sort_unstable();
    names.dedup();
    if names.len() < proxies.len() {
        return Err(Failure::new("two proxies have the same name; use NAME=PATH"));
    }
    if !args.json {
        println!("{}", table::preamble(args));
    }
    let runs: Vec<_> = args
        .workloads
        .iter()
        .flat_map(|&workload| {
            let connections = args.connections.iter().copied();
            let allowed = connections.filter(move |connections| workload.allows(*connections));
            allowed.map(move |connections| (workload, connections))
        })
        .collect();
    if runs.is_empty() {
        return Err(Failure::new("0 connections are for watch-fanout only"));
    }
    let mut sound = true;
    let mut rounds = Vec::new();
    for (workload, connections) in runs {
        let measured = run_workload(args, &proxies, workload, connections).await?;
        sound &= measured
            .iter()
            .filter(|target| target.name != GRPC_PROXY)
            .flat_map(|target| &target.reports)
            .all(Report::is_sound);
        if args.json {
            rounds.extend(measured.iter().flat_map(|target| to_json(target, connections)));
        } else {
            println!(
                "{}",
                table::of(&title(workload, connections, &args.shape), &measured)
            );
        }
    }
    if args.json {
        println!("{:#}", Value::Array(rounds));
    }
    Ok(sound)
}

/// Fresh processes for each workload, and for each round of one that watches; in each round every target has its turn,
/// and another one is first, so that what drifts over time hits all alike.
async fn run_workload(
    args: &CompareArgs,
    proxies: &[ProxyBinary],
    workload: Workload,
    connections: usize,
) -> Result<Vec<Measured>, Failure> {
    let mut measured: Vec<Measured> = Vec::new();
    let mut running = None;
    for round in 0..args.rounds as usize {
        if workload.watches() {
            // What a watcher takes of memory shows only in a process that hasn't had others before.
            running = None;
        }
        let servers = match &running {
            Some(servers) => servers,
            None => &*running.insert(Servers::start(&args.etcd_bin, args.upstream, proxies).await?),
        };
        let count = servers.targets.len();
        measured.resize_with(count, Measured::default);
        for turn in 0..count {
            let index = (round + turn) % count;
            let target = &servers.targets[index];
            servers.compact().await?;
            let load = LoadArgs {
                endpoints: vec![target.address.clone()],
                workload,
                connections,
                shape: args.shape.clone(),
                pids: servers.pids(target),
                json: false,
            };
            let report = load::run(&load)
                .await
                .map_err(|failure| Failure::new(format!("{workload}, {}: {failure}", target.name)))?;
            eprintln!(
                "{}, round {} of {}, {}\n{report}",
                title(workload, connections, &args.shape),
                round + 1,
                args.rounds,
                target.name
            );
            measured[index].name.clone_from(&target.name);
            measured[index].reports.push(report);
        }
    }
    Ok(measured)
}

fn title(workload: Workload, connections: usize, shape: &Shape) -> String {
    let watchers = shape.watchers(workload);
    match (workload.watches(), connections) {
        (true, 0) => format!("{workload}, {watchers} watchers on a connection each"),
        (true, 1) => format!("{workload}, {watchers} watchers on one stream"),
        (true, _) => format!("{workload}, {watchers} watchers on {connections} connections, a stream each"),
        (false, 1) => format!("{workload}, one connection"),
        (false, _) => format!("{workload}, {connections} connections"),
    }
}

fn to_json(measured: &Measured, connections: usize) -> impl Iterator<Item = Value> {
    measured.reports.iter().enumerate().map(move |(round, report)| {
        json!({
            "target": measured.name,
            "connections": connections,
            "round": round + 1,
            "report": report.to_json(),
        })
    })
}
