//! The two clusters, and how a case is run on both.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use etcd_proxy_proto::etcdserverpb as pb;
use etcd_proxy_tests::{
    etcd::{Cluster, Options},
    proxy::Proxy,
    suite::within,
    wire::{Call, Reply, Wire},
};
use prost::Message;

use crate::mask::{self, Mask};

/// No single answer of these tests takes longer, on however busy a machine.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// One call, both sides of it.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) metadata: Vec<(String, String)>,
    pub(crate) steps: Vec<Step>,
    pub(crate) mask: Mask,
}

/// What the client does in a call.
#[derive(Clone)]
pub(crate) enum Step {
    /// Sends a message.
    Send(Bytes),
    /// Sends bytes as they are.
    Raw(Bytes),
    /// Half-closes.
    HalfClose,
    /// Receives this many messages.
    Receive(usize),
    /// Makes another call on another stream, to its end.
    Aside(Box<Case>),
    /// Receives to the end of the stream.
    Finish,
}

impl Case {
    /// A unary call: one message, half-close, read to the end.
    pub(crate) fn unary(name: &str, path: &str, request: &impl Message) -> Self {
        Self::bytes(name, path, request.encode_to_vec())
    }

    /// A unary call with a message that need not be one.
    pub(crate) fn bytes(name: &str, path: &str, message: impl Into<Bytes>) -> Self {
        Self::stream(
            name,
            path,
            vec![Step::Send(message.into()), Step::HalfClose, Step::Finish],
        )
    }

    /// Any call. Without `Finish` at the end the client resets the stream after the last step.
    pub(crate) fn stream(name: &str, path: &str, steps: Vec<Step>) -> Self {
        Self {
            name: name.to_owned(),
            path: path.to_owned(),
            metadata: Vec::new(),
            steps,
            mask: mask::nothing,
        }
    }

    /// With an entry of metadata. `{NAME}` in the value stands for the token of that user.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.metadata.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With the token of a user.
    pub(crate) fn by_user(self, user: &str) -> Self {
        self.with("token", &format!("{{{user}}}"))
    }

    /// With something that is not compared.
    pub(crate) fn mask(mut self, mask: Mask) -> Self {
        self.mask = mask;
        self
    }
}

/// What happened in a call.
#[derive(Debug, PartialEq)]
pub(crate) enum Seen {
    /// A message that was received by `Receive`.
    Message(Bytes),
    /// The stream ended although a message was to come.
    Early(Reply),
    /// The end of the stream with what came before it.
    End(Reply),
    /// The other call.
    Aside(Vec<Self>),
}

/// One of the two.
struct Side {
    address: String,
    wire: Option<Wire>,
    tokens: BTreeMap<String, String>,
}

impl Side {
    fn new(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            wire: None,
            tokens: BTreeMap::new(),
        }
    }

    /// The connection, opened again if the last call broke it.
    async fn wire(&mut self) -> Wire {
        match self.wire.take() {
            Some(wire) => wire,
            None => Wire::connect(&self.address).await.expect("connection"),
        }
    }

    async fn run(&mut self, case: &Case) -> Vec<Seen> {
        let wire = self.wire().await;
        let metadata: Vec<(String, String)> = case
            .metadata
            .iter()
            .map(|(name, value)| (name.clone(), self.with_tokens(value)))
            .collect();
        let metadata: Vec<(&str, &str)> = metadata
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let opened = wire.open(&case.path, &metadata).await;
        let mut call = Some(opened.unwrap_or_else(|error| panic!("{}: {error}", case.name)));
        let mut seen = Vec::new();
        for step in &case.steps {
            let what = format!("{} at {}: {step:?}", case.name, self.address);
            let done = within(&what, ANSWER_LIMIT, self.step(case, step, &mut call, &mut seen));
            Box::pin(done).await;
        }
        if connection_lives(&seen) {
            self.wire = Some(wire);
        }
        seen
    }

    async fn step(&mut self, case: &Case, step: &Step, slot: &mut Option<Call>, seen: &mut Vec<Seen>) {
        let Some(call) = slot.as_mut() else { return };
        let sent = match step {
            Step::Send(message) => call.send(message.clone()).await,
            Step::Raw(bytes) => call.send_raw(bytes.clone(), false).await,
            Step::HalfClose => call.half_close(),
            Step::Receive(count) => {
                for _ in 0..*count {
                    let Some(message) = call.message().await else {
                        let call = slot.take().expect("taken out only here and in Finish");
                        seen.push(Seen::Early(masked(call.finish().await, case.mask)));
                        return;
                    };
                    seen.push(Seen::Message((case.mask)(&message)));
                }
                Ok(())
            }
            Step::Aside(other) => {
                // On a connection of its own, so that nothing of this stream is in its way.
                let kept = self.wire.take();
                seen.push(Seen::Aside(Box::pin(self.run(other)).await));
                self.wire = kept;
                Ok(())
            }
            Step::Finish => {
                let call = slot.take().expect("taken out only here and in Receive");
                seen.push(Seen::End(masked(call.finish().await, case.mask)));
                Ok(())
            }
        };
        if let Err(error) = sent {
            // The stream is over. When the sender notices is chance; what it ended with is compared.
            if let Some(call) = slot.take() {
                let end = masked(call.finish().await, case.mask);
                assert!(end != Reply::default(), "{}: {error}", case.name);
                seen.push(Seen::End(end));
            }
        }
    }

    fn with_tokens(&self, value: &str) -> String {
        let mut value = value.to_owned();
        for (user, token) in &self.tokens {
            value = value.replace(&format!("{{{user}}}"), token);
        }
        assert!(!value.contains('{'), "no token for {value}");
        value
    }
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Send(message) => write!(f, "send {} bytes", message.len()),
            Self::Raw(bytes) => write!(f, "send {} raw bytes", bytes.len()),
            Self::HalfClose => f.write_str("half-close"),
            Self::Receive(count) => write!(f, "receive {count} messages"),
            Self::Aside(case) => write!(f, "aside: {}", case.name),
            Self::Finish => f.write_str("read to the end"),
        }
    }
}

fn masked(mut reply: Reply, mask: Mask) -> Reply {
    for message in &mut reply.messages {
        *message = mask(message);
    }
    reply
}

fn connection_lives(seen: &[Seen]) -> bool {
    seen.iter().all(|seen| match seen {
        Seen::Early(reply) | Seen::End(reply) => reply.error.is_none(),
        Seen::Message(_) | Seen::Aside(_) => true,
    })
}

/// The two clusters with equal histories, one of them behind a proxy.
pub(crate) struct Pair {
    group: &'static str,
    /// One or two; the last one is the one behind the proxy.
    _clusters: Vec<Cluster>,
    proxy: Proxy,
    sides: [Side; 2],
    cases: usize,
}

impl Pair {
    /// Starts both. `group` is for the summary.
    pub(crate) async fn start(group: &'static str, options: Options) -> Self {
        // The same advertised peer address gives the same cluster and member ids; nobody dials it.
        let options = Options {
            peer_url: Some("http://127.0.0.1:9".to_owned()),
            ..options
        };
        let clusters = vec![
            Cluster::start(options.clone()).await,
            Cluster::start(options).await,
        ];
        Self::over(group, clusters).await
    }

    /// One cluster, reached directly and through the proxy, for calls that change nothing.
    pub(crate) async fn single(group: &'static str, options: Options) -> Self {
        Self::over(group, vec![Cluster::start(options).await]).await
    }

    async fn over(group: &'static str, clusters: Vec<Cluster>) -> Self {
        let (first, last) = (&clusters[0], &clusters[clusters.len() - 1]);
        let proxy = Proxy::start(&last.endpoints(), &[]).await;
        let sides = [Side::new(&first.proxied_address(0)), Side::new(proxy.address())];
        Self {
            group,
            _clusters: clusters,
            proxy,
            sides,
            cases: 0,
        }
    }

    /// Runs a case on both and compares. Gives what the proxied one saw.
    pub(crate) async fn check(&mut self, case: Case) -> Vec<Seen> {
        self.cases += 1;
        let direct = self.sides[0].run(&case).await;
        let proxied = self.sides[1].run(&case).await;
        assert!(
            direct == proxied,
            "{}: {} {:.200}\n  direct:  {:.1500}\n  proxied: {:.1500}",
            self.group,
            case.path,
            case.name,
            format!("{direct:?}"),
            format!("{proxied:?}"),
        );
        proxied
    }

    /// Runs a case on both whose outcome a real etcd leaves to chance: each must end in a way that `allowed` takes.
    pub(crate) async fn each(&mut self, case: Case, allowed: impl Fn(&Reply) -> bool) {
        self.cases += 1;
        for side in &mut self.sides {
            let seen = side.run(&case).await;
            let ended = matches!(seen.last(), Some(Seen::End(reply)) if allowed(reply));
            assert!(ended, "{}: {} {}: {seen:?}", self.group, case.path, case.name);
        }
    }

    /// As [`check`](Self::check), and asserts the status code, so that a case which is to be an error
    /// cannot silently turn into a success on both sides.
    pub(crate) async fn code(&mut self, code: u32, case: Case) -> Reply {
        let name = case.name.clone();
        let seen = self.check(case).await;
        let Some(Seen::End(reply)) = seen.into_iter().last() else {
            panic!("{name}: did not read to the end");
        };
        assert_eq!(reply.code(), Some(code), "{name}: {reply:?}");
        reply
    }

    /// As [`code`](Self::code), and asserts the message.
    pub(crate) async fn error(&mut self, code: u32, message: &str, case: Case) {
        let name = case.name.clone();
        let reply = self.code(code, case).await;
        assert_eq!(reply.message().as_deref(), Some(message), "{name}");
    }

    /// A call that must succeed on both sides.
    pub(crate) async fn ok(&mut self, case: Case) -> Reply {
        self.code(0, case).await
    }

    /// Puts a key on both sides.
    pub(crate) async fn put(&mut self, key: &str, value: &str) -> i64 {
        let reply = self.ok(put(key, value)).await;
        let answer = pb::PutResponse::decode(reply.messages[0].clone()).expect("a put's answer");
        answer.header.expect("a header").revision
    }

    /// Puts a key through the proxy only, for a pair that is one cluster.
    pub(crate) async fn seed(&mut self, key: &str, value: &str) {
        let seen = self.sides[1].run(&put(key, value)).await;
        assert!(
            matches!(&seen[..], [Seen::End(reply)] if reply.is_ok()),
            "{seen:?}"
        );
    }

    /// Logs in on both sides; from then on `{name}` in metadata is that side's token.
    pub(crate) async fn log_in(&mut self, name: &str, password: &str) {
        for side in &mut self.sides {
            let request = pb::AuthenticateRequest {
                name: name.to_owned(),
                password: password.to_owned(),
            };
            let wire = side.wire().await;
            let answer: pb::AuthenticateResponse = wire
                .unary("/etcdserverpb.Auth/Authenticate", &[], &request)
                .await
                .expect("log in");
            side.wire = Some(wire);
            side.tokens.insert(name.to_owned(), answer.token);
        }
    }

    /// Says how much was compared, and that the proxy is still in one piece.
    pub(crate) fn finish(mut self) {
        self.proxy.assert_sound();
        eprintln!("differential {}: {} cases equal", self.group, self.cases);
        assert!(self.cases > 0, "no case ran");
    }
}

/// A put.
pub(crate) fn put(key: &str, value: &str) -> Case {
    let request = pb::PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..Default::default()
    };
    Case::unary(&format!("put {key}"), "/etcdserverpb.KV/Put", &request)
}
