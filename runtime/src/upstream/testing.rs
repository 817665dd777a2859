//! A member of unit tests: what it answers is told by the test, and what it was asked is kept.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use etcd_proxy_core::class::Class;
use etcd_proxy_core::endpoints::{ConnectionId, Event};
use etcd_proxy_core::grpc::{Code, Status, framed};
use etcd_proxy_core::history::{Known, Shows, Verdict};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use parking_lot::Mutex;
use prost::Message;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;

use super::{Connection, Judge, Lane, Report, Settings, Uplink, UplinkTurns};
use crate::grpc::{refusal, status_fields};
use crate::rt::testing::{Testing, listen};
use crate::rt::{self, Runtime as _};
use crate::settings::Endpoint;

/// What a member was asked: a call's head and its first message.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) message: Bytes,
}

impl Heard {
    /// A header's value, as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// What a member does with a call.
#[derive(Clone, Debug)]
pub(crate) enum Says {
    /// It answers with a message, and OK.
    Message(Vec<u8>),
    /// It answers with these bytes, and these trailers.
    Data(Vec<u8>, Option<HeaderMap>),
    /// It answers with messages and leaves the stream open.
    Messages(Vec<Bytes>),
    /// It answers with a status, and nothing else.
    Status(Status),
    /// It answers as no gRPC server does.
    Http(u16),
    /// It resets the stream.
    Reset(Reason),
    /// It never answers.
    Nothing,
    /// It closes the connection.
    Hangup,
    /// It takes no new calls on this connection, and doesn't answer this one.
    GoAway,
}

impl Says {
    /// The answer that is this message.
    pub(crate) fn message(message: &impl Message) -> Self {
        Self::Message(message.encode_to_vec())
    }

    /// The answer that is an error.
    pub(crate) const fn error(code: Code, message: &'static str) -> Self {
        Self::Status(Status::of(code, message))
    }
}

/// A member. It goes on until the test ends.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) endpoint: Endpoint,
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl Member {
    /// Starts a member, which answers as it is told.
    pub(crate) fn start(name: &str, says: impl Fn(&Heard) -> Says + Send + Sync + 'static) -> Self {
        Self::with_calls_max(name, None, says)
    }

    /// Starts one that allows so many calls on a connection.
    pub(crate) fn with_calls_max(
        name: &str,
        calls_max: Option<u32>,
        says: impl Fn(&Heard) -> Says + Send + Sync + 'static,
    ) -> Self {
        let (endpoint, mut connections) = listen(name);
        let heard = Arc::new(Mutex::default());
        let (kept, says) = (heard.clone(), Arc::new(says));
        Testing::spawn(async move {
            while let Some(stream) = connections.recv().await {
                Testing::spawn(serve(stream, calls_max, kept.clone(), says.clone()));
            }
        });
        Self { endpoint, heard }
    }

    /// All that it was asked so far.
    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().clone()
    }

    /// The paths of all calls so far.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.heard().into_iter().map(|heard| heard.path).collect()
    }

    /// A connection to it, on which it has begun to speak.
    pub(crate) async fn connect(&self) -> Arc<Connection> {
        self.connect_as(ConnectionId::default()).await
    }

    /// One with this id.
    pub(crate) async fn connect_as(&self, id: ConnectionId) -> Arc<Connection> {
        let settings = settings();
        let opened = Connection::open::<Testing>(id, self.endpoint.clone(), &settings);
        let (connection, driver) = opened.await.expect("somebody listens");
        rt::spawn::<Testing>(async move {
            driver.run(|| ()).await;
        });
        connection.heard().await;
        connection
    }
}

/// Settings of connections to members.
pub(crate) fn settings() -> Settings {
    Settings {
        dial_timeout: core::time::Duration::from_millis(200),
        keepalive: None,
        keepalive_without_calls: false,
        tls: None,
    }
}

async fn serve(
    stream: DuplexStream,
    calls_max: Option<u32>,
    heard: Arc<Mutex<Vec<Heard>>>,
    says: Arc<impl Fn(&Heard) -> Says + Send + Sync + 'static>,
) {
    let mut server = h2::server::Builder::new();
    if let Some(calls_max) = calls_max {
        server.max_concurrent_streams(calls_max);
    }
    let Ok(mut connection) = server.handshake::<_, Bytes>(stream).await else {
        return;
    };
    let (orders, mut ordered) = mpsc::unbounded_channel();
    loop {
        tokio::select! {
            call = connection.accept() => {
                let Some(Ok((request, respond))) = call else { return };
                let (heard, says, orders) = (heard.clone(), says.clone(), orders.clone());
                Testing::spawn(async move {
                    answer(request, respond, &heard, &*says, &orders).await;
                });
            }
            order = ordered.recv() => match order {
                Some(Says::GoAway) => connection.graceful_shutdown(),
                _ => return,
            },
        }
    }
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    heard: &Mutex<Vec<Heard>>,
    says: &(impl Fn(&Heard) -> Says + ?Sized),
    orders: &mpsc::UnboundedSender<Says>,
) {
    let (head, mut body) = request.into_parts();
    let mut data = BytesMut::new();
    // The first message, however it is cut.
    while data.len() < 5 || data.len() < 5 + message_len(&data) {
        let Some(Ok(chunk)) = body.data().await else { break };
        let _ = body.flow_control().release_capacity(chunk.len());
        data.extend_from_slice(&chunk);
    }
    let asked = Heard {
        path: head.uri.path().to_owned(),
        headers: head.headers,
        message: data.freeze().slice(5..),
    };
    heard.lock().push(asked.clone());
    let mut ok = Response::new(());
    ok.headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    match says(&asked) {
        Says::Message(message) => {
            let mut stream = respond.send_response(ok, false).expect("the caller waits");
            let _ = stream.send_data(framed(&message), false);
            let _ = stream.send_trailers(status_fields(&Status::OK));
        }
        Says::Data(data, trailers) => {
            let mut stream = respond.send_response(ok, false).expect("the caller waits");
            let _ = stream.send_data(data.into(), trailers.is_none());
            if let Some(trailers) = trailers {
                let _ = stream.send_trailers(trailers);
            }
        }
        Says::Messages(messages) => {
            let mut stream = respond.send_response(ok, false).expect("the caller waits");
            for message in messages {
                let _ = stream.send_data(framed(&message), false);
            }
            let _ = core::future::poll_fn(|cx| stream.poll_reset(cx)).await;
        }
        Says::Status(status) => {
            let _ = respond.send_response(refusal(&status), true);
        }
        Says::Http(status) => {
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::from_u16(status).expect("a status");
            let _ = respond.send_response(response, true);
        }
        Says::Reset(reason) => respond.send_reset(reason),
        Says::Nothing => {
            let _ = core::future::poll_fn(|cx| respond.poll_reset(cx)).await;
        }
        order @ (Says::Hangup | Says::GoAway) => {
            let _ = orders.send(order);
            let _ = core::future::poll_fn(|cx| respond.poll_reset(cx)).await;
        }
    }
}

fn message_len(data: &[u8]) -> usize {
    data[1..5]
        .iter()
        .fold(0, |len, byte| len << 8 | usize::from(*byte))
}

/// What it takes to ask the cluster, over a connection to one member, and what the control task would be told.
pub(crate) struct Cluster {
    pub(crate) uplink: Arc<Uplink>,
    pub(crate) judge: Arc<Judging>,
    pub(crate) reports: mpsc::Receiver<Report>,
}

impl Cluster {
    /// A cluster of these members, of which the first one is in use.
    pub(crate) async fn of(members: &[&Member]) -> Self {
        let (sender, reports) = mpsc::channel(16);
        let lane = Arc::<Lane>::default();
        lane.set_control(0, sender.clone());
        if let Some(member) = members.first() {
            lane.set(Some(member.connect().await));
        }
        let judge = Arc::<Judging>::default();
        let endpoints: Vec<_> = members.iter().map(|member| member.endpoint.clone()).collect();
        let uplink = Arc::new(Uplink {
            lane,
            reports: sender,
            settings: Arc::new(settings()),
            endpoints: endpoints.into(),
            request_bytes_max: 1 << 20,
            judge: judge.clone(),
            turns: UplinkTurns::default(),
        });
        Self {
            uplink,
            judge,
            reports,
        }
    }

    /// The connection in use.
    pub(crate) fn main(&self, member: &Member) -> Arc<Connection> {
        let main = self.uplink.lane.main_to(&member.endpoint);
        main.expect("that member is in use")
    }

    /// New calls go to this connection from now on.
    pub(crate) fn use_now(&self, connection: Arc<Connection>) {
        self.uplink.lane.set(Some(connection));
    }

    /// Calls of this class have a connection of their own from now on.
    pub(crate) fn join(&self, class: Class, connection: Arc<Connection>) {
        self.uplink.lane.join(class, connection);
    }

    /// The process ends: nobody gets a connection any more.
    pub(crate) fn ends(&self) {
        self.uplink.lane.end();
    }

    /// What the control task was told so far, as far as it is events.
    pub(crate) fn events(&mut self) -> Vec<Event> {
        core::iter::from_fn(|| self.reports.try_recv().ok())
            .filter_map(|report| match report {
                Report::Event(event) | Report::Ended(event, _) => Some(event),
                Report::Connected(_) | Report::End => None,
            })
            .collect()
    }
}

/// A judge that says what it is told to say, and that all is well after that.
#[derive(Debug, Default)]
pub(crate) struct Judging {
    pub(crate) verdicts: Mutex<VecDeque<Verdict>>,
    pub(crate) judged: Mutex<Vec<Shows>>,
}

impl Judge for Judging {
    fn known(&self) -> Known {
        Known::default()
    }

    fn judge(&self, _: Known, shows: Shows) -> Verdict {
        self.judged.lock().push(shows);
        self.verdicts.lock().pop_front().unwrap_or(Verdict::Same)
    }
}
