//! The checksum that members compare.

use alloc::vec::Vec;

use etcd_proxy_proto::mvccpb::KeyValue;
use prost::Message;

use super::Store;
use super::history::{Change, History};
use crate::error::Error;

/// The answer to HashKV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash {
    /// The checksum.
    pub hash: u32,
    /// The compacted revision that it was made with, -1 if there was no compaction.
    pub compacted: i64,
    /// The revision up to which it was made.
    pub revision: i64,
}

/// Checksums of compacted revisions that a server remembers.
const REMEMBERED_MAX: usize = 10;

impl Store {
    /// The checksum that etcd makes of the same store: CRC-32C of the name of its bucket and of all revisions as
    /// they lie there. Those of the last ten compacted revisions are as they were before the compaction.
    ///
    /// # Errors
    ///
    /// [`Error::Compacted`], [`Error::FutureRevision`]. `revision` 0 asks for the current one; before the first there
    /// is nothing.
    pub fn hash_kv(&self, revision: i64) -> Result<Hash, Error> {
        if let Some(hash) = self.hashes.iter().find(|hash| hash.revision == revision) {
            return Ok(*hash);
        }
        if revision > 0 && revision < self.compacted {
            return Err(Error::Compacted);
        }
        if revision > self.revision {
            return Err(Error::FutureRevision);
        }
        Ok(self.hash_at(if revision == 0 { self.revision } else { revision }))
    }

    /// Remembers the checksum of a revision that is about to be compacted.
    pub(super) fn remember_hash(&mut self, revision: i64) {
        if self.hashes.len() == REMEMBERED_MAX {
            self.hashes.pop_front();
        }
        self.hashes.push_back(self.hash_at(revision));
    }

    fn hash_at(&self, revision: i64) -> Hash {
        // Of what was there when the compaction took place, only what is still there counts, unless nothing is.
        let anything = self.keys.values().any(|history| history.at(revision).is_some());
        let counts = |history: &History, change: &Change| {
            !anything || !change.is_delete() && history.last_until(revision) == Some(change)
        };
        let before = revision.min(self.compacted.saturating_sub(1));
        let mut old: Vec<&Change> = Vec::new();
        for history in self.keys.values() {
            old.extend(
                history
                    .until(before)
                    .iter()
                    .filter(|change| counts(history, change)),
            );
        }
        old.sort_unstable_by_key(|change| (change.revision(), change.sub));
        let recent = self.log.iter().take_while(|change| change.revision() <= revision);
        let recent = recent.filter(|change| {
            if change.revision() > self.compacted {
                return true;
            }
            // Members that are older than this rule lack the tombstones of the compacted revision.
            let history = self.keys.get(&change.kv.key);
            !change.is_delete() && history.is_some_and(|history| counts(history, change))
        });
        let mut crc = Crc::new();
        crc.update(b"key");
        let mut encoded = Vec::new();
        for change in old.into_iter().chain(recent) {
            encoded.clear();
            encoded.extend(change.revision().to_be_bytes());
            encoded.push(b'_');
            encoded.extend(change.sub.to_be_bytes());
            if change.is_delete() {
                encoded.push(b't');
                // A tombstone's revision is in its place only.
                let kv = KeyValue {
                    key: change.kv.key.clone(),
                    ..Default::default()
                };
                kv.encode_raw(&mut encoded);
            } else {
                change.kv.encode_raw(&mut encoded);
            }
            crc.update(&encoded);
        }
        Hash {
            hash: crc.finish(),
            compacted: self.compacted,
            revision,
        }
    }
}

/// CRC-32C (Castagnoli), RFC 3720 appendix B.4, eight bytes at a time.
struct Crc(u32);

impl Crc {
    /// What a byte does that is followed by that many others.
    const TABLES: [[u32; 256]; 8] = Self::tables();

    const fn tables() -> [[u32; 256]; 8] {
        let mut tables = [[0; 256]; 8];
        let mut byte = 0;
        while byte < 256 {
            let mut crc = byte as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 == 1 {
                    crc >> 1 ^ 0x82f6_3b78
                } else {
                    crc >> 1
                };
                bit += 1;
            }
            tables[0][byte] = crc;
            byte += 1;
        }
        let mut following = 1;
        while following < 8 {
            let mut byte = 0;
            while byte < 256 {
                let crc = tables[following - 1][byte];
                tables[following][byte] = crc >> 8 ^ tables[0][(crc & 0xff) as usize];
                byte += 1;
            }
            following += 1;
        }
        tables
    }

    fn new() -> Self {
        Self(u32::MAX)
    }

    fn update(&mut self, bytes: &[u8]) {
        let (chunks, rest) = bytes.as_chunks::<8>();
        for chunk in chunks {
            let mixed = u64::from_le_bytes(*chunk) ^ u64::from(self.0);
            let bytes = mixed.to_le_bytes();
            self.0 = bytes
                .iter()
                .zip(Self::TABLES.iter().rev())
                .fold(0, |crc, (byte, table)| crc ^ table[usize::from(*byte)]);
        }
        for byte in rest {
            let index = (self.0 ^ u32::from(*byte)) & 0xff;
            self.0 = self.0 >> 8 ^ Self::TABLES[0][index as usize];
        }
    }

    fn finish(self) -> u32 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_of_the_rfc() {
        let crc = |parts: &[&[u8]]| {
            let mut crc = Crc::new();
            parts.iter().for_each(|part| crc.update(part));
            crc.finish()
        };
        assert_eq!(crc(&[&[0; 32]]), 0x8a91_36aa);
        assert_eq!(crc(&[&[0xff; 32]]), 0x62a8_ab43);
        assert_eq!(crc(&[b"123456789"]), 0xe306_9283);
        assert_eq!(crc(&[b"1234", b"56789"]), 0xe306_9283);
    }
}
