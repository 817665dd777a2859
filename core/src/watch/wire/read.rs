//! Protobuf fields, one after the other.

use core::fmt;

/// What isn't protobuf. Displayed in the words of etcd's decoder (3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::watch) enum Malformed {
    /// It ends too early.
    Truncated,
    /// A number is too large.
    Overflow,
    /// A field can't be what it is said to be: its type on the wire.
    Illegal(u8),
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("unexpected EOF"),
            Self::Overflow => f.write_str("proto: integer overflow"),
            Self::Illegal(wire_type) => write!(f, "proto: illegal wireType {wire_type}"),
        }
    }
}

/// One field of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::watch) struct Field {
    pub(in crate::watch) number: u32,
    /// Where the field begins, with its tag.
    pub(in crate::watch) start: usize,
    pub(in crate::watch) value: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::watch) enum Value {
    Varint(u64),
    /// Where the bytes begin and end.
    Bytes(usize, usize),
    /// Of a fixed size; none of the fields that matter is.
    Fixed,
}

impl Field {
    /// The number of a field that must be one.
    pub(in crate::watch) fn varint(self) -> Result<u64, Malformed> {
        match self.value {
            Value::Varint(value) => Ok(value),
            Value::Bytes(..) => Err(Malformed::Illegal(2)),
            Value::Fixed => Err(Malformed::Illegal(1)),
        }
    }

    /// The number of a field that must be one, with its sign.
    pub(in crate::watch) fn int64(self) -> Result<i64, Malformed> {
        self.varint().map(u64::cast_signed)
    }

    /// Where the bytes of a field are that must have some.
    pub(in crate::watch) fn bytes(self) -> Result<(usize, usize), Malformed> {
        match self.value {
            Value::Bytes(start, end) => Ok((start, end)),
            Value::Varint(_) => Err(Malformed::Illegal(0)),
            Value::Fixed => Err(Malformed::Illegal(1)),
        }
    }
}

/// Reads the fields of one message, in a buffer that holds more.
#[derive(Clone, Debug)]
pub(in crate::watch) struct Reader<'a> {
    buffer: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    /// The message from `start` to `end`.
    pub(in crate::watch) const fn new(buffer: &'a [u8], (start, end): (usize, usize)) -> Self {
        Self {
            buffer,
            at: start,
            end,
        }
    }

    /// All of the buffer.
    pub(in crate::watch) const fn all(buffer: &'a [u8]) -> Self {
        Self::new(buffer, (0, buffer.len()))
    }

    /// The next field; none at the end.
    pub(in crate::watch) fn next(&mut self) -> Result<Option<Field>, Malformed> {
        if self.at >= self.end {
            return Ok(None);
        }
        let start = self.at;
        let tag = self.varint()?;
        let wire_type = (tag & 7) as u8;
        let number = u32::try_from(tag >> 3).map_err(|_| Malformed::Overflow)?;
        if number == 0 {
            return Err(Malformed::Illegal(wire_type));
        }
        let value = match wire_type {
            0 => Value::Varint(self.varint()?),
            1 => self.skip(8).map(|_| Value::Fixed)?,
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed::Overflow)?;
                let from = self.skip(length)?;
                Value::Bytes(from, self.at)
            }
            5 => self.skip(4).map(|_| Value::Fixed)?,
            _ => return Err(Malformed::Illegal(wire_type)),
        };
        Ok(Some(Field { number, start, value }))
    }

    /// Where the next field begins.
    pub(in crate::watch) const fn at(&self) -> usize {
        self.at
    }

    /// A number, for packed fields.
    pub(in crate::watch) fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            if self.at >= self.end {
                return Err(Malformed::Truncated);
            }
            let byte = self.buffer[self.at];
            self.at += 1;
            if shift == 63 && byte > 1 {
                return Err(Malformed::Overflow);
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed::Overflow)
    }

    /// Whether everything was read.
    pub(in crate::watch) const fn is_done(&self) -> bool {
        self.at >= self.end
    }

    fn skip(&mut self, length: usize) -> Result<usize, Malformed> {
        let from = self.at;
        let to = from.checked_add(length).filter(|to| *to <= self.end);
        self.at = to.ok_or(Malformed::Truncated)?;
        Ok(from)
    }
}
