//! The two messages of a heartbeat, read as far as the router needs them.

use alloc::vec::Vec;

use bytes::Bytes;

use crate::wire::header::read_header;
use crate::wire::read::{Malformed, Reader};

/// The longest request that is passed on as it came, in bytes. The known fields need 11; what is left has room for the
/// number or the flag that a later version of etcd may add.
const MESSAGE_BYTES_MAX: usize = 64;

/// A client's `LeaseKeepAliveRequest`, read. Reading takes time in proportion to what the client sent, so it is done
/// before the router is told, which all clients share.
///
/// A request of up to 64 bytes is passed on as it came, with what the router doesn't know. Of a longer one nothing but
/// the lease is kept: the servers of etcd 3.4 to 3.7 know no other field and ignore what they don't know, and what
/// clients could make the router keep, copy and send again must not grow with what they send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    pub(super) lease: Result<i64, Malformed>,
    pub(super) message: Bytes,
}

impl Heartbeat {
    /// Reads a message, which comes without its gRPC prefix.
    #[must_use]
    pub fn read(message: Bytes) -> Self {
        let lease = lease_of(&message);
        let message = match &lease {
            _ if message.len() <= MESSAGE_BYTES_MAX => message,
            Ok(lease) => canonical(*lease),
            Err(_) => Bytes::new(),
        };
        Self { lease, message }
    }
}

/// The shortest request for a lease.
fn canonical(lease: i64) -> Bytes {
    let mut message = Vec::with_capacity(11);
    if lease != 0 {
        message.push(0x08);
        let mut rest = lease.cast_unsigned();
        while rest >= 0x80 {
            message.push(rest.to_le_bytes()[0] | 0x80);
            rest >>= 7;
        }
        message.push(rest.to_le_bytes()[0]);
    }
    message.into()
}

/// The lease that a heartbeat is for.
fn lease_of(message: &[u8]) -> Result<i64, Malformed> {
    let mut id = 0;
    let mut reader = Reader::all("LeaseKeepAliveRequest", message);
    while let Some(field) = reader.next()? {
        if field.number == 1 {
            id = field.int64("ID")?;
        }
    }
    Ok(id)
}

/// What an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) id: i64,
    /// In seconds; 0 or less if there is no such lease.
    pub(super) ttl: i64,
    /// In its header; 0 if there is none.
    pub(super) revision: i64,
}

impl Answer {
    pub(super) fn read(message: &[u8]) -> Result<Self, Malformed> {
        let mut answer = Self {
            id: 0,
            ttl: 0,
            revision: 0,
        };
        let mut reader = Reader::all("LeaseKeepAliveResponse", message);
        while let Some(field) = reader.next()? {
            match field.number {
                1 => answer.revision = read_header(message, field.bytes("Header")?)?.revision,
                2 => answer.id = field.int64("ID")?,
                3 => answer.ttl = field.int64("TTL")?,
                _ => {}
            }
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;
    use alloc::vec;

    use super::*;

    /// Each of these was sent to an etcd 3.5.30, and this is what it answered.
    #[test]
    fn refuses_what_etcd_refuses_in_its_words() {
        let texts = [
            (&[0xff][..], "unexpected EOF"),
            (&[0x0a, 1, 5], "proto: wrong wireType = 2 for field ID"),
            (&[0x08, 0x80], "unexpected EOF"),
            (
                &[0x00, 1],
                "proto: LeaseKeepAliveRequest: illegal tag 0 (wire type 0)",
            ),
            (&[0x0b, 0x0c], "proto: wrong wireType = 3 for field ID"),
            (
                &[0x0c],
                "proto: LeaseKeepAliveRequest: wiretype end group for non-group",
            ),
            (
                &[
                    0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1,
                ],
                "proto: integer overflow",
            ),
        ];
        for (message, text) in texts {
            assert_eq!(lease_of(message).unwrap_err().to_string(), text);
        }
    }

    #[test]
    fn reads_what_etcd_reads() {
        let overlong = [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        for (message, id) in [
            (&[][..], 0),
            (&[0x08, 5, 0x50, 1], 5),
            (&[0x08, 1, 0x08, 2], 2),
            (&overlong, -1),
            (&[0x13, 0x0b, 0x08, 9, 0x0c, 0x14, 0x08, 7], 7),
        ] {
            assert_eq!(lease_of(message), Ok(id));
        }
    }

    #[test]
    fn of_long_requests_the_lease_is_left() {
        for lease in [0, 1, 127, 128, 300, i64::MAX, -1, i64::MIN] {
            let short = canonical(lease);
            assert_eq!(lease_of(&short), Ok(lease));
            for (padding, kept) in [
                (0, true),
                (MESSAGE_BYTES_MAX - short.len() - 2, true),
                (64, false),
                (120, false),
            ] {
                let mut message = short.to_vec();
                if padding > 0 {
                    message.extend([0x52, u8::try_from(padding).unwrap()]);
                    message.resize(message.len() + padding, b'x');
                }
                let message = Bytes::from(message);
                let heartbeat = Heartbeat::read(message.clone());
                assert_eq!(heartbeat.lease, Ok(lease));
                assert_eq!(heartbeat.message, if kept { message } else { short.clone() });
            }
        }
        let malformed = Heartbeat::read(vec![0xff; 1000].into());
        assert!(malformed.lease.is_err() && malformed.message.is_empty());
    }

    #[test]
    fn groups_and_lengths_end_within_the_message() {
        for message in [
            &[0x13][..],
            &[0x13, 0x13, 0x14],
            &[0x12, 2, 0],
            &[0x11, 0, 0],
            &[0x15, 0],
            &[0x17],
            &[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
        ] {
            assert!(lease_of(message).is_err(), "{message:?}");
        }
    }
}
