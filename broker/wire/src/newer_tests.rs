//! Promises of the newest versions, against what the crate says of the version before.

use kafka_protocol::messages::describe_log_dirs_response::{DescribeLogDirsPartition, DescribeLogDirsTopic};
use kafka_protocol::messages::{ListOffsetsResponse, TopicName};

use super::*;
use crate::{layout_table, walk};

/// In compact form a name of 15 bytes is its length and 15 bytes: the 16 bytes of an id. So a body of version 9 with
/// such names is one of version 10 with such ids, and both must be read alike.
const NAME: &str = "fifteen-letters";

fn name() -> TopicName {
    TopicName(StrBytes::from_static_str(NAME))
}

fn id() -> Uuid {
    let mut bytes = [16; 16];
    bytes[1..].copy_from_slice(NAME.as_bytes());
    Uuid::from_bytes(bytes)
}

fn decoded(key: ApiKey, version: i16, body: &BytesMut) -> RequestKind {
    walk::body(layout_table::of_request(key as i16).unwrap(), version, body).unwrap();
    let mut rest = body.clone().freeze();
    let request = decode(key, version, &mut rest).unwrap();
    assert!(rest.is_empty());
    request
}

fn commit_of_version_9() -> OffsetCommitRequest {
    let partition = |index| {
        OffsetCommitRequestPartition::default()
            .with_partition_index(index)
            .with_committed_offset(77)
            .with_committed_leader_epoch(3)
            .with_committed_metadata(Some(StrBytes::from_static_str("note")))
    };
    let topic = OffsetCommitRequestTopic::default().with_name(name()).with_partitions(vec![partition(0), partition(1)]);
    OffsetCommitRequest::default()
        .with_group_id(StrBytes::from_static_str("group").into())
        .with_generation_id_or_member_epoch(5)
        .with_member_id(StrBytes::from_static_str("member"))
        .with_group_instance_id(Some(StrBytes::from_static_str("instance")))
        .with_topics(vec![topic.clone(), topic])
}

#[test]
fn offset_commit_10_is_9_with_ids_for_names() {
    let mut expected = commit_of_version_9();
    let mut body = BytesMut::new();
    expected.encode(&mut body, 9).unwrap();
    for topic in &mut expected.topics {
        topic.name = TopicName::default();
        topic.topic_id = id();
    }
    assert_eq!(decoded(ApiKey::OffsetCommit, 10, &body), RequestKind::OffsetCommit(expected));
}

#[test]
fn offset_commit_10_passes_over_tags_nobody_knows() {
    let mut expected = commit_of_version_9();
    let mut tagged = expected.clone().with_unknown_tagged_field(9, Bytes::from_static(b"later"));
    tagged.topics[0].unknown_tagged_fields.insert(200, Bytes::from_static(b"still later"));
    let mut body = BytesMut::new();
    tagged.encode(&mut body, 9).unwrap();
    for topic in &mut expected.topics {
        topic.name = TopicName::default();
        topic.topic_id = id();
    }
    assert_eq!(decoded(ApiKey::OffsetCommit, 10, &body), RequestKind::OffsetCommit(expected));
}

#[test]
fn offset_fetch_10_is_9_with_ids_for_names() {
    let topic = OffsetFetchRequestTopics::default().with_name(name()).with_partition_indexes(vec![0, 4]);
    let group = |member: Option<&'static str>, topics| {
        OffsetFetchRequestGroup::default()
            .with_group_id(StrBytes::from_static_str("group").into())
            .with_member_id(member.map(StrBytes::from_static_str))
            .with_member_epoch(2)
            .with_topics(topics)
    };
    let groups = vec![group(Some("member"), Some(vec![topic])), group(None, None), group(None, Some(vec![]))];
    let mut expected = OffsetFetchRequest::default().with_groups(groups).with_require_stable(true);
    let mut body = BytesMut::new();
    expected.encode(&mut body, 9).unwrap();
    for topic in expected.groups.iter_mut().filter_map(|group| group.topics.as_mut()).flatten() {
        topic.name = TopicName::default();
        topic.topic_id = id();
    }
    assert_eq!(decoded(ApiKey::OffsetFetch, 10, &body), RequestKind::OffsetFetch(expected));
}

#[test]
fn list_offsets_11_is_10_both_ways() {
    let request = kafka_protocol::messages::ListOffsetsRequest::default().with_timeout_ms(9);
    let mut body = BytesMut::new();
    request.encode(&mut body, 10).unwrap();
    assert_eq!(decoded(ApiKey::ListOffsets, 11, &body), RequestKind::ListOffsets(request));
    let response = ResponseKind::ListOffsets(ListOffsetsResponse::default().with_throttle_time_ms(4));
    let (mut new, mut old) = (BytesMut::new(), BytesMut::new());
    encode(ApiKey::ListOffsets, 11, &response, &mut new).unwrap();
    encode(ApiKey::ListOffsets, 10, &response, &mut old).unwrap();
    assert_eq!(new, old);
}

#[test]
fn describe_log_dirs_5_is_4_and_says_of_each_log_dir_that_it_is_not_cordoned() {
    let topic = DescribeLogDirsTopic::default()
        .with_name(name())
        .with_partitions(vec![DescribeLogDirsPartition::default().with_partition_index(3).with_partition_size(1000)]);
    let log_dir = DescribeLogDirsResult::default()
        .with_log_dir(StrBytes::from_static_str("dir"))
        .with_topics(vec![topic])
        .with_total_bytes(5)
        .with_usable_bytes(4);
    let one = DescribeLogDirsResponse::default().with_error_code(7).with_results(vec![log_dir.clone()]);
    let (mut new, mut old) = (BytesMut::new(), BytesMut::new());
    encode(ApiKey::DescribeLogDirs, 5, &ResponseKind::DescribeLogDirs(one.clone()), &mut new).unwrap();
    encode(ApiKey::DescribeLogDirs, 4, &ResponseKind::DescribeLogDirs(one), &mut old).unwrap();
    // Two counts of tags end the old body: those of the log dir and those of the whole. The new field is before both.
    let (same, tags) = old.split_at(old.len() - 2);
    assert_eq!(tags, [0, 0]);
    assert_eq!(new[..], [same, &[0, 0, 0]].concat());
    let none = ResponseKind::DescribeLogDirs(DescribeLogDirsResponse::default());
    let mut empty = BytesMut::new();
    encode(ApiKey::DescribeLogDirs, 5, &none, &mut empty).unwrap();
    assert_eq!(empty[..], [0, 0, 0, 0, 0, 0, 1, 0]);
}

#[test]
fn offset_fetch_10_that_claims_two_billion_groups_is_refused_before_it_is_decoded() {
    let frame = [0, 9, 0, 10, 0, 0, 0, 1, 0xff, 0xff, 0, 0xff, 0xff, 0xff, 0xff, 0x07, 0, 0];
    assert!(matches!(
        crate::request::parse(Bytes::copy_from_slice(&frame)),
        Err(crate::request::ParseError::Body { api_key: 9, api_version: 10, .. })
    ));
}
