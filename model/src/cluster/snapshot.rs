//! What Snapshot sends instead of a database.

use alloc::vec::Vec;

use bytes::Bytes;
use etcd_proxy_proto::etcdserverpb::{RangeRequest, SnapshotResponse};
use prost::Message;

use crate::store::Store;

/// Bytes in one message (etcd: 32 KiB).
const BLOB_BYTES: usize = 32 * 1024;

/// What comes first, for whoever opens the file.
const TITLE: &[u8] = b"This is not an etcd database. An in-memory etcd wrote its current keys here: mvccpb.KeyValue, length-delimited.\n";

/// A snapshot on its way to a client: what is left of it.
#[derive(Debug)]
pub(super) struct Snapshot(Bytes);

impl Snapshot {
    /// The current keys of a store.
    pub(super) fn new(store: &Store) -> Self {
        let everything = RangeRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            ..Default::default()
        };
        let mut content = Vec::from(TITLE);
        // The current revision is neither compacted nor to come.
        let kvs = store
            .range(&everything)
            .map(|response| response.kvs)
            .unwrap_or_default();
        for kv in kvs {
            content.extend_from_slice(&kv.encode_length_delimited_to_vec());
        }
        // A database and its checksum are 32 bytes longer than a multiple of 512, and clients go by that.
        if content.len() % 512 == 32 {
            content.push(b'\n');
        }
        Self(content.into())
    }

    /// Whether all of it was sent.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next message.
    pub(super) fn next(&mut self) -> SnapshotResponse {
        let blob = self.0.split_to(BLOB_BYTES.min(self.0.len()));
        SnapshotResponse {
            remaining_bytes: self.0.len() as u64,
            blob,
            ..Default::default()
        }
    }
}
