use etcd_proxy_core::grpc::Code;

use super::*;
use crate::rt::testing::{Testing, run};
use crate::upstream::testing::{Member, Says, settings};

const PATIENCE: Duration = Duration::from_millis(50);

async fn probed(connection: Arc<Connection>) -> Found {
    probe::<Testing>(connection, Arc::new(settings()), PATIENCE).await
}

fn serving(status: i32) -> Says {
    Says::message(&HealthCheckResponse { status })
}

#[test]
fn what_a_member_answers() {
    for (says, expected) in [
        (serving(1), Found::Answer(Health::Fit)),
        (serving(2), Found::Answer(Health::Unfit)),
        (
            Says::error(Code::Unavailable, "etcdserver: no leader"),
            Found::Answer(Health::Unfit),
        ),
        (
            Says::error(Code::Unimplemented, "unknown service"),
            Found::Answer(Health::Fit),
        ),
        (Says::Message(b"\xff".to_vec()), Found::Answer(Health::Unfit)),
        (
            Says::Http(404),
            Found::Stranger("no etcd: no gRPC answer, but HTTP status 404".to_owned()),
        ),
        (Says::Reset(h2::Reason::CANCEL), Found::Nothing),
        (Says::Hangup, Found::Nothing),
    ] {
        let told = format!("{says:?}");
        run(async {
            let member = Member::start("member", move |_| says.clone());
            assert_eq!(probed(member.connect().await).await, expected, "{told}");
            let heard = member.heard();
            assert_eq!(heard[0].path, "/grpc.health.v1.Health/Check");
            assert_eq!(heard[0].header("hasleader"), Some("true"));
            assert_eq!(heard[0].header("token"), None);
        });
    }
}

#[test]
fn a_connection_that_takes_no_calls_cant_be_probed() {
    run(async {
        let member = Member::start("member", |_| serving(1));
        let connection = member.connect().await;
        connection.refuses();
        assert_eq!(probed(connection).await, Found::Refusing);
    });
}

#[test]
fn a_silent_member_is_given_up_by_nobody_here() {
    run(async {
        let member = Member::start("member", |_| Says::Nothing);
        let connection = member.connect().await;
        let probing = probed(connection.clone());
        let waited = rt::timeout_at::<Testing, _>(Instant::now() + 3 * PATIENCE, probing);
        assert_eq!(waited.await, Err(rt::Elapsed));
    });
}

#[test]
fn a_full_connection_is_probed_beside() {
    run(async {
        let member = Member::with_calls_max("member", Some(1), |heard| {
            if heard.path.ends_with("Check") {
                serving(2)
            } else {
                Says::Nothing
            }
        });
        let connection = member.connect().await;
        assert!(!connection.is_full());
        let waits = connection.request(Rpc::Range, &OnBehalf::default()).unwrap();
        let (_response, _stream, _open) = connection.open_call(waits, true).expect("it is open");
        assert!(connection.is_full());
        assert_eq!(probed(connection).await, Found::Answer(Health::Unfit));
    });
}

#[test]
fn a_probe_beside_has_its_time() {
    run(async {
        let member = Member::with_calls_max("member", Some(1), |_| Says::Nothing);
        let connection = member.connect().await;
        let waits = connection.request(Rpc::Range, &OnBehalf::default()).unwrap();
        let (_response, _stream, _open) = connection.open_call(waits, true).expect("it is open");
        assert_eq!(probed(connection).await, Found::Nothing);
    });
}
