//! Range requests, and what makes two of them ask the same.

use alloc::vec::Vec;

use super::types::Reason;
use crate::interval::Span;
use crate::wire::read::{Malformed, Reader};

/// What a request says of how its answer may be found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Terms {
    /// Whether the answer may be old.
    pub(super) serializable: bool,
    /// The revision it asks for, or 0 for the current one. A server takes negative ones for 0.
    pub(super) revision: i64,
}

/// How long the key is, in front of it. The rest has no need for that: it isn't read again.
const KEY_LENGTH: usize = 4;

/// Reads a `RangeRequest` and writes what identifies its answer to `ident`: the same bytes for all requests that a
/// server answers alike, whatever order their fields come in, and whether they are serializable or not.
pub(super) fn identify(request: &[u8], ident: &mut Vec<u8>) -> Result<Terms, Reason> {
    ident.clear();
    let (mut key, mut end) = ((0, 0), (0, 0));
    // Fields 3 to 13.
    let mut numbers = [0u64; 11];
    let mut read = || -> Result<bool, Malformed> {
        let mut reader = Reader::all("RangeRequest", request);
        while let Some(field) = reader.next()? {
            match field.number {
                1 => key = field.bytes("Key")?,
                2 => end = field.bytes("RangeEnd")?,
                3..=13 => numbers[field.number as usize - 3] = field.varint("number")?,
                _ => return Ok(false),
            }
        }
        Ok(true)
    };
    match read() {
        Ok(true) => {}
        Ok(false) => return Err(Reason::UnknownFields),
        Err(_) => return Err(Reason::Malformed),
    }
    let [_, revision, _, _, serializable, keys_only, count_only, ..] = &mut numbers;
    let terms = Terms {
        serializable: *serializable != 0,
        revision: revision.cast_signed().max(0),
    };
    *serializable = 0;
    *revision = terms.revision.cast_unsigned();
    for flag in [keys_only, count_only] {
        *flag = u64::from(*flag != 0);
    }
    if key.0 == key.1 {
        // A server refuses it (`key is not provided`); as the range of a watch it would be another key.
        return Err(Reason::Malformed);
    }
    let key = &request[key.0..key.1];
    let end = &request[end.0..end.1];
    let Ok(length) = u32::try_from(key.len()) else {
        return Err(Reason::TooLarge);
    };
    ident.extend_from_slice(&length.to_le_bytes());
    ident.extend_from_slice(key);
    ident.extend_from_slice(end);
    let mut present = 0u16;
    for (at, number) in numbers.iter().enumerate() {
        if *number != 0 {
            present |= 1 << at;
            ident.extend_from_slice(&number.to_le_bytes());
        }
    }
    ident.extend_from_slice(&present.to_le_bytes());
    Ok(terms)
}

/// Whether an encoded `RangeRequest` may be answered with an old state. One that can't be read isn't.
#[must_use]
pub fn is_serializable(request: &[u8]) -> bool {
    let mut is_serializable = false;
    let mut reader = Reader::all("RangeRequest", request);
    while let Ok(Some(field)) = reader.next() {
        if field.number == 7 {
            is_serializable = field.varint("Serializable").is_ok_and(|number| number != 0);
        }
    }
    is_serializable
}

/// The keys that a read asks for; none if there can't be any.
pub(super) fn span_of(ident: &[u8]) -> Option<Span<'_>> {
    let (key, end) = keys_of(ident);
    Span::of(key, end)
}

/// `key` and `range_end` of the request.
pub(super) fn keys_of(ident: &[u8]) -> (&[u8], &[u8]) {
    let (length, rest) = ident
        .split_first_chunk::<KEY_LENGTH>()
        .expect("it was written so");
    let (key, rest) = rest.split_at(u32::from_le_bytes(*length) as usize);
    let (rest, present) = rest.split_last_chunk::<2>().expect("it was written so");
    let numbers = u16::from_le_bytes(*present).count_ones() as usize * 8;
    (key, &rest[..rest.len() - numbers])
}

#[cfg(test)]
mod tests {
    use etcd_proxy_proto::etcdserverpb::RangeRequest;
    use prost::Message as _;

    use super::*;
    use crate::interval::Last;

    fn ident(request: &[u8]) -> Result<(Vec<u8>, Terms), Reason> {
        let mut ident = alloc::vec![7];
        let terms = identify(request, &mut ident)?;
        Ok((ident, terms))
    }

    fn of(request: &RangeRequest) -> Vec<u8> {
        ident(&request.encode_to_vec()).expect("prost writes well").0
    }

    fn base() -> RangeRequest {
        RangeRequest {
            key: b"key"[..].into(),
            range_end: b"kez"[..].into(),
            ..RangeRequest::default()
        }
    }

    #[test]
    fn each_field_matters_but_one() {
        let change: [fn(&mut RangeRequest); 12] = [
            |request| request.key = b"kex"[..].into(),
            |request| request.range_end = b"key\0"[..].into(),
            |request| request.limit = 1,
            |request| request.revision = 1,
            |request| request.sort_order = 1,
            |request| request.sort_target = 1,
            |request| request.keys_only = true,
            |request| request.count_only = true,
            |request| request.min_mod_revision = 1,
            |request| request.max_mod_revision = 1,
            |request| request.min_create_revision = 1,
            |request| request.max_create_revision = 1,
        ];
        let mut all: Vec<Vec<u8>> = alloc::vec![of(&base())];
        for change in change {
            let mut request = base();
            change(&mut request);
            all.push(of(&request));
        }
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        let mut request = base();
        request.serializable = true;
        assert_eq!(of(&request), of(&base()));
        let (_, terms) = ident(&request.encode_to_vec()).expect("prost writes well");
        assert_eq!(
            terms,
            Terms {
                serializable: true,
                revision: 0
            }
        );
    }

    /// Where the key ends and the range end begins.
    #[test]
    fn keys_are_kept_apart() {
        for (key, end) in [
            (&b"a"[..], &b""[..]),
            (b"a", b"b"),
            (b"ab", b""),
            (b"\0", b"\0"),
            (b"a", b"\0\0"),
        ] {
            for limit in [0, 1, i64::MAX] {
                let request = RangeRequest {
                    key: key.to_vec().into(),
                    range_end: end.to_vec().into(),
                    limit,
                    min_mod_revision: limit,
                    ..RangeRequest::default()
                };
                assert_eq!(keys_of(&of(&request)), (key, end));
            }
        }
        let from = RangeRequest {
            key: b"a"[..].into(),
            range_end: b"\0"[..].into(),
            ..RangeRequest::default()
        };
        assert_eq!(span_of(&of(&from)).expect("there are some").last, Last::Never);
        let none = RangeRequest {
            key: b"b"[..].into(),
            range_end: b"a"[..].into(),
            ..RangeRequest::default()
        };
        assert_eq!(span_of(&of(&none)), None);
    }

    /// The order of fields, fields that come twice, and numbers that are longer than they need be.
    #[test]
    fn the_encoding_does_not_matter() {
        let plain = ident(b"\x0a\x01k\x18\x05\x38\x01").expect("well-formed");
        for same in [
            &b"\x18\x05\x0a\x01k\x38\x01"[..],
            b"\x0a\x02kk\x18\x07\x0a\x01k\x18\x05\x38\x01",
            b"\x0a\x01k\x18\x85\x00\x38\x02",
            b"\x0a\x01k\x12\x00\x18\x05\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x40\x00\x38\x01",
        ] {
            assert_eq!(ident(same).expect("well-formed"), plain, "{same:?}");
        }
        for (request, reason) in [
            (&b""[..], Reason::Malformed),
            (b"\x12\x01k", Reason::Malformed),
            (b"\x0a\x02k", Reason::Malformed),
            (b"\x08\x02", Reason::Malformed),
            (b"\x0a\x01k\x1a\x00", Reason::Malformed),
            (b"\x0a\x01k\x70\x01", Reason::UnknownFields),
        ] {
            assert_eq!(ident(request), Err(reason), "{request:?}");
        }
    }
}
