//! Heartbeats and their answers, written down once more, not the core's.

fn put_varint(message: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        message.push(number as u8 | 0x80);
        number >>= 7;
    }
    message.push(number as u8);
}

fn put_number(message: &mut Vec<u8>, field: u8, number: i64) {
    if number != 0 {
        message.push(field << 3);
        put_varint(message, number.cast_unsigned());
    }
}

/// A heartbeat, perhaps with a field that there isn't.
pub(crate) fn heartbeat(lease: i64, padding: bool) -> Vec<u8> {
    let mut message = Vec::new();
    put_number(&mut message, 1, lease);
    if padding {
        message.extend([0x7a, 2, b'h', b'i']);
    }
    message
}

/// An answer. Its header names the heartbeat, so that no two are the same.
pub(crate) fn answer(number: u64, lease: i64, ttl: i64) -> Vec<u8> {
    let mut header = Vec::new();
    put_number(&mut header, 3, number.cast_signed());
    let mut message = vec![0x0a, u8::try_from(header.len()).expect("it is short")];
    message.extend(header);
    put_number(&mut message, 2, lease);
    put_number(&mut message, 3, ttl);
    message
}

/// A number of a message that is one of those above.
fn number(mut message: &[u8], wanted: u8) -> i64 {
    let mut found = 0;
    while let Some((tag, rest)) = message.split_first() {
        let mut value = 0_u64;
        let mut length = 0;
        for (at, byte) in rest.iter().enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * at);
            length = at + 1;
            if byte & 0x80 == 0 {
                break;
            }
        }
        message = &rest[length..];
        if tag & 7 == 2 {
            message = &message[usize::try_from(value).expect("it is short")..];
        } else if tag >> 3 == wanted {
            found = value.cast_signed();
        }
    }
    found
}

/// The lease of a heartbeat.
pub(crate) fn lease_of(heartbeat: &[u8]) -> i64 {
    number(heartbeat, 1)
}

/// The lease and the TTL of an answer.
pub(crate) fn read(answer: &[u8]) -> (i64, i64) {
    (number(answer, 2), number(answer, 3))
}
