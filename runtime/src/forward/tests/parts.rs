//! Heads, deadlines and pins: what needs no call.

use http::HeaderValue;

use super::*;
use crate::grpc::status_of;

fn head(headers: &[(&'static str, &'static str)]) -> head::Head {
    let mut request = Request::post("http://proxy/etcdserverpb.KV/Range?x");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    head::Head::new(request.body(()).expect("a request").into_parts().0)
}

#[test]
fn a_member_gets_the_head_without_what_is_for_one_hop() {
    run(async {
        let member = Member::start("member", |_| Says::Nothing);
        let connection = member.connect().await;
        let head = head(&[
            ("connection", "close"),
            ("content-length", "5"),
            ("grpc-timeout", "5S"),
            ("host", "proxy"),
            ("keep-alive", "1"),
            ("proxy-connection", "1"),
            ("te", "gzip"),
            ("token", "secret"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
        ]);
        let request = head.first(&connection);
        let names: Vec<_> = request.headers().keys().map(http::HeaderName::as_str).collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, ["grpc-timeout", "te", "token"]);
        assert_eq!(request.headers()["te"], "trailers");
        assert_eq!(request.headers()["grpc-timeout"], "5S", "byte for byte");
        assert_eq!(
            request.uri().path_and_query().expect("a path"),
            "/etcdserverpb.KV/Range?x"
        );
        assert_eq!(request.uri().authority(), Some(connection.authority()));

        let mut headers = HeaderMap::new();
        headers.insert(
            http::HeaderName::from_static("grpc-timeout"),
            HeaderValue::from_static("5S"),
        );
        let again = head.again(&connection, Deadline::of(&headers));
        assert_ne!(again.headers()["grpc-timeout"], "5S", "what is left of it");
        let none = head.again(&connection, Deadline::of(&HeaderMap::new()));
        assert_eq!(none.headers()["grpc-timeout"], "5S");
    });
}

#[test]
fn a_deadline_is_what_a_header_says_if_it_can_be_read() {
    let of = |value: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(
            http::HeaderName::from_static("grpc-timeout"),
            HeaderValue::from_static(value),
        );
        Deadline::of(&headers)
    };
    assert_eq!(Deadline::of(&HeaderMap::new()).left(), None);
    assert_eq!(of("soon").left(), None, "the member says what is wrong");
    let far = of("99999999H");
    assert!(far.left().is_none_or(|left| left > Duration::from_secs(1 << 30)));
    let deadline = of("5S");
    let left = deadline.left().expect("a deadline");
    assert!(
        left > Duration::from_secs(4) && left <= Duration::from_secs(5),
        "{left:?}"
    );
    assert!(deadline.elapsed().expect("a deadline") < Duration::from_secs(1));
    let soon = Instant::now() + Duration::from_secs(2);
    assert!(deadline.within(Duration::from_secs(1)) < soon);
    assert_eq!(Some(deadline.within(Duration::from_secs(60))), deadline.at);
}

#[test]
fn a_call_outlives_its_deadline_by_the_grace_that_a_member_has() {
    run(async {
        let mut headers = HeaderMap::new();
        headers.insert(
            http::HeaderName::from_static("grpc-timeout"),
            HeaderValue::from_static("20m"),
        );
        let began = Instant::now();
        let mut expiry = deadline::Expiry::<Testing>::new(Deadline::of(&headers));
        let never = core::future::pending::<()>();
        assert!(expiry.bound(never).await.is_err());
        let grace = etcd_proxy_core::grpc::DEADLINE_GRACE;
        assert!(began.elapsed() >= Duration::from_millis(20) + grace);
        let mut none = deadline::Expiry::<Testing>::new(Deadline::of(&HeaderMap::new()));
        assert!(none.bound(async { 1 }).await.is_ok());
    });
}

#[test]
fn a_pin_is_forgotten_with_its_connection() {
    run(async {
        let member = Member::start("member", |_| Says::Nothing);
        let world = World::of(&[&member]).await;
        let client = ClientConnection::new(world.worker.clone());
        let connection = member.connect().await;
        assert!(client.pinned(None).is_none());
        client.pin(&connection);
        assert!(client.pinned(None).is_some());
        assert!(
            client.pinned(Some(connection.id())).is_none(),
            "it was refused there"
        );
        assert!(client.pinned(None).is_none());
        client.pin(&connection);
        connection.close();
        until(|| connection.is_closed()).await;
        assert!(client.pinned(None).is_none());
    });
}

#[test]
fn statuses_are_read_from_fields() {
    let mut fields = HeaderMap::new();
    assert!(status_of(&fields).is(Code::Unknown));
    fields.insert(
        http::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("7"),
    );
    fields.insert(
        http::HeaderName::from_static("grpc-message"),
        HeaderValue::from_static("50%25"),
    );
    assert_eq!(status_of(&fields), Status::of(Code::PermissionDenied, "50%"));
}
