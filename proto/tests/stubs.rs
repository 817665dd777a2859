//! The stubs work without a runtime: a client called straight into a server, polled by hand.
#![cfg(feature = "stubs")]

use etcd_proxy_proto::v3lockpb::lock_client::LockClient;
use etcd_proxy_proto::v3lockpb::lock_server::{Lock, LockServer};
use etcd_proxy_proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use futures_util::FutureExt;
use tonic::{Code, Request, Response, Status};

#[test]
fn a_call_goes_from_client_to_server_and_back() {
    let mut client = LockClient::new(LockServer::new(Server));
    let mut request = Request::new(LockRequest {
        name: "n".into(),
        lease: 5,
    });
    request
        .metadata_mut()
        .insert("token", "secret".parse().expect("ASCII"));

    let response = client
        .lock(request)
        .now_or_never()
        .expect("nothing to wait for")
        .expect("the server accepts the token");
    assert_eq!(response.into_inner().key, "n/5");

    let status = client
        .unlock(UnlockRequest { key: "n/5".into() })
        .now_or_never()
        .expect("nothing to wait for")
        .expect_err("the server refuses");
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.message(), "etcdserver: no leader");
    assert_eq!(status.details(), b"\x08\x0e");
}

struct Server;

#[tonic::async_trait]
impl Lock for Server {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        assert_eq!(request.metadata().get("token").expect("sent"), "secret");
        let LockRequest { name, lease } = request.into_inner();
        let key = [name.as_ref(), b"/", lease.to_string().as_bytes()].concat();
        Ok(Response::new(LockResponse {
            header: None,
            key: key.into(),
        }))
    }

    async fn unlock(&self, _: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        Err(Status::with_details(
            Code::Unavailable,
            "etcdserver: no leader",
            b"\x08\x0e".as_slice().into(),
        ))
    }
}
