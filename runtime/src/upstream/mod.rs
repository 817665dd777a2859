//! Connections to etcd members: which there are, and which one a call goes to.

mod ask;
mod client_turns;
mod connection;
mod control;
mod identity;
mod lane;
mod news;
mod probe;
mod question;
mod request;
mod suspicion;
#[cfg(test)]
pub(crate) mod testing;
mod turn;
mod uplink;

use core::time::Duration;

pub(crate) use connection::{Connection, OpenCall, Refused, UNPROBED_KEEPALIVE};
pub(crate) use control::{Connect, Control, Report, Reports};
pub(crate) use identity::{cluster_of, trusts_progress};
pub(crate) use lane::{Counted, Lane, NoConnection, Wish};
pub(crate) use news::Reached;
pub(crate) use question::{CHECK_PATIENCE, Question};
pub(crate) use request::OnBehalf;
pub(crate) use uplink::{Judge, Uplink, UplinkTurns};

use crate::settings::Keepalive;
use crate::tls::{Live, Outgoing};

/// Settings of upstream connections.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// How long a call waits for a member that can be reached.
    pub(crate) dial_timeout: Duration,
    /// HTTP/2 pings to members.
    pub(crate) keepalive: Option<Keepalive>,
    /// Whether members are pinged while no call is open.
    pub(crate) keepalive_without_calls: bool,
    /// TLS, if members are connected to with it.
    pub(crate) tls: Option<Live<Outgoing>>,
}
