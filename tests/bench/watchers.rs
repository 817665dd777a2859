//! Many watchers of the same keys on one Watch stream.

use std::collections::HashMap;

use bytes::Bytes;
use etcd_proxy_core::rpc::Rpc;
use etcd_proxy_proto::etcdserverpb::{
    WatchCreateRequest, WatchRequest, WatchResponse, watch_request::RequestUnion,
};
use etcd_proxy_tests::wire::{Call, Wire};
use prost::Message;

use crate::{load::Failure, measure::describe};

/// Creates the watchers and waits for all of them; nothing may be written meanwhile. Gives the revision that each was created
/// at, by watch id.
pub(crate) async fn create(
    wire: &Wire,
    (key, range_end): (Bytes, Bytes),
    watchers: usize,
) -> Result<(Call, HashMap<i64, i64>), Failure> {
    let mut call = wire.open(Rpc::Watch.path(), &[]).await?;
    let create = WatchCreateRequest {
        key,
        range_end,
        ..Default::default()
    };
    let create = WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    };
    let create = Bytes::from(create.encode_to_vec());
    for _ in 0..watchers {
        call.send(create.clone()).await?;
    }
    let mut created = HashMap::new();
    while created.len() < watchers {
        let Some(message) = call.message().await else {
            return Err(Failure::new(describe(&call.finish().await)));
        };
        let response = WatchResponse::decode(message)
            .map_err(|error| Failure::new(format!("creating watchers: {error}")))?;
        let usable = response.created && !response.canceled && response.events.is_empty();
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        if !usable || created.insert(response.watch_id, revision).is_some() {
            return Err(Failure::new(format!("creating watchers: got {response:?}")));
        }
    }
    Ok((call, created))
}
