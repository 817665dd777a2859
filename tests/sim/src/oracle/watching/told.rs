//! One message of a Watch call.

use bytes::Bytes;
use etcd_proxy_proto::etcdserverpb::WatchResponse;
use prost::Message as _;

use super::Watching;
use super::view::Truth;
use crate::delivery::WatchTag;
use crate::io::Io;
use crate::members::Members;
use crate::oracle::Oracle;

impl Oracle {
    /// A client is told something. It is true in one of the histories that all before may have been of.
    pub(super) fn told(&mut self, io: &mut Io, members: &Members, tag: WatchTag, message: Bytes) {
        let response = WatchResponse::decode(message).expect("the hub writes what can be read");
        let header = response.header.expect("every response has a header");
        let Watching {
            calls,
            revoked,
            auth_changed,
            member_asked,
            ..
        } = &mut self.watching;
        let call = calls.get_mut(&tag).expect("it was opened");
        assert_eq!(call.ended, None, "something comes after the end of {tag:?}");
        call.told_at = io.now;
        let mut reasons = Vec::new();
        call.views.retain_mut(|view| {
            let truth = Truth {
                tag,
                identity: call.identity,
                histories: &self.histories,
                story: self.histories.of(view.history),
                is_current: view.history == self.histories.now(),
                members,
                auth_changed: *auth_changed,
                member_asked: *member_asked,
                revoked,
            };
            match view.told(io, truth, &response, &header) {
                Ok(()) => true,
                Err(why) => {
                    reasons.push(format!("in history {}, {why}: {view:?}", view.history));
                    false
                }
            }
        });
        assert!(
            call.is_misled || !call.views.is_empty(),
            "{tag:?} is told {response:?}: {reasons:?}"
        );
        let is_shown = !(response.created && response.canceled) && response.compact_revision == 0;
        if let [view] = &call.views[..]
            && is_shown
        {
            self.histories.is_shown(view.history, tag.client, header.revision);
        }
        call.told.push(response);
    }
}
