//! How groups, offsets and producer ids stand in the durable state of a tenant.
//!
//! A key is one letter and then the name; a value begins with its format's number. Integers are big-endian, text and
//! bytes have their length in front. Format 1:
//!
//! | key | value |
//! | --- | --- |
//! | `g` group | generation, protocol type, protocol, leader, wall time of its state, members |
//! | `o` length of group, group, topic, partition | offset, leader epoch, wall time, metadata |
//! | `p` producer id | owner, epoch, wall time of its last use |
//!
//! Must not: be read as anything but what this file wrote; a format it does not know refuses to load.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use schloss_core::{GroupId, PartitionId, TopicId};

use crate::effects::StateRecord;
use crate::group::join::Protocol;
use crate::group::member::Member;
use crate::group::{Group, GroupState};
use crate::offsets::CommittedOffset;

/// State that this version cannot read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// Written by a newer version.
    #[error("state of format {format}, this version reads format 1")]
    Format {
        /// What it says.
        format: u8,
    },
    /// Cut, or not ours.
    #[error("a record of the coordinator's state is damaged")]
    Damaged,
}

const FORMAT: u8 = 1;
const GROUP: u8 = b'g';
const OFFSET: u8 = b'o';
pub(crate) const PRODUCER: u8 = b'p';

/// What a record of this room is about.
pub(crate) enum Loaded {
    Group(Box<Group>),
    Offset(GroupId, PartitionId, CommittedOffset),
}

pub(crate) fn group_tombstone(id: &GroupId) -> StateRecord {
    StateRecord { key: group_key(id), value: None }
}

pub(crate) fn group_record(group: &Group) -> StateRecord {
    let mut value = BytesMut::new();
    value.put_u8(FORMAT);
    value.put_i32(group.generation);
    put_optional(&mut value, group.protocol_type.as_deref());
    put_optional(&mut value, group.protocol.as_deref());
    put_optional(&mut value, group.leader.as_deref());
    value.put_i64(group.state_wall_ms);
    put_length(&mut value, group.members.len());
    for (id, member) in &group.members {
        put_bytes(&mut value, id.as_bytes());
        put_optional(&mut value, member.instance_id.as_deref());
        put_bytes(&mut value, member.client_id.as_bytes());
        put_bytes(&mut value, member.client_host.as_bytes());
        value.put_u64(member.session_timeout_ms);
        value.put_u64(member.rebalance_timeout_ms);
        put_length(&mut value, member.protocols.len());
        for protocol in &member.protocols {
            put_bytes(&mut value, protocol.name.as_bytes());
            put_bytes(&mut value, &protocol.metadata);
        }
        put_bytes(&mut value, &member.assignment);
    }
    StateRecord { key: group_key(&group.id), value: Some(value.freeze()) }
}

pub(crate) fn offset_record(group: &GroupId, partition: PartitionId, offset: Option<&CommittedOffset>) -> StateRecord {
    let mut key = BytesMut::new();
    key.put_u8(OFFSET);
    put_bytes(&mut key, group.as_str().as_bytes());
    key.put_slice(&partition.topic.to_bytes());
    key.put_i32(partition.index);
    let value = offset.map(|offset| {
        let mut value = BytesMut::new();
        value.put_u8(FORMAT);
        value.put_i64(offset.offset);
        value.put_i32(offset.leader_epoch);
        value.put_i64(offset.committed_wall_ms);
        put_bytes(&mut value, offset.metadata.as_bytes());
        value.freeze()
    });
    StateRecord { key: key.freeze(), value }
}

fn group_key(id: &GroupId) -> Bytes {
    let mut key = BytesMut::new();
    key.put_u8(GROUP);
    key.put_slice(id.as_str().as_bytes());
    key.freeze()
}

/// Reads a record; `None` when it is not about groups.
pub(crate) fn load(key: &Bytes, value: &Bytes) -> Result<Option<Loaded>, LoadError> {
    let mut key = Reader { rest: key.clone() };
    let kind = key.byte()?;
    if kind != GROUP && kind != OFFSET {
        return Ok(None);
    }
    let mut value = Reader::of_format(value)?;
    let loaded = if kind == GROUP {
        let name = std::str::from_utf8(&key.rest).map_err(|_| LoadError::Damaged)?;
        Loaded::Group(Box::new(load_group(GroupId::new(name).map_err(|_| LoadError::Damaged)?, &mut value)?))
    } else {
        let group = GroupId::new(&key.text()?).map_err(|_| LoadError::Damaged)?;
        let partition =
            PartitionId { topic: TopicId::from_bytes(key.array()?), index: i32::from_be_bytes(key.array()?) };
        let offset = CommittedOffset {
            offset: i64::from_be_bytes(value.array()?),
            leader_epoch: i32::from_be_bytes(value.array()?),
            committed_wall_ms: i64::from_be_bytes(value.array()?),
            metadata: value.text()?,
        };
        key.end()?;
        Loaded::Offset(group, partition, offset)
    };
    value.end()?;
    Ok(Some(loaded))
}

fn load_group(id: GroupId, value: &mut Reader) -> Result<Group, LoadError> {
    let mut group = Group::new(id, 0);
    group.is_stored = true;
    group.generation = i32::from_be_bytes(value.array()?);
    group.protocol_type = value.optional()?;
    group.protocol = value.optional()?;
    group.leader = value.optional()?;
    group.state_wall_ms = i64::from_be_bytes(value.array()?);
    for _ in 0..u32::from_be_bytes(value.array()?) {
        let member_id = value.text()?;
        let instance_id = value.optional()?;
        let (client_id, client_host) = (value.text()?, value.text()?);
        let session_timeout_ms = u64::from_be_bytes(value.array()?);
        let rebalance_timeout_ms = u64::from_be_bytes(value.array()?);
        let mut protocols = Vec::new();
        for _ in 0..u32::from_be_bytes(value.array()?) {
            protocols.push(Protocol { name: value.text()?, metadata: value.bytes()? });
        }
        if let Some(instance_id) = &instance_id {
            group.static_members.insert(instance_id.clone(), member_id.clone());
        }
        let member = Member {
            instance_id,
            client_id,
            client_host,
            session_timeout_ms,
            rebalance_timeout_ms,
            protocols,
            assignment: value.bytes()?,
            joining: None,
            syncing: None,
            has_synced: true,
            is_new: false,
            expires_ms: None,
        };
        group.members.insert(member_id, member);
    }
    if !group.members.is_empty() {
        group.state = GroupState::Stable;
    }
    Ok(group)
}

pub(crate) fn put_length(out: &mut BytesMut, length: usize) {
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}

pub(crate) fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.put_slice(bytes);
}

pub(crate) fn put_optional(out: &mut BytesMut, text: Option<&str>) {
    out.put_u8(u8::from(text.is_some()));
    put_bytes(out, text.unwrap_or_default().as_bytes());
}

/// Reads what the functions above wrote.
pub(crate) struct Reader {
    rest: Bytes,
}

impl Reader {
    pub(crate) fn of_format(value: &Bytes) -> Result<Self, LoadError> {
        let mut reader = Self { rest: value.clone() };
        match reader.byte()? {
            FORMAT => Ok(reader),
            format => Err(LoadError::Format { format }),
        }
    }

    pub(crate) fn byte(&mut self) -> Result<u8, LoadError> {
        self.rest.try_get_u8().map_err(|_| LoadError::Damaged)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], LoadError> {
        let array = *self.rest.first_chunk().ok_or(LoadError::Damaged)?;
        self.rest.advance(N);
        Ok(array)
    }

    pub(crate) fn bytes(&mut self) -> Result<Bytes, LoadError> {
        let length = usize::try_from(u32::from_be_bytes(self.array()?)).map_err(|_| LoadError::Damaged)?;
        if length > self.rest.len() {
            return Err(LoadError::Damaged);
        }
        Ok(self.rest.split_to(length))
    }

    pub(crate) fn text(&mut self) -> Result<Arc<str>, LoadError> {
        let bytes = self.bytes()?;
        std::str::from_utf8(&bytes).map(Arc::from).map_err(|_| LoadError::Damaged)
    }

    pub(crate) fn optional(&mut self) -> Result<Option<Arc<str>>, LoadError> {
        let is_there = self.byte()? == 1;
        let text = self.text()?;
        Ok(is_there.then_some(text))
    }

    pub(crate) fn end(&self) -> Result<(), LoadError> {
        if self.rest.is_empty() { Ok(()) } else { Err(LoadError::Damaged) }
    }
}

/// The format's number in front of a new value.
pub(crate) fn value_of_format() -> BytesMut {
    let mut value = BytesMut::new();
    value.put_u8(FORMAT);
    value
}
