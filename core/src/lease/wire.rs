//! The two messages of a heartbeat, read as far as the router needs them.

use alloc::vec::Vec;
use core::fmt;

use bytes::Bytes;

/// What isn't protobuf; its `Display` is what an etcd server says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Malformed {
    EndOfGroup,
    IllegalTag(u64),
    IllegalWireType(u64),
    NegativeLength,
    Overflow,
    Truncated,
    UnexpectedEndOfGroup,
    WrongWireType(u64),
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("grpc: failed to unmarshal the received message: ")?;
        match self {
            Self::EndOfGroup => f.write_str("proto: LeaseKeepAliveRequest: wiretype end group for non-group"),
            Self::IllegalTag(tag) => write!(
                f,
                "proto: LeaseKeepAliveRequest: illegal tag {} (wire type {tag})",
                field(*tag)
            ),
            Self::IllegalWireType(wire_type) => write!(f, "proto: illegal wireType {wire_type}"),
            Self::NegativeLength => f.write_str("proto: negative length found during unmarshaling"),
            Self::Overflow => f.write_str("proto: integer overflow"),
            Self::Truncated => f.write_str("unexpected EOF"),
            Self::UnexpectedEndOfGroup => f.write_str("proto: unexpected end of group"),
            Self::WrongWireType(wire_type) => {
                write!(f, "proto: wrong wireType = {wire_type} for field ID")
            }
        }
    }
}

/// The lease that a heartbeat is for.
pub(super) fn lease_of(message: &[u8]) -> Result<i64, Malformed> {
    let mut id = 0;
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag()? {
        match (field(tag), tag & 7) {
            (1, 0) => id = reader.varint()?.cast_signed(),
            (1, wire_type) => return Err(Malformed::WrongWireType(wire_type)),
            (_, wire_type) => reader.skip(wire_type)?,
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
}

impl Answer {
    pub(super) fn read(message: &[u8]) -> Result<Self, Malformed> {
        let mut answer = Self { id: 0, ttl: 0 };
        let mut reader = Reader::new(message);
        while let Some(tag) = reader.tag()? {
            match (field(tag), tag & 7) {
                (2, 0) => answer.id = reader.varint()?.cast_signed(),
                (3, 0) => answer.ttl = reader.varint()?.cast_signed(),
                (2 | 3, wire_type) => return Err(Malformed::WrongWireType(wire_type)),
                (_, wire_type) => reader.skip(wire_type)?,
            }
        }
        Ok(answer)
    }
}

/// A message behind its gRPC prefix: a flag and the length.
pub(super) fn frame(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(message.len() + 5);
    frame.push(0);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(message);
    frame.into()
}

/// The field number in a tag, with the bits that a server keeps of it.
const fn field(tag: u64) -> i32 {
    (tag >> 3) as i32
}

/// Reads fields as etcd's own decoder does, so that both refuse the same.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    const fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next tag; none at the end.
    fn tag(&mut self) -> Result<Option<u64>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        if tag & 7 == 4 {
            return Err(Malformed::EndOfGroup);
        }
        if field(tag) <= 0 {
            return Err(Malformed::IllegalTag(tag));
        }
        Ok(Some(tag))
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or(Malformed::Truncated)?;
            self.rest = rest;
            // Bits above the 64th are lost, there as here.
            value |= u64::from(byte & 0x7f) << shift;
            if *byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed::Overflow)
    }

    /// Leaves out the value of a field, with all of it if it is a group.
    fn skip(&mut self, wire_type: u64) -> Result<(), Malformed> {
        let mut depth = 0u32;
        let mut wire_type = wire_type;
        loop {
            match wire_type {
                0 => {
                    self.varint()?;
                }
                1 => self.leave_out(8)?,
                2 => {
                    let length = self.varint()?;
                    if length.cast_signed() < 0 {
                        return Err(Malformed::NegativeLength);
                    }
                    self.leave_out(length)?;
                }
                3 => depth += 1,
                4 => depth = depth.checked_sub(1).ok_or(Malformed::UnexpectedEndOfGroup)?,
                5 => self.leave_out(4)?,
                other => return Err(Malformed::IllegalWireType(other)),
            }
            if depth == 0 {
                return Ok(());
            }
            wire_type = self.varint()? & 7;
        }
    }

    fn leave_out(&mut self, length: u64) -> Result<(), Malformed> {
        let length = usize::try_from(length).map_err(|_| Malformed::Truncated)?;
        self.rest = self.rest.get(length..).ok_or(Malformed::Truncated)?;
        Ok(())
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
            let text = ["grpc: failed to unmarshal the received message: ", text].concat();
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
