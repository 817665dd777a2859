//! KV.Range, KV.RangeStream.

use etcd_proxy_proto::etcdserverpb::RangeRequest;
use etcd_proxy_tests::{etcd::Options, suite::trial};
use libtest_mimic::Trial;
use prost::Message as _;

use crate::pair::{Case, Pair, Step};

const RANGE: &str = "/etcdserverpb.KV/Range";

/// How many combinations of fields are tried beside the named cases.
const COMBINATIONS: u64 = 400;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("range_combinations", combinations),
        trial("range_cases", cases),
        trial("range_frames", frames),
        trial("range_without_a_message", without_a_message),
        trial("range_before_half_close", before_half_close),
        trial("range_large", large),
    ]
}

async fn fixture(group: &'static str) -> Pair {
    let mut pair = Pair::start(group, Options::default()).await;
    for (key, value) in [
        ("a", "5"),
        ("b", "1"),
        ("c", "4"),
        ("d", ""),
        ("b", "2"),
        ("a", "3"),
        ("ab", "x"),
        ("abc", "y"),
        ("e", "5"),
        ("b", "0"),
        ("\u{0}", "zero"),
        ("\u{7f}", "high"),
        ("c", "9"),
    ] {
        pair.put(key, value).await;
    }
    pair
}

fn range(key: &[u8], end: &[u8]) -> RangeRequest {
    RangeRequest {
        key: key.to_vec().into(),
        range_end: end.to_vec().into(),
        ..Default::default()
    }
}

async fn combinations() {
    let mut pair = fixture("range combinations").await;
    let keys: [(&[u8], &[u8]); 9] = [
        (b"a", b""),
        (b"a", b"c"),
        (b"a", b"\0"),
        (b"\0", b"\0"),
        (b"none", b""),
        (b"c", b"a"),
        (b"a", b"a"),
        (b"\xff", b""),
        (b"b", b"b\0"),
    ];
    let limits = [0, 1, 2, 100, -1, i64::MIN, i64::MAX];
    let revisions = [0, 0, 0, 2, 5, 9, 13, 14, 15, 1_000_000, -1, i64::MIN, i64::MAX];
    let bounds = [0, 0, 0, 0, 4, 8, -5, i64::MAX];
    // A fixed sequence: the same combinations in every run.
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut pick = move |below: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((random >> 33) % below as u64) as usize
    };
    for number in 0..COMBINATIONS {
        let (key, end) = keys[pick(keys.len())];
        let request = RangeRequest {
            limit: limits[pick(limits.len())],
            revision: revisions[pick(revisions.len())],
            // An unknown order is an error of 3.6 and later and none of 3.5. An unknown target kills
            // a 3.5 member: see the failover suite.
            sort_order: [0, 1, 2, 0, 1, 2, 7, -1][pick(8)],
            sort_target: pick(5) as i32,
            serializable: pick(2) == 0,
            keys_only: pick(4) == 0,
            count_only: pick(4) == 0,
            min_mod_revision: bounds[pick(bounds.len())],
            max_mod_revision: bounds[pick(bounds.len())],
            min_create_revision: bounds[pick(bounds.len())],
            max_create_revision: bounds[pick(bounds.len())],
            ..range(key, end)
        };
        pair.check(Case::unary(&format!("{number}: {request:?}"), RANGE, &request))
            .await;
    }
    pair.finish();
}

async fn cases() {
    let mut pair = fixture("range cases").await;
    pair.error(
        3,
        "etcdserver: key is not provided",
        Case::unary("no key", RANGE, &range(b"", b"")),
    )
    .await;
    let all = range(b"\0", b"\0");
    let read = pair.ok(Case::unary("all", RANGE, &all)).await;
    assert_eq!(read.messages.len(), 1);
    let future = RangeRequest {
        revision: 1000,
        ..all.clone()
    };
    pair.error(
        11,
        "etcdserver: mvcc: required revision is a future revision",
        Case::unary("future", RANGE, &future),
    )
    .await;

    // Unknown fields: a number of a later version, and one in the middle of known ones.
    let mut unknown = all.encode_to_vec();
    unknown.extend_from_slice(b"\xf2\x3f\x03xyz");
    pair.ok(Case::bytes("unknown field", RANGE, unknown)).await;
    let mut between = b"\xa0\x06\x07".to_vec();
    between.extend_from_slice(&range(b"a", b"").encode_to_vec());
    pair.ok(Case::bytes("unknown field first", RANGE, between)).await;
    // A field twice: the last one counts.
    pair.ok(Case::bytes("field twice", RANGE, &b"\x0a\x01a\x0a\x01b"[..]))
        .await;
    // Empty, garbage, and a length that runs over the end.
    pair.error(
        3,
        "etcdserver: key is not provided",
        Case::bytes("empty", RANGE, &b""[..]),
    )
    .await;
    pair.code(13, Case::bytes("garbage", RANGE, &b"\xff\xff\xff\xff"[..]))
        .await;
    pair.code(13, Case::bytes("cut inside a field", RANGE, &b"\x0a\x10abc"[..]))
        .await;
    pair.code(13, Case::bytes("wrong wire type", RANGE, &b"\x08\x01"[..]))
        .await;

    pair.check(Case::unary("RangeStream", "/etcdserverpb.KV/RangeStream", &all))
        .await;
    pair.finish();
}

/// A call of raw DATA bytes, then half-close.
fn raw(name: &str, bytes: Vec<u8>) -> Case {
    let steps = vec![Step::Raw(bytes.into()), Step::HalfClose, Step::Finish];
    Case::stream(name, RANGE, steps)
}

/// What can be wrong with the frame around a message.
async fn frames() {
    let mut pair = fixture("range frames").await;
    let framed = |prefix: &[u8], body: &[u8]| [prefix, body].concat();
    let good = range(b"a", b"").encode_to_vec();
    pair.check(raw("compressed flag", framed(b"\x01\0\0\0\x03", &good)))
        .await;
    pair.check(raw("compressed with gzip", framed(b"\x01\0\0\0\x03", &good)).with("grpc-encoding", "gzip"))
        .await;
    pair.check(raw("unknown encoding", framed(b"\x01\0\0\0\x03", &good)).with("grpc-encoding", "brotli"))
        .await;
    pair.check(raw("flag 2", framed(b"\x02\0\0\0\x03", &good))).await;
    pair.check(raw(
        "message longer than its length",
        framed(b"\0\0\0\0\x01", &good),
    ))
    .await;
    pair.check(raw(
        "message shorter than its length",
        framed(b"\0\0\0\0\x09", &good),
    ))
    .await;
    pair.check(raw("half a prefix", b"\0\0".to_vec())).await;
    pair.check(raw("announces 1 GiB", framed(b"\0\x40\0\0\0", &good)))
        .await;
    let twice = [framed(b"\0\0\0\0\x03", &good), framed(b"\0\0\0\0\x03", &good)].concat();
    pair.check(raw("two messages in a unary call", twice)).await;
    let split = Case::stream(
        "a message in five pieces",
        RANGE,
        vec![
            Step::Raw((&b"\0"[..]).into()),
            Step::Raw((&b"\0\0\0"[..]).into()),
            Step::Raw((&b"\x03\x0a"[..]).into()),
            Step::Raw((&b"\x01"[..]).into()),
            Step::Raw((&b"a"[..]).into()),
            Step::HalfClose,
            Step::Finish,
        ],
    );
    pair.ok(split).await;
    pair.finish();
}

/// A half-close and nothing before it.
async fn without_a_message() {
    let mut pair = fixture("range without a message").await;
    pair.check(raw("nothing", Vec::new())).await;
    pair.finish();
}

/// etcd answers a unary call as soon as its message is there.
async fn before_half_close() {
    let mut pair = fixture("range before half-close").await;
    let message = range(b"a", b"").encode_to_vec();
    let steps = vec![Step::Send(message.into()), Step::Finish];
    pair.ok(Case::stream("no half-close", RANGE, steps)).await;
    pair.finish();
}

/// Answers far beyond gRPC's default limit of 4 MiB and beyond every flow-control window.
async fn large() {
    let mut pair = Pair::start("range large", Options::default()).await;
    for number in 0..9 {
        let value: String = (0..1_000_000)
            .map(|index| char::from(b'a' + ((index * 7 + number) % 26) as u8))
            .collect();
        pair.put(&format!("large/{number}"), &value).await;
    }
    let all = range(b"large/", b"large0");
    let read = pair.ok(Case::unary("9 MB", RANGE, &all)).await;
    assert!(read.messages[0].len() > 9_000_000);
    let serializable = RangeRequest {
        serializable: true,
        ..all.clone()
    };
    pair.ok(Case::unary("9 MB, serializable", RANGE, &serializable))
        .await;
    pair.check(Case::unary("RangeStream", "/etcdserverpb.KV/RangeStream", &all))
        .await;
    pair.finish();
}
