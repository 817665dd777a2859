//! The watch of all that is cached: a client of the hub's.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use etcd_proxy_core::read::{Feed, FeedEnd, FeedStep, WatchId};
use etcd_proxy_core::watch::{Actions, Caller, ClientId, Event, Frame};

use crate::delivery::{Delivery, ReadAlarm};
use crate::io::Io;
use crate::proxy::Proxy;
use crate::proxy::outlets::PREFIX;

/// How long it takes until the cache reads what the hub has sent.
const READ_TAKES_MAX: Duration = Duration::from_micros(300);

/// A feed, from when the cache opens its watch until it closes that.
#[derive(Debug)]
pub(super) struct OpenFeed {
    number: u32,
    watch: WatchId,
    feed: Feed,
    /// What the hub calls it; none while it waits to be opened again.
    client: Option<ClientId>,
    /// What the hub has sent that isn't read.
    inbox: VecDeque<Bytes>,
    /// The hub has ended it, after all that is in the inbox.
    ended: bool,
    /// It is about to read.
    reads: bool,
}

impl Proxy {
    pub(super) fn open_feed(&mut self, io: &mut Io, watch: WatchId) {
        assert!(self.read.feed.is_none(), "{watch:?} is opened beside another");
        let number = self.read.feeds + 1;
        let Some(feed) = Feed::new(watch, &self.read.scope, number.into()) else {
            return;
        };
        self.read.feeds = number;
        self.read.feed = Some(OpenFeed {
            number,
            watch,
            feed,
            client: None,
            inbox: VecDeque::new(),
            ended: false,
            reads: false,
        });
        let wait = io.within(Duration::ZERO..READ_TAKES_MAX);
        io.after(wait, Delivery::ReadAlarm(self.index, ReadAlarm::Reopen(number)));
    }

    pub(super) fn reopen_feed(&mut self, io: &mut Io, number: u32) {
        let trusts_progress = self.watch.trusts_progress();
        self.tell_cache(
            io,
            etcd_proxy_core::read::Event::LinearizableTrusted(trusts_progress),
        );
        let Some(open) = self.read.feed.as_mut().filter(|open| open.number == number) else {
            return;
        };
        let requests = open.feed.opened();
        let mut actions = Actions::new();
        let client = self.watch.open_inner(io.now, Caller::default(), &mut actions);
        (open.client, open.ended) = (Some(client), false);
        open.inbox.clear();
        self.carry_out_watch(io, actions);
        for request in requests {
            self.tell(io, Event::ClientSent(client, request));
        }
    }

    pub(super) fn feed_asks(&mut self, io: &mut Io, watch: WatchId) {
        let open = self.read.feed.as_ref().filter(|open| open.watch == watch);
        if let Some(client) = open.and_then(|open| open.client) {
            self.tell(io, Event::ClientSent(client, Feed::ask_progress()));
        }
    }

    pub(super) fn close_feed(&mut self, io: &mut Io, watch: WatchId) {
        if let Some(open) = self.read.feed.take_if(|open| open.watch == watch)
            && let Some(client) = open.client
            && !open.ended
        {
            self.tell(io, Event::ClientGone(client));
        }
    }

    /// Whether this client of the hub's is the cache.
    pub(in crate::proxy) fn is_feed(&self, client: ClientId) -> bool {
        self.read
            .feed
            .as_ref()
            .is_some_and(|open| open.client == Some(client))
    }

    /// Bytes that wait for the cache, and whether it is a client of the hub's.
    pub(in crate::proxy) fn feed_holds(&self) -> (usize, usize) {
        let Some(open) = self
            .read
            .feed
            .as_ref()
            .filter(|open| open.client.is_some() && !open.ended)
        else {
            return (0, 0);
        };
        (open.inbox.iter().map(Bytes::len).sum(), 1)
    }

    /// The hub sends the cache something.
    pub(in crate::proxy) fn feed_sent(&mut self, io: &mut Io, frame: &Frame) {
        if let Some(open) = &mut self.read.feed {
            open.inbox
                .push_back([&frame.head[..], &frame.tail[..]].concat().into());
        }
        self.feed_reads_soon(io);
    }

    /// The hub has ended the cache's stream.
    pub(in crate::proxy) fn feed_ended(&mut self, io: &mut Io) {
        if let Some(open) = &mut self.read.feed {
            open.ended = true;
        }
        self.feed_reads_soon(io);
    }

    fn feed_reads_soon(&mut self, io: &mut Io) {
        if let Some(open) = &mut self.read.feed
            && !std::mem::replace(&mut open.reads, true)
        {
            let number = open.number;
            let wait = io.within(Duration::ZERO..READ_TAKES_MAX);
            io.after(wait, Delivery::ReadAlarm(self.index, ReadAlarm::Feed(number)));
        }
    }

    /// The cache reads what the hub has sent.
    pub(super) fn feed_reads(&mut self, io: &mut Io, number: u32) {
        let mut is_over = false;
        while let Some(open) = self.read.feed.as_mut().filter(|open| open.number == number) {
            open.reads = false;
            let (Some(message), Some(client)) = (open.inbox.pop_front(), open.client) else {
                if open.ended || is_over {
                    self.feed_is_over(io, number);
                }
                return;
            };
            let step = open.feed.received(&message.slice(PREFIX..));
            if !open.ended {
                self.tell(io, Event::ClientTook(client, message.len()));
            }
            match step {
                FeedStep::Tell(event) => self.tell_cache(io, event),
                FeedStep::Nothing => {}
                FeedStep::End(_) => {
                    is_over = true;
                    if let Some(open) = &mut self.read.feed {
                        open.inbox.clear();
                    }
                }
            }
        }
    }

    fn feed_is_over(&mut self, io: &mut Io, number: u32) {
        let Some(open) = self.read.feed.as_mut().filter(|open| open.number == number) else {
            return;
        };
        let client = open.client.take().filter(|_| !open.ended);
        let FeedEnd { tell, pause } = open.feed.ended();
        if let Some(client) = client {
            self.tell(io, Event::ClientGone(client));
        }
        if let Some(event) = tell {
            self.tell_cache(io, event);
        }
        io.after(pause, Delivery::ReadAlarm(self.index, ReadAlarm::Reopen(number)));
    }
}
