use alloc::vec;

use etcd_proxy_proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, DeleteRangeResponse, PutRequest, RangeRequest, RangeResponse,
    ResponseHeader,
};
use prost::Message as _;

use super::*;
use crate::rpc::Rpc;

const CLUSTER: u64 = 7;
const RANGE: Rpc = Rpc::Range;

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader {
        cluster_id: CLUSTER,
        revision,
        ..ResponseHeader::default()
    })
}

fn range(serializable: bool) -> Bytes {
    let request = RangeRequest {
        key: b"key"[..].into(),
        serializable,
        ..RangeRequest::default()
    };
    request.encode_to_vec().into()
}

fn response(revision: i64) -> Bytes {
    let response = RangeResponse {
        header: header(revision),
        ..RangeResponse::default()
    };
    response.encode_to_vec().into()
}

fn ok(payload: Payload) -> Reply<'static> {
    Reply {
        code: 0,
        message: "".into(),
        payload,
        is_whole: true,
    }
}

fn told(revision: i64) -> Reply<'static> {
    ok(Payload::Message(response(revision)))
}

fn failed(code: u8) -> Reply<'static> {
    Reply {
        code,
        message: "why".into(),
        payload: Payload::None,
        is_whole: true,
    }
}

/// Revision 5 was shown, of the first history.
fn shown() -> HighestShownRevision {
    let mut shown = HighestShownRevision::default();
    let shows = Shows {
        cluster_id: CLUSTER,
        revision: 5,
        is_newest: true,
    };
    assert_eq!(shown.answered(shown.known(), shows), Verdict::Same);
    shown
}

/// The same, and something that couldn't be read.
fn shown_unread() -> HighestShownRevision {
    let mut shown = shown();
    shown.pass_unread();
    shown
}

fn of(role: CacheRole, request: Option<&Bytes>) -> CacheTicket {
    CacheTicket::of(role, RANGE, request, shown().floor(), false)
}

fn read_ticket() -> ReadTicket {
    ReadTicket { flight: 1, serial: 2 }
}

fn read(serializable: bool) -> CacheTicket {
    let request = range(serializable);
    let floor = CacheTicket::floor_of(&request, shown().floor());
    CacheTicket::of_read(Some(read_ticket()), floor, RANGE, &request)
}

#[test]
fn floors_of_calls() {
    let (linearizable, serializable) = (range(false), range(true));
    for (role, request, plain, unread) in [
        (CacheRole::Read, Some(&serializable), 5, FLOOR_UNKNOWN),
        (CacheRole::PersonalRead, Some(&serializable), 5, FLOOR_UNKNOWN),
        (CacheRole::Read, Some(&linearizable), 5, 5),
        (CacheRole::PersonalRead, Some(&linearizable), 5, 5),
        (CacheRole::PersonalRead, None, 0, 0),
        (CacheRole::RevealsRevision, Some(&serializable), 0, 0),
        (CacheRole::Write(Write::Txn), Some(&serializable), 0, 0),
        (CacheRole::Auth, Some(&serializable), 0, 0),
        (CacheRole::Compact, Some(&serializable), 0, 0),
    ] {
        for (shown, revision) in [(shown(), plain), (shown_unread(), unread)] {
            let ticket = CacheTicket::of(role, RANGE, request, shown.floor(), false);
            assert_eq!(ticket.floor.revision, revision, "{role:?} {request:?}");
            assert_eq!(ticket.has_floor(), revision > 0, "{role:?} {request:?}");
            assert_eq!(ticket.asked(), shown.known(), "{role:?} {request:?}");
        }
    }
}

#[test]
fn answers_that_are_old() {
    let compressed = ok(Payload::Compressed);
    for (serializable, reply, is_old, is_old_unread) in [
        (true, told(4), true, true),
        (true, told(5), false, true),
        (true, told(6), false, true),
        (true, compressed.clone(), true, true),
        (true, ok(Payload::None), false, false),
        (true, ok(Payload::Message(Bytes::new())), false, true),
        (true, failed(14), false, false),
        (false, told(4), true, true),
        (false, told(5), false, false),
        (false, compressed, false, false),
    ] {
        let request = range(serializable);
        for (shown, is_old) in [(shown(), is_old), (shown_unread(), is_old_unread)] {
            let floor = CacheTicket::floor_of(&request, shown.floor());
            let ticket = CacheTicket::of_read(None, floor, RANGE, &request);
            assert_eq!(
                ticket.is_old(&reply, &shown),
                is_old,
                "{serializable} {reply:?} {floor:?}"
            );
        }
    }
    let foreign = RangeResponse {
        header: Some(ResponseHeader {
            cluster_id: CLUSTER + 1,
            revision: 9,
            ..ResponseHeader::default()
        }),
        ..RangeResponse::default()
    };
    let reply = ok(Payload::Message(foreign.encode_to_vec().into()));
    assert!(read(true).is_old(&reply, &shown()));
}

#[test]
fn what_answers_show() {
    let is_newest = |ticket: CacheTicket, reply: &Reply<'_>| match ticket.reveals(reply) {
        Reveals::Revision(shows) => {
            assert_eq!((shows.cluster_id, shows.revision), (CLUSTER, 6));
            shows.is_newest
        }
        other => panic!("{other:?}"),
    };
    assert!(is_newest(read(false), &told(6)));
    assert!(!is_newest(read(true), &told(6)));
    for (reply, reveals) in [
        (ok(Payload::Compressed), Reveals::Unreadable),
        (ok(Payload::None), Reveals::Nothing),
        (failed(14), Reveals::Nothing),
        (told(0), Reveals::Nothing),
    ] {
        assert_eq!(read(false).reveals(&reply), reveals, "{reply:?}");
        assert_eq!(reply.shows_newest(), None, "{reply:?}");
    }
    assert!(told(6).shows_newest().is_some_and(|shows| shows.is_newest));
    let late = Reply { code: 14, ..told(6) };
    assert_eq!(late.shows_newest(), None);
}

#[test]
fn payloads() {
    for (data, payload) in [
        (&b""[..], Payload::None),
        (b"\0\0\0\0\x02ab", Payload::Message(Bytes::from_static(b"ab"))),
        (b"\0\0\0", Payload::Message(Bytes::new())),
        (b"\x01\0\0\0\x02ab", Payload::Compressed),
    ] {
        assert_eq!(Payload::of(&Bytes::from_static(data)), payload, "{data:?}");
    }
}

#[test]
fn ends_of_reads() {
    let answered = |reply: &Reply<'_>| read(true).answered(reply, Verdict::Same);
    let completed = |outcome| CacheEffect::Completed(read_ticket(), outcome);
    let whole = response(6);
    assert_eq!(answered(&told(6)), completed(ReadOutcome::Answered(whole)));
    let large = Reply {
        is_whole: false,
        ..told(6)
    };
    assert_eq!(answered(&large), completed(ReadOutcome::TooLarge));
    assert_eq!(
        answered(&ok(Payload::Compressed)),
        completed(ReadOutcome::TooLarge)
    );
    assert_eq!(
        answered(&failed(14)),
        completed(ReadOutcome::Failed(Status::new(14, "why")))
    );
    assert_eq!(
        read(true).refused(Status::new(4, "late")),
        completed(ReadOutcome::Failed(Status::new(4, "late")))
    );
    assert_eq!(read(true).abandoned(), completed(ReadOutcome::Abandoned));
    assert!(read(true).wants_all());
    let without = CacheTicket::of_read(None, shown().floor(), RANGE, &range(true));
    assert!(!without.wants_all());
    assert_eq!(without.answered(&told(6), Verdict::Same), CacheEffect::Nothing);
}

#[test]
fn ends_of_writes() {
    let put = PutRequest {
        key: b"a"[..].into(),
        ..PutRequest::default()
    };
    let put = Bytes::from(put.encode_to_vec());
    let ticket = || of(CacheRole::Write(Write::Put), Some(&put));
    assert_eq!(ticket().begins(), CacheEffect::Nothing);
    assert_eq!(
        ticket().answered(&told(6), Verdict::Same),
        CacheEffect::Written(vec!["a".into()], 6)
    );
    for reply in [failed(14), told(0), ok(Payload::Compressed), ok(Payload::None)] {
        assert_eq!(
            ticket().answered(&reply, Verdict::Same),
            CacheEffect::Nothing,
            "{reply:?}"
        );
    }
    assert_eq!(ticket().abandoned(), CacheEffect::Nothing);
    let off = CacheTicket::of(
        CacheRole::Write(Write::Put),
        Rpc::Put,
        Some(&put),
        shown().floor(),
        true,
    );
    assert_eq!(off.answered(&told(6), Verdict::Same), CacheEffect::Nothing);
    // A range that is gone names no keys.
    let delete = DeleteRangeRequest {
        key: b"a"[..].into(),
        range_end: b"b"[..].into(),
        ..DeleteRangeRequest::default()
    };
    let deleted = DeleteRangeResponse {
        header: header(6),
        deleted: 1,
        ..DeleteRangeResponse::default()
    };
    let ticket = of(
        CacheRole::Write(Write::DeleteRange),
        Some(&delete.encode_to_vec().into()),
    );
    let reply = ok(Payload::Message(deleted.encode_to_vec().into()));
    assert_eq!(ticket.answered(&reply, Verdict::Same), CacheEffect::Nothing);
}

#[test]
fn ends_of_compactions() {
    let request = CompactionRequest {
        revision: 4,
        physical: true,
    };
    let request = Bytes::from(request.encode_to_vec());
    let asked = shown().known();
    let ticket = || of(CacheRole::Compact, Some(&request));
    for verdict in [Verdict::Same, Verdict::Suspicious, Verdict::Another] {
        let effect = CacheEffect::Compacted(asked, 4);
        assert_eq!(ticket().answered(&told(6), verdict), effect, "{verdict:?}");
    }
    for (reply, verdict) in [(told(6), Verdict::Stale), (failed(11), Verdict::Same)] {
        assert_eq!(
            ticket().answered(&reply, verdict),
            CacheEffect::Nothing,
            "{verdict:?}"
        );
    }
    assert_eq!(ticket().abandoned(), CacheEffect::Nothing);
    for request in [None, Some(&Bytes::from_static(b"\x0a\x01"))] {
        let ticket = of(CacheRole::Compact, request);
        assert_eq!(
            ticket.answered(&told(6), Verdict::Same),
            CacheEffect::Nothing,
            "{request:?}"
        );
    }
}

/// The cache is told before, and after, however the call ends.
#[test]
fn ends_of_calls_that_switch_auth() {
    let ticket = || of(CacheRole::Auth, Some(&Bytes::new()));
    let changed = CacheEffect::AuthMayHaveChanged;
    assert_eq!(ticket().begins(), changed);
    assert_eq!(ticket().answered(&told(6), Verdict::Same), changed);
    assert_eq!(ticket().answered(&failed(9), Verdict::Same), changed);
    assert_eq!(ticket().refused(Status::new(14, "")), changed);
    assert_eq!(ticket().abandoned(), changed);
    let off = CacheTicket::of(CacheRole::Auth, Rpc::AuthEnable, None, shown().floor(), true);
    assert_eq!(off.begins(), CacheEffect::Nothing);
    assert_eq!(off.abandoned(), CacheEffect::Nothing);
}
