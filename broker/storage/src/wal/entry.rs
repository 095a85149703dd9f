//! One entry's bytes.
//!
//! | at | bytes | what |
//! | --- | --- | --- |
//! | 0 | 4 | `SLWE` |
//! | 4 | 2 | format, 1 |
//! | 6 | 1 | kind: 1 opening, 2 entry, 3 seal |
//! | 7 | 1 | zero |
//! | 8 | 4 | shard |
//! | 12 | 8 | epoch |
//! | 20 | 8 | sequence |
//! | 28 | 16 | writer |
//! | 44 | 32 | digest of the entry before |
//! | 76 | 4 | number of sections |
//! | 80 | 8 | length, this header and the last checksum included |
//! | 88 | 4 | CRC-32C of bytes 0..88 |
//! | 92 | | sections: tenant \[16\], generation u32, wrapped key length u32, sealed length u32, wrapped key, sealed bytes |
//! | end - 4 | 4 | CRC-32C of bytes 92..end - 4 |
//!
//! All big-endian. The digest is SHA-256 over bytes 0..88 and, per section, its header, wrapped key and the last 48
//! sealed bytes (key commitment and tag, which vouch for the ciphertext): hashing all bytes would cost four times the
//! sealing.
//!
//! Invariant: nothing in an entry is believed before both checksums, and no plaintext before its section's tag.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use crc_fast::CrcAlgorithm;
use schloss_core::TenantId;
use schloss_crypto::digest::Sha256;
use schloss_crypto::wal::SECTION_OVERHEAD_BYTES;
use schloss_crypto::{EntryId, WalKeys};

use super::item::Item;
use crate::error::WalError;
use crate::producers::take;

pub(crate) const HEADER_BYTES: usize = 92;
const HEADER_CRC_AT: usize = 88;
const SECTION_HEADER_BYTES: usize = 28;
const MAGIC: [u8; 4] = *b"SLWE";
const FORMAT: u16 = 1;

/// What an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// First of its epoch: from here on the older epochs' writers are dead.
    Opening = 1,
    /// A group commit.
    Entry = 2,
    /// Last of its epoch.
    Seal = 3,
}

/// An entry's fixed facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryHead {
    pub kind: Kind,
    pub name: EntryId,
    pub writer: [u8; 16],
    pub previous: [u8; 32],
}

/// A tenant's share of an entry, before sealing.
pub(crate) struct PlainSection {
    pub tenant: TenantId,
    pub key: Arc<EpochKey>,
    pub items: Vec<Item>,
}

/// A tenant's epoch key as the log uses it.
#[derive(Debug)]
pub(crate) struct EpochKey {
    pub keys: WalKeys,
    pub generation: u32,
    pub wrapped: Vec<u8>,
}

/// An entry's final bytes.
pub(crate) struct SealedEntry {
    pub bytes: Vec<u8>,
    pub digest: [u8; 32],
}

/// Seals sections into `buffer`, whose old content is dropped and whose memory is kept.
pub(crate) fn seal(head: &EntryHead, sections: &[PlainSection], mut buffer: Vec<u8>) -> Result<SealedEntry, WalError> {
    buffer.clear();
    write_header(head, sections.len(), &mut buffer);
    let mut tags: Vec<std::ops::Range<usize>> = Vec::with_capacity(sections.len() * 2);
    for (number, section) in (0_u32..).zip(sections) {
        let header_at = buffer.len();
        let tenant = section.tenant.to_bytes();
        buffer.extend_from_slice(&tenant);
        buffer.extend_from_slice(&section.key.generation.to_be_bytes());
        buffer.extend_from_slice(&length_u32(section.key.wrapped.len())?.to_be_bytes());
        buffer.extend_from_slice(&[0; 4]);
        buffer.extend_from_slice(&section.key.wrapped);
        let start = buffer.len();
        section.items.iter().for_each(|item| item.write_to(&mut buffer));
        section.key.keys.seal_section_from(head.name, number, tenant, &mut buffer, start)?;
        let sealed_len = length_u32(buffer.len() - start)?;
        buffer[header_at + 24..header_at + SECTION_HEADER_BYTES].copy_from_slice(&sealed_len.to_be_bytes());
        tags.push(header_at..start);
        tags.push(buffer.len() - SECTION_OVERHEAD_BYTES..buffer.len());
    }
    let length = (buffer.len() + 4) as u64;
    buffer[80..HEADER_CRC_AT].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c(&buffer[..HEADER_CRC_AT]);
    buffer[HEADER_CRC_AT..HEADER_BYTES].copy_from_slice(&crc.to_be_bytes());
    let crc = crc32c(&buffer[HEADER_BYTES..]);
    buffer.extend_from_slice(&crc.to_be_bytes());
    let mut digest = Sha256::new();
    digest.update(&buffer[..HEADER_CRC_AT]);
    tags.into_iter().for_each(|range| digest.update(&buffer[range]));
    Ok(SealedEntry { digest: digest.finish(), bytes: buffer })
}

fn write_header(head: &EntryHead, sections: usize, buffer: &mut Vec<u8>) {
    buffer.extend_from_slice(&MAGIC);
    buffer.extend_from_slice(&FORMAT.to_be_bytes());
    buffer.extend_from_slice(&[head.kind as u8, 0]);
    buffer.extend_from_slice(&head.name.shard.to_be_bytes());
    buffer.extend_from_slice(&head.name.epoch.to_be_bytes());
    buffer.extend_from_slice(&head.name.seq.to_be_bytes());
    buffer.extend_from_slice(&head.writer);
    buffer.extend_from_slice(&head.previous);
    // Bounded by the entry's bytes long before.
    buffer.extend_from_slice(&u32::try_from(sections).unwrap_or(u32::MAX).to_be_bytes());
    buffer.extend_from_slice(&[0; 12]);
}

/// Bytes that `sections` will take sealed, an upper bound.
pub(crate) fn sealed_bytes(sections: &[PlainSection]) -> usize {
    let section = |section: &PlainSection| {
        SECTION_HEADER_BYTES
            + section.key.wrapped.len()
            + SECTION_OVERHEAD_BYTES
            + section.items.iter().map(Item::len).sum::<usize>()
    };
    HEADER_BYTES + 4 + sections.iter().map(section).sum::<usize>()
}

fn length_u32(length: usize) -> Result<u32, WalError> {
    u32::try_from(length).map_err(|_| WalError::TooLarge { bytes: length })
}

fn crc32c(bytes: &[u8]) -> u32 {
    // A CRC-32 fits.
    u32::try_from(crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes)).unwrap_or(0)
}

/// A header whose checksum holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReadHead {
    pub head: EntryHead,
    pub length: usize,
    sections: u32,
}

/// Reads an entry's header; `None` for anything that is not one.
pub(crate) fn read_head(bytes: &[u8]) -> Option<ReadHead> {
    let header = bytes.get(..HEADER_BYTES)?;
    let mut fields = header;
    let magic: [u8; 4] = take(&mut fields)?;
    let format = u16::from_be_bytes(take(&mut fields)?);
    let [kind, _] = take(&mut fields)?;
    let name = EntryId {
        shard: u32::from_be_bytes(take(&mut fields)?),
        epoch: u64::from_be_bytes(take(&mut fields)?),
        seq: u64::from_be_bytes(take(&mut fields)?),
    };
    let writer = take(&mut fields)?;
    let previous = take(&mut fields)?;
    let sections = u32::from_be_bytes(take(&mut fields)?);
    let length = usize::try_from(u64::from_be_bytes(take(&mut fields)?)).ok()?;
    let crc = u32::from_be_bytes(take(&mut fields)?);
    let kind = match kind {
        1 => Kind::Opening,
        2 => Kind::Entry,
        3 => Kind::Seal,
        _ => return None,
    };
    let good = magic == MAGIC
        && format == FORMAT
        && length >= HEADER_BYTES + 4
        && crc == crc32c(&header[..HEADER_CRC_AT]);
    good.then_some(ReadHead { head: EntryHead { kind, name, writer, previous }, length, sections })
}

/// A tenant's share of a stored entry, still sealed.
#[derive(Clone, Debug)]
pub(crate) struct SealedSection {
    pub entry: EntryId,
    pub number: u32,
    pub tenant: TenantId,
    pub generation: u32,
    pub wrapped: Bytes,
    pub sealed: Bytes,
}

/// A stored entry whose checksums hold.
pub(crate) struct Entry {
    pub head: EntryHead,
    pub digest: [u8; 32],
    pub sections: Vec<SealedSection>,
}

impl Entry {
    /// Reads a whole entry; `None` when torn or altered.
    pub(crate) fn read(bytes: &Bytes) -> Option<Self> {
        let ReadHead { head, length, sections: count } = read_head(bytes)?;
        let body = bytes.get(HEADER_BYTES..length.checked_sub(4)?)?;
        let crc = u32::from_be_bytes(*bytes.get(length - 4..length)?.first_chunk()?);
        if crc != crc32c(body) {
            return None;
        }
        let mut digest = Sha256::new();
        digest.update(&bytes[..HEADER_CRC_AT]);
        let mut rest = bytes.slice(HEADER_BYTES..length - 4);
        let mut sections = Vec::new();
        for number in 0..count {
            let header = rest.get(..SECTION_HEADER_BYTES)?;
            digest.update(header);
            let mut fields = header;
            let tenant = TenantId::from_bytes(take(&mut fields)?)?;
            let generation = u32::from_be_bytes(take(&mut fields)?);
            let wrapped_len = usize::try_from(u32::from_be_bytes(take(&mut fields)?)).ok()?;
            let sealed_len = usize::try_from(u32::from_be_bytes(take(&mut fields)?)).ok()?;
            rest.advance(SECTION_HEADER_BYTES);
            if rest.len() < wrapped_len.checked_add(sealed_len)? || sealed_len < SECTION_OVERHEAD_BYTES {
                return None;
            }
            let wrapped = rest.split_to(wrapped_len);
            let sealed = rest.split_to(sealed_len);
            digest.update(&wrapped);
            digest.update(&sealed[sealed_len - SECTION_OVERHEAD_BYTES..]);
            sections.push(SealedSection { entry: head.name, number, tenant, generation, wrapped, sealed });
        }
        rest.is_empty().then(|| Self { head, digest: digest.finish(), sections })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::item::Item;
    use schloss_crypto::DataKey;

    const NAME: EntryId = EntryId { shard: 1, epoch: 2, seq: 3 };

    fn section(account: u64, value: &'static [u8]) -> PlainSection {
        PlainSection {
            tenant: TenantId::new(account).unwrap(),
            key: Arc::new(EpochKey {
                keys: WalKeys::new(&DataKey::take(&mut [9; 32])),
                generation: 4,
                wrapped: vec![1, 2, 3],
            }),
            items: vec![Item::State { key: Bytes::from_static(b"k"), value: Some(Bytes::from_static(value)) }],
        }
    }

    fn sealed() -> SealedEntry {
        let head = EntryHead { kind: Kind::Entry, name: NAME, writer: [5; 16], previous: [6; 32] };
        seal(&head, &[section(1, b"one"), section(2, b"two")], Vec::new()).unwrap()
    }

    #[test]
    fn entry_reads_back_as_it_was_sealed() {
        let SealedEntry { bytes, digest } = sealed();
        let entry = Entry::read(&bytes.into()).unwrap();
        assert_eq!((entry.head.name, entry.head.writer, entry.head.previous), (NAME, [5; 16], [6; 32]));
        assert_eq!(entry.digest, digest);
        assert_eq!(entry.sections.len(), 2);
        let keys = WalKeys::new(&DataKey::take(&mut [9; 32]));
        let second = &entry.sections[1];
        let plain =
            keys.open_section(NAME, 1, second.tenant.to_bytes(), bytes::BytesMut::from(&second.sealed[..])).unwrap();
        assert!(plain.ends_with(b"two"));
    }

    #[test]
    fn every_flipped_byte_and_every_cut_is_refused() {
        let SealedEntry { bytes, .. } = sealed();
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(Entry::read(&bad.into()).is_none(), "byte {at}");
            assert!(Entry::read(&Bytes::copy_from_slice(&bytes[..at])).is_none(), "cut at {at}");
        }
    }

    #[test]
    fn reserved_length_is_enough() {
        let sections = [section(1, b"one"), section(2, b"two")];
        assert_eq!(sealed_bytes(&sections), sealed().bytes.len());
    }
}
