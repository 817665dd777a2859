//! Watch responses of servers.

use alloc::string::String;

use bytes::Bytes;

use crate::watch::types::Header;
use crate::wire::header::read_header;
use crate::wire::read::{Malformed, Reader, Value};

/// A `WatchResponse`, its events still encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) header: Header,
    pub(crate) watch_id: i64,
    pub(crate) created: bool,
    pub(crate) canceled: bool,
    pub(crate) compact_revision: i64,
    pub(crate) cancel_reason: String,
    /// More of the same follows.
    pub(crate) fragment: bool,
    pub(crate) has_events: bool,
}

impl Response {
    /// Reads all but the events.
    pub(crate) fn read(message: &Bytes) -> Result<Self, Malformed> {
        let mut response = Self {
            header: Header::default(),
            watch_id: 0,
            created: false,
            canceled: false,
            compact_revision: 0,
            cancel_reason: String::new(),
            fragment: false,
            has_events: false,
        };
        let mut reader = Reader::all("WatchResponse", message);
        while let Some(field) = reader.next()? {
            match field.number {
                1 => response.header = read_header(message, field.bytes("Header")?)?,
                2 => response.watch_id = field.int64("WatchId")?,
                3 => response.created = field.varint("Created")? != 0,
                4 => response.canceled = field.varint("Canceled")? != 0,
                5 => response.compact_revision = field.int64("CompactRevision")?,
                6 => {
                    let (from, to) = field.bytes("CancelReason")?;
                    response.cancel_reason = String::from_utf8_lossy(&message[from..to]).into_owned();
                }
                7 => response.fragment = field.varint("Fragment")? != 0,
                11 => response.has_events = true,
                _ => {}
            }
        }
        Ok(response)
    }
}

/// Where the parts of an event are in the message that it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EventAt {
    pub(crate) revision: i64,
    pub(crate) is_delete: bool,
    pub(crate) key: (usize, usize),
    /// The event, with its tag and length.
    pub(crate) field: (usize, usize),
    /// The event.
    pub(crate) body: (usize, usize),
    /// The previous pair within it, with tag and length; empty if there is none.
    pub(crate) prev: (usize, usize),
}

/// Calls `each` with the events of a response, in order.
pub(crate) fn read_events(message: &[u8], mut each: impl FnMut(EventAt)) -> Result<(), Malformed> {
    let mut reader = Reader::all("WatchResponse", message);
    while let Some(field) = reader.next()? {
        if field.number == 11 {
            let body = field.bytes("Events")?;
            each(read_event(message, (field.start, reader.at()), body)?);
        }
    }
    Ok(())
}

fn read_event(message: &[u8], field: (usize, usize), body: (usize, usize)) -> Result<EventAt, Malformed> {
    let mut event = EventAt {
        revision: 0,
        is_delete: false,
        key: (body.0, body.0),
        field,
        body,
        prev: (body.0, body.0),
    };
    let mut reader = Reader::new("Event", message, body);
    while let Some(part) = reader.next()? {
        match (part.number, part.value) {
            (1, _) => event.is_delete = part.varint("Type")? == 1,
            (2, Value::Bytes(from, to)) => {
                let mut pair = Reader::new("KeyValue", message, (from, to));
                while let Some(part) = pair.next()? {
                    match part.number {
                        1 => event.key = part.bytes("Key")?,
                        3 => event.revision = part.int64("ModRevision")?,
                        _ => {}
                    }
                }
            }
            (3, Value::Bytes(..)) => event.prev = (part.start, reader.at()),
            _ => {}
        }
    }
    if event.revision <= 0 {
        // No server has an event without revision.
        return Err(Malformed::Implausible);
    }
    Ok(event)
}
