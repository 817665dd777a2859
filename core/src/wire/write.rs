//! Protobuf fields, written.

use alloc::vec::Vec;

pub(crate) fn varint(buffer: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        // The low seven bits.
        buffer.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    buffer.push(value as u8);
}

/// Appends a number; zero, the default, is left out.
pub(crate) fn number(buffer: &mut Vec<u8>, field: u32, value: u64) {
    if value != 0 {
        varint(buffer, u64::from(field) << 3);
        varint(buffer, value);
    }
}

/// Appends bytes; none, the default, are left out.
pub(crate) fn bytes(buffer: &mut Vec<u8>, field: u32, value: &[u8]) {
    if !value.is_empty() {
        nested(buffer, field, value);
    }
}

/// Appends a message.
pub(crate) fn nested(buffer: &mut Vec<u8>, field: u32, value: &[u8]) {
    varint(buffer, u64::from(field) << 3 | 2);
    varint(buffer, value.len() as u64);
    buffer.extend_from_slice(value);
}

/// How many bytes [`varint`] writes.
const fn varint_len(value: u64) -> usize {
    // Seven bits in each; zero takes one.
    (63 - (value | 1).leading_zeros() as usize) / 7 + 1
}

/// How many bytes [`number`] writes for a field below 16.
pub(crate) const fn number_len(value: u64) -> usize {
    if value == 0 { 0 } else { 1 + varint_len(value) }
}
