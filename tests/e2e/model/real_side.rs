//! A real etcd.

use std::{
    fs,
    future::{Future, poll_fn},
    io,
    pin::pin,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use etcd_proxy_tests::{
    etcd::{Cluster, Options},
    suite::{eventually, within},
    wire::{Call, Reply, Wire},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::sides::{By, MAX_REQUEST_BYTES, MAX_TXN_OPS, Outcome, Status};

/// No answer takes longer, on however busy a machine.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// Watchers that have not seen everything yet, as the member counts them.
const BEHIND: &str = "etcd_debugging_mvcc_slow_watcher_total ";

/// A fresh one-member cluster.
pub(crate) struct Real {
    cluster: Cluster,
    wire: Wire,
}

impl Real {
    /// Starts it, with these flags beside the ones that the model's settings go with.
    pub(crate) async fn start(flags: &[&str]) -> Self {
        let mut options = Options::default()
            .flag(&format!("--max-request-bytes={MAX_REQUEST_BYTES}"))
            .flag(&format!("--max-txn-ops={MAX_TXN_OPS}"))
            // The least bcrypt allows: passwords are checked often here.
            .flag("--bcrypt-cost=4");
        for flag in flags {
            options = options.flag(flag);
        }
        let cluster = Cluster::start(options).await;
        let wire = Wire::connect(&cluster.address(0)).await.expect("connection");
        Self { cluster, wire }
    }

    /// What the member advertises to clients.
    pub(crate) fn client_url(&self) -> String {
        format!("http://{}", self.cluster.address(0))
    }

    /// What the member has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.cluster.dir().join("m0.log")).expect("a log")
    }

    /// A unary call, to its end.
    pub(crate) async fn call(&self, path: &str, by: &By, message: Bytes) -> Outcome {
        let metadata = metadata(by, false);
        let messages = [message];
        let call = self.wire.call(path, &metadata, &messages);
        let reply = within(path, ANSWER_LIMIT, call).await;
        if reply.is_ok() {
            assert_eq!(reply.messages.len(), 1, "{path}: {reply:?}");
            return Ok(reply.messages[0].clone());
        }
        Err(status(&reply))
    }

    pub(crate) async fn open(&self, path: &str, by: &By, require_leader: bool) -> Stream {
        let call = self.wire.open(path, &metadata(by, require_leader)).await;
        Stream {
            call: Some(call.unwrap_or_else(|error| panic!("{path}: {error}"))),
            end: None,
        }
    }

    /// Waits until no watcher of the member is behind.
    pub(crate) async fn all_synced(&self) {
        let address = self.cluster.address(0);
        eventually("all watchers have caught up", ANSWER_LIMIT, async || {
            let page = metrics(&address).await.expect("metrics");
            let count = page.lines().find_map(|line| line.strip_prefix(BEHIND));
            (count.expect("a count of watchers that are behind") == "0").then_some(())
        })
        .await;
    }
}

impl Drop for Real {
    /// Data folders are kept when a test fails, for a look at them. There are too many of them here, 64 MB each: only
    /// the log stays.
    fn drop(&mut self) {
        self.cluster.kill(0);
        // What can't be removed is in nobody's way.
        let _ = fs::remove_dir_all(self.cluster.dir().join("m0"));
    }
}

/// The metrics page of a member.
async fn metrics(address: &str) -> io::Result<String> {
    let mut socket = TcpStream::connect(address).await?;
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut page = String::new();
    socket.read_to_string(&mut page).await?;
    Ok(page)
}

fn metadata(by: &By, require_leader: bool) -> Vec<(&str, &str)> {
    let token = by.iter().map(|(header, token)| (*header, token.as_str()));
    let leader = require_leader.then_some(("hasleader", "true"));
    token.chain(leader).collect()
}

/// How a call ended.
///
/// # Panics
/// If the connection broke: the etcd is dead then.
fn status(reply: &Reply) -> Status {
    let code = reply
        .code()
        .unwrap_or_else(|| panic!("the real etcd is gone: {reply:?}"));
    Status::new(code, &reply.message().unwrap_or_default())
}

/// A stream of the real etcd.
pub(crate) struct Stream {
    call: Option<Call>,
    end: Option<Status>,
}

impl Stream {
    /// Sends a message. If the stream has ended, reading tells how.
    pub(crate) async fn send(&mut self, message: Bytes) {
        if let Some(call) = &mut self.call {
            let _ = call.send(message).await;
        }
    }

    /// As for [`send`](Self::send).
    pub(crate) fn half_close(&mut self) {
        if let Some(call) = &mut self.call {
            let _ = call.half_close();
        }
    }

    /// The next message; `None` at the end.
    pub(crate) async fn message(&mut self) -> Option<Bytes> {
        let message = self.call.as_mut()?.message().await;
        if message.is_none() {
            self.ended().await;
        }
        message
    }

    /// The next message, if it is there already.
    pub(crate) async fn ready(&mut self) -> Option<Bytes> {
        let mut next = pin!(self.message());
        poll_fn(|cx| {
            Poll::Ready(match next.as_mut().poll(cx) {
                Poll::Ready(message) => message,
                Poll::Pending => None,
            })
        })
        .await
    }

    /// How the stream ended, if it did.
    pub(crate) fn end(&self) -> Option<&Status> {
        self.end.as_ref()
    }

    async fn ended(&mut self) {
        if let Some(call) = self.call.take() {
            self.end = Some(status(&call.finish().await));
        }
    }
}
