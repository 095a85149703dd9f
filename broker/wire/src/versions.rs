//! What this broker speaks: its own table, never the decoder crate's ranges.
//!
//! Invariants
//! - A version in [`advertised`] is one that Kafka 4.3 serves and that `kafka-protocol` 0.18 or the room `newer`
//!   decodes, with the one exception of Produce 0 to 2 (see [`is_served`]).

/// One API and the versions advertised for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiRange {
    /// The API key.
    pub key: i16,
    /// The oldest version.
    pub min: i16,
    /// The newest version.
    pub max: i16,
}

/// Produce, the one API that is advertised lower than it is served.
const PRODUCE: i16 = 0;
/// The oldest Produce with record batches v2.
const PRODUCE_SERVED_MIN: i16 = 3;

const fn range(key: i16, min: i16, max: i16) -> ApiRange {
    ApiRange { key, min, max }
}

/// Sorted by key.
static ADVERTISED: [ApiRange; 42] = [
    range(0, 0, 13), // Produce
    range(1, 4, 18), // Fetch
    range(2, 1, 11), // ListOffsets
    range(3, 0, 13), // Metadata
    range(8, 2, 10), // OffsetCommit
    range(9, 1, 10), // OffsetFetch
    range(10, 0, 6), // FindCoordinator
    range(11, 0, 9), // JoinGroup
    range(12, 0, 4), // Heartbeat
    range(13, 0, 5), // LeaveGroup
    range(14, 0, 5), // SyncGroup
    range(15, 0, 6), // DescribeGroups
    range(16, 0, 5), // ListGroups
    range(17, 0, 1), // SaslHandshake
    range(18, 0, 4), // ApiVersions
    range(19, 2, 7), // CreateTopics
    range(20, 1, 6), // DeleteTopics
    range(21, 0, 2), // DeleteRecords
    range(22, 0, 5), // InitProducerId
    range(23, 2, 4), // OffsetForLeaderEpoch
    range(29, 1, 3), // DescribeAcls
    range(30, 1, 3), // CreateAcls
    range(31, 1, 3), // DeleteAcls
    range(32, 1, 4), // DescribeConfigs
    range(33, 0, 2), // AlterConfigs
    range(35, 1, 5), // DescribeLogDirs
    range(36, 0, 2), // SaslAuthenticate
    range(37, 0, 3), // CreatePartitions
    range(38, 1, 3), // CreateDelegationToken
    range(39, 1, 2), // RenewDelegationToken
    range(40, 1, 2), // ExpireDelegationToken
    range(41, 1, 3), // DescribeDelegationToken
    range(42, 0, 2), // DeleteGroups
    range(44, 0, 1), // IncrementalAlterConfigs
    range(47, 0, 0), // OffsetDelete
    range(48, 0, 1), // DescribeClientQuotas
    range(50, 0, 0), // DescribeUserScramCredentials
    range(51, 0, 0), // AlterUserScramCredentials
    range(60, 0, 2), // DescribeCluster
    range(71, 0, 0), // GetTelemetrySubscriptions
    range(72, 0, 0), // PushTelemetry
    range(75, 0, 0), // DescribeTopicPartitions
];

/// Everything ApiVersions tells, sorted by key.
#[must_use]
pub fn advertised() -> &'static [ApiRange] {
    &ADVERTISED
}

/// The advertised versions of one API.
#[must_use]
pub fn range_of(key: i16) -> Option<ApiRange> {
    ADVERTISED.iter().copied().find(|range| range.key == key)
}

/// Whether a request of this version is answered.
///
/// Produce is advertised from 0, as Kafka does, because librdkafka before 2.11 takes a higher minimum for "no
/// compression codec at all"; really sent, 0 to 2 are refused as Kafka refuses them.
#[must_use]
pub fn is_served(key: i16, version: i16) -> bool {
    range_of(key).is_some_and(|range| {
        let min = if key == PRODUCE { PRODUCE_SERVED_MIN } else { range.min };
        (min..=range.max).contains(&version)
    })
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::ApiKey;

    use super::*;

    /// The versions beyond the crate, each decoded by the room `newer`.
    const NEWER: [(i16, i16); 4] = [(2, 11), (8, 10), (9, 10), (35, 5)];

    #[test]
    fn every_served_version_is_one_the_decoder_knows() {
        for range in advertised() {
            let key = ApiKey::try_from(range.key).expect("a key of the crate");
            let mut known = key.valid_versions();
            if let Some((_, newest)) = NEWER.iter().find(|(newer, _)| *newer == range.key) {
                known.max = *newest;
            }
            let min = if range.key == PRODUCE { PRODUCE_SERVED_MIN } else { range.min };
            assert!(known.min <= min && range.max <= known.max, "{key:?}: {known:?}");
        }
    }

    #[test]
    fn the_table_is_sorted_without_doubles() {
        assert!(advertised().windows(2).all(|pair| pair[0].key < pair[1].key));
    }

    #[test]
    fn produce_before_record_batches_v2_is_advertised_but_not_served() {
        assert_eq!(range_of(0).map(|range| range.min), Some(0));
        assert!(!is_served(0, 2) && is_served(0, 3) && is_served(0, 13) && !is_served(0, 14));
    }

    #[test]
    fn unknown_api_is_not_served() {
        assert!(!is_served(4, 0) && !is_served(-1, 0) && !is_served(52, 0));
    }
}
