//! put, range and txn: closed-loop tasks, each with one call under way.

use std::sync::Arc;

use bytes::Bytes;
use etcd_proxy_core::rpc::Rpc;
use etcd_proxy_proto::etcdserverpb::{
    Compare, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse,
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op::Request,
    response_op::Response,
};
use etcd_proxy_tests::wire::{Reply, Wire, frame_message};
use prost::Message;

use crate::{
    args::{LoadArgs, Shape, Workload},
    load::{Failure, GRACE, connect_all, join_all, pause_after_error},
    measure::{Recorder, Usage, describe},
};

/// Puts the keys, then keeps `tasks` calls under way until the window closes.
pub(crate) async fn run(args: &LoadArgs) -> Result<(Arc<Recorder>, Usage), Failure> {
    let operation = match args.workload {
        Workload::Put => Operation::Put,
        Workload::RangeLinearizable => Operation::Range { serializable: false },
        Workload::RangeSerializable => Operation::Range { serializable: true },
        Workload::Txn => Operation::Txn,
        other => unreachable!("{other} is not unary"),
    };
    let shape = &args.shape;
    let wires = connect_all(&args.endpoints, args.connections).await?;
    let data = Arc::new(Data::of(shape));
    fill(&wires, &data, shape.tasks).await?;

    let recorder = Recorder::new(shape.warmup, shape.duration);
    let usage = recorder.watch_processes(&args.pids);
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..shape.tasks {
        let wire = wires[task % wires.len()].clone();
        // Every task walks through all keys, each from a place of its own.
        let first = task * data.keys.len() / shape.tasks;
        tasks.spawn(repeat(wire, operation, data.clone(), first, recorder.clone()));
    }
    join_all(tasks, &recorder, GRACE).await?;
    let usage = usage
        .join()
        .map_err(|_| Failure::new("the sampling thread panicked"))??;
    Ok((recorder, usage))
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    Put,
    Range { serializable: bool },
    Txn,
}

/// What is read and written.
#[derive(Debug)]
pub(crate) struct Data {
    pub(crate) keys: Vec<Bytes>,
    pub(crate) value: Bytes,
}

impl Data {
    pub(crate) fn of(shape: &Shape) -> Self {
        Self {
            keys: (0..shape.keys)
                .map(|key| format!("bench/key/{key:08}").into())
                .collect(),
            value: vec![b'v'; shape.value_size].into(),
        }
    }
}

async fn repeat(
    wire: Wire,
    operation: Operation,
    data: Arc<Data>,
    first: usize,
    recorder: Arc<Recorder>,
) -> Result<(), Failure> {
    let template = wire.template(operation.path(), &[])?;
    for key in data.keys.iter().cycle().skip(first) {
        if !recorder.running() {
            break;
        }
        let request = operation.request(key, &data.value);
        let started = std::time::Instant::now();
        let answer = wire.exchange(&template, request).await;
        operation
            .record(answer, (key, &data.value), started, &recorder)
            .await;
    }
    Ok(())
}

/// Writes every key once, so that reads find something.
pub(crate) async fn fill(wires: &[Wire], data: &Arc<Data>, tasks: usize) -> Result<(), Failure> {
    let mut filling = tokio::task::JoinSet::new();
    for task in 0..tasks.min(data.keys.len()) {
        let (wire, data) = (wires[task % wires.len()].clone(), data.clone());
        filling.spawn(async move {
            let template = wire.template(Operation::Put.path(), &[])?;
            for key in data.keys.iter().skip(task).step_by(tasks) {
                let put = Operation::Put.request(key, &data.value);
                let reply = wire.exchange(&template, put).await;
                reply.map_err(|reply: Reply| Failure::new(describe(&reply)))?;
            }
            Ok::<_, Failure>(())
        });
    }
    while let Some(ended) = filling.join_next().await {
        ended.map_err(Failure::panicked)??;
    }
    Ok(())
}

impl Operation {
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Put => Rpc::Put.path(),
            Self::Range { .. } => Rpc::Range.path(),
            Self::Txn => Rpc::Txn.path(),
        }
    }

    pub(crate) fn request(self, key: &Bytes, value: &Bytes) -> Bytes {
        let put = || PutRequest {
            key: key.clone(),
            value: value.clone(),
            ..Default::default()
        };
        let range = |serializable| RangeRequest {
            key: key.clone(),
            serializable,
            ..Default::default()
        };
        match self {
            Self::Put => frame_message(&put()),
            Self::Range { serializable } => frame_message(&range(serializable)),
            Self::Txn => frame_message(&TxnRequest {
                compare: vec![Compare {
                    result: CompareResult::Greater.into(),
                    target: CompareTarget::Version.into(),
                    key: key.clone(),
                    target_union: Some(TargetUnion::Version(0)),
                    ..Default::default()
                }],
                success: vec![
                    RequestOp {
                        request: Some(Request::RequestPut(put())),
                    },
                    RequestOp {
                        request: Some(Request::RequestRange(range(false))),
                    },
                ],
                failure: vec![RequestOp {
                    request: Some(Request::RequestRange(range(false))),
                }],
            }),
        }
    }

    /// Records what became of a call with this key and value. Waits a little after an error.
    pub(crate) async fn record(
        self,
        answer: Result<Bytes, Reply>,
        (key, value): (&Bytes, &Bytes),
        started: std::time::Instant,
        recorder: &Recorder,
    ) {
        match answer {
            Ok(message) => match self.check(message, key, value) {
                Ok(()) => recorder.done(started),
                Err(problem) => recorder.problem(problem, 1),
            },
            Err(reply) => {
                recorder.error(&reply);
                pause_after_error().await;
            }
        }
    }

    /// Whether the answer is the one that a correct server gives.
    pub(crate) fn check(self, message: Bytes, key: &Bytes, value: &Bytes) -> Result<(), String> {
        let undecodable = |error: prost::DecodeError| format!("the answer is no message: {error}");
        let found = |range: &RangeResponse| match range.kvs.as_slice() {
            [kv] if kv.key == *key && kv.value == *value => Ok(()),
            [kv] if kv.key == *key => Err("another value was read"),
            [_] => Err("another key was read"),
            kvs => Err(if kvs.is_empty() {
                "the key was not found"
            } else {
                "too many keys"
            }),
        };
        let right = match self {
            Self::Put => {
                let put = PutResponse::decode(message).map_err(undecodable)?;
                let revision = put.header.map_or(0, |header| header.revision);
                if revision > 0 {
                    Ok(())
                } else {
                    Err("a put without a revision")
                }
            }
            Self::Range { .. } => found(&RangeResponse::decode(message).map_err(undecodable)?),
            Self::Txn => {
                let txn = TxnResponse::decode(message).map_err(undecodable)?;
                let responses: Vec<_> = txn.responses.into_iter().map(|op| op.response).collect();
                match responses.as_slice() {
                    [
                        Some(Response::ResponsePut(_)),
                        Some(Response::ResponseRange(range)),
                    ] if txn.succeeded => found(range),
                    _ => Err("the txn took the wrong branch"),
                }
            }
        };
        right.map_err(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use etcd_proxy_proto::{
        etcdserverpb::{ResponseHeader, ResponseOp},
        mvccpb::KeyValue,
    };

    use super::*;

    fn check(operation: Operation, answer: &impl Message) -> Result<(), String> {
        let (key, value) = (Bytes::from_static(b"k"), Bytes::from_static(b"v"));
        operation.check(answer.encode_to_vec().into(), &key, &value)
    }

    fn read(kvs: &[(&'static str, &'static str)]) -> RangeResponse {
        let kvs = kvs.iter().map(|(key, value)| KeyValue {
            key: (*key).into(),
            value: (*value).into(),
            ..Default::default()
        });
        RangeResponse {
            kvs: kvs.collect(),
            ..Default::default()
        }
    }

    #[test]
    fn wrong_answers_are_no_operations() {
        let put = PutResponse {
            header: Some(ResponseHeader {
                revision: 7,
                ..Default::default()
            }),
            prev_kv: None,
        };
        assert_eq!(check(Operation::Put, &put), Ok(()));
        assert!(check(Operation::Put, &PutResponse::default()).is_err());

        let range = Operation::Range { serializable: true };
        assert_eq!(check(range, &read(&[("k", "v")])), Ok(()));
        for wrong in [&[][..], &[("k", "w")], &[("l", "v")], &[("k", "v"), ("l", "v")]] {
            assert!(check(range, &read(wrong)).is_err(), "{wrong:?}");
        }
        assert!(
            range
                .check(Bytes::from_static(b"\xff"), &Bytes::new(), &Bytes::new())
                .is_err()
        );

        let answer = |succeeded, kvs| TxnResponse {
            succeeded,
            responses: vec![
                ResponseOp {
                    response: Some(Response::ResponsePut(put.clone())),
                },
                ResponseOp {
                    response: Some(Response::ResponseRange(read(kvs))),
                },
            ],
            ..Default::default()
        };
        assert_eq!(check(Operation::Txn, &answer(true, &[("k", "v")])), Ok(()));
        assert!(check(Operation::Txn, &answer(false, &[("k", "v")])).is_err());
        assert!(check(Operation::Txn, &answer(true, &[])).is_err());
        assert!(check(Operation::Txn, &TxnResponse::default()).is_err());
    }
}
