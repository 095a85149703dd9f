//! From an answer to a frame.
//!
//! In: a response body of the decoder crate, or a [`FetchAnswer`]. Out: the whole frame, its length in front.
//!
//! Invariants
//! - A fetched record batch is never copied: [`encode_fetch`] returns it as a piece between pieces.
//! - The response of ApiVersions always has header version 0, so that any client can read it.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{ApiKey, ApiVersionsResponse, ResponseHeader, ResponseKind};
use kafka_protocol::protocol::Encodable;
use schloss_core::ErrorCode;

use crate::newer;
use crate::request::API_VERSIONS;
use crate::versions::{self, ApiRange};

/// Why an answer could not be written. Always a mistake of ours; the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// No such API.
    #[error("no API has key {api_key}")]
    ApiKey {
        /// The key.
        api_key: i16,
    },
    /// The body does not fit its version.
    #[error("the response body of API {api_key} does not fit version {api_version}")]
    Body {
        /// The API.
        api_key: i16,
        /// The version.
        api_version: i16,
    },
    /// More bytes than a length can say.
    #[error("the response is longer than a frame can be")]
    TooLong,
}

/// API key of Fetch.
const FETCH: i16 = 1;
/// First Fetch version with compact lengths and tagged fields.
const FETCH_FLEXIBLE: i16 = 12;

/// Encodes a response with its length in front.
///
/// # Errors
/// [`EncodeError`] when the body is not one of this API and version.
pub fn encode(api_key: i16, api_version: i16, correlation_id: i32, body: &ResponseKind) -> Result<Bytes, EncodeError> {
    let mut frame = BytesMut::with_capacity(256);
    frame.put_u32(0);
    put_header(&mut frame, api_key, api_version, correlation_id)?;
    let key = ApiKey::try_from(api_key).map_err(|()| EncodeError::ApiKey { api_key })?;
    newer::encode(key, api_version, body, &mut frame).ok_or(EncodeError::Body { api_key, api_version })?;
    let length = frame.len().saturating_sub(4);
    put_length(&mut frame, length)?;
    Ok(frame.freeze())
}

fn put_header(frame: &mut BytesMut, api_key: i16, api_version: i16, correlation_id: i32) -> Result<(), EncodeError> {
    let key = ApiKey::try_from(api_key).map_err(|()| EncodeError::ApiKey { api_key })?;
    ResponseHeader::default()
        .with_correlation_id(correlation_id)
        .encode(frame, key.response_header_version(api_version))
        .map_err(|_| EncodeError::Body { api_key, api_version })
}

fn put_length(frame: &mut BytesMut, length: usize) -> Result<(), EncodeError> {
    let length = i32::try_from(length).map_err(|_| EncodeError::TooLong)?;
    frame.get_mut(..4).ok_or(EncodeError::TooLong)?.copy_from_slice(&length.to_be_bytes());
    Ok(())
}

/// The body of an ApiVersions response: everything advertised.
#[must_use]
pub fn api_versions() -> ApiVersionsResponse {
    ApiVersionsResponse::default().with_api_keys(versions::advertised().iter().map(stated).collect())
}

/// The frame that answers an ApiVersions request of an unknown version: version 0, `UNSUPPORTED_VERSION` and the range
/// of this one API, with which the client asks again (KIP-511).
///
/// # Errors
/// None in practice; [`EncodeError`] as any encoding.
pub fn refuse_api_versions(correlation_id: i32) -> Result<Bytes, EncodeError> {
    let body = ApiVersionsResponse::default()
        .with_error_code(ErrorCode::UNSUPPORTED_VERSION.code())
        .with_api_keys(versions::range_of(API_VERSIONS).iter().map(stated).collect());
    encode(API_VERSIONS, 0, correlation_id, &ResponseKind::ApiVersions(body))
}

fn stated(range: &ApiRange) -> ApiVersion {
    ApiVersion::default().with_api_key(range.key).with_min_version(range.min).with_max_version(range.max)
}

/// A Fetch response, versions 4 to 18.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FetchAnswer {
    /// How long the client was made to wait for its quota.
    pub throttle_time_ms: i32,
    /// The error of the request as a whole (sessions); since version 7.
    pub error_code: i16,
    /// The fetch session; since version 7.
    pub session_id: i32,
    /// What was read, by topic.
    pub topics: Vec<FetchedTopic>,
}

/// One topic of a [`FetchAnswer`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FetchedTopic {
    /// Its name; on the wire to version 12.
    pub name: String,
    /// Its id; on the wire since version 13.
    pub id: [u8; 16],
    /// Its partitions.
    pub partitions: Vec<FetchedPartition>,
}

/// One partition of a [`FetchAnswer`].
#[derive(Clone, Debug, PartialEq)]
pub struct FetchedPartition {
    /// The partition's number.
    pub index: i32,
    /// Its error, or 0.
    pub error_code: i16,
    /// The high watermark, or -1.
    pub high_watermark: i64,
    /// The last stable offset, or -1.
    pub last_stable_offset: i64,
    /// The log start offset, or -1; since version 5.
    pub log_start_offset: i64,
    /// Aborted transactions as producer id and first offset; `None` when the reader did not ask for committed data.
    pub aborted: Option<Vec<(i64, i64)>>,
    /// The replica to read from, or -1; since version 11.
    pub preferred_read_replica: i32,
    /// The epoch and end offset where reader and log part; since version 12.
    pub diverging_epoch: Option<(i32, i64)>,
    /// The current leader and its epoch; since version 12.
    pub current_leader: Option<(i32, i32)>,
    /// Whole record batches, one after the other.
    pub records: Vec<Bytes>,
}

impl Default for FetchedPartition {
    fn default() -> Self {
        Self {
            index: 0,
            error_code: 0,
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            aborted: None,
            preferred_read_replica: -1,
            diverging_epoch: None,
            current_leader: None,
            records: Vec::new(),
        }
    }
}

/// Encodes a Fetch response as pieces to be written in order; the first begins with the frame's length.
///
/// # Errors
/// [`EncodeError`] for a version outside 4 to 18, or more than 2 GiB.
pub fn encode_fetch(api_version: i16, correlation_id: i32, answer: FetchAnswer) -> Result<Vec<Bytes>, EncodeError> {
    if !(4..=18).contains(&api_version) {
        return Err(EncodeError::Body { api_key: FETCH, api_version });
    }
    let mut pieces = Pieces { compact: api_version >= FETCH_FLEXIBLE, ..Pieces::default() };
    pieces.open.put_u32(0);
    put_header(&mut pieces.open, FETCH, api_version, correlation_id)?;
    pieces.open.put_i32(answer.throttle_time_ms);
    if api_version >= 7 {
        pieces.open.put_i16(answer.error_code);
        pieces.open.put_i32(answer.session_id);
    }
    pieces.count(answer.topics.len(), 4)?;
    for topic in answer.topics {
        if api_version >= 13 {
            pieces.open.put_slice(&topic.id);
        } else {
            pieces.count(topic.name.len(), 2)?;
            pieces.open.put_slice(topic.name.as_bytes());
        }
        pieces.count(topic.partitions.len(), 4)?;
        for partition in topic.partitions {
            put_partition(&mut pieces, api_version, partition)?;
        }
        pieces.no_tags();
    }
    pieces.no_tags();
    pieces.finish()
}

fn put_partition(pieces: &mut Pieces, api_version: i16, partition: FetchedPartition) -> Result<(), EncodeError> {
    pieces.open.put_i32(partition.index);
    pieces.open.put_i16(partition.error_code);
    pieces.open.put_i64(partition.high_watermark);
    pieces.open.put_i64(partition.last_stable_offset);
    if api_version >= 5 {
        pieces.open.put_i64(partition.log_start_offset);
    }
    match &partition.aborted {
        None => pieces.null_array(),
        Some(aborted) => {
            pieces.count(aborted.len(), 4)?;
            for (producer_id, first_offset) in aborted {
                pieces.open.put_i64(*producer_id);
                pieces.open.put_i64(*first_offset);
                pieces.no_tags();
            }
        }
    }
    if api_version >= 11 {
        pieces.open.put_i32(partition.preferred_read_replica);
    }
    let bytes = partition.records.iter().fold(0_usize, |sum, piece| sum.saturating_add(piece.len()));
    pieces.count(bytes, 4)?;
    for records in partition.records {
        pieces.share(records);
    }
    if pieces.compact {
        let tags = [partition.diverging_epoch.is_some(), partition.current_leader.is_some()];
        pieces.number(tags.iter().map(|there| u32::from(*there)).sum());
        if let Some((epoch, end_offset)) = partition.diverging_epoch {
            pieces.open.put_slice(&[0, 13]);
            pieces.open.put_i32(epoch);
            pieces.open.put_i64(end_offset);
            pieces.no_tags();
        }
        if let Some((leader, epoch)) = partition.current_leader {
            pieces.open.put_slice(&[1, 9]);
            pieces.open.put_i32(leader);
            pieces.open.put_i32(epoch);
            pieces.no_tags();
        }
    }
    Ok(())
}

/// Finished pieces and the one being written.
#[derive(Default)]
struct Pieces {
    done: Vec<Bytes>,
    open: BytesMut,
    compact: bool,
}

impl Pieces {
    /// A length or count; `width` is its size where it is not compact.
    fn count(&mut self, count: usize, width: usize) -> Result<(), EncodeError> {
        if self.compact {
            let count = u32::try_from(count).ok().and_then(|count| count.checked_add(1));
            self.number(count.ok_or(EncodeError::TooLong)?);
        } else if width == 2 {
            self.open.put_i16(i16::try_from(count).map_err(|_| EncodeError::TooLong)?);
        } else {
            self.open.put_i32(i32::try_from(count).map_err(|_| EncodeError::TooLong)?);
        }
        Ok(())
    }

    fn null_array(&mut self) {
        if self.compact { self.open.put_u8(0) } else { self.open.put_i32(-1) }
    }

    fn no_tags(&mut self) {
        if self.compact {
            self.open.put_u8(0);
        }
    }

    fn number(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.open.put_u8(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
            value >>= 7;
        }
        self.open.put_u8(u8::try_from(value).unwrap_or(0));
    }

    fn share(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.done.push(self.open.split().freeze());
            self.done.push(piece);
        }
    }

    /// Writes the frame's length into the first piece.
    fn finish(mut self) -> Result<Vec<Bytes>, EncodeError> {
        let total = self.done.iter().fold(self.open.len(), |sum, piece| sum.saturating_add(piece.len()));
        let length = total.saturating_sub(4);
        if self.done.is_empty() {
            put_length(&mut self.open, length)?;
        } else {
            // The first piece is small: it ends where the first records begin.
            let first = self.done.first_mut().ok_or(EncodeError::TooLong)?;
            let mut head = BytesMut::from(&first[..]);
            put_length(&mut head, length)?;
            *first = head.freeze();
        }
        if !self.open.is_empty() {
            self.done.push(self.open.freeze());
        }
        Ok(self.done)
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::fetch_response::{
        AbortedTransaction, EpochEndOffset, FetchableTopicResponse, LeaderIdAndEpoch, PartitionData,
    };
    use kafka_protocol::messages::{ApiVersionsResponse, BrokerId, FetchResponse, ProducerId, TopicName};
    use kafka_protocol::protocol::StrBytes;

    use super::*;

    fn answer() -> FetchAnswer {
        let batches = vec![Bytes::from_static(b"first batch"), Bytes::from(vec![7; 300])];
        let partition = |index, records| FetchedPartition {
            index,
            error_code: 3,
            high_watermark: 9,
            last_stable_offset: 8,
            log_start_offset: 1,
            aborted: Some(vec![(4, 5)]),
            preferred_read_replica: 2,
            diverging_epoch: Some((6, 7)),
            current_leader: Some((1, 2)),
            records,
        };
        let topic = FetchedTopic {
            name: "orders".into(),
            id: [5; 16],
            partitions: vec![partition(0, batches.clone()), FetchedPartition::default(), partition(2, batches)],
        };
        FetchAnswer { throttle_time_ms: 3, error_code: 0, session_id: 77, topics: vec![topic] }
    }

    fn crates_form(answer: &FetchAnswer, version: i16) -> FetchResponse {
        let topics = answer.topics.iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|partition| {
                let mut data = PartitionData::default()
                    .with_partition_index(partition.index)
                    .with_error_code(partition.error_code)
                    .with_high_watermark(partition.high_watermark)
                    .with_last_stable_offset(partition.last_stable_offset)
                    .with_aborted_transactions(partition.aborted.as_ref().map(|aborted| {
                        aborted
                            .iter()
                            .map(|(id, first)| {
                                AbortedTransaction::default()
                                    .with_producer_id(ProducerId(*id))
                                    .with_first_offset(*first)
                            })
                            .collect()
                    }))
                    .with_records(Some(partition.records.concat().into()));
                if version >= 5 {
                    data.log_start_offset = partition.log_start_offset;
                }
                if version >= 11 {
                    data.preferred_read_replica = BrokerId(partition.preferred_read_replica);
                }
                if let (12.., Some((epoch, end))) = (version, partition.diverging_epoch) {
                    data.diverging_epoch = EpochEndOffset::default().with_epoch(epoch).with_end_offset(end);
                }
                if let (12.., Some((leader, epoch))) = (version, partition.current_leader) {
                    data.current_leader =
                        LeaderIdAndEpoch::default().with_leader_id(BrokerId(leader)).with_leader_epoch(epoch);
                }
                data
            });
            let mut topic_form = FetchableTopicResponse::default().with_partitions(partitions.collect());
            if version >= 13 {
                topic_form.topic_id = uuid::Uuid::from_bytes(topic.id);
            } else {
                topic_form.topic = TopicName(StrBytes::from_string(topic.name.clone()));
            }
            topic_form
        });
        let mut response =
            FetchResponse::default().with_throttle_time_ms(answer.throttle_time_ms).with_responses(topics.collect());
        if version >= 7 {
            response.session_id = answer.session_id;
        }
        response
    }

    #[test]
    fn fetch_in_pieces_is_byte_for_byte_the_plain_encoding_in_every_version() {
        for version in 4..=18 {
            let plain = encode(1, version, 42, &ResponseKind::Fetch(crates_form(&answer(), version))).unwrap();
            let pieces = encode_fetch(version, 42, answer()).unwrap();
            assert_eq!(pieces.concat(), plain, "version {version}");
        }
    }

    #[test]
    fn fetched_records_are_not_copied() {
        let answer = answer();
        let records = answer.topics[0].partitions[0].records[1].clone();
        let pieces = encode_fetch(13, 1, answer).unwrap();
        assert!(pieces.iter().any(|piece| piece.as_ptr() == records.as_ptr()));
    }

    #[test]
    fn api_versions_has_the_old_header_in_every_version() {
        for version in 0..=4 {
            let body = ResponseKind::ApiVersions(ApiVersionsResponse::default());
            let frame = encode(18, version, 5, &body).unwrap();
            let empty = if version >= 3 { 1 + 1 } else { 4 };
            let throttle = if version >= 1 { 4 } else { 0 };
            assert_eq!(frame.len(), 4 + 4 + 2 + empty + throttle, "version {version}");
        }
    }

    #[test]
    fn unknown_api_versions_version_is_answered_in_version_0_with_the_range() {
        let frame = refuse_api_versions(5).unwrap();
        assert_eq!(frame[4..], [0, 0, 0, 5, 0, 35, 0, 0, 0, 1, 0, 18, 0, 0, 0, 4]);
    }

    #[test]
    fn every_advertised_api_is_told_in_every_version() {
        for version in 0..=4 {
            let body = ResponseKind::ApiVersions(api_versions());
            let mut frame = encode(18, version, 5, &body).unwrap().slice(8..);
            let read = ResponseKind::decode(ApiKey::ApiVersions, &mut frame, version).unwrap();
            let ResponseKind::ApiVersions(read) = read else { panic!("another body") };
            assert_eq!(read.api_keys.len(), versions::advertised().len());
        }
    }

    #[test]
    fn length_in_front_counts_the_rest() {
        let frame = encode(18, 0, 5, &ResponseKind::ApiVersions(ApiVersionsResponse::default())).unwrap();
        assert_eq!(frame[..8], [0, 0, 0, 10, 0, 0, 0, 5]);
    }
}
