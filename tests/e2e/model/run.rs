//! Runs a program on both sides and compares everything they say.

mod watches;

use std::time::{Duration, Instant};

use bytes::Bytes;
use etcd_proxy_model::cluster::Config;
use etcd_proxy_proto::etcdserverpb as pb;
use etcd_proxy_tests::suite::within;
use prost::Message;

use crate::{
    calls::{Answer, Call},
    counts::Counts,
    lanes::Difference,
    model_side::Model,
    normal::{Ids, align_ttl},
    program::{By, Numbers, Op, Pace, Program, STREAMS, USERS},
    real_side::{ANSWER_LIMIT, Real},
    sides::{self, Outcome, Status},
};

pub(crate) const WATCH: &str = "/etcdserverpb.Watch/Watch";
pub(crate) const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";

/// A [`Op::ShortLease`] must be over by then, or it may have expired: the least TTL is 2 s.
const SHORT_LEASE_LIMIT: Duration = Duration::from_millis(1500);

/// Why a program did not run to its end.
pub(crate) enum Stop {
    /// The two sides differ.
    Difference {
        /// At which operation; the number of operations for the checks at the end.
        at: usize,
        /// In what.
        text: Difference,
    },
    /// The machine was so slow that a lease may have expired meanwhile; says nothing about the model.
    TooSlow,
}

/// Runs a program on a fresh etcd and a fresh model.
pub(crate) async fn run(program: &Program, counts: &mut Counts) -> Result<(), Stop> {
    let config = match program.pace {
        Pace::Lockstep => Config::default(),
        // So that watchers fall behind their clients.
        Pace::Loose => Config {
            watch_buffer_max: 4,
            ..Config::default()
        },
    };
    let mut run = Run::start(program.seed, program.pace, config, &[]).await;
    for (at, op) in program.ops.iter().enumerate() {
        let _told = TellOnPanic(program.seed, at, op);
        let mut done = run.op(op, counts).await;
        if done.is_ok() && (program.pace == Pace::Lockstep || at % QUIET_EVERY == 0) {
            done = run.quiet(counts).await.map_err(OpStop::Difference);
        }
        done.map_err(|stop| run.stopped(at, stop))?;
    }
    let at = program.ops.len();
    let done = run.finish(counts).await;
    done.map_err(|text| run.stopped(at, OpStop::Difference(text)))
}

/// Operations of a loose program between two quiet moments.
const QUIET_EVERY: usize = 40;

/// Says where a panic came from: the model or the real etcd may break down.
struct TellOnPanic<'a>(u64, usize, &'a Op);

impl Drop for TellOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("panic in operation {} of seed {}: {:?}", self.1, self.0, self.2);
        }
    }
}

/// Why an operation stops the program.
#[derive(Debug)]
pub(crate) enum OpStop {
    Difference(Difference),
    TooSlow,
}

impl From<Difference> for OpStop {
    fn from(text: Difference) -> Self {
        Self::Difference(text)
    }
}

/// The two sides in the middle of a program.
pub(crate) struct Run {
    pub(crate) real: Real,
    pub(crate) model: Model,
    pace: Pace,
    started: Instant,
    real_ids: Ids,
    model_ids: Ids,
    /// The store's revision, equal on both sides.
    current: i64,
    compacted: i64,
    /// For each user the tokens of the two sides, oldest first.
    tokens: [Vec<[String; 2]>; USERS.len()],
    slots: [Option<watches::Slot>; STREAMS],
    /// Whether a watcher was made that has to catch up, since the last quiet moment.
    behind: bool,
}

impl Run {
    /// Starts both. The flags of the one must go with the settings of the other.
    pub(crate) async fn start(seed: u64, pace: Pace, config: Config, flags: &[&str]) -> Self {
        let real = Real::start(flags).await;
        let mut model = Model::new(seed, config, &real.client_url());
        let first = Call::Range(pb::RangeRequest {
            key: "a".into(),
            ..Default::default()
        });
        let header = |outcome: Outcome| {
            let mut answer = first.answer(outcome.expect("an answer")).expect("a message");
            answer.header().expect("a header")
        };
        let real_header = header(real.call(first.path(), &None, first.encode()).await);
        let model_header = header(model.call(first.path(), &None, first.encode()));
        assert_eq!(real_header.revision, model_header.revision, "first revision");
        Self {
            real_ids: Ids::of(&real_header),
            model_ids: Ids::of(&model_header),
            real,
            model,
            pace,
            started: Instant::now(),
            current: real_header.revision,
            compacted: 0,
            tokens: Default::default(),
            slots: Default::default(),
            behind: false,
        }
    }

    /// Says where the store was.
    fn stopped(&self, at: usize, stop: OpStop) -> Stop {
        match stop {
            OpStop::Difference(text) => Stop::Difference {
                at,
                text: format!(
                    "{text}\n  (revision {}, compacted {})",
                    self.current, self.compacted
                ),
            },
            OpStop::TooSlow => Stop::TooSlow,
        }
    }

    /// An operation on both sides.
    pub(crate) async fn op(&mut self, op: &Op, counts: &mut Counts) -> Result<(), OpStop> {
        match op {
            Op::Call(by, call) => self.call(by, call, counts).await?,
            Op::KeepAlive(by, leases) => self.keep_alive(by, leases, counts).await?,
            Op::ShortLease { ttl, id } => self.short_lease(*ttl, *id, counts).await?,
            _ => self.watch_op(op, counts).await?,
        }
        self.model_responses()?;
        Ok(())
    }

    /// The token of a caller on the real side and the model's.
    fn by(&self, by: &By) -> [sides::By; 2] {
        match by {
            By::Nobody => [None, None],
            By::Garbage(token) => [0, 1].map(|_| Some(("token", (*token).to_owned()))),
            By::User {
                user,
                age,
                header,
                scheme,
            } => {
                let tokens = &self.tokens[*user];
                match tokens.iter().nth_back(*age).or_else(|| tokens.first()) {
                    Some(tokens) => tokens
                        .each_ref()
                        .map(|token| Some((*header, format!("{scheme}{token}")))),
                    None => [None, None],
                }
            }
        }
    }

    /// What numbers stand for on the real side and on the model's.
    fn numbers(&self) -> [Numbers; 2] {
        [&self.real_ids, &self.model_ids].map(|ids| Numbers {
            current: self.current,
            compacted: self.compacted,
            granted: ids.granted.clone(),
            member: ids.member,
        })
    }

    /// A unary call on both sides. Gives the outcome, in which they agree.
    async fn call(&mut self, by: &By, call: &Call, counts: &mut Counts) -> Result<(), OpStop> {
        if matches!(call, Call::Compact(_)) {
            // Whether a watcher that is behind is overtaken is chance.
            self.quiet(counts).await?;
        }
        let [real_by, model_by] = self.by(by);
        let [real_call, model_call] = self.numbers().map(|numbers| numbers.call(call));
        let real = self
            .real
            .call(real_call.path(), &real_by, real_call.encode())
            .await;
        let model = self.model.call(model_call.path(), &model_by, model_call.encode());
        let (mut real, mut model) = match (real, model) {
            (Ok(real), Ok(model)) => (decoded(call, real)?, decoded(call, model)?),
            (real, model) => {
                let [real, model] = [real, model].map(|outcome| outcome.map(|_| "an answer"));
                if real != model && !same_failure(call, &real, &model) {
                    return Err(differ(&real_call, &real, &model).into());
                }
                counts.op(call.kind(), real.err().map(|status| status.message));
                return Ok(());
            }
        };
        self.learn(call, &real, &model);
        self.real_ids.answer(&mut real);
        self.model_ids.answer(&mut model);
        let tolerance = self.started.elapsed() + self.model.elapsed();
        align_ttl(&mut real, &mut model, tolerance);
        if real != model {
            return Err(differ(&real_call, &real, &model).into());
        }
        counts.call(call.kind(), &real_call, &real);
        if let Some(header) = real.header() {
            self.current = self.current.max(header.revision);
        }
        if let Call::Compact(request) = &real_call {
            self.compacted = request.revision;
        }
        Ok(())
    }

    /// Remembers what the sides made up.
    fn learn(&mut self, call: &Call, real: &Answer, model: &Answer) {
        match (call, real, model) {
            (Call::LeaseGrant(request), Answer::LeaseGrant(real), Answer::LeaseGrant(model))
                if request.id == 0 =>
            {
                for (ids, id) in [(&mut self.real_ids, real.id), (&mut self.model_ids, model.id)] {
                    assert!(
                        id > 0 && !ids.granted.contains(&id),
                        "{id} is no id for a new lease"
                    );
                    ids.granted.push(id);
                }
            }
            (Call::Authenticate(request), Answer::Authenticate(real), Answer::Authenticate(model)) => {
                if let Some(user) = USERS.iter().position(|user| *user == request.name) {
                    self.tokens[user].push([real.token.clone(), model.token.clone()]);
                }
            }
            _ => {}
        }
    }

    async fn keep_alive(&mut self, by: &By, leases: &[i64], counts: &mut Counts) -> Result<(), OpStop> {
        let [real_by, model_by] = self.by(by);
        let [real_numbers, model_numbers] = self.numbers();
        let encode = |numbers: &Numbers, id: i64| {
            let request = pb::LeaseKeepAliveRequest {
                id: numbers.number(id),
            };
            Bytes::from(request.encode_to_vec())
        };
        let mut real = self.real.open(KEEP_ALIVE, &real_by, false).await;
        let stream = self.model.open(KEEP_ALIVE, &model_by, false, u32::MAX);
        for id in leases {
            real.send(encode(&real_numbers, *id)).await;
            self.model.send(stream, encode(&model_numbers, *id));
        }
        real.half_close();
        self.model.half_close(stream);
        let mut answers = Vec::new();
        while let Some(message) = within("keepalive", ANSWER_LIMIT, real.message()).await {
            answers.push(kept_alive(&self.real_ids, message)?);
        }
        let real = (answers, real.end().cloned());
        let answers: Result<Vec<_>, _> = self
            .model
            .take(stream)
            .into_iter()
            .map(|message| kept_alive(&self.model_ids, message))
            .collect();
        let model = (answers?, self.model.end(stream).cloned());
        self.model.close(stream);
        if real != model {
            return Err(format!("keepalive of {leases:?}:\n  real:  {real:?}\n  model: {model:?}").into());
        }
        let failure = real.1.filter(|end| end.code != 0).map(|end| end.message);
        for answer in &real.0 {
            let gone = (answer.ttl == 0).then(|| "TTL 0".to_owned());
            counts.op("LeaseKeepAlive", gone);
        }
        if failure.is_some() {
            counts.op("LeaseKeepAlive", failure);
        }
        Ok(())
    }

    async fn short_lease(&mut self, ttl: i64, id: i64, counts: &mut Counts) -> Result<(), OpStop> {
        let began = Instant::now();
        let calls = [
            Call::LeaseGrant(pb::LeaseGrantRequest { ttl, id }),
            Call::Put(pb::PutRequest {
                key: "short".into(),
                lease: id,
                ..Default::default()
            }),
            Call::LeaseTimeToLive(pb::LeaseTimeToLiveRequest { id, keys: true }),
            Call::LeaseRevoke(pb::LeaseRevokeRequest { id }),
        ];
        for call in calls {
            let outcome = self.call(&By::Nobody, &call, counts).await;
            if began.elapsed() > SHORT_LEASE_LIMIT {
                return Err(OpStop::TooSlow);
            }
            outcome?;
        }
        Ok(())
    }
}

fn kept_alive(ids: &Ids, message: Bytes) -> Result<pb::LeaseKeepAliveResponse, Difference> {
    let mut answer =
        pb::LeaseKeepAliveResponse::decode(message).map_err(|error| format!("keepalive answer: {error}"))?;
    ids.keep_alive(&mut answer);
    Ok(answer)
}

fn decoded(call: &Call, message: Bytes) -> Result<Answer, Difference> {
    call.answer(message)
        .map_err(|error| format!("{}: an answer that is none: {error}", call.kind()))
}

/// Failures that need not have the same message.
fn same_failure(call: &Call, real: &Result<&str, Status>, model: &Result<&str, Status>) -> bool {
    match (call, real, model) {
        (Call::MoveLeader(_), Err(real), Err(model)) => real.code == model.code,
        _ => false,
    }
}

fn differ(call: &Call, real: &dyn std::fmt::Debug, model: &dyn std::fmt::Debug) -> Difference {
    format!("{call:?}\n  real:  {real:?}\n  model: {model:?}")
}
