//! The same load against etcd, real or in memory, directly and through each proxy, in turns.

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
    let mut sound = true;
    let mut rounds = Vec::new();
    for &workload in &args.workloads {
        let measured = run_workload(args, &proxies, workload).await?;
        sound &= measured
            .iter()
            .filter(|target| target.name != GRPC_PROXY)
            .flat_map(|target| &target.reports)
            .all(Report::is_sound);
        if args.json {
            rounds.extend(measured.iter().flat_map(to_json));
        } else {
            println!("{}", table::of(&title(workload, &args.shape), &measured));
        }
    }
    if args.json {
        println!("{:#}", Value::Array(rounds));
    }
    Ok(sound)
}

/// Fresh processes for each workload; in each round every target has its turn, and another one
/// is first, so that what drifts over time hits all alike.
async fn run_workload(
    args: &CompareArgs,
    proxies: &[ProxyBinary],
    workload: Workload,
) -> Result<Vec<Measured>, Failure> {
    let servers = Servers::start(&args.etcd_bin, args.upstream, proxies).await?;
    let count = servers.targets.len();
    let name = |index: usize| servers.targets[index].name.clone();
    let mut measured: Vec<_> = (0..count)
        .map(|index| Measured {
            name: name(index),
            reports: Vec::new(),
        })
        .collect();
    for round in 0..args.rounds as usize {
        for turn in 0..count {
            let index = (round + turn) % count;
            let target = &servers.targets[index];
            servers.compact().await?;
            let load = LoadArgs {
                endpoints: vec![target.address.clone()],
                workload,
                shape: args.shape.clone(),
                pids: servers.pids(target),
                json: false,
            };
            let report = load::run(&load)
                .await
                .map_err(|failure| Failure::new(format!("{workload}, {}: {failure}", target.name)))?;
            eprintln!(
                "round {} of {}, {}\n{report}",
                round + 1,
                args.rounds,
                target.name
            );
            measured[index].reports.push(report);
        }
    }
    Ok(measured)
}

fn title(workload: Workload, shape: &Shape) -> String {
    let watchers = shape.watchers(workload);
    match workload {
        Workload::WatchCreate => format!("{workload}, {watchers} watchers"),
        Workload::WatchFanout if shape.connections == 0 => {
            format!("{workload}, {watchers} watchers on a connection each")
        }
        Workload::WatchFanout => format!("{workload}, {watchers} watchers"),
        _ => workload.to_string(),
    }
}

fn to_json(measured: &Measured) -> impl Iterator<Item = Value> {
    measured.reports.iter().enumerate().map(
        |(round, report)| json!({ "target": measured.name, "round": round + 1, "report": report.to_json() }),
    )
}
