//! The two messages of a heartbeat, read as far as the router needs them.

use crate::wire::header::read_header;
use crate::wire::read::{Malformed, Reader};

/// The lease that a heartbeat is for.
pub(super) fn lease_of(message: &[u8]) -> Result<i64, Malformed> {
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
