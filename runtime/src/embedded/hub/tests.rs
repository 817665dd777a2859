use bytes::Buf as _;
use etcd_proxy_proto::etcdserverpb as pb;
use futures_util::task::noop_waker_ref;
use prost::Message;

use super::*;

fn hub() -> Arc<Hub> {
    Arc::new(Hub::new(Config::default()))
}

fn polled<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(noop_waker_ref()))
}

fn call(hub: &Arc<Hub>, path: &str, request: &impl Message) -> Result<Bytes, Status> {
    let message = request.encode_to_vec().into();
    let mut call = hub.call(path.to_owned(), Metadata::default(), message);
    match polled(&mut call) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("{path} is not answered at once"),
    }
}

fn put(hub: &Arc<Hub>, key: &str) {
    let request = pb::PutRequest {
        key: key.to_owned().into(),
        ..Default::default()
    };
    call(hub, "/etcdserverpb.KV/Put", &request).unwrap();
}

/// A stream that watches all keys.
fn watch(hub: &Arc<Hub>) -> Stream {
    let stream = hub.open("/etcdserverpb.Watch/Watch".to_owned(), Metadata::default());
    let create = pb::WatchCreateRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        ..Default::default()
    };
    let request = pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
    };
    stream.message(request.encode_to_vec().into());
    stream
}

/// What a stream's client can take now: messages, and the end if it is there.
fn taken(stream: &Stream) -> (Vec<Bytes>, Option<Status>) {
    let mut messages = VecDeque::new();
    let mut cx = Context::from_waker(noop_waker_ref());
    loop {
        match stream.poll_take(&mut cx, &mut messages) {
            Poll::Ready(None) => {}
            Poll::Ready(end) => return (messages.into(), end),
            Poll::Pending => return (messages.into(), None),
        }
    }
}

fn revisions(messages: &[Bytes]) -> Vec<i64> {
    let decoded = messages
        .iter()
        .map(|message| pb::WatchResponse::decode(message.chunk()).unwrap());
    decoded
        .flat_map(|response| response.events)
        .map(|event| event.kv.unwrap().mod_revision)
        .collect()
}

#[test]
fn calls_are_answered_and_forgotten() {
    let hub = hub();
    put(&hub, "k");
    let request = pb::RangeRequest {
        key: "k".into(),
        ..Default::default()
    };
    let answer = call(&hub, "/etcdserverpb.KV/Range", &request).unwrap();
    assert_eq!(pb::RangeResponse::decode(answer).unwrap().kvs[0].key, "k");
    let refused = call(&hub, "/etcdserverpb.KV/Put", &pb::PutRequest::default()).unwrap_err();
    assert_eq!(
        (refused.code, &*refused.message),
        (3, "etcdserver: key is not provided")
    );
    assert!(hub.0.quietly(|state| state.calls.is_empty()));
}

#[test]
fn a_stream_gets_no_more_than_its_credit() {
    let hub = hub();
    let watch = watch(&hub);
    let (created, end) = taken(&watch);
    assert_eq!((created.len(), end), (1, None));
    // Nothing is taken meanwhile; what was taken above is not given back.
    let puts = 3 * CREDIT as usize;
    for number in 0..puts {
        put(&hub, &number.to_string());
    }
    let (mut messages, _) = taken(&watch);
    assert_eq!(messages.len(), CREDIT as usize - 1);
    let mut owed = CREDIT;
    loop {
        watch.sent(owed);
        let (more, _) = taken(&watch);
        owed = u32::try_from(more.len()).unwrap();
        assert!(owed <= CREDIT);
        if more.is_empty() {
            break;
        }
        messages.extend(more);
    }
    // The first put makes revision 2.
    let expected: Vec<i64> = (2..).take(puts).collect();
    assert_eq!(revisions(&messages), expected);
}

#[test]
fn the_end_comes_after_the_messages() {
    let hub = hub();
    let stream = hub.open(
        "/etcdserverpb.Lease/LeaseKeepAlive".to_owned(),
        Metadata::default(),
    );
    let request = pb::LeaseKeepAliveRequest { id: 7 };
    stream.message(request.encode_to_vec().into());
    stream.half_close();
    let (messages, end) = taken(&stream);
    assert_eq!(messages.len(), 1);
    assert_eq!(end, Some(Status::OK));
    // The model has forgotten it; nothing that comes late reaches it.
    assert_eq!(hub.0.quietly(|state| state.cluster.streams()), 0);
    stream.message(request.encode_to_vec().into());
    stream.sent(1);
    drop(stream);
    assert!(hub.0.quietly(|state| state.streams.is_empty()));
}

#[test]
fn what_is_dropped_is_forgotten() {
    let hub = hub();
    let watch = watch(&hub);
    assert_eq!(hub.0.quietly(|state| state.cluster.streams()), 1);
    drop(watch);
    assert_eq!(
        hub.0
            .quietly(|state| (state.cluster.streams(), state.streams.len())),
        (0, 0)
    );
    let call = hub.call(
        "/etcdserverpb.KV/Range".to_owned(),
        Metadata::default(),
        Bytes::new(),
    );
    drop(call);
    assert_eq!(
        hub.0.quietly(|state| (state.cluster.calls(), state.calls.len())),
        (0, 0)
    );
}

#[test]
fn a_failure_of_the_model_is_told() {
    let hub = hub();
    let mut failed = core::pin::pin!(hub.failed());
    assert!(polled(&mut failed).is_pending());
    let failing = std::panic::AssertUnwindSafe(|| hub.0.with(|_, _, _| panic!("as the model would")));
    assert!(std::panic::catch_unwind(failing).is_err());
    assert!(polled(&mut failed).is_ready());
}
