//! Named scenarios.

mod admission;
mod crowd;
mod floor;
mod history;
mod rows;
mod sharing;
mod waiting;

use std::time::Duration;

use etcd_proxy_core::read::Config;
use etcd_proxy_proto::etcdserverpb::RangeRequest;

use crate::cluster::Change;
use crate::world::World;

const SECOND: Duration = Duration::from_secs(1);

/// There and back, with time to spare.
const TRIP: Duration = Duration::from_millis(3);

fn world() -> World {
    World::new(1, Config::default())
}

fn linearizable(key: &str, end: &str) -> RangeRequest {
    RangeRequest {
        key: key.as_bytes().to_vec().into(),
        range_end: end.as_bytes().to_vec().into(),
        ..RangeRequest::default()
    }
}

fn serializable(key: &str, end: &str) -> RangeRequest {
    RangeRequest {
        serializable: true,
        ..linearizable(key, end)
    }
}

fn put(key: &str, value: &str) -> Change {
    Change::Put(key.as_bytes().to_vec(), value.as_bytes().to_vec())
}

fn delete(key: &str, end: &str) -> Change {
    Change::Delete(key.as_bytes().to_vec(), end.as_bytes().to_vec())
}

impl World {
    /// Reads, and waits for the answer: the values, and whether the cache gave it.
    fn ask(&mut self, request: RangeRequest) -> (Vec<String>, bool) {
        let reader = self.read(request);
        self.run(TRIP * 4);
        let answer = self.readers[reader]
            .response
            .clone()
            .expect("there is an answer by now");
        let kvs = answer.expect("it is allowed").kvs;
        let values = kvs
            .iter()
            .map(|kv| String::from_utf8_lossy(&kv.value).into_owned());
        (values.collect(), self.readers[reader].is_cached)
    }

    /// The same, of one value.
    fn value(&mut self, request: RangeRequest) -> (String, bool) {
        let (mut values, is_cached) = self.ask(request);
        (values.pop().unwrap_or_default(), is_cached)
    }

    /// A cache that has this read.
    fn warm(&mut self, request: &RangeRequest) {
        for _ in 0..2 {
            self.ask(request.clone());
        }
        assert!(self.ask(request.clone()).1, "it is cached by now");
    }
}

fn cached(value: &str) -> (String, bool) {
    (value.to_owned(), true)
}

fn forwarded(value: &str) -> (String, bool) {
    (value.to_owned(), false)
}
