//! Short names for the calls that many tests make, over the raw client.

use std::io;

use etcd_proxy_proto::etcdserverpb as pb;

use crate::wire::{Reply, Wire};

/// One connection to a member or a proxy.
#[derive(Clone)]
pub struct Client {
    /// The connection, for calls that have no name here.
    pub wire: Wire,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// What a call gave: the answer, or all that came back when there was no answer.
pub type Answer<T> = Result<T, Box<Reply>>;

impl Client {
    /// Connects to `host:port`.
    ///
    /// # Errors
    /// When no HTTP/2 connection comes about.
    pub async fn connect(address: &str) -> io::Result<Self> {
        Ok(Self {
            wire: Wire::connect(address).await?,
        })
    }

    /// Connects to `host:port` with TLS.
    ///
    /// # Errors
    /// When no connection comes about.
    pub async fn connect_tls(address: &str, tls: std::sync::Arc<rustls::ClientConfig>) -> io::Result<Self> {
        Ok(Self {
            wire: Wire::connect_tls(address, tls).await?,
        })
    }

    async fn unary<Q, R>(&self, path: &str, request: &Q) -> Answer<R>
    where
        Q: prost::Message,
        R: prost::Message + Default,
    {
        self.wire.unary(path, &[], request).await.map_err(Box::new)
    }

    /// Put without options.
    ///
    /// # Errors
    /// With all that came back.
    pub async fn put(&self, key: &[u8], value: &[u8]) -> Answer<pb::PutResponse> {
        let request = pb::PutRequest {
            key: key.to_vec().into(),
            value: value.to_vec().into(),
            ..Default::default()
        };
        self.unary("/etcdserverpb.KV/Put", &request).await
    }

    /// Linearizable read of one key.
    ///
    /// # Errors
    /// With all that came back.
    pub async fn get(&self, key: &[u8]) -> Answer<pb::RangeResponse> {
        let request = pb::RangeRequest {
            key: key.to_vec().into(),
            ..Default::default()
        };
        self.range(&request).await
    }

    /// Any read.
    ///
    /// # Errors
    /// With all that came back.
    pub async fn range(&self, request: &pb::RangeRequest) -> Answer<pb::RangeResponse> {
        self.unary("/etcdserverpb.KV/Range", request).await
    }

    /// Delete of one key.
    ///
    /// # Errors
    /// With all that came back.
    pub async fn delete(&self, key: &[u8]) -> Answer<pb::DeleteRangeResponse> {
        let request = pb::DeleteRangeRequest {
            key: key.to_vec().into(),
            ..Default::default()
        };
        self.unary("/etcdserverpb.KV/DeleteRange", &request).await
    }

    /// Status of the member that answers.
    ///
    /// # Errors
    /// With all that came back.
    pub async fn status(&self) -> Answer<pb::StatusResponse> {
        self.unary("/etcdserverpb.Maintenance/Status", &pb::StatusRequest::default())
            .await
    }
}
