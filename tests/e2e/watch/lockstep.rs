//! The same requests on a stream to the member and on one through the proxy, at the same time: the same answers.

use bytes::Bytes;
use etcd_proxy_proto::{
    etcdserverpb::{WatchCreateRequest, WatchResponse},
    mvccpb::Event,
};
use etcd_proxy_tests::{watching::Watching, wire::Wire};

/// Two streams, to the same store.
pub(crate) struct Lockstep {
    direct: Watching,
    proxied: Watching,
}

impl Lockstep {
    /// Opens both. The metadata may hold a token: tokens are the cluster's.
    pub(crate) async fn open(direct: &Wire, proxied: &Wire, metadata: &[(&str, &str)]) -> Self {
        Self {
            direct: Watching::open(direct, metadata).await,
            proxied: Watching::open(proxied, metadata).await,
        }
    }

    pub(crate) async fn create(&mut self, create: WatchCreateRequest) {
        self.direct.create(create.clone()).await;
        self.proxied.create(create).await;
    }

    pub(crate) async fn cancel(&mut self, watch_id: i64) {
        self.direct.cancel(watch_id).await;
        self.proxied.cancel(watch_id).await;
    }

    pub(crate) async fn ask_progress(&mut self) {
        self.direct.ask_progress().await;
        self.proxied.ask_progress().await;
    }

    pub(crate) async fn send_message(&mut self, message: &'static [u8]) {
        self.direct.send_message(Bytes::from_static(message)).await;
        self.proxied.send_message(Bytes::from_static(message)).await;
    }

    pub(crate) fn half_close(&mut self) {
        self.direct.half_close();
        self.proxied.half_close();
    }

    /// The next answer of both.
    ///
    /// # Panics
    /// If they differ.
    pub(crate) async fn next(&mut self) -> WatchResponse {
        let direct = self.direct.next().await;
        let proxied = self.proxied.next().await;
        assert!(
            direct == proxied,
            "the proxy answers differently\n  direct:  {:.600}\n  proxied: {:.600}",
            format!("{direct:?}"),
            format!("{proxied:?}")
        );
        proxied
    }

    /// Reads from both until so many events have come, in however many answers: how a server puts together what
    /// lies in the past is chance. Progress is passed over.
    ///
    /// # Panics
    /// If they, or who they are for, differ, or a header is below its events.
    pub(crate) async fn past(&mut self, count: usize) -> Vec<Event> {
        let mut both = Vec::new();
        for watching in [&mut self.direct, &mut self.proxied] {
            let mut events = Vec::new();
            while events.len() < count {
                let answer = watching.next().await;
                assert!(!answer.created && !answer.canceled, "{answer:?}");
                if answer.watch_id == -1 {
                    continue;
                }
                let highest = answer
                    .events
                    .iter()
                    .filter_map(|event| Some(event.kv.as_ref()?.mod_revision))
                    .max();
                let revision = answer.header.expect("a header").revision;
                assert!(revision >= highest.expect("events"), "{answer:?}");
                events.extend(answer.events.into_iter().map(|event| (answer.watch_id, event)));
            }
            both.push(events);
        }
        let (direct, proxied) = (both.remove(0), both.remove(0));
        assert_eq!(direct, proxied, "direct and proxied");
        proxied.into_iter().map(|(_, event)| event).collect()
    }

    /// Creates a watcher on both and gives the answer.
    pub(crate) async fn created(&mut self, create: WatchCreateRequest) -> WatchResponse {
        self.create(create).await;
        self.next().await
    }
}
