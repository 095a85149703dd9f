//! Prometheus metrics, each bounded: labels are API names, outcomes and the organisation's tenants, never a
//! client's words.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::collections::HashSet;
use std::sync::atomic::AtomicU64;

/// One API.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ApiLabel {
    /// Kafka's name of the API.
    pub api: &'static str,
}

/// One API of one tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TenantApi {
    /// Twelve digits.
    pub tenant: String,
    /// Kafka's name of the API.
    pub api: &'static str,
}

/// One tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TenantLabel {
    /// Twelve digits.
    pub tenant: String,
}

/// A tenant's verdicts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DecisionLabel {
    /// Twelve digits.
    pub tenant: String,
    /// `allowed` or `denied`.
    pub verdict: &'static str,
}

/// A decision that a shadow version of a policy would have made otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ShadowLabel {
    /// Twelve digits.
    pub tenant: String,
    /// `allowed` or `denied`, by the policies in force.
    pub now: &'static str,
    /// `allowed` or `denied`, by the shadow version.
    pub then: &'static str,
}

/// Why a connection ended early.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusalLabel {
    /// One of a fixed set of words.
    pub reason: &'static str,
}

/// Figures read from the rooms at scrape time.
#[derive(Debug, Default)]
pub struct Readings {
    /// Calls made to the key service.
    pub kms_calls: Gauge<u64, AtomicU64>,
    /// Calls that failed.
    pub kms_failures: Gauge<u64, AtomicU64>,
    /// Calls that only asked whether a key may be used.
    pub kms_probes: Gauge<u64, AtomicU64>,
    /// Calls refused.
    pub kms_denied: Gauge<u64, AtomicU64>,
    /// Calls without an answer.
    pub kms_unreachable: Gauge<u64, AtomicU64>,
    /// Time in calls, in milliseconds.
    pub kms_call_seconds: Gauge<f64, AtomicU64>,
    /// Plain data keys in memory.
    pub kms_cached_keys: Gauge<u64, AtomicU64>,
    /// Tenants that are not served because their KMS key is away.
    pub tenants_waiting_for_key: Gauge<u64, AtomicU64>,
    /// Keys wrapped anew.
    pub keys_rewrapped: Gauge<u64, AtomicU64>,
    /// Segments rewritten under new data keys.
    pub segments_rewritten: Gauge<u64, AtomicU64>,
    /// Segments checked by the scrub.
    pub segments_scrubbed: Gauge<u64, AtomicU64>,
    /// WAL entries written.
    pub wal_entries: Gauge<u64, AtomicU64>,
    /// WAL bytes written.
    pub wal_bytes: Gauge<u64, AtomicU64>,
    /// Bytes in memory not yet in segments.
    pub tail_bytes: Gauge<u64, AtomicU64>,
    /// Bytes of log entries set aside for tenants whose keys are away.
    pub log_bytes_set_aside: Gauge<u64, AtomicU64>,
    /// Live segments.
    pub segments: Gauge<u64, AtomicU64>,
    /// Bytes of live segments.
    pub segment_bytes: Gauge<u64, AtomicU64>,
    /// Frames found in the cache.
    pub cache_hits: Gauge<u64, AtomicU64>,
    /// Frames read from the store.
    pub cache_misses: Gauge<u64, AtomicU64>,
    /// Reads that met stored bytes that are not what was written.
    pub integrity_failures: Gauge<u64, AtomicU64>,
    /// Version of the organisation in force, growing.
    pub policy_epoch: Gauge<u64, AtomicU64>,
}

/// Every metric of the broker.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Requests answered.
    pub requests: Family<TenantApi, Counter>,
    /// Seconds from a whole frame to its answer.
    pub request_seconds: Family<ApiLabel, Histogram>,
    /// Bytes of requests.
    pub received_bytes: Family<TenantLabel, Counter>,
    /// Bytes of answers.
    pub sent_bytes: Family<TenantLabel, Counter>,
    /// Authorisation verdicts.
    pub decisions: Family<DecisionLabel, Counter>,
    /// Decisions that shadow versions of policies would have made otherwise.
    pub shadow_differences: Family<ShadowLabel, Counter>,
    /// Open connections.
    pub connections: Gauge,
    /// Connections refused or cut.
    pub refusals: Family<RefusalLabel, Counter>,
    /// Organisation loads that were refused.
    pub organisation_refused: Counter,
    /// Read at scrape time.
    pub readings: Readings,
}

impl Metrics {
    /// All metrics at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("schloss");
        let metrics = Self {
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.000_1, 2.0, 18))),
            received_bytes: Family::default(),
            sent_bytes: Family::default(),
            decisions: Family::default(),
            shadow_differences: Family::default(),
            connections: Gauge::default(),
            refusals: Family::default(),
            organisation_refused: Counter::default(),
            readings: Readings::default(),
            registry: Registry::default(),
        };
        registry.register("requests", "Requests answered", metrics.requests.clone());
        registry.register_with_unit(
            "request_duration",
            "Time from a whole frame to its answer",
            Unit::Seconds,
            metrics.request_seconds.clone(),
        );
        registry.register_with_unit("received", "Bytes of requests", Unit::Bytes, metrics.received_bytes.clone());
        registry.register_with_unit("sent", "Bytes of answers", Unit::Bytes, metrics.sent_bytes.clone());
        registry.register("authorization_decisions", "Authorisation decisions", metrics.decisions.clone());
        registry.register(
            "shadow_differences",
            "Decisions that shadow versions of policies would have made otherwise",
            metrics.shadow_differences.clone(),
        );
        registry.register("connections", "Open connections", metrics.connections.clone());
        registry.register("connection_refusals", "Connections refused or cut", metrics.refusals.clone());
        registry.register(
            "organisation_refused",
            "Organisation files refused at reload",
            metrics.organisation_refused.clone(),
        );
        let readings = &metrics.readings;
        registry.register(
            "kms_call_seconds",
            "Time in calls to the key service since start",
            readings.kms_call_seconds.clone(),
        );
        for (name, help, gauge) in [
            ("kms_calls", "Calls made to the key service since start", &readings.kms_calls),
            ("kms_call_failures", "Calls to the key service that failed since start", &readings.kms_failures),
            ("wal_entries_written", "Write-ahead log entries written since start", &readings.wal_entries),
            ("wal_written_bytes", "Write-ahead log bytes written since start", &readings.wal_bytes),
            ("tail_bytes", "Bytes of batches not yet in segments", &readings.tail_bytes),
            (
                "log_bytes_set_aside",
                "Bytes of log entries set aside for tenants whose keys are away",
                &readings.log_bytes_set_aside,
            ),
            ("segments", "Live segments", &readings.segments),
            ("segment_bytes", "Bytes of live segments", &readings.segment_bytes),
            ("segment_cache_hits", "Segment frames found in the cache since start", &readings.cache_hits),
            ("kms_probes", "Calls since start that only asked whether a key may be used", &readings.kms_probes),
            ("kms_denied", "Calls that the key service refused since start", &readings.kms_denied),
            ("kms_unreachable", "Calls without an answer since start", &readings.kms_unreachable),
            ("kms_cached_keys", "Plain data keys in memory", &readings.kms_cached_keys),
            (
                "tenants_waiting_for_key",
                "Tenants not served because their KMS key is away",
                &readings.tenants_waiting_for_key,
            ),
            ("keys_rewrapped", "Keys wrapped anew since start", &readings.keys_rewrapped),
            ("segments_rewritten", "Segments rewritten under new data keys since start", &readings.segments_rewritten),
            ("segments_scrubbed", "Segments read and checked by the scrub since start", &readings.segments_scrubbed),
            ("segment_cache_misses", "Segment frames read from the store since start", &readings.cache_misses),
            (
                "integrity_failures",
                "Reads since start that met stored bytes that are not what was written",
                &readings.integrity_failures,
            ),
            ("policy_epoch", "Version of the organisation in force", &readings.policy_epoch),
        ] {
            registry.register(name, help, gauge.clone());
        }
        Self { registry, ..metrics }
    }

    /// Counts a refusal or cut for one of the fixed reasons.
    pub fn refused(&self, reason: &'static str) {
        self.refusals.get_or_create(&RefusalLabel { reason }).inc();
    }

    /// Prometheus' text exposition, version 0.0.4.
    ///
    /// The library writes OpenMetrics, which names a counter's family without `_total`; the older format, which every
    /// Prometheus and promtool read, names it with.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let written = encode(&mut text, &self.registry);
        debug_assert!(written.is_ok());
        let counters: HashSet<&str> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
        let mut plain = String::with_capacity(text.len());
        for line in text.lines().filter(|line| !line.starts_with("# UNIT ") && *line != "# EOF") {
            let comment = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "));
            match comment.and_then(|rest| rest.split_once(' ')).filter(|(name, _)| counters.contains(name)) {
                Some((name, rest)) => {
                    plain.push_str(&format!("{} {name}_total {rest}", line.get(..6).unwrap_or_default()))
                }
                None => plain.push_str(line),
            }
            plain.push('\n');
        }
        plain
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl TenantLabel {
    /// Of a tenant id.
    #[must_use]
    pub fn of(tenant: schloss_core::TenantId) -> Self {
        Self { tenant: tenant.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_named_with_total_in_help_type_and_value() {
        let metrics = Metrics::new();
        metrics.refused("idle");
        let text = metrics.text();
        for line in [
            "# HELP schloss_connection_refusals_total Connections refused or cut.",
            "# TYPE schloss_connection_refusals_total counter",
            "schloss_connection_refusals_total{reason=\"idle\"} 1",
        ] {
            assert!(text.lines().any(|present| present == line), "{line}\n{text}");
        }
        assert!(!text.contains("# EOF"));
    }
}
