//! The bytes of an entry, and the proof over them.

use schloss_core::TenantId;
use schloss_crypto::{IntegrityKey, SECTION_OVERHEAD_BYTES, digest};

use crate::producer::Cursor;

/// Length of an entry's header.
pub const HEADER_BYTES: usize = 124;
/// What an entry begins with.
pub const MAGIC: [u8; 8] = *b"SCHLWAL2";
/// What it began with before entries had proofs.
pub const MAGIC_UNPROVED: [u8; 8] = *b"SCHLWAL1";
/// An entry's body is refused above this: larger than any request, so that a damaged length reserves nothing.
pub const BODY_BYTES_MAX: usize = 1 << 30;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The first of an epoch.
    Opening,
    /// A group commit.
    Data,
    /// The end of an epoch.
    Seal,
}

/// An entry's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    pub shard: u32,
    pub epoch: u64,
    pub seq: u64,
    pub writer: [u8; 16],
    pub previous: [u8; 32],
    pub body_bytes: u32,
    pub body_crc: u32,
    /// Over all of the above and the body's directory; zero until [`Header::proved`].
    pub proof: [u8; 32],
}

/// A header with its body.
#[derive(Clone, Debug)]
pub struct Entry<B> {
    pub header: Header,
    pub body: B,
}

impl Header {
    /// What the proof covers of a header: all before it.
    fn fields(self) -> Vec<u8> {
        let kind = match self.kind {
            Kind::Opening => 1,
            Kind::Data => 2,
            Kind::Seal => 3,
        };
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[kind, 0, 0, 0]);
        bytes.extend_from_slice(&self.shard.to_be_bytes());
        bytes.extend_from_slice(&self.epoch.to_be_bytes());
        bytes.extend_from_slice(&self.seq.to_be_bytes());
        bytes.extend_from_slice(&self.writer);
        bytes.extend_from_slice(&self.previous);
        bytes.extend_from_slice(&self.body_bytes.to_be_bytes());
        bytes.extend_from_slice(&self.body_crc.to_be_bytes());
        bytes
    }

    /// The header with its proof; `None` when `body` has no sections' form.
    pub fn proved(mut self, body: &[u8], key: &IntegrityKey) -> Option<Self> {
        let fields = self.fields();
        self.proof = key.entry_proof(&proved_parts(&fields, body)?);
        Some(self)
    }

    /// Whether this installation wrote this header over a body with these sections.
    pub fn is_proved(self, body: &[u8], key: &IntegrityKey) -> bool {
        let fields = self.fields();
        proved_parts(&fields, body).is_some_and(|parts| key.entry_is_proved(&parts, &self.proof))
    }

    /// The 124 bytes.
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = self.fields();
        bytes.extend_from_slice(&self.proof);
        let crc = super::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_be_bytes());
        let mut fixed = [0; HEADER_BYTES];
        fixed.copy_from_slice(&bytes);
        fixed
    }

    /// Reads a header; `None` unless it is whole and its checksum agrees.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..HEADER_BYTES)?;
        let (checked, crc) = bytes.split_at_checked(HEADER_BYTES - 4)?;
        if !bytes.starts_with(&MAGIC) || crc != super::crc32c(checked).to_be_bytes() {
            return None;
        }
        let mut cursor = Cursor(checked);
        cursor.take::<8>()?;
        let kind = match cursor.take::<4>()? {
            [1, 0, 0, 0] => Kind::Opening,
            [2, 0, 0, 0] => Kind::Data,
            [3, 0, 0, 0] => Kind::Seal,
            _ => return None,
        };
        Some(Self {
            kind,
            shard: u32::from_be_bytes(cursor.take()?),
            epoch: u64::from_be_bytes(cursor.take()?),
            seq: u64::from_be_bytes(cursor.take()?),
            writer: cursor.take()?,
            previous: cursor.take()?,
            body_bytes: u32::from_be_bytes(cursor.take()?),
            body_crc: u32::from_be_bytes(cursor.take()?),
            proof: cursor.take()?,
        })
    }

    /// What the next entry names as its previous one.
    pub fn digest(self) -> [u8; 32] {
        digest::sha256(&self.to_bytes())
    }
}

/// Header fields, then of each section its head and its commitment and tag. What the tag covers need not be read again; heads tell
/// their own length, so no two bodies have the same parts one after the other.
fn proved_parts<'a>(fields: &'a [u8], body: &'a [u8]) -> Option<Vec<&'a [u8]>> {
    let mut parts = vec![fields];
    for section in sections(body)? {
        parts.push(section.head);
        parts.push(section.sealed.last_chunk::<SECTION_OVERHEAD_BYTES>()?);
    }
    Some(parts)
}

/// One tenant's sealed part of a body.
pub struct Section<'a> {
    /// All of it before the sealed bytes, with their length.
    pub head: &'a [u8],
    pub tenant: TenantId,
    pub generation: u32,
    pub wrapped: &'a [u8],
    pub sealed: &'a [u8],
}

/// Begins a section; the caller appends the plaintext, seals it in place and calls [`end_section`].
/// Returns where the plaintext begins.
pub fn begin_section(body: &mut Vec<u8>, tenant: TenantId, generation: u32, wrapped: &[u8]) -> usize {
    body.extend_from_slice(&tenant.to_bytes());
    body.extend_from_slice(&generation.to_be_bytes());
    body.extend_from_slice(&u16::try_from(wrapped.len()).unwrap_or(u16::MAX).to_be_bytes());
    body.extend_from_slice(wrapped);
    body.extend_from_slice(&[0; 4]);
    body.len()
}

/// Writes the sealed length in front of what was sealed from `start`.
pub fn end_section(body: &mut [u8], start: usize) {
    let length = u32::try_from(body.len().saturating_sub(start)).unwrap_or(u32::MAX);
    if let Some(field) = start.checked_sub(4).and_then(|at| body.get_mut(at..start)) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}

/// Reads the sections of a body; `None` when malformed.
pub fn sections(body: &[u8]) -> Option<Vec<Section<'_>>> {
    let mut cursor = Cursor(body);
    let mut all = Vec::new();
    while !cursor.0.is_empty() {
        let whole = cursor.0;
        let tenant = TenantId::from_bytes(cursor.take()?)?;
        let generation = u32::from_be_bytes(cursor.take()?);
        let wrapped_bytes = usize::from(u16::from_be_bytes(cursor.take()?));
        let wrapped = cursor.slice(wrapped_bytes)?;
        let sealed_bytes = usize::try_from(u32::from_be_bytes(cursor.take()?)).ok()?;
        let head = whole.get(..whole.len().checked_sub(cursor.0.len())?)?;
        all.push(Section { head, tenant, generation, wrapped, sealed: cursor.slice(sealed_bytes)? });
    }
    Some(all)
}

/// An item of a section.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A record batch.
    Batch {
        topic: [u8; 16],
        partition: i32,
        appended_ms: i64,
        /// Where the batch is in the section.
        at: std::ops::Range<usize>,
    },
    /// A state record; no value removes it.
    State { key: &'a [u8], value: Option<&'a [u8]> },
}

/// Appends a batch item in two pieces.
pub fn put_batch(plain: &mut Vec<u8>, topic: [u8; 16], partition: i32, appended_ms: i64, head: &[u8], rest: &[u8]) {
    plain.push(1);
    plain.extend_from_slice(&topic);
    plain.extend_from_slice(&partition.to_be_bytes());
    plain.extend_from_slice(&appended_ms.to_be_bytes());
    plain.extend_from_slice(&u32::try_from(head.len().saturating_add(rest.len())).unwrap_or(u32::MAX).to_be_bytes());
    plain.extend_from_slice(head);
    plain.extend_from_slice(rest);
}

/// Appends a state item.
pub fn put_state(plain: &mut Vec<u8>, key: &[u8], value: Option<&[u8]>) {
    plain.push(2);
    plain.extend_from_slice(&u32::try_from(key.len()).unwrap_or(u32::MAX).to_be_bytes());
    plain.extend_from_slice(key);
    match value {
        Some(value) => {
            plain.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
            plain.extend_from_slice(value);
        }
        None => plain.extend_from_slice(&u32::MAX.to_be_bytes()),
    }
}

/// Reads the items of an opened section; `None` when malformed.
pub fn items(plain: &[u8]) -> Option<Vec<Item<'_>>> {
    let mut cursor = Cursor(plain);
    let mut all = Vec::new();
    while !cursor.0.is_empty() {
        match cursor.take::<1>()? {
            [1] => {
                let topic = cursor.take()?;
                let partition = i32::from_be_bytes(cursor.take()?);
                let appended_ms = i64::from_be_bytes(cursor.take()?);
                let length = usize::try_from(u32::from_be_bytes(cursor.take()?)).ok()?;
                let start = plain.len().checked_sub(cursor.0.len())?;
                cursor.slice(length)?;
                all.push(Item::Batch { topic, partition, appended_ms, at: start..start.checked_add(length)? });
            }
            [2] => {
                let length = usize::try_from(u32::from_be_bytes(cursor.take()?)).ok()?;
                let key = cursor.slice(length)?;
                let value = match u32::from_be_bytes(cursor.take()?) {
                    u32::MAX => None,
                    length => Some(cursor.slice(usize::try_from(length).ok()?)?),
                };
                all.push(Item::State { key, value });
            }
            _ => return None,
        }
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use schloss_crypto::DataKey;

    use super::*;

    fn key(byte: u8) -> IntegrityKey {
        IntegrityKey::new(&DataKey::take(&mut [byte; 32]))
    }

    /// Two sections as an entry holds them; the sealed bytes are anybody's.
    fn body() -> Vec<u8> {
        let mut body = Vec::new();
        for number in [6_u8, 7] {
            let tenant = TenantId::new(u64::from(number)).unwrap();
            let start = begin_section(&mut body, tenant, 9, &[number; 5]);
            body.extend_from_slice(&[number; 50]);
            end_section(&mut body, start);
        }
        body
    }

    fn header(body: &[u8]) -> Header {
        Header {
            kind: Kind::Data,
            shard: 1,
            epoch: 2,
            seq: 3,
            writer: [4; 16],
            previous: [5; 32],
            body_bytes: body.len() as u32,
            body_crc: super::super::crc32c(body),
            proof: [0; 32],
        }
        .proved(body, &key(1))
        .unwrap()
    }

    /// The manual's bytes of this name.
    fn vector(name: &str) -> String {
        let page = include_str!("../../../manual/formats.md");
        let (_, rest) = page.split_once(&format!("```vector {name}\n")).unwrap();
        let (block, _) = rest.split_once("```").unwrap();
        block.lines().filter(|line| !line.is_empty() && line.bytes().all(|b| b.is_ascii_hexdigit())).collect()
    }

    #[test]
    fn entry_has_these_exact_bytes() {
        let bytes = [&header(&body()).to_bytes()[..], &body()].concat();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, vector("wal-entry"));
    }

    #[test]
    fn header_has_this_byte_form() {
        let header = header(&body());
        let bytes = header.to_bytes();
        let expected = [
            b"SCHLWAL2".as_slice(),
            &[2, 0, 0, 0],
            &[0, 0, 0, 1],
            &[0, 0, 0, 0, 0, 0, 0, 2],
            &[0, 0, 0, 0, 0, 0, 0, 3],
            &[4; 16],
            &[5; 32],
            &[0, 0, 0, 162],
            &super::super::crc32c(&body()).to_be_bytes(),
            &header.proof,
        ]
        .concat();
        assert_eq!(bytes[..120], expected[..]);
        assert_eq!(Header::read(&bytes), Some(header));
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let bytes = header(&body()).to_bytes();
        for bit in 0..HEADER_BYTES * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::read(&flipped), None, "bit {bit}");
        }
    }

    #[test]
    fn every_bit_flipped_in_a_header_is_unproved_although_its_checksum_is_made_anew() {
        let bytes = header(&body()).to_bytes();
        for bit in 0..120 * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            let crc = super::super::crc32c(&flipped[..120]).to_be_bytes();
            flipped[120..].copy_from_slice(&crc);
            // The magic and the kind may not read at all.
            let proved = Header::read(&flipped).is_some_and(|header| header.is_proved(&body(), &key(1)));
            assert!(!proved, "bit {bit}");
        }
    }

    #[test]
    fn every_bit_flipped_in_heads_and_tags_of_sections_is_unproved() {
        let (header, body) = (header(&body()), body());
        // Each section: 16 + 4 + 2 + 5 + 4 of head, 2 of ciphertext, 48 of commitment and tag.
        let ciphertext = [31..33, 112..114];
        for bit in 0..body.len() * 8 {
            let mut flipped = body.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let covered = !ciphertext.iter().any(|range| range.contains(&(bit / 8)));
            // What the sections' own tags cover is theirs; the checksum in the proved header is of the whole body all the same.
            assert_eq!(header.is_proved(&flipped, &key(1)), !covered, "bit {bit}");
        }
        assert!(header.is_proved(&body, &key(1)));
        assert!(!header.is_proved(&body, &key(2)), "another installation's");
    }

    #[test]
    fn sections_taken_out_doubled_or_exchanged_are_unproved() {
        let (header, body) = (header(&body()), body());
        let (one, two) = body.split_at(81);
        for changed in [vec![], one.to_vec(), two.to_vec(), [two, one].concat(), [one, two, two].concat()] {
            assert!(!header.is_proved(&changed, &key(1)), "{} bytes", changed.len());
        }
    }

    #[test]
    fn section_too_short_for_a_tag_has_no_proof() {
        let mut body = Vec::new();
        let start = begin_section(&mut body, TenantId::new(1).unwrap(), 0, b"key");
        body.extend_from_slice(&[0; SECTION_OVERHEAD_BYTES - 1]);
        end_section(&mut body, start);
        assert_eq!(header(&[]).proved(&body, &key(1)), None);
    }

    #[test]
    fn items_round_trip_and_cut_ones_are_refused() {
        let mut plain = Vec::new();
        put_batch(&mut plain, [1; 16], 2, 3, b"head", b"rest");
        put_state(&mut plain, b"key", Some(b"value"));
        put_state(&mut plain, b"gone", None);
        let read = items(&plain).unwrap();
        assert!(matches!(&read[0], Item::Batch { at, .. } if &plain[at.clone()] == b"headrest"));
        assert_eq!(read[1], Item::State { key: b"key", value: Some(b"value") });
        assert_eq!(read[2], Item::State { key: b"gone", value: None });
        assert!(items(&plain[..plain.len() - 1]).is_none());
    }
}
