//! The control task: tells the endpoint machine what happened, and carries its actions out.

use std::time::Duration;

use etcd_proxy_core::endpoints::{Action, CloseCause, ConnectionId, EndpointId, Event, FailureCause, Lane};

use super::connections::{ConnId, State};
use super::{Connecting, Connection, Proxy, address, member_of};
use crate::delivery::{Delivery, Report};
use crate::io::Io;
use crate::io::Note;
use crate::net::{LinkId, Peer, Side};
use crate::situations::Situation;

/// How long a report is on its way between threads.
const REPORT_TAKES_MAX: Duration = Duration::from_micros(300);

/// How late a timer fires.
const TIMER_LATE_MAX: Duration = Duration::from_millis(2);

impl Proxy {
    pub(crate) fn begin(&mut self, io: &mut Io) {
        self.step(io, Event::Start);
    }

    /// The list of members that the proxy is told of is now this one.
    pub(crate) fn replace(&mut self, io: &mut Io, members: &[usize]) {
        let addresses = members.iter().map(|member| address(*member)).collect();
        self.report(io, Report::Event(Event::Replace(addresses)));
    }

    pub(super) fn report(&mut self, io: &mut Io, report: Report) {
        let takes = io.within(Duration::ZERO..REPORT_TAKES_MAX);
        self.reported_by = self.reported_by.max(io.now + takes);
        if self.config.repeats_reports
            && matches!(
                report,
                Report::Event(Event::Draining(_) | Event::Doubt(_) | Event::Lost { .. })
            )
            && io.chance(20)
        {
            io.count(Situation::ReportRepeated);
            io.at(self.reported_by, Delivery::Report(self.index, report.clone()));
        }
        io.at(self.reported_by, Delivery::Report(self.index, report));
    }

    pub(crate) fn reported(&mut self, io: &mut Io, report: Report) {
        match report {
            Report::Connected(id) => self.connected(io, id),
            Report::Event(event) => {
                if matches!(event, Event::Doubt(_)) {
                    self.report_activity(io);
                }
                if let Event::ConnectFailed(id) | Event::Lost { connection: id, .. } = &event {
                    self.connecting.remove(id);
                    self.known.remove(id);
                }
                if let Event::Draining(id) = event
                    && let Some(connection) = self.connections.get_mut(&ConnId::Known(id))
                {
                    connection.drains = true;
                }
                self.step(io, event);
            }
        }
    }

    pub(crate) fn timed_out(&mut self, io: &mut Io) {
        if self.timeout.is_none_or(|(_, at)| at != io.now) {
            return;
        }
        self.timeout = None;
        if self.machine.next_timeout().is_some_and(|due| due <= io.now) {
            self.report_activity(io);
            self.step(io, Event::Timeout);
            assert!(
                self.machine.next_timeout().is_none_or(|due| due > io.now),
                "a timer of the endpoint machine is due for ever"
            );
        }
        self.set_timeout(io);
    }

    /// A member's side has said whether it accepts.
    pub(crate) fn dialled(&mut self, io: &mut Io, link: LinkId, accepted: bool) {
        if self.aside_dialled(io, link, accepted) {
            return;
        }
        let Some((&id, asked)) = self.connecting.iter().find(|(_, asked)| asked.link == link) else {
            // It was given up meanwhile.
            return io.close(link, Side::Dialler);
        };
        if accepted {
            let mut connection = Connection::new(io.now, link);
            connection.candidate = asked.candidate;
            connection.endpoint = Some(asked.endpoint);
            connection.reported = true;
            self.connections.insert(ConnId::Known(id), connection);
            self.by_link.insert(link, ConnId::Known(id));
            self.report(io, Report::Connected(id));
        } else {
            io.close(link, Side::Dialler);
            self.report(io, Report::Event(Event::ConnectFailed(id)));
        }
    }

    fn connected(&mut self, io: &mut Io, id: ConnectionId) {
        if self.connecting.remove(&id).is_none() {
            // The machine gave it up while the report was on its way.
            return self.close(io, ConnId::Known(id), CloseCause::Unneeded);
        }
        if let Some(connection) = self.connections.get(&ConnId::Known(id)) {
            self.known.insert(id, connection.reads);
        }
        self.step(io, Event::Connected(id));
        // Only now: a candidate is kept alive by its probe, a worker's connection by its lane.
        if let Some(connection) = self.connections.get_mut(&ConnId::Known(id)) {
            connection.reported = false;
            self.end_if_unheld(io, ConnId::Known(id));
        }
    }

    fn report_activity(&mut self, io: &mut Io) {
        let mut active = Vec::new();
        for (id, seen) in &mut self.known {
            let reads = self
                .connections
                .get(&ConnId::Known(*id))
                .map_or(*seen, |connection| connection.reads);
            if std::mem::replace(seen, reads) != reads {
                active.push(*id);
            }
        }
        for id in active {
            self.step(io, Event::Active(id));
        }
    }

    fn step(&mut self, io: &mut Io, event: Event) {
        io.trace
            .remark(io.now, format_args!("machine {}: {event:?}", self.index));
        let mut actions = std::mem::take(&mut self.actions);
        self.machine.handle(io.now, event, &mut actions);
        let mut silent = None;
        for action in actions.drain(..) {
            io.trace.note(io.now, &action);
            if let Action::Hidden {
                endpoint,
                cause: FailureCause::Silent,
                ..
            } = action
            {
                silent = Some(endpoint);
            }
            self.carry_out(io, action);
        }
        self.actions = actions;
        self.set_timeout(io);
        if let Some(endpoint) = silent {
            self.leaves_silent(endpoint);
        }
        self.serves_from_one(io);
    }

    /// New calls go to the member in use, or wait.
    fn serves_from_one(&self, io: &Io) {
        let in_use = self.in_use().map(Peer::Member);
        let links = self.serving_links();
        let mut members = links
            .iter()
            .filter_map(|link| io.net.link(*link))
            .map(|link| link.acceptor);
        assert!(
            members.all(|member| Some(member) == in_use),
            "{in_use:?} is in use, and calls go elsewhere: {links:?}"
        );
    }

    /// What speaks isn't given up.
    fn is_silent(&self, io: &Io, id: ConnectionId) {
        let Some(connection) = self.connections.get(&ConnId::Known(id)) else {
            return;
        };
        // Those that drain go with the one that was found silent.
        let judged = !connection.candidate && !connection.drains;
        let silent_for = io.now - connection.read_at;
        assert!(
            !judged || silent_for >= self.config.endpoints.probe_timeout,
            "{connection:?} is given up, and has been silent for {silent_for:?} only"
        );
    }

    /// What drains can't be probed: it has to end with its silent member, or its calls would wait for ever.
    fn leaves_silent(&self, endpoint: EndpointId) {
        let mut kept = self.connections.values();
        if let Some(kept) = kept.find(|kept| kept.drains && kept.endpoint == Some(endpoint)) {
            panic!("{endpoint:?} is silent, and {kept:?} is kept");
        }
    }

    fn carry_out(&mut self, io: &mut Io, action: Action) {
        match action {
            Action::Connect {
                connection,
                endpoint,
                lane,
            } => {
                let address = self.machine.address(endpoint);
                let member = member_of(address.expect("the machine dials what it knows"));
                io.notes.push(Note::Dialling {
                    proxy: self.index,
                    member,
                });
                let link = io.dial(Peer::Proxy(self.index), Peer::Member(member));
                let asked = Connecting {
                    link,
                    endpoint,
                    since: io.now,
                    candidate: lane == Lane::Candidate,
                };
                self.connecting.insert(connection, asked);
            }
            Action::Probe(id) => {
                if self.known.contains_key(&id) {
                    self.probe(io, ConnId::Known(id));
                }
            }
            Action::Close(id, cause) => {
                if let Some(asked) = self.connecting.remove(&id)
                    && !self.connections.contains_key(&ConnId::Known(id))
                {
                    io.close(asked.link, Side::Dialler);
                }
                io.counts.note_close(cause);
                if cause == CloseCause::Silent {
                    self.is_silent(io, id);
                }
                if self.known.remove(&id).is_some() {
                    self.close(io, ConnId::Known(id), cause);
                }
            }
            Action::Serve { worker, connection } => {
                let connection = ConnId::Known(connection);
                let alive = self.connections.contains_key(&connection);
                self.set_lane(io, worker, alive.then_some(connection));
            }
            Action::Withdraw { worker } => self.set_lane(io, worker, None),
            // They come of wishes only, and there are none here.
            Action::Join { .. } | Action::NotJoined { .. } => {}
            Action::Chosen(_) => io.count(Situation::Chosen),
            Action::Hidden { cause, .. } => io.counts.note_hidden(cause),
            Action::Restored(_) => io.count(Situation::Restored),
            Action::LeaderLost(_) => io.count(Situation::LeaderLost),
            Action::LeaderRegained(_) => io.count(Situation::LeaderRegained),
            // Members are all of one cluster, and nobody asks which.
            Action::Foreign { .. } | Action::Followed { .. } => unreachable!("of which cluster?"),
        }
    }

    fn set_lane(&mut self, io: &mut Io, worker: u32, connection: Option<ConnId>) {
        let former = std::mem::replace(&mut self.lanes[worker as usize], connection);
        if let Some(former) = former {
            if let Some(connection) = self.connections.get_mut(&former) {
                connection.advance(State::Withdrawn);
            }
            self.end_if_unheld(io, former);
        }
        self.lane_changed(io, worker);
    }

    fn set_timeout(&mut self, io: &mut Io) {
        let due = self.machine.next_timeout();
        if self.timeout.map(|(due, _)| due) == due {
            return;
        }
        self.timeout = due.map(|due| {
            let at = due.max(io.now) + io.within(Duration::ZERO..TIMER_LATE_MAX);
            io.at(at, Delivery::MachineTimeout(self.index));
            (due, at)
        });
    }
}
