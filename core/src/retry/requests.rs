//! What a request says of whether it may be sent again.

use crate::method::Method;
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
fn fields(path: &str) -> Option<&'static [Kind]> {
    Some(match path {
        "/etcdserverpb.KV/Range" => &[
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
        "/etcdserverpb.Lease/LeaseGrant" | "/etcdserverpb.Lease/LeaseTimeToLive" => &[Number, Number],
        "/etcdserverpb.Cluster/MemberList"
        | "/etcdserverpb.Maintenance/HashKV"
        | "/etcdserverpb.Maintenance/MoveLeader" => &[Number],
        // `AlarmAction` and `AlarmType`.
        "/etcdserverpb.Maintenance/Alarm" => &[Enum(2), Number, Enum(2)],
        "/etcdserverpb.Auth/UserGet" | "/etcdserverpb.Auth/RoleGet" => &[Bytes],
        "/etcdserverpb.Lease/LeaseLeases"
        | "/etcdserverpb.Maintenance/Hash"
        | "/etcdserverpb.Maintenance/Status"
        | "/etcdserverpb.Auth/UserList"
        | "/etcdserverpb.Auth/RoleList" => &[],
        _ => return None,
    })
}

/// Whether a request may be made again though it may have been carried out. What it does the second time must be what it did
/// the first time, and so must what it is answered: a lease whose id is chosen can't be granted twice, nor revoked.
/// clientv3 makes both again all the same. `message` is `None` if it can't be read.
pub(super) fn is_repeatable(path: &str, message: Option<&[u8]>) -> bool {
    let is_write = match path {
        "/etcdserverpb.Lease/LeaseGrant" => message.is_none_or(has_lease_id),
        "/etcdserverpb.Lease/LeaseRevoke" => true,
        _ => false,
    };
    Method::of_path(path).repeatable && !is_write
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
pub(super) fn is_understood(path: &str, message: Option<&[u8]>) -> bool {
    let (Some(known), Some(message)) = (fields(path), message) else {
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

    const RANGE: &str = "/etcdserverpb.KV/Range";

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
            assert_eq!(is_understood(RANGE, Some(message)), is_known, "{message:?}");
        }
        assert!(!is_understood(RANGE, None));
        assert!(!is_understood("/etcdserverpb.KV/Put", Some(b"")));
        assert!(is_understood("/etcdserverpb.Maintenance/Status", Some(b"")));
        assert!(!is_understood(
            "/etcdserverpb.Maintenance/Status",
            Some(b"\x08\x01")
        ));
    }

    /// Whatever is repeatable has a row: it would never be repeated else.
    #[test]
    fn what_is_repeated() {
        for (path, message, expected) in [
            (RANGE, &b""[..], true),
            ("/etcdserverpb.KV/Put", b"", false),
            ("/etcdserverpb.Lease/LeaseTimeToLive", b"\x08\x01", true),
            ("/etcdserverpb.Lease/LeaseGrant", b"\x08\x05", true),
            ("/etcdserverpb.Lease/LeaseGrant", b"\x08\x05\x10\x00", true),
            ("/etcdserverpb.Lease/LeaseGrant", b"\x08\x05\x10\x07", false),
            ("/etcdserverpb.Lease/LeaseGrant", b"\x08", false),
            ("/etcdserverpb.Lease/LeaseRevoke", b"\x08\x07", false),
        ] {
            assert_eq!(is_repeatable(path, Some(message)), expected, "{path} {message:?}");
            assert!(!expected || fields(path).is_some(), "{path}");
        }
        assert!(is_repeatable(RANGE, None));
        assert!(!is_repeatable("/etcdserverpb.Lease/LeaseGrant", None));
    }
}
