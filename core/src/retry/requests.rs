//! What a request says of whether it may be sent again.

use crate::rpc::Rpc;
use crate::wire::read::{Reader, Value};

/// What a field may hold.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Bytes,
    Number,
    /// Values from 0 to this one.
    Enum(u64),
}

use Kind::{Bytes, Enum, Number};

/// The fields of a request, by their numbers from 1 on, as etcd 3.4 to 3.7 know them.
fn fields(rpc: Rpc) -> Option<&'static [Kind]> {
    Some(match rpc {
        Rpc::Range => &[
            Bytes,
            Bytes,
            Number,
            Number,
            // `SortOrder` and `SortTarget`.
            Enum(2),
            Enum(4),
            Number,
            Number,
            Number,
            Number,
            Number,
            Number,
            Number,
        ],
        Rpc::LeaseGrant | Rpc::LeaseTimeToLive => &[Number, Number],
        Rpc::MemberList | Rpc::HashKv | Rpc::MoveLeader => &[Number],
        // `AlarmAction` and `AlarmType`.
        Rpc::Alarm => &[Enum(2), Number, Enum(2)],
        Rpc::UserGet | Rpc::RoleGet => &[Bytes],
        Rpc::LeaseLeases | Rpc::Hash | Rpc::Status | Rpc::UserList | Rpc::RoleList => &[],
        _ => return None,
    })
}

/// Whether a request may be made again though it may have been carried out. What it does the second time must be what it did
/// the first time, and so must what it is answered: a lease whose id is chosen can't be granted twice, nor revoked.
/// clientv3 makes both again all the same. `message` is `None` if it can't be read.
pub(super) fn is_repeatable(rpc: Rpc, message: Option<&[u8]>) -> bool {
    let is_write = match rpc {
        Rpc::LeaseGrant => message.is_none_or(has_lease_id),
        Rpc::LeaseRevoke => true,
        _ => false,
    };
    rpc.is_repeatable() && !is_write
}

/// Whether a LeaseGrant chooses the id of its lease.
fn has_lease_id(message: &[u8]) -> bool {
    let mut reader = Reader::all("LeaseGrantRequest", message);
    let mut id = 0;
    loop {
        match reader.next() {
            Ok(Some(field)) if field.number == 2 => id = field.varint("ID").unwrap_or(1),
            Ok(Some(_)) => {}
            Ok(None) => return id != 0,
            Err(_) => return true,
        }
    }
}

/// Whether there is nothing in a request that isn't known. Some members die of what they don't know.
pub(super) fn is_understood(rpc: Rpc, message: Option<&[u8]>) -> bool {
    let (Some(known), Some(message)) = (fields(rpc), message) else {
        return false;
    };
    let mut reader = Reader::all("request", message);
    loop {
        // What can't be decoded is refused before anything looks at it.
        let Ok(Some(field)) = reader.next() else {
            return true;
        };
        let kind = usize::try_from(field.number - 1)
            .ok()
            .and_then(|at| known.get(at));
        let is_known = match (kind, field.value) {
            (Some(Bytes), Value::Bytes(..)) | (Some(Number), Value::Varint(_)) => true,
            (Some(Enum(max)), Value::Varint(value)) => value <= *max,
            _ => false,
        };
        if !is_known {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_understood() {
        for (message, is_known) in [
            (&b""[..], true),
            (b"\x0a\x01k\x12\x01l", true),
            // Each field, with the highest values of the enumerations.
            (
                b"\x18\x01\x20\x01\x28\x02\x30\x04\x38\x01\x40\x01\x48\x01\x50\x01\x58\x01\x60\x01\x68\x01",
                true,
            ),
            (b"\x28\x03", false),
            (b"\x30\x05", false),
            (b"\x30\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", false),
            // A field that isn't known, and one of another type.
            (b"\x0a\x01k\x70\x01", false),
            (b"\x08\x01", false),
            // No protobuf.
            (b"request", true),
            (b"\x70\x01\x0a", false),
        ] {
            assert_eq!(is_understood(Rpc::Range, Some(message)), is_known, "{message:?}");
        }
        assert!(!is_understood(Rpc::Range, None));
        assert!(!is_understood(Rpc::Put, Some(b"")));
        assert!(is_understood(Rpc::Status, Some(b"")));
        assert!(!is_understood(Rpc::Status, Some(b"\x08\x01")));
    }

    /// Whatever is repeatable has a row: it would never be repeated else.
    #[test]
    fn what_is_repeated() {
        for (rpc, message, expected) in [
            (Rpc::Range, &b""[..], true),
            (Rpc::Put, b"", false),
            (Rpc::LeaseTimeToLive, b"\x08\x01", true),
            (Rpc::LeaseGrant, b"\x08\x05", true),
            (Rpc::LeaseGrant, b"\x08\x05\x10\x00", true),
            (Rpc::LeaseGrant, b"\x08\x05\x10\x07", false),
            (Rpc::LeaseGrant, b"\x08", false),
            (Rpc::LeaseRevoke, b"\x08\x07", false),
        ] {
            assert_eq!(is_repeatable(rpc, Some(message)), expected, "{rpc:?} {message:?}");
            assert!(!expected || fields(rpc).is_some(), "{rpc:?}");
        }
        assert!(is_repeatable(Rpc::Range, None));
        assert!(!is_repeatable(Rpc::LeaseGrant, None));
    }
}
