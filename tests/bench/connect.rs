//! New connections, each for one read: what a handshake costs.

use std::sync::Arc;

use etcd_proxy_tests::wire::Wire;

use crate::{
    args::LoadArgs,
    load::{Failure, GRACE, connect_all, join_all, pause_after_error},
    measure::{Recorder, Usage},
    unary::{Data, Operation, fill},
};

/// Keeps `tasks` connections in the making until the window closes.
pub(crate) async fn run(args: &LoadArgs) -> Result<(Arc<Recorder>, Usage), Failure> {
    let shape = &args.shape;
    let wires = connect_all(&args.endpoints, 1).await?;
    let data = Arc::new(Data::of(shape));
    fill(&wires, &data, shape.tasks).await?;

    let recorder = Recorder::new(shape.warmup, shape.duration);
    let usage = recorder.watch_processes(&args.pids);
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..shape.tasks {
        let endpoint = args.endpoints[task % args.endpoints.len()].clone();
        let first = task * data.keys.len() / shape.tasks;
        tasks.spawn(repeat(endpoint, data.clone(), first, recorder.clone()));
    }
    join_all(tasks, &recorder, GRACE).await?;
    let usage = usage
        .join()
        .map_err(|_| Failure::new("the sampling thread panicked"))??;
    Ok((recorder, usage))
}

async fn repeat(
    endpoint: String,
    data: Arc<Data>,
    first: usize,
    recorder: Arc<Recorder>,
) -> Result<(), Failure> {
    let operation = Operation::Range { serializable: true };
    for key in data.keys.iter().cycle().skip(first) {
        if !recorder.running() {
            break;
        }
        let started = std::time::Instant::now();
        let Ok(wire) = Wire::connect(&endpoint).await else {
            recorder.problem("connections that didn't come about", 1);
            pause_after_error().await;
            continue;
        };
        let template = wire.template(operation.path(), &[])?;
        let answer = wire
            .exchange(&template, operation.request(key, &data.value))
            .await;
        operation
            .record(answer, (key, &data.value), started, &recorder)
            .await;
    }
    Ok(())
}
