use etcd_proxy_core::endpoints::{Config, EndpointId, Event};
use parking_lot::Mutex;
use std::sync::Arc;

use super::*;

/// Keeps the text of what is logged.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Kept {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn core::fmt::Debug) {
                self.0 += &format!("{}={value:?} ", field.name());
            }
        }
        let mut text = Text(format!("{} ", event.metadata().level()));
        event.record(&mut text);
        self.0.lock().push(text.0.trim_end().to_owned());
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// In which second, what is done to an endpoint, and what the operating system said.
type Step = (u64, fn(EndpointId) -> Action, Option<&'static str>);

/// What a reporter tells of these actions about the endpoint "a:1", and of which endpoint it says that it was reached.
fn told(actions: &[Step]) -> (Vec<String>, Reached) {
    let mut machine = Endpoints::new(Config::default(), 1, ["a:1".into()]);
    machine.handle(Instant::ZERO, Event::Start, &mut Vec::new());
    let endpoint = machine.known().next().expect("there is one").0;
    let mut reporter = Reporter::new(Duration::from_secs(2), Duration::from_millis(2500));
    let reached = reporter.reached();
    let kept = Kept::default();
    tracing::subscriber::with_default(kept.clone(), || {
        for (second, action, error) in actions {
            let now = Instant::ZERO + Duration::from_secs(*second);
            reporter.tell(now, &action(endpoint), &machine, *error);
        }
    });
    let lines = kept.0.lock().clone();
    let reached = reached.borrow().clone();
    (lines, reached)
}

fn hidden(cause: FailureCause) -> impl Fn(EndpointId) -> Action {
    move |endpoint| Action::Hidden {
        endpoint,
        cause,
        retry_in: Duration::ZERO,
    }
}

#[test]
fn a_failure_is_told_in_the_words_of_whoever_noticed_it() {
    let (lines, reached) = told(&[(0, |id| hidden(FailureCause::Silent)(id), None)]);
    assert!(
        lines[0].contains("no answer to a probe within 2.5s") && lines[0].contains("a:1"),
        "{lines:?}"
    );
    assert_eq!(reached, Reached::None, "all that there are were tried");
    let (lines, _) = told(&[(0, |id| hidden(FailureCause::Lost)(id), Some("Connection reset"))]);
    assert!(lines[0].contains("Connection reset"), "{lines:?}");
}

#[test]
fn each_cause_has_its_words() {
    let reporter = Reporter::new(Duration::from_secs(2), Duration::from_millis(2500));
    for (cause, words) in [
        (FailureCause::Connect, "no connection within 2s"),
        (FailureCause::Lost, "the connection was lost"),
        (
            FailureCause::Refusing,
            "connections are ended as soon as they are established",
        ),
        (FailureCause::Silent, "no answer to a probe within 2.5s"),
        (FailureCause::Stranger, "no etcd"),
    ] {
        assert_eq!(reporter.words(cause), words);
    }
}

#[test]
fn what_is_reached_first_is_told() {
    let (lines, reached) = told(&[(0, Action::Chosen, None)]);
    assert_eq!(reached, Reached::Endpoint("a:1".to_owned()));
    assert!(
        lines[0].starts_with("INFO") && lines[0].contains("using endpoint"),
        "{lines:?}"
    );
    assert_eq!(told(&[]), (Vec::new(), Reached::NotYet));
}

#[test]
fn an_outage_is_told_with_its_length() {
    let (lines, reached) = told(&[
        (0, Action::Chosen, None),
        (10, |id| hidden(FailureCause::Lost)(id), None),
        (15, Action::Restored, None),
        (15, Action::Chosen, None),
    ]);
    assert!(
        lines
            .iter()
            .any(|line| line.contains("none was reachable for 5s")),
        "{lines:?}"
    );
    assert_eq!(reached, Reached::Endpoint("a:1".to_owned()));
}

#[test]
fn another_cluster_is_told_in_hexadecimal() {
    let (lines, _) = told(&[(
        0,
        |endpoint| Action::Foreign {
            endpoint,
            cluster: 0xabc,
            ours: 0xdef,
        },
        None,
    )]);
    assert!(
        lines[0].starts_with("ERROR") && lines[0].contains("abc") && lines[0].contains("def"),
        "{lines:?}"
    );
}

#[test]
fn times_are_for_people() {
    for (time, text) in [
        (Duration::from_micros(1_999), "1ms"),
        (Duration::from_millis(2500), "2.5s"),
        (Duration::from_millis(9_999), "9.999s"),
        (Duration::from_millis(10_900), "10s"),
        (Duration::from_secs(3600), "3600s"),
    ] {
        assert_eq!(shown(time), text);
    }
}
