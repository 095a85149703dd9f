//! Seals the sections of write-ahead-log entries: one section holds one tenant's bytes of one group commit.
//!
//! Sealed section: ciphertext (as long as the plaintext) | commitment \[32\] | tag \[16\].
//! Key, commitment = HKDF-SHA-512(salt = shard u32 ‖ epoch u64 ‖ sequence u64 ‖ section u32, ikm = the epoch key,
//! labels `wal-section`, `wal-commit`); nonce zero.
//! Associated data = suite u16 ‖ salt \[24\] ‖ tenant \[16\] ‖ plaintext length u64, big-endian.
//!
//! Invariant: an entry id and section number are sealed once. The log's writer keeps it: it raises its epoch at every start,
//! never goes back in sequence, and a retried write sends the same sealed bytes.

use bytes::{Bytes, BytesMut};

use crate::aead::{COMMIT_BYTES, Nonce, Root, SUITE, SealError, TAG_BYTES};
use crate::{DataKey, layout};

/// Bytes a sealed section is longer than its plaintext.
pub const SECTION_OVERHEAD_BYTES: usize = COMMIT_BYTES + TAG_BYTES;
const WHAT: &str = "log section";

/// Names one entry of one log for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId {
    /// The shard.
    pub shard: u32,
    /// The writer's epoch.
    pub epoch: u64,
    /// The entry's number within the shard.
    pub seq: u64,
}

/// A tenant's epoch key, ready to seal and open sections. Holds its own copy of the key; drop it when the KMS denies.
pub struct WalKeys {
    key: DataKey,
}

impl WalKeys {
    /// From the tenant's epoch key.
    #[must_use]
    pub fn new(key: &DataKey) -> Self {
        Self { key: key.copy() }
    }

    /// Seals the whole of `buffer` in place and appends commitment and tag.
    ///
    /// # Errors
    /// [`SealError::TooLong`] beyond AES-GCM's bound of 64 GiB.
    pub fn seal_section(
        &self,
        entry: EntryId,
        section: u32,
        tenant: [u8; 16],
        buffer: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        self.seal_section_from(entry, section, tenant, buffer, 0)
    }

    /// Seals `buffer[start..]` in place, leaving what stands before, and appends commitment and tag.
    ///
    /// # Errors
    /// [`SealError::Malformed`] when `start` is past the end; [`SealError::TooLong`] as above.
    pub fn seal_section_from(
        &self,
        entry: EntryId,
        section: u32,
        tenant: [u8; 16],
        buffer: &mut Vec<u8>,
        start: usize,
    ) -> Result<(), SealError> {
        let salt = salt(entry, section);
        let root = Root::new(&self.key, &salt);
        let text = buffer.get_mut(start..).ok_or(SealError::Malformed { what: WHAT })?;
        let tag = root.key("wal-section").seal(Nonce::ONCE, &associated_data(&salt, tenant, text.len()), text)?;
        buffer.extend_from_slice(&root.commitment("wal-commit"));
        buffer.extend_from_slice(&tag);
        Ok(())
    }

    /// Opens what was sealed under the same entry, section number and tenant, in place.
    ///
    /// # Errors
    /// [`SealError::Malformed`], [`SealError::WrongKey`] or [`SealError::Tampered`].
    pub fn open_section(
        &self,
        entry: EntryId,
        section: u32,
        tenant: [u8; 16],
        mut sealed: BytesMut,
    ) -> Result<Bytes, SealError> {
        let len = sealed.len().checked_sub(SECTION_OVERHEAD_BYTES).ok_or(SealError::Malformed { what: WHAT })?;
        let mut trailer = layout::Reader::new(sealed.get(len..).unwrap_or_default());
        let (Some(commit), Some(tag)) = (trailer.array::<COMMIT_BYTES>(), trailer.array::<TAG_BYTES>()) else {
            return Err(SealError::Malformed { what: WHAT });
        };
        let salt = salt(entry, section);
        let root = Root::new(&self.key, &salt);
        if !root.committed("wal-commit", &commit) {
            return Err(SealError::WrongKey { what: WHAT });
        }
        // The tag moves up beside the ciphertext: the form the AEAD opens in place.
        sealed.truncate(len);
        sealed.extend_from_slice(&tag);
        root.key("wal-section").open(Nonce::ONCE, &associated_data(&salt, tenant, len), &mut sealed, WHAT)?;
        sealed.truncate(len);
        Ok(sealed.freeze())
    }
}

impl std::fmt::Debug for WalKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WalKeys(..)")
    }
}

fn salt(entry: EntryId, section: u32) -> Vec<u8> {
    [&entry.shard.to_be_bytes()[..], &entry.epoch.to_be_bytes(), &entry.seq.to_be_bytes(), &section.to_be_bytes()]
        .concat()
}

fn associated_data(salt: &[u8], tenant: [u8; 16], len: usize) -> Vec<u8> {
    [&SUITE.to_be_bytes()[..], salt, &tenant, &(len as u64).to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: EntryId = EntryId { shard: 1, epoch: 2, seq: 3 };
    const TENANT: [u8; 16] = [4; 16];

    fn keys(byte: u8) -> WalKeys {
        WalKeys::new(&DataKey::take(&mut [byte; 32]))
    }

    fn sealed() -> Vec<u8> {
        let mut buffer = b"header".to_vec();
        buffer.extend_from_slice(b"records");
        keys(1).seal_section_from(ENTRY, 0, TENANT, &mut buffer, 6).unwrap();
        buffer.split_off(6)
    }

    fn open(keys: &WalKeys, entry: EntryId, section: u32, tenant: [u8; 16], bytes: &[u8]) -> Result<Bytes, SealError> {
        keys.open_section(entry, section, tenant, BytesMut::from(bytes))
    }

    #[test]
    fn section_has_these_exact_bytes() {
        assert_eq!(crate::vectors::hex(&sealed()), crate::vectors::vector("wal-section"));
    }

    #[test]
    fn section_opens_at_its_own_place_only() {
        let bytes = sealed();
        assert_eq!(open(&keys(1), ENTRY, 0, TENANT, &bytes).unwrap(), "records");
        assert!(open(&keys(2), ENTRY, 0, TENANT, &bytes).is_err());
        assert!(open(&keys(1), ENTRY, 1, TENANT, &bytes).is_err());
        assert!(open(&keys(1), EntryId { seq: 4, ..ENTRY }, 0, TENANT, &bytes).is_err());
        assert!(open(&keys(1), EntryId { epoch: 3, ..ENTRY }, 0, TENANT, &bytes).is_err());
        assert_eq!(open(&keys(1), ENTRY, 0, [5; 16], &bytes), Err(SealError::Tampered { what: WHAT }));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_of_a_section_is_refused() {
        let bytes = sealed();
        for at in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[at / 8] ^= 1 << (at % 8);
            assert!(open(&keys(1), ENTRY, 0, TENANT, &bad).is_err(), "bit {at}");
        }
        for cut in 0..bytes.len() {
            assert!(open(&keys(1), ENTRY, 0, TENANT, &bytes[..cut]).is_err(), "cut at {cut}");
        }
    }
}
