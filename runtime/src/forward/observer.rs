//! What an answer shows that passes by as bytes.

use std::sync::Arc;

use etcd_proxy_core::read::{Heads, Seen};
use etcd_proxy_core::rpc::{Rpc, Shows};

use crate::read::ReadCache;

/// Tells what the messages of an answer show, before they are passed on.
pub(super) struct Observer {
    reads: Arc<ReadCache>,
    /// Of what its messages are, as far as is known.
    history: u64,
    shows: Shows,
    heads: Heads,
}

impl Observer {
    /// `None` for calls that show nothing.
    pub(super) fn of(rpc: Rpc, reads: &Arc<ReadCache>) -> Option<Box<Self>> {
        let shows = rpc.shows();
        (shows != Shows::Nothing).then(|| {
            Box::new(Self {
                reads: reads.clone(),
                history: reads.known().history,
                shows,
                heads: Heads::default(),
            })
        })
    }

    /// The next chunk, cut anywhere.
    pub(super) fn look(&mut self, chunk: &[u8]) {
        match self.heads.look(chunk) {
            Some(Seen::Revision(revision)) => self.reads.show(self.history, revision),
            Some(Seen::Unreadable) => self.reads.show_unread(),
            // All of it is of one time.
            Some(Seen::Nothing) if self.shows == Shows::Store => {
                self.shows = Shows::Header;
                self.reads.show_unread();
            }
            Some(Seen::Nothing) | None => {}
        }
    }
}
