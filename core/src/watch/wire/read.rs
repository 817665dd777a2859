//! Protobuf fields, one after the other.

/// What isn't protobuf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::watch) struct Malformed;

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
            Value::Bytes(..) | Value::Fixed => Err(Malformed),
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
            Value::Varint(_) | Value::Fixed => Err(Malformed),
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
        let number = u32::try_from(tag >> 3).map_err(|_| Malformed)?;
        if number == 0 {
            return Err(Malformed);
        }
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.skip(8).map(|_| Value::Fixed)?,
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                let from = self.skip(length)?;
                Value::Bytes(from, self.at)
            }
            5 => self.skip(4).map(|_| Value::Fixed)?,
            _ => return Err(Malformed),
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
                return Err(Malformed);
            }
            let byte = self.buffer[self.at];
            self.at += 1;
            if shift == 63 && byte > 1 {
                return Err(Malformed);
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    /// Whether everything was read.
    pub(in crate::watch) const fn is_done(&self) -> bool {
        self.at >= self.end
    }

    fn skip(&mut self, length: usize) -> Result<usize, Malformed> {
        let from = self.at;
        let to = from.checked_add(length).filter(|to| *to <= self.end);
        self.at = to.ok_or(Malformed)?;
        Ok(from)
    }
}
