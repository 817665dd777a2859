//! Drives the core's endpoint machine: carries out its actions and tells it what happened.

use core::time::Duration;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use etcd_proxy_core::endpoints::{
    Action, Actions, Config, ConnectionId, EndpointId, Endpoints, Event, Lane as For,
};
use etcd_proxy_core::retry::Failure;
use etcd_proxy_core::time;
use tokio::sync::{Notify, mpsc, watch as latest};

use super::connection::{Connection, End};
use super::lane::Lane;
use super::news::{Reached, Reporter};
use super::probe::{Found, probe};
use super::{Settings, cluster_of};
use crate::rt::{self, Runtime};
use crate::settings::Endpoint;

/// Reports that may wait for the control task. Senders wait when it is full; it never is for long, a report
/// is handled in microseconds and there are a few per second.
const REPORTS_MAX: usize = 1024;

/// How often further connections are looked after.
const TIDY_EVERY: Duration = Duration::from_secs(5);

/// What workers and connections tell the control task.
#[derive(Debug)]
pub(crate) enum Report {
    /// A connection was established.
    Connected(Arc<Connection>),
    /// A connection has ended or never came to be, or leads to a stranger, and what went wrong.
    Ended(Event, Option<String>),
    /// Anything else, in the machine's words.
    Event(Event),
    /// The process is ending: every call on a member's connection ends now, with a status.
    End,
}

/// Where reports go.
pub(crate) type Reports = mpsc::Sender<Report>;

/// An order to establish a connection on the thread that will use it.
#[derive(Debug)]
pub(crate) struct Connect {
    pub(crate) connection: ConnectionId,
    pub(crate) target: Endpoint,
    /// It isn't for whatever comes: calls only go to it once it is known how many the member allows.
    pub(crate) further: bool,
    /// Notified when the connection isn't wanted any more before it is established.
    pub(crate) cancel: Arc<Notify>,
}

impl Connect {
    /// Carries the order out on the current thread: connects, reports, and drives the connection to its end.
    pub(crate) async fn run<R: Runtime>(self, settings: Arc<Settings>, reports: Reports) {
        let opened = tokio::select! {
            biased;
            () = self.cancel.notified() => return,
            opened = Connection::open::<R>(self.connection, self.target.clone(), &settings) => opened,
        };
        let report = match opened {
            Err(error) => {
                tracing::debug!(endpoint = %self.target, error = %error, "connecting to an endpoint failed");
                Report::Ended(Event::ConnectFailed(self.connection), Some(error.to_string()))
            }
            Ok((connection, driver)) => {
                let reports = reports.clone();
                rt::spawn::<R>(async move {
                    let draining = reports.clone();
                    let on_go_away = move || {
                        rt::spawn::<R>(async move {
                            let event = Event::Draining(self.connection);
                            let _ = draining.send(Report::Event(event)).await;
                        });
                    };
                    let End { announced, error } = driver.run(on_go_away).await;
                    let event = Event::Lost {
                        connection: self.connection,
                        graceful: announced,
                    };
                    // Nobody listens any more once the process is ending.
                    let _ = reports.send(Report::Ended(event, error)).await;
                });
                if self.further {
                    tokio::select! {
                        biased;
                        () = self.cancel.notified() => return connection.close(),
                        () = connection.heard() => {}
                    }
                }
                Report::Connected(connection)
            }
        };
        let _ = reports.send(report).await;
    }
}

/// What the control task knows of a connection.
#[derive(Debug)]
struct Known {
    /// Not to be kept alive by being known.
    connection: Weak<Connection>,
    reads_seen: u64,
}

/// The control task's state.
pub(crate) struct Control {
    machine: Endpoints,
    reporter: Reporter,
    /// What went wrong, while the machine is told of it.
    error: Option<String>,
    targets: HashMap<String, Endpoint>,
    started: Instant,
    settings: Arc<Settings>,
    probe_timeout: Duration,
    lanes: Vec<Arc<Lane>>,
    /// Where orders for the workers go.
    workers: Vec<mpsc::UnboundedSender<Connect>>,
    reports: Reports,
    inbox: mpsc::Receiver<Report>,
    connecting: HashMap<ConnectionId, Arc<Notify>>,
    connections: HashMap<ConnectionId, Known>,
    /// When the lanes' further connections are looked after; they have some.
    tidy_at: Option<Instant>,
    foreign: Arc<AtomicUsize>,
    /// What the lanes know of it.
    alone: bool,
}

impl Control {
    /// A control task for these endpoints, and one lane and mailbox per worker. Orders in a mailbox are at most
    /// one per worker and class of calls at a time, so the mailboxes need no bound of their own.
    pub(crate) fn new(
        config: Config,
        seed: u64,
        endpoints: &[Endpoint],
        settings: Arc<Settings>,
        lanes: Vec<Arc<Lane>>,
        workers: Vec<mpsc::UnboundedSender<Connect>>,
    ) -> Self {
        let (reports, inbox) = mpsc::channel(REPORTS_MAX);
        for (lane, number) in lanes.iter().zip(0..) {
            lane.set_control(number, reports.clone());
        }
        let targets: HashMap<String, Endpoint> = endpoints
            .iter()
            .map(|endpoint| (endpoint.to_string(), endpoint.clone()))
            .collect();
        let addresses = endpoints
            .iter()
            .map(|endpoint| endpoint.to_string().into_boxed_str());
        Self {
            machine: Endpoints::new(config, seed, addresses),
            reporter: Reporter::new(config.connect_timeout, config.probe_timeout),
            error: None,
            targets,
            started: Instant::now(),
            settings,
            probe_timeout: config.probe_timeout,
            lanes,
            workers,
            reports,
            inbox,
            connecting: HashMap::new(),
            connections: HashMap::new(),
            tidy_at: None,
            foreign: Arc::default(),
            alone: false,
        }
    }

    /// Where reports to this task go.
    pub(crate) fn reports(&self) -> Reports {
        self.reports.clone()
    }

    /// Which endpoint is reached first, once that is known.
    pub(crate) fn reached(&self) -> latest::Receiver<Reached> {
        self.reporter.reached()
    }

    /// Runs for as long as the process does.
    pub(crate) async fn run<R: Runtime>(mut self) {
        let mut actions = Actions::new();
        self.step::<R>(Event::Start, &mut actions);
        loop {
            let due = self.machine.next_timeout();
            let due = due.map(|at| self.started + Duration::from_nanos(at.as_nanos()));
            let next = match [due, self.tidy_at].into_iter().flatten().min() {
                Some(at) => rt::timeout_at::<R, _>(at, self.inbox.recv()).await,
                None => Ok(self.inbox.recv().await),
            };
            match next {
                Ok(Some(Report::Connected(connection))) => self.connected::<R>(connection, &mut actions),
                Ok(Some(Report::Event(event))) => {
                    if matches!(event, Event::Doubt(_)) {
                        self.report_activity::<R>(&mut actions);
                    }
                    self.step::<R>(event, &mut actions);
                }
                Ok(Some(Report::Ended(event, error))) => {
                    if let Event::ConnectFailed(id) | Event::Lost { connection: id, .. } = &event {
                        self.connecting.remove(id);
                        self.connections.remove(id);
                    }
                    let drains = matches!(event, Event::Draining(_));
                    self.error = error;
                    self.step::<R>(event, &mut actions);
                    self.error = None;
                    if drains {
                        // Of a further connection nothing else tells those that have a stream on it.
                        for lane in &self.lanes {
                            lane.look_again();
                        }
                    }
                }
                Ok(Some(Report::End)) => return self.end(),
                // Never: this task holds a sender itself.
                Ok(None) => return,
                Err(rt::Elapsed) => {
                    self.tidy();
                    self.report_activity::<R>(&mut actions);
                    self.step::<R>(Event::Timeout, &mut actions);
                }
            }
        }
    }

    fn tidy(&mut self) {
        let now = Instant::now();
        if self.tidy_at.is_some_and(|at| at <= now) {
            // Each of them.
            let left = self.lanes.iter().filter(|lane| lane.tidy()).count();
            self.tidy_at = (left > 0).then(|| now + TIDY_EVERY);
        }
    }

    fn end(&self) {
        // Held until all are closed: a lane lets go of its own.
        let open: Vec<_> = self
            .connections
            .values()
            .filter_map(|known| known.connection.upgrade())
            .collect();
        for lane in &self.lanes {
            lane.end();
        }
        for connection in &open {
            connection.close();
        }
    }

    fn now(&self) -> time::Instant {
        time::Instant::ZERO + self.started.elapsed()
    }

    fn step<R: Runtime>(&mut self, event: Event, actions: &mut Actions) {
        let now = self.now();
        self.machine.handle(now, event, actions);
        let alone = self.machine.is_alone();
        if core::mem::replace(&mut self.alone, alone) != alone {
            for lane in &self.lanes {
                lane.set_alone(alone);
            }
        }
        for action in actions.drain(..) {
            self.reporter
                .tell(now, &action, &self.machine, self.error.as_deref());
            self.carry_out::<R>(action);
        }
        self.foreign.store(self.machine.foreign(), Ordering::Relaxed);
    }

    /// The number of endpoints that are hidden for being of another cluster, as it is at any time.
    pub(crate) fn foreign(&self) -> Arc<AtomicUsize> {
        self.foreign.clone()
    }

    fn connected<R: Runtime>(&mut self, connection: Arc<Connection>, actions: &mut Actions) {
        let id = connection.id();
        if self.connecting.remove(&id).is_none() {
            // The machine gave it up while the report was on its way.
            return connection.close();
        }
        let reads_seen = connection.reads();
        self.connections.insert(
            id,
            Known {
                connection: Arc::downgrade(&connection),
                reads_seen,
            },
        );
        self.step::<R>(Event::Connected(id), actions);
        // Only now: a candidate is kept alive by its probe, a worker's connection by its lane.
        drop(connection);
    }

    fn report_activity<R: Runtime>(&mut self, actions: &mut Actions) {
        let mut active = Vec::new();
        for (id, known) in &mut self.connections {
            let reads = known
                .connection
                .upgrade()
                .map_or(known.reads_seen, |connection| connection.reads());
            if core::mem::replace(&mut known.reads_seen, reads) != reads {
                active.push(*id);
            }
        }
        for id in active {
            self.step::<R>(Event::Active(id), actions);
        }
    }

    fn connection(&self, id: ConnectionId) -> Option<Arc<Connection>> {
        self.connections.get(&id)?.connection.upgrade()
    }

    fn carry_out<R: Runtime>(&mut self, action: Action) {
        match action {
            Action::Connect {
                connection,
                endpoint,
                lane,
            } => self.connect::<R>(connection, endpoint, lane),
            Action::Probe(id) => {
                if let Some(connection) = self.connection(id) {
                    let (settings, reports) = (self.settings.clone(), self.reports.clone());
                    let patience = self.probe_timeout;
                    rt::spawn::<R>(async move {
                        let mut found = probe::<R>(connection.clone(), settings, patience).await;
                        if matches!(found, Found::Answer(_)) {
                            match cluster_of::<R>(&connection).await {
                                Ok(Some(cluster)) => {
                                    let event = Event::Identified(id, cluster);
                                    let _ = reports.send(Report::Event(event)).await;
                                }
                                Ok(None) => {}
                                Err(what) => found = Found::Stranger(what),
                            }
                        }
                        drop(connection);
                        let report = match found {
                            Found::Answer(health) => Report::Event(Event::ProbeAnswered(id, health)),
                            Found::Stranger(what) => Report::Ended(Event::Stranger(id), Some(what)),
                            Found::Refusing => Report::Event(Event::Draining(id)),
                            Found::Nothing => Report::Event(Event::ProbeLost(id)),
                        };
                        let _ = reports.send(report).await;
                    });
                }
            }
            Action::Close(id, cause) => {
                tracing::debug!(?cause, "closing a connection to a member");
                if let Some(cancel) = self.connecting.remove(&id) {
                    cancel.notify_one();
                }
                if let Some(connection) = self
                    .connections
                    .remove(&id)
                    .and_then(|known| known.connection.upgrade())
                {
                    match Failure::of_close(cause) {
                        Failure::MovedAway => connection.move_away(),
                        _ => connection.close(),
                    }
                }
            }
            Action::Serve { worker, connection } => {
                let connection = self.connection(connection);
                self.lanes[worker as usize].set(connection);
            }
            Action::Withdraw { worker } => self.lanes[worker as usize].set(None),
            Action::Join {
                worker,
                class,
                connection,
            } => {
                if let Some(connection) = self.connection(connection) {
                    self.lanes[worker as usize].join(class, connection);
                    self.tidy_at.get_or_insert_with(|| Instant::now() + TIDY_EVERY);
                } else {
                    self.lanes[worker as usize].not_joined(class);
                }
            }
            Action::NotJoined { worker, class } => self.lanes[worker as usize].not_joined(class),
            // The log's business.
            Action::Chosen(_)
            | Action::Followed { .. }
            | Action::Foreign { .. }
            | Action::Hidden { .. }
            | Action::Restored(_)
            | Action::LeaderLost(_)
            | Action::LeaderRegained(_) => {}
        }
    }

    fn connect<R: Runtime>(&mut self, connection: ConnectionId, endpoint: EndpointId, lane: For) {
        let target = self
            .machine
            .address(endpoint)
            .and_then(|address| self.targets.get(address))
            .cloned();
        // The machine only knows addresses that were made from `targets`.
        let target = target.expect("an endpoint of the machine has a target");
        let cancel = Arc::new(Notify::new());
        self.connecting.insert(connection, cancel.clone());
        let order = Connect {
            connection,
            target,
            further: matches!(lane, For::Further(..)),
            cancel,
        };
        match lane {
            // A worker is gone only when the process is ending.
            For::Worker(worker) | For::Further(worker, _) => drop(self.workers[worker as usize].send(order)),
            For::Candidate => rt::spawn::<R>(order.run::<R>(self.settings.clone(), self.reports.clone())),
        }
    }
}

#[cfg(test)]
mod tests;
