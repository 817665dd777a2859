//! The header of a response.

use super::read::{Malformed, Reader};
use crate::watch::Header;

/// Reads the header that is there in a message.
pub(crate) fn read_header(message: &[u8], at: (usize, usize)) -> Result<Header, Malformed> {
    let mut header = Header::default();
    let mut reader = Reader::new("ResponseHeader", message, at);
    while let Some(field) = reader.next()? {
        match field.number {
            1 => header.cluster_id = field.varint("ClusterId")?,
            2 => header.member_id = field.varint("MemberId")?,
            3 => header.revision = field.int64("Revision")?,
            4 => header.raft_term = field.varint("RaftTerm")?,
            _ => {}
        }
    }
    Ok(header)
}
