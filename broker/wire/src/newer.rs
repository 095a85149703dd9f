//! Versions that Kafka 4.3 speaks and the decoder crate does not know yet, in terms of its types.
//!
//! In: a walked request body, or a response body of the crate. Out: the same of the newest version.
//!
//! | API | newest | what it changes |
//! |---|---|---|
//! | ListOffsets | 11 | nothing in the bytes (KIP-1023 gives one more timestamp a meaning) |
//! | OffsetCommit, OffsetFetch | 10 | a topic is named by its id instead of its name, both ways (KIP-848) |
//! | DescribeLogDirs | 5 | the response tells of each log dir whether it is cordoned (KIP-1066) |
//!
//! Invariants
//! - Nothing here reserves memory for a claim, though the walk has passed before.
//! - Unknown tagged fields are passed over; nobody reads them.
//!
//! Must not: outlive its reason. A row goes when the crate decodes that version.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::describe_log_dirs_response::DescribeLogDirsResult;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::{
    ApiKey, DescribeLogDirsResponse, OffsetCommitRequest, OffsetFetchRequest, RequestKind, ResponseKind,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use uuid::Uuid;

/// What an encoder of the crate says; its reason is of no use to anyone here.
type Encoded = Option<()>;

/// Decodes a walked body of any served version. `None` when text in it is not UTF-8.
pub(super) fn decode(key: ApiKey, version: i16, body: &mut Bytes) -> Option<RequestKind> {
    match (key, version) {
        (ApiKey::OffsetCommit, 10) => offset_commit(body).map(RequestKind::OffsetCommit),
        (ApiKey::OffsetFetch, 10) => offset_fetch(body).map(RequestKind::OffsetFetch),
        _ => RequestKind::decode(key, body, same_bytes_as(key, version)).ok(),
    }
}

/// Encodes a response body of any served version. `None` when it does not fit the version.
pub(super) fn encode(key: ApiKey, version: i16, body: &ResponseKind, frame: &mut BytesMut) -> Encoded {
    match (version, body) {
        (5, ResponseKind::DescribeLogDirs(response)) => describe_log_dirs(response, frame),
        _ => body.encode(frame, same_bytes_as(key, version)).ok(),
    }
}

/// The version the crate knows whose bytes are the same.
fn same_bytes_as(key: ApiKey, version: i16) -> i16 {
    match (key, version) {
        (ApiKey::ListOffsets, 11) => 10,
        // Of the request; the response has a form of its own.
        (ApiKey::DescribeLogDirs, 5) => 4,
        _ => version,
    }
}

fn offset_commit(body: &mut Bytes) -> Option<OffsetCommitRequest> {
    let mut request = OffsetCommitRequest::default();
    request.group_id = text(body)??.into();
    request.generation_id_or_member_epoch = body.try_get_i32().ok()?;
    request.member_id = text(body)??;
    request.group_instance_id = text(body)?;
    request.topics = array(body, |body| {
        let mut topic = OffsetCommitRequestTopic::default();
        topic.topic_id = id(body)?;
        // A partition is as in version 9.
        topic.partitions = array(body, |body| OffsetCommitRequestPartition::decode(body, 9).ok())??;
        pass_tags(body)?;
        Some(topic)
    })??;
    pass_tags(body)?;
    Some(request)
}

fn offset_fetch(body: &mut Bytes) -> Option<OffsetFetchRequest> {
    let mut request = OffsetFetchRequest::default();
    request.groups = array(body, |body| {
        let mut group = OffsetFetchRequestGroup::default();
        group.group_id = text(body)??.into();
        group.member_id = text(body)?;
        group.member_epoch = body.try_get_i32().ok()?;
        group.topics = array(body, |body| {
            let mut topic = OffsetFetchRequestTopics::default();
            topic.topic_id = id(body)?;
            topic.partition_indexes = array(body, |body| body.try_get_i32().ok())??;
            pass_tags(body)?;
            Some(topic)
        })?;
        pass_tags(body)?;
        Some(group)
    })??;
    request.require_stable = body.try_get_u8().ok()? != 0;
    pass_tags(body)?;
    Some(request)
}

fn describe_log_dirs(response: &DescribeLogDirsResponse, frame: &mut BytesMut) -> Encoded {
    frame.put_i32(response.throttle_time_ms);
    frame.put_i16(response.error_code);
    put_count(response.results.len(), frame)?;
    for result in &response.results {
        put_log_dir(result, frame)?;
    }
    frame.put_u8(NO_TAGS);
    Some(())
}

fn put_log_dir(result: &DescribeLogDirsResult, frame: &mut BytesMut) -> Encoded {
    frame.put_i16(result.error_code);
    put_count(result.log_dir.len(), frame)?;
    frame.put_slice(result.log_dir.as_bytes());
    put_count(result.topics.len(), frame)?;
    for topic in &result.topics {
        // A topic is as in version 4.
        topic.encode(frame, 4).ok()?;
    }
    frame.put_i64(result.total_bytes);
    frame.put_i64(result.usable_bytes);
    frame.put_u8(NOT_CORDONED);
    frame.put_u8(NO_TAGS);
    Some(())
}

/// Nothing here can be cordoned, and the crate's type has no place to say so.
const NOT_CORDONED: u8 = 0;
/// The count of tagged fields where there are none.
const NO_TAGS: u8 = 0;

/// A compact length or count.
fn put_count(count: usize, frame: &mut BytesMut) -> Encoded {
    let mut value = u32::try_from(count).ok()?.checked_add(1)?;
    while value >= 0x80 {
        frame.put_u8(u8::try_from(value & 0x7f).ok()? | 0x80);
        value >>= 7;
    }
    frame.put_u8(u8::try_from(value).ok()?);
    Some(())
}

/// An unsigned variable-length number; the walk has seen that it has at most 32 bits.
fn number(body: &mut Bytes) -> Option<u32> {
    let mut value = 0_u32;
    for shift in [0_u32, 7, 14, 21, 28] {
        let byte = body.try_get_u8().ok()?;
        value |= u32::from(byte & 0x7f).checked_shl(shift)?;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn id(body: &mut Bytes) -> Option<Uuid> {
    body.try_get_u128().ok().map(Uuid::from_u128)
}

/// So many bytes, uncopied.
fn take(body: &mut Bytes, length: u32) -> Option<Bytes> {
    let length = usize::try_from(length).ok().filter(|length| *length <= body.len())?;
    Some(body.split_to(length))
}

/// A compact string; the inner `None` is null.
fn text(body: &mut Bytes) -> Option<Option<StrBytes>> {
    let Some(length) = number(body)?.checked_sub(1) else { return Some(None) };
    StrBytes::from_utf8(take(body, length)?).ok().map(Some)
}

/// A compact array; the inner `None` is null.
fn array<T>(body: &mut Bytes, element: impl Fn(&mut Bytes) -> Option<T>) -> Option<Option<Vec<T>>> {
    let Some(count) = number(body)?.checked_sub(1) else { return Some(None) };
    let mut elements = Vec::new();
    for _ in 0..count {
        elements.push(element(body)?);
    }
    Some(Some(elements))
}

fn pass_tags(body: &mut Bytes) -> Option<()> {
    for _ in 0..number(body)? {
        let _tag = number(body)?;
        let size = number(body)?;
        take(body, size)?;
    }
    Some(())
}

#[cfg(test)]
#[path = "newer_tests.rs"]
mod tests;
