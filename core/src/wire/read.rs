//! Protobuf fields, one after the other.
//!
//! Read as etcd's own decoder does (gogo protobuf, 3.5), so that both refuse the same in the same words.

use alloc::format;
use core::fmt;

use crate::grpc::{Code, Status};

/// What isn't protobuf. Its `Display` is what an etcd server says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// The end of a group, in the message with this name, that never began.
    EndOfGroup(&'static str),
    /// No tag of a field of the message with this name.
    IllegalTag(&'static str, u64),
    IllegalWireType(u64),
    /// What its sender never says. Of servers only.
    Implausible,
    NegativeLength,
    Overflow,
    Truncated,
    UnexpectedEndOfGroup,
    /// The field with this name can't have this type on the wire.
    WrongWireType(u64, &'static str),
}

impl Malformed {
    /// With what a server ends a stream for it.
    pub(crate) fn status(self) -> Status {
        let message = format!("grpc: failed to unmarshal the received message: {self}");
        Status::owned(Code::Internal, message)
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EndOfGroup(message) => write!(f, "proto: {message}: wiretype end group for non-group"),
            Self::IllegalTag(message, tag) => {
                let (number, wire_type) = (number(*tag), tag & 7);
                write!(
                    f,
                    "proto: {message}: illegal tag {number} (wire type {wire_type})"
                )
            }
            Self::IllegalWireType(wire_type) => write!(f, "proto: illegal wireType {wire_type}"),
            Self::Implausible => f.write_str("not what a server says"),
            Self::NegativeLength => f.write_str("proto: negative length found during unmarshaling"),
            Self::Overflow => f.write_str("proto: integer overflow"),
            Self::Truncated => f.write_str("unexpected EOF"),
            Self::UnexpectedEndOfGroup => f.write_str("proto: unexpected end of group"),
            Self::WrongWireType(wire_type, field) => {
                write!(f, "proto: wrong wireType = {wire_type} for field {field}")
            }
        }
    }
}

/// The field number in a tag, with the bits that a server keeps of it.
const fn number(tag: u64) -> i32 {
    (tag >> 3) as i32
}

/// One field of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) number: i32,
    /// Where the field begins, with its tag.
    pub(crate) start: usize,
    pub(crate) value: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Varint(u64),
    /// Where the bytes begin and end.
    Bytes(usize, usize),
    /// Something else, of this type on the wire; none of the fields that matter is.
    Other(u64),
}

impl Value {
    const fn wire_type(self) -> u64 {
        match self {
            Self::Varint(_) => 0,
            Self::Bytes(..) => 2,
            Self::Other(wire_type) => wire_type,
        }
    }
}

impl Field {
    /// The number of a field that must be one. Its name is the one that a server has for it.
    pub(crate) fn varint(self, name: &'static str) -> Result<u64, Malformed> {
        match self.value {
            Value::Varint(value) => Ok(value),
            other => Err(Malformed::WrongWireType(other.wire_type(), name)),
        }
    }

    /// The number of a field that must be one, with its sign.
    pub(crate) fn int64(self, name: &'static str) -> Result<i64, Malformed> {
        self.varint(name).map(u64::cast_signed)
    }

    /// Where the bytes of a field are that must have some.
    pub(crate) fn bytes(self, name: &'static str) -> Result<(usize, usize), Malformed> {
        match self.value {
            Value::Bytes(start, end) => Ok((start, end)),
            other => Err(Malformed::WrongWireType(other.wire_type(), name)),
        }
    }
}

/// Reads the fields of one message, in a buffer that holds more.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    /// The message's.
    name: &'static str,
    buffer: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    /// The message with this name from `start` to `end`.
    pub(crate) const fn new(name: &'static str, buffer: &'a [u8], (start, end): (usize, usize)) -> Self {
        Self {
            name,
            buffer,
            at: start,
            end,
        }
    }

    /// All of the buffer.
    pub(crate) const fn all(name: &'static str, buffer: &'a [u8]) -> Self {
        Self::new(name, buffer, (0, buffer.len()))
    }

    /// The next field; none at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Field>, Malformed> {
        if self.is_done() {
            return Ok(None);
        }
        let start = self.at;
        let tag = self.varint()?;
        let wire_type = tag & 7;
        if wire_type == 4 {
            return Err(Malformed::EndOfGroup(self.name));
        }
        let number = number(tag);
        if number <= 0 {
            return Err(Malformed::IllegalTag(self.name, tag));
        }
        let value = match wire_type {
            0 => Value::Varint(self.varint()?),
            2 => {
                let from = self.length_delimited()?;
                Value::Bytes(from, self.at)
            }
            _ => {
                self.skip(wire_type)?;
                Value::Other(wire_type)
            }
        };
        Ok(Some(Field { number, start, value }))
    }

    /// Where the next field begins.
    pub(crate) const fn at(&self) -> usize {
        self.at
    }

    /// Whether everything was read.
    pub(crate) const fn is_done(&self) -> bool {
        self.at >= self.end
    }

    /// A number, for packed fields.
    pub(crate) fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            if self.is_done() {
                return Err(Malformed::Truncated);
            }
            let byte = self.buffer[self.at];
            self.at += 1;
            // Bits above the 64th are lost, there as here.
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed::Overflow)
    }

    /// Leaves out the value of a field, with all of it if it is a group.
    fn skip(&mut self, mut wire_type: u64) -> Result<(), Malformed> {
        let mut depth = 0u32;
        loop {
            match wire_type {
                0 => {
                    self.varint()?;
                }
                1 => self.leave_out(8)?,
                2 => {
                    self.length_delimited()?;
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

    /// Leaves out what follows a length. Answers where it began.
    fn length_delimited(&mut self) -> Result<usize, Malformed> {
        let length = self.varint()?;
        if length.cast_signed() < 0 {
            return Err(Malformed::NegativeLength);
        }
        let from = self.at;
        self.leave_out(length)?;
        Ok(from)
    }

    fn leave_out(&mut self, length: u64) -> Result<(), Malformed> {
        let length = usize::try_from(length).map_err(|_| Malformed::Truncated)?;
        let to = self.at.checked_add(length).filter(|to| *to <= self.end);
        self.at = to.ok_or(Malformed::Truncated)?;
        Ok(())
    }
}
