//! watch-fanout: many watchers of one key, and one writer; or of some keys, and a writer for each.
//!
//! Every value carries its writer's number, a sequence number and the time just before its put, so each watcher can
//! tell what it missed, got twice or got out of order, and how long delivery took.

mod progress;
mod stream;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes, BytesMut};
use etcd_proxy_core::rpc::Rpc;
use etcd_proxy_proto::etcdserverpb::PutRequest;
use etcd_proxy_tests::wire::{Wire, frame_message};
use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
    time::{MissedTickBehavior, interval, timeout, timeout_at},
};

use self::{
    progress::Progress,
    stream::{Seen, Stream},
};
use crate::{
    args::{LoadArgs, Shape},
    load::{Failure, GRACE, connect_all, nonce, share},
    measure::{Recorder, Usage},
};

/// Opens the watchers, writes until the window closes, and waits until everything is delivered.
pub(crate) async fn run(args: &LoadArgs) -> Result<(Arc<Recorder>, Usage), Failure> {
    let shape = &args.shape;
    let (watchers, connections) = args.watchers();
    let wires = connect_all(&args.endpoints, connections).await?;
    let writers = shape.writers;
    let nonce = nonce();
    let keys: Vec<Bytes> = (0..writers)
        .map(|writer| format!("bench/fanout/{nonce}/{writer}").into())
        .collect();
    let range = match &keys[..] {
        [key] => (key.clone(), Bytes::new()),
        // The character that follows the slash.
        _ => (
            format!("bench/fanout/{nonce}/").into(),
            format!("bench/fanout/{nonce}0").into(),
        ),
    };
    let mut opening = JoinSet::new();
    for (index, wire) in wires.into_iter().enumerate() {
        let (range, watchers) = (range.clone(), share(watchers, connections, index));
        opening.spawn(async move { Stream::open(&wire, range, watchers, writers).await });
    }
    let mut streams = Vec::with_capacity(connections);
    while let Some(opened) = opening.join_next().await {
        streams.push(opened.map_err(Failure::panicked)??);
    }

    let recorder = Recorder::new(shape.warmup, shape.duration);
    let usage = recorder.watch_processes(&args.pids);
    let run = Arc::new(Run {
        epoch: Instant::now(),
        progress: (0..writers).map(|_| Progress::new(watchers)).collect(),
        recorder: recorder.clone(),
    });
    let (stop, stopped) = watch::channel(());
    let mut reading = JoinSet::new();
    for stream in streams {
        reading.spawn(stream.read(run.clone(), stopped.clone()));
    }
    drop(stopped);

    let wire = connect_all(&args.endpoints, 1).await?.remove(0);
    let mut writing = JoinSet::new();
    for (writer, key) in keys.into_iter().enumerate() {
        let (wire, shape, run) = (wire.clone(), shape.clone(), run.clone());
        writing.spawn(async move { (writer, write(&wire, &key, writer, &shape, &run).await) });
    }
    let mut written = vec![0; writers];
    while let Some(ended) = writing.join_next().await {
        let (writer, count) = ended.map_err(Failure::panicked)?;
        written[writer] = count?;
    }
    let missing = |ended: Result<Seen, JoinError>| {
        let missing = ended.map_err(Failure::panicked)?.missing_of(&written);
        recorder.problem("events that were never delivered", missing);
        Ok::<_, Failure>(())
    };
    let all = async {
        for (progress, written) in run.progress.iter().zip(&written) {
            progress.wait_for(*written).await;
        }
    };
    tokio::select! {
        // Whether it is reached or not: the streams tell exactly what is missing.
        _ = timeout(GRACE, all) => {}
        // A stream that ends by itself leaves nothing to wait for.
        Some(ended) = reading.join_next() => missing(ended)?,
    }
    drop(stop);
    while let Some(ended) = reading.join_next().await {
        missing(ended)?;
    }
    let usage = usage
        .join()
        .map_err(|_| Failure::new("the sampling thread panicked"))??;
    Ok((recorder, usage))
}

/// What the writer and the readers share.
#[derive(Debug)]
pub(crate) struct Run {
    /// Times in values count from here.
    epoch: Instant,
    /// Of each writer.
    progress: Vec<Progress>,
    recorder: Arc<Recorder>,
}

/// Puts until the window closes or a put fails; tells how many were acknowledged.
async fn write(wire: &Wire, key: &Bytes, writer: usize, shape: &Shape, run: &Run) -> Result<u64, Failure> {
    let template = wire.template(Rpc::Put.path(), &[])?;
    let mut ticks = (shape.rate > 0).then(|| {
        let mut ticks = interval(Duration::from_secs(1) / shape.rate);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        ticks
    });
    let until = tokio::time::Instant::from_std(run.recorder.until());
    let mut written = 0;
    while run.recorder.running() {
        let turn = async {
            match &mut ticks {
                Some(ticks) => {
                    ticks.tick().await;
                }
                None => {
                    run.progress[writer]
                        .wait_for((written + 1u64).saturating_sub(shape.behind as u64))
                        .await
                }
            }
        };
        if timeout_at(until, turn).await.is_err() {
            break;
        }
        let number = written * shape.writers as u64 + writer as u64;
        let value = stamped(number, run.epoch.elapsed(), shape.value_size);
        let put = PutRequest {
            key: key.clone(),
            value,
            ..Default::default()
        };
        let put = wire.exchange(&template, frame_message(&put));
        match timeout_at(until + GRACE, put).await {
            Ok(Ok(_)) => {}
            // It may have been applied or not, so nothing after it could be checked.
            Ok(Err(reply)) => {
                run.recorder.error(&reply);
                break;
            }
            Err(_) => {
                run.recorder.problem("calls that were never answered", 1);
                break;
            }
        }
        written += 1;
    }
    Ok(written)
}

fn stamped(sequence: u64, time: Duration, size: usize) -> Bytes {
    let mut value = BytesMut::with_capacity(size.max(STAMP_BYTES));
    value.put_u64(sequence);
    value.put_u64(time.as_nanos() as u64);
    value.resize(size.max(STAMP_BYTES), b'v');
    value.freeze()
}

const STAMP_BYTES: usize = 16;
