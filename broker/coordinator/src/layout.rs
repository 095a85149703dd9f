//! The bytes of this room's state records. All numbers are big-endian; `str` is u16 length and UTF-8, `opt str` the same
//! with length 0xffff for none, `blob` is u32 length and bytes.
//!
//! ```text
//! key of a group     | 'g' | group id, UTF-8, to the end
//! value              | u8 version = 1 | i32 generation | i64 since_ms | opt str protocol type | opt str protocol
//!                    | opt str leader | u32 members | members …
//! member             | str id | opt str instance id | str client id | str client host | i32 session timeout
//!                    | i32 rebalance timeout | u16 protocols | (str name, blob metadata) … | blob assignment
//! key of an offset   | 'o' | 16 topic id | i32 partition | group id, UTF-8, to the end
//! value              | u8 version = 1 | i64 offset | i32 leader epoch | i64 commit_ms | blob metadata, UTF-8
//! key of a producer  | 'i' | i64 producer id
//! value              | u8 version = 1 | 32 principal digest | i16 epoch | i64 used_ms
//! ```
//!
//! The store seals these bytes, so they are not hostile; they are read as if they were.

use bytes::{BufMut, Bytes};
use schloss_core::{PartitionId, TopicId};

use crate::api::{CommittedOffset, LoadError, StateRecord};
use crate::group::{Group, Member, Phase, Waiting};
use crate::limits::{GROUP_RECORD_BYTES_MAX, PROTOCOLS_PER_MEMBER_MAX};

/// First byte of a group's key.
pub const GROUP: u8 = b'g';
/// First byte of an offset's key.
pub const OFFSET: u8 = b'o';
/// First byte of a producer id's key.
pub const PRODUCER: u8 = b'i';

const VERSION: u8 = 1;
const NO_STR: u16 = u16::MAX;

fn group_key(name: &str) -> Bytes {
    [&[GROUP], name.as_bytes()].concat().into()
}

fn offset_key(name: &str, partition: PartitionId) -> Bytes {
    [&[OFFSET], &partition.topic.to_bytes()[..], &partition.index.to_be_bytes(), name.as_bytes()].concat().into()
}

/// Removes a group's record.
pub fn group_tombstone(name: &str) -> StateRecord {
    StateRecord { key: group_key(name), value: None }
}

/// Removes an offset's record.
pub fn offset_tombstone(name: &str, partition: PartitionId) -> StateRecord {
    StateRecord { key: offset_key(name, partition), value: None }
}

/// A group with its members; `None` when it is over the limit of one record.
pub fn group_record(name: &str, group: &Group) -> Option<StateRecord> {
    let mut out = Vec::new();
    out.put_u8(VERSION);
    out.put_i32(group.generation);
    out.put_i64(group.since_ms);
    put_opt_str(&mut out, group.protocol_type.as_deref());
    put_opt_str(&mut out, group.protocol.as_deref());
    put_opt_str(&mut out, group.leader.as_deref());
    out.put_u32(u32::try_from(group.members.len()).ok()?);
    for (id, member) in &group.members {
        put_member(&mut out, id, member);
        if out.len() > GROUP_RECORD_BYTES_MAX {
            return None;
        }
    }
    Some(StateRecord { key: group_key(name), value: Some(out.into()) })
}

fn put_member(out: &mut Vec<u8>, id: &str, member: &Member) {
    put_opt_str(out, Some(id));
    put_opt_str(out, member.instance_id.as_deref());
    put_opt_str(out, Some(&member.client_id));
    put_opt_str(out, Some(&member.client_host));
    out.put_i32(member.session_timeout_ms);
    out.put_i32(member.rebalance_timeout_ms);
    // INVARIANT: at most PROTOCOLS_PER_MEMBER_MAX, checked when the member joined.
    out.put_u16(u16::try_from(member.protocols.len()).unwrap_or(u16::MAX));
    for (name, metadata) in &member.protocols {
        put_opt_str(out, Some(name));
        put_blob(out, metadata);
    }
    put_blob(out, &member.assignment);
}

/// An offset.
pub fn offset_record(name: &str, partition: PartitionId, offset: &CommittedOffset) -> StateRecord {
    let mut out = Vec::with_capacity(25 + offset.metadata.len());
    out.put_u8(VERSION);
    out.put_i64(offset.offset);
    out.put_i32(offset.leader_epoch);
    out.put_i64(offset.commit_ms);
    put_blob(&mut out, offset.metadata.as_bytes());
    StateRecord { key: offset_key(name, partition), value: Some(out.into()) }
}

/// A producer id's owner, epoch and last use.
pub fn producer_record(id: i64, principal: &[u8; 32], epoch: i16, used_ms: i64) -> StateRecord {
    let mut out = Vec::with_capacity(43);
    out.put_u8(VERSION);
    out.put_slice(principal);
    out.put_i16(epoch);
    out.put_i64(used_ms);
    StateRecord { key: producer_key(id), value: Some(out.into()) }
}

/// Removes a producer id's record.
pub fn producer_tombstone(id: i64) -> StateRecord {
    StateRecord { key: producer_key(id), value: None }
}

fn producer_key(id: i64) -> Bytes {
    [&[PRODUCER][..], &id.to_be_bytes()].concat().into()
}

fn put_opt_str(out: &mut Vec<u8>, text: Option<&str>) {
    // INVARIANT: every text here is at most a Kafka STRING long, checked at the door.
    let text = text.map(|text| crate::limits::cut(text, usize::from(NO_STR) - 1));
    out.put_u16(text.map_or(NO_STR, |text| u16::try_from(text.len()).unwrap_or(NO_STR)));
    out.put_slice(text.unwrap_or_default().as_bytes());
}

fn put_blob(out: &mut Vec<u8>, blob: &[u8]) {
    out.put_u32(u32::try_from(blob.len()).unwrap_or(u32::MAX));
    out.put_slice(blob);
}

/// A group's name and group from its record. Members come back with a fresh session; nobody waits.
pub fn read_group(key: &Bytes, value: &Bytes, now_ms: i64) -> Result<(String, Group), LoadError> {
    let name = Reader::of(key, GROUP).skip(1)?.rest_str()?;
    let mut reader = Reader::of(value, GROUP);
    reader.version()?;
    let mut group = Group::new(now_ms);
    group.generation = reader.i32()?;
    group.since_ms = reader.i64()?;
    group.protocol_type = reader.opt_str()?;
    group.protocol = reader.opt_str()?;
    group.leader = reader.opt_str()?;
    group.recorded = true;
    for _ in 0..reader.u32()? {
        let (id, member) = read_member(&mut reader, now_ms)?;
        if let Some(instance) = &member.instance_id {
            group.static_members.insert(instance.clone(), id.clone());
        }
        group.members.insert(id, member);
    }
    reader.end()?;
    group.phase = if group.members.is_empty() { Phase::Empty } else { Phase::Stable };
    let leader_is_member = group.leader.as_ref().is_none_or(|leader| group.members.contains_key(leader));
    if !leader_is_member || (group.phase == Phase::Stable && (group.leader.is_none() || group.protocol.is_none())) {
        return Err(LoadError::Malformed { kind: char::from(GROUP) });
    }
    Ok((name, group))
}

fn read_member(reader: &mut Reader, now_ms: i64) -> Result<(String, Member), LoadError> {
    let id = reader.str()?;
    let instance_id = reader.opt_str()?;
    let (client_id, client_host) = (reader.str()?, reader.str()?);
    let (session_timeout_ms, rebalance_timeout_ms) = (reader.i32()?, reader.i32()?);
    let count = usize::from(reader.u16()?);
    if count == 0 || count > PROTOCOLS_PER_MEMBER_MAX {
        return Err(reader.malformed());
    }
    let protocols = (0..count).map(|_| Ok((reader.str()?, reader.blob()?))).collect::<Result<Vec<_>, LoadError>>()?;
    let assignment = reader.blob()?;
    let member = Member {
        instance_id,
        client_id,
        client_host,
        session_timeout_ms,
        rebalance_timeout_ms,
        protocols,
        assignment,
        join: Waiting::No,
        sync: Waiting::No,
        is_new: false,
        deadline_ms: now_ms.saturating_add(i64::from(session_timeout_ms)),
    };
    Ok((id, member))
}

/// Group id, partition and offset from an offset's record.
pub fn read_offset(key: &Bytes, value: &Bytes) -> Result<(String, PartitionId, CommittedOffset), LoadError> {
    let mut reader = Reader::of(key, OFFSET).skip(1)?;
    let topic = TopicId::from_bytes(reader.array()?);
    let index = reader.i32()?;
    let name = reader.rest_str()?;
    let mut reader = Reader::of(value, OFFSET);
    reader.version()?;
    let (offset, leader_epoch, commit_ms) = (reader.i64()?, reader.i32()?, reader.i64()?);
    let metadata = reader.blob()?;
    let metadata = std::str::from_utf8(&metadata).map_err(|_| reader.malformed())?.to_owned();
    reader.end()?;
    Ok((name, PartitionId { topic, index }, CommittedOffset { offset, leader_epoch, metadata, commit_ms }))
}

/// Id, principal digest, epoch and last use from a producer's record.
pub fn read_producer(key: &Bytes, value: &Bytes) -> Result<(i64, [u8; 32], i16, i64), LoadError> {
    let mut reader = Reader::of(key, PRODUCER).skip(1)?;
    let id = reader.i64()?;
    reader.end()?;
    let mut reader = Reader::of(value, PRODUCER);
    reader.version()?;
    let facts = (id, reader.array()?, i16::from_be_bytes(reader.array()?), reader.i64()?);
    reader.end()?;
    Ok(facts)
}

/// Reads forward over bytes; every step is checked.
struct Reader {
    left: Bytes,
    kind: char,
}

impl Reader {
    fn of(bytes: &Bytes, kind: u8) -> Self {
        Self { left: bytes.clone(), kind: char::from(kind) }
    }

    fn malformed(&self) -> LoadError {
        LoadError::Malformed { kind: self.kind }
    }

    fn blob_of(&mut self, length: usize) -> Result<Bytes, LoadError> {
        if length > self.left.len() {
            return Err(self.malformed());
        }
        Ok(self.left.split_to(length))
    }

    fn skip(mut self, length: usize) -> Result<Self, LoadError> {
        self.blob_of(length)?;
        Ok(self)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], LoadError> {
        let bytes = self.blob_of(N)?;
        <[u8; N]>::try_from(&bytes[..]).map_err(|_| self.malformed())
    }

    fn version(&mut self) -> Result<(), LoadError> {
        let [version] = self.array()?;
        if version == VERSION { Ok(()) } else { Err(LoadError::Version { kind: self.kind, version, known: VERSION }) }
    }

    fn u16(&mut self) -> Result<u16, LoadError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, LoadError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    fn i32(&mut self) -> Result<i32, LoadError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    fn i64(&mut self) -> Result<i64, LoadError> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    fn blob(&mut self) -> Result<Bytes, LoadError> {
        let length = usize::try_from(self.u32()?).map_err(|_| self.malformed())?;
        // A copy: a slice would keep the whole stored page of a long-lived member alive.
        self.blob_of(length).map(|blob| Bytes::copy_from_slice(&blob))
    }

    fn opt_str(&mut self) -> Result<Option<String>, LoadError> {
        match self.u16()? {
            NO_STR => Ok(None),
            length => {
                let text = self.blob_of(usize::from(length))?;
                std::str::from_utf8(&text).map(|text| Some(text.to_owned())).map_err(|_| self.malformed())
            }
        }
    }

    fn str(&mut self) -> Result<String, LoadError> {
        self.opt_str()?.ok_or_else(|| self.malformed())
    }

    fn rest_str(self) -> Result<String, LoadError> {
        std::str::from_utf8(&self.left).map(str::to_owned).map_err(|_| self.malformed())
    }

    fn end(&self) -> Result<(), LoadError> {
        if self.left.is_empty() { Ok(()) } else { Err(self.malformed()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn partition() -> PartitionId {
        PartitionId { topic: TopicId::from_bytes([7; 16]), index: 3 }
    }

    fn group() -> Group {
        let mut group = Group::new(0);
        group.phase = Phase::Stable;
        group.recorded = true;
        group.generation = 5;
        group.since_ms = 9;
        group.protocol_type = Some("consumer".into());
        group.protocol = Some("range".into());
        group.leader = Some("m".into());
        let member = Member {
            instance_id: None,
            client_id: "c".into(),
            client_host: "h".into(),
            session_timeout_ms: 6000,
            rebalance_timeout_ms: 7000,
            protocols: vec![("range".into(), Bytes::from_static(&[1, 2]))],
            assignment: Bytes::from_static(&[3]),
            join: Waiting::No,
            sync: Waiting::No,
            is_new: false,
            deadline_ms: 6000,
        };
        group.members.insert("m".into(), member);
        group
    }

    #[test]
    fn offset_record_has_these_bytes() {
        let offset = CommittedOffset { offset: 258, leader_epoch: -1, metadata: "m".into(), commit_ms: 16 };
        let record = offset_record("g1", partition(), &offset);
        assert_eq!(hex(&record.key), format!("6f{}000000036731", "07".repeat(16)));
        let value = record.value.unwrap();
        assert_eq!(hex(&value), "010000000000000102ffffffff0000000000000010000000016d");
        assert_eq!(read_offset(&record.key, &value), Ok(("g1".to_owned(), partition(), offset)));
    }

    #[test]
    fn producer_record_has_these_bytes() {
        let record = producer_record(257, &[0xaa; 32], 2, 3);
        assert_eq!(hex(&record.key), "690000000000000101");
        let value = record.value.unwrap();
        assert_eq!(hex(&value), format!("01{}00020000000000000003", "aa".repeat(32)));
        assert_eq!(read_producer(&record.key, &value), Ok((257, [0xaa; 32], 2, 3)));
    }

    #[test]
    fn group_record_has_these_bytes() {
        let record = group_record("g1", &group()).unwrap();
        assert_eq!(hex(&record.key), "676731");
        let value = record.value.unwrap();
        let expected = concat!(
            "01", "00000005", "0000000000000009", "0008636f6e73756d6572", "000572616e6765", "00016d", "00000001",
            "00016d", "ffff", "000163", "000168", "00001770", "00001b58", "0001", "000572616e6765", "000000020102",
            "0000000103",
        );
        assert_eq!(hex(&value), expected);
        let (name, read) = read_group(&record.key, &value, 0).unwrap();
        assert_eq!(name, "g1");
        assert_eq!(format!("{read:?}"), format!("{:?}", group()));
    }

    #[test]
    fn cut_record_is_malformed_at_every_length() {
        let record = group_record("g1", &group()).unwrap();
        let value = record.value.unwrap();
        for length in 0..value.len() {
            assert!(read_group(&record.key, &value.slice(..length), 0).is_err(), "{length}");
        }
    }

    #[test]
    fn record_of_a_newer_release_is_refused_by_version() {
        let key = group_key("g");
        let error = read_group(&key, &Bytes::from_static(&[2]), 0).unwrap_err();
        assert_eq!(error, LoadError::Version { kind: 'g', version: 2, known: 1 });
    }
}
