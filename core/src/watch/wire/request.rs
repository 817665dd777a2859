//! Watch requests: those of clients are read, those to servers written.

use alloc::vec::Vec;

use bytes::Bytes;

use crate::range::KeyRange;
use crate::wire::read::{Field, Malformed, Reader, Value};
use crate::wire::write;

/// A request of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::watch) enum Request {
    Create(Create),
    Cancel(i64),
    Progress,
    /// Nothing is asked, or something that nobody knows yet: a server ignores it.
    Unset,
}

/// What a client wants to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::watch) struct Create {
    pub(in crate::watch) range: KeyRange,
    pub(in crate::watch) start: i64,
    pub(in crate::watch) progress_notify: bool,
    pub(in crate::watch) no_put: bool,
    pub(in crate::watch) no_delete: bool,
    pub(in crate::watch) prev_kv: bool,
    pub(in crate::watch) watch_id: i64,
    pub(in crate::watch) fragment: bool,
}

impl Request {
    /// Reads a `WatchRequest`.
    pub(in crate::watch) fn read(message: &Bytes) -> Result<Self, Malformed> {
        let mut request = Self::Unset;
        let mut reader = Reader::all("WatchRequest", message);
        while let Some(field) = reader.next()? {
            request = match field.number {
                1 => Self::Create(Create::read(message, field.bytes("CreateRequest")?)?),
                2 => Self::Cancel(read_id(message, field.bytes("CancelRequest")?)?),
                3 => {
                    let mut inner =
                        Reader::new("WatchProgressRequest", message, field.bytes("ProgressRequest")?);
                    while inner.next()?.is_some() {}
                    Self::Progress
                }
                _ => continue,
            };
        }
        Ok(request)
    }
}

impl Create {
    fn read(message: &Bytes, at: (usize, usize)) -> Result<Self, Malformed> {
        let (mut key, mut end) = (Bytes::new(), Bytes::new());
        let mut create = Self {
            range: KeyRange::new(Bytes::new(), Bytes::new()),
            start: 0,
            progress_notify: false,
            no_put: false,
            no_delete: false,
            prev_kv: false,
            watch_id: 0,
            fragment: false,
        };
        // Copied: a small key must not hold on to a large message.
        let copy = |field: Field, name| {
            let (from, to) = field.bytes(name)?;
            Ok(Bytes::copy_from_slice(&message[from..to]))
        };
        let mut reader = Reader::new("WatchCreateRequest", message, at);
        while let Some(field) = reader.next()? {
            match field.number {
                1 => key = copy(field, "Key")?,
                2 => end = copy(field, "RangeEnd")?,
                3 => create.start = field.int64("StartRevision")?,
                4 => create.progress_notify = field.varint("ProgressNotify")? != 0,
                5 => match field.value {
                    Value::Bytes(from, to) => {
                        let mut packed = Reader::new("WatchCreateRequest", message, (from, to));
                        while !packed.is_done() {
                            create.filter(packed.varint()?);
                        }
                    }
                    Value::Varint(_) | Value::Other(_) => create.filter(field.varint("Filters")?),
                },
                6 => create.prev_kv = field.varint("PrevKv")? != 0,
                7 => create.watch_id = field.int64("WatchId")?,
                8 => create.fragment = field.varint("Fragment")? != 0,
                _ => {}
            }
        }
        create.range = KeyRange::new(key, end);
        Ok(create)
    }

    fn filter(&mut self, kind: u64) {
        match kind {
            0 => self.no_put = true,
            1 => self.no_delete = true,
            _ => {}
        }
    }
}

fn read_id(message: &Bytes, at: (usize, usize)) -> Result<i64, Malformed> {
    let mut id = 0;
    let mut reader = Reader::new("WatchCancelRequest", message, at);
    while let Some(field) = reader.next()? {
        if field.number == 1 {
            id = field.int64("WatchId")?;
        }
    }
    Ok(id)
}

/// The most bytes that a [`create`] of a range may have. A question about the range has fewer.
pub(in crate::watch) fn create_bytes_max(range: &KeyRange) -> usize {
    range.key().len() + range.end().len() + CREATE_OVERHEAD
}

/// Three length prefixes with their tags, two flags and two numbers.
const CREATE_OVERHEAD: usize = 3 * 6 + 2 * 2 + 2 * 11;

/// A request to the server for a watcher of its own. Responses come in one piece each: to cut them up costs a server
/// time that grows with the square of the number of events (seen on etcd 3.5.30).
pub(crate) fn create(range: &KeyRange, start: i64, prev_kv: bool, watch_id: i64) -> Bytes {
    let mut inner = Vec::with_capacity(create_bytes_max(range));
    write::bytes(&mut inner, 1, range.key());
    write::bytes(&mut inner, 2, range.end());
    write::number(&mut inner, 3, start.cast_unsigned());
    write::number(&mut inner, 4, 1);
    write::number(&mut inner, 6, u64::from(prev_kv));
    write::number(&mut inner, 7, watch_id.cast_unsigned());
    union(1, &inner)
}

/// A request to the server to end a watcher.
pub(in crate::watch) fn cancel(watch_id: i64) -> Bytes {
    let mut inner = Vec::with_capacity(11);
    write::number(&mut inner, 1, watch_id.cast_unsigned());
    union(2, &inner)
}

/// A request to the server to tell how far the stream is.
pub(crate) fn progress() -> Bytes {
    Bytes::from_static(&[3 << 3 | 2, 0])
}

fn union(field: u32, inner: &[u8]) -> Bytes {
    let mut message = Vec::with_capacity(inner.len() + 6);
    write::nested(&mut message, field, inner);
    message.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let range = KeyRange::new(Bytes::from_static(b"k"), Bytes::from_static(b"l"));
        let read = Request::read(&create(&range, 7, true, 3));
        let expected = Create {
            range,
            start: 7,
            progress_notify: true,
            no_put: false,
            no_delete: false,
            prev_kv: true,
            watch_id: 3,
            fragment: false,
        };
        assert_eq!(read, Ok(Request::Create(expected)));
        assert_eq!(Request::read(&cancel(-4)), Ok(Request::Cancel(-4)));
        assert_eq!(Request::read(&progress()), Ok(Request::Progress));
        assert_eq!(Request::read(&Bytes::new()), Ok(Request::Unset));
    }

    #[test]
    fn the_most_bytes_are_never_exceeded() {
        for bytes in [1, 127, 128, 20_000, 3 << 20] {
            let key = || Bytes::from(alloc::vec![b'k'; bytes]);
            for range in [KeyRange::new(key(), key()), KeyRange::new(key(), Bytes::new())] {
                let message = create(&range, i64::MAX, true, i64::MAX);
                assert!(message.len() <= create_bytes_max(&range), "{bytes}");
            }
        }
    }

    #[test]
    fn filters_come_packed_or_not() {
        for message in [&b"\x0a\x04\x2a\x02\x00\x01"[..], b"\x0a\x04\x28\x00\x28\x01"] {
            let Ok(Request::Create(create)) = Request::read(&Bytes::copy_from_slice(message)) else {
                panic!("it isn't read");
            };
            assert!(create.no_put && create.no_delete);
        }
    }

    #[test]
    fn malformed_requests_are_noticed() {
        for message in [
            &b"\x0a\x04\x2a"[..],
            b"\x0a\x01\xff",
            b"\x08\x01",
            b"\x00\x00",
            b"\x0b",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        ] {
            assert!(Request::read(&Bytes::copy_from_slice(message)).is_err());
        }
    }
}
