//! What must be known of a member besides whether it serves. It is asked once for each connection.

use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use etcd_proxy_core::grpc::Code;
use etcd_proxy_core::rpc::Rpc;
use etcd_proxy_core::watch;
use etcd_proxy_proto::etcdserverpb::{StatusRequest, StatusResponse, TxnRequest, TxnResponse};

use super::Connection;
use super::ask::{NoAnswer, Options, ask};
use crate::rt::Runtime;

/// How long a member may take to say of which cluster it is.
const IDENTITY_PATIENCE: Duration = Duration::from_millis(500);

/// The id of the cluster that the member of a connection is of. It is asked once; `None` if it doesn't say, or not now.
///
/// # Errors
/// If it answers as no etcd does; what.
pub(crate) async fn cluster_of<R: Runtime>(connection: &Arc<Connection>) -> Result<Option<u64>, String> {
    let options = Options::until(Instant::now() + IDENTITY_PATIENCE);
    let learn = || async {
        if connection.is_full() {
            return Err(None);
        }
        // Of all answers with a header this is the one that etcd asks nobody's name for.
        let question = TxnRequest::default();
        match ask::<R, _, TxnResponse>(connection, Rpc::Txn, &question, &options).await {
            Ok(TxnResponse {
                header: Some(header), ..
            }) => Ok(Some(header.cluster_id).filter(|cluster| *cluster != 0)),
            Ok(TxnResponse { header: None, .. }) => Err(Some(
                "no etcd: the answer to a transaction has no header".to_owned(),
            )),
            Err(NoAnswer::Status(_)) => Ok(None),
            Err(other) => Err(stranger(&other)),
        }
    };
    match connection.cluster.get_or_try_init(learn).await {
        Ok(cluster) => Ok(*cluster),
        Err(Some(what)) => Err(what),
        Err(None) => Ok(None),
    }
}

/// What gave this instead of an answer, if that was no etcd.
pub(super) fn stranger(no_answer: &NoAnswer) -> Option<String> {
    matches!(no_answer, NoAnswer::NotGrpc(_)).then(|| format!("no etcd: {no_answer}"))
}

/// Whether the member of a connection tells the truth about the progress of watches, by its version. It is asked once;
/// `None` if it doesn't answer until then, which may be different the next time.
pub(crate) async fn trusts_progress<R: Runtime>(
    connection: &Arc<Connection>,
    until: Instant,
) -> Option<bool> {
    let options = Options::until(until);
    let learn = || async {
        let question = StatusRequest::default();
        match ask::<R, _, StatusResponse>(connection, Rpc::Status, &question, &options).await {
            Ok(status) => Ok(watch::trusts_progress(&status.version)),
            Err(NoAnswer::Status(status)) => match Code::of_number(status.code) {
                // Only servers that can be trusted ask who wants to know: from 3.5.28 and 3.6.9 on.
                Some(Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument) => Ok(true),
                Some(Code::Unimplemented) => Ok(false),
                _ => Err(()),
            },
            Err(_) => Err(()),
        }
    };
    let learned = connection.trusts_progress.get_or_try_init(learn).await;
    learned.ok().copied()
}

#[cfg(test)]
mod tests;
