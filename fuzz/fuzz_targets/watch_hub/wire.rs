//! Just enough protobuf to write what servers and clients say, and to read what the hub says. Written down once more,
//! not the core's.

/// What a field holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'a> {
    Bytes(&'a [u8]),
    Fixed,
    Number(u64),
}

/// Reads a message of the hub's, which is well-formed: what isn't isn't passed on.
pub(crate) fn fields(mut message: &[u8]) -> Vec<(u64, Value<'_>)> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message);
        let value = match tag & 7 {
            0 => Value::Number(varint(&mut message)),
            1 => {
                message = &message[8..];
                Value::Fixed
            }
            2 => {
                let length = varint(&mut message);
                let (bytes, rest) = message.split_at(usize::try_from(length).expect("64 bits"));
                message = rest;
                Value::Bytes(bytes)
            }
            5 => {
                message = &message[4..];
                Value::Fixed
            }
            other => panic!("there is no wire type {other}"),
        };
        fields.push((tag >> 3, value));
    }
    fields
}

fn varint(message: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first().expect("the hub writes whole numbers");
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return value;
        }
    }
    panic!("a number of more than ten bytes");
}

/// The number in a field, or in the last one of its kind; 0 if there is none.
pub(crate) fn number(message: &[u8], field: u64) -> i64 {
    let all = fields(message).into_iter().rev();
    let mut found = all.filter_map(|(number, value)| match value {
        Value::Number(value) if number == field => Some(value),
        _ => None,
    });
    found.next().unwrap_or(0).cast_signed()
}

/// The bytes in a field, or in the last one of its kind; none if there is none.
pub(crate) fn bytes(message: &[u8], field: u64) -> &[u8] {
    repeated(message, field).pop().unwrap_or_default()
}

/// The bytes in all fields of a kind.
pub(crate) fn repeated(message: &[u8], field: u64) -> Vec<&[u8]> {
    let all = fields(message).into_iter();
    let found = all.filter_map(|(number, value)| match value {
        Value::Bytes(value) if number == field => Some(value),
        _ => None,
    });
    found.collect()
}

/// Writes fields, zeros and empty ones as well: a reader must bear them.
#[derive(Debug, Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.0.push(0x80 | value.to_le_bytes()[0]);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }

    pub(crate) fn number(&mut self, field: u64, value: i64) -> &mut Self {
        self.varint(field << 3);
        self.varint(value.cast_unsigned());
        self
    }

    pub(crate) fn bytes(&mut self, field: u64, value: &[u8]) -> &mut Self {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }
}
