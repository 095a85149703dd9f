//! Topic settings: Kafka's names, defaults and checks (Apache Kafka 4.x, `TopicConfig`, KIP-1030 bounds).
//!
//! In: names and texts from CreateTopics, AlterConfigs and the config file. Out: checked values, and the
//! [`LogConfig`] the log engine works by.
//!
//! Settings that have no meaning here (replication throttles, index sizes, preallocation) are accepted, kept and
//! described, so that tools run unchanged; the manual lists them. `compression.type` other than `producer` is
//! refused: batches stay as producers sent them.

use std::collections::BTreeMap;

use schloss_storage::LogConfig;

/// How a setting's text is read. The numbers are DescribeConfigs' own (`ConfigDef.Type`, KIP-569).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum Kind {
    /// `true` or `false`.
    Boolean = 1,
    /// Any of a list of words.
    String = 2,
    /// 32 bit.
    Int = 3,
    /// 64 bit.
    Long = 5,
    /// Decimal fraction.
    Double = 6,
    /// Comma separated.
    List = 7,
}

/// One setting.
#[derive(Debug)]
pub struct Definition {
    /// Kafka's topic-level name.
    pub name: &'static str,
    /// Kafka's broker-level name, where the broker can set the default.
    pub broker_name: Option<&'static str>,
    /// Type.
    pub kind: Kind,
    /// Default, as text.
    pub default: &'static str,
    /// Least number.
    least: i64,
    /// Allowed words, empty when anything goes.
    words: &'static [&'static str],
    /// One sentence.
    pub documentation: &'static str,
}

impl Definition {
    /// Checks a value.
    ///
    /// # Errors
    /// The reason, in Kafka's manner.
    pub fn check(&self, value: &str) -> Result<(), String> {
        let wrong = |why: &str| Err(format!("Invalid value {} for configuration {}: {why}", short(value), self.name));
        match self.kind {
            Kind::Boolean if !matches!(value.to_ascii_lowercase().as_str(), "true" | "false") => {
                wrong("Expected value to be either true or false")
            }
            Kind::Int => self.number(value.trim().parse::<i32>().ok().map(i64::from), value),
            Kind::Long => self.number(value.trim().parse::<i64>().ok(), value),
            Kind::Double => match value.trim().parse::<f64>() {
                Ok(number) if (0.0..=1.0).contains(&number) => Ok(()),
                _ => wrong("Value must be between 0 and 1"),
            },
            Kind::String if !self.words.is_empty() && !self.words.contains(&value) => {
                wrong(&format!("String must be one of: {}", self.words.join(", ")))
            }
            Kind::List if !self.words.is_empty() => {
                let foreign = value.split(',').map(str::trim).find(|word| !self.words.contains(word));
                foreign.map_or(Ok(()), |_| wrong(&format!("String must be one of: {}", self.words.join(", "))))
            }
            Kind::Boolean | Kind::String | Kind::List => Ok(()),
        }?;
        if self.name == "compression.type" && value != "producer" {
            return wrong(
                "this broker keeps batches as producers send them; compress in the producer and leave `producer` here",
            );
        }
        if matches!(self.name, "remote.storage.enable" | "unclean.leader.election.enable")
            && value.eq_ignore_ascii_case("true")
        {
            return wrong("not available in this release");
        }
        Ok(())
    }

    fn number(&self, parsed: Option<i64>, value: &str) -> Result<(), String> {
        match parsed {
            Some(number) if number >= self.least => Ok(()),
            Some(_) => Err(format!(
                "Invalid value {} for configuration {}: Value must be at least {}",
                short(value),
                self.name,
                self.least
            )),
            None => Err(format!(
                "Invalid value {} for configuration {}: Not a number of type {}",
                short(value),
                self.name,
                if self.kind == Kind::Int { "INT" } else { "LONG" }
            )),
        }
    }
}

/// A client's text, cut and with its control characters escaped, fit for an error message.
fn short(value: &str) -> String {
    value.chars().take(64).flat_map(char::escape_default).collect()
}

const fn define(
    name: &'static str,
    broker_name: Option<&'static str>,
    kind: Kind,
    default: &'static str,
    least: i64,
    words: &'static [&'static str],
    documentation: &'static str,
) -> Definition {
    Definition { name, broker_name, kind, default, least, words, documentation }
}

/// The setting that names a topic's own KMS key.
pub const KMS_KEY: &str = "schloss.kms.key";

/// The KMS key a topic names, if it does.
#[must_use]
pub fn kms_key(overrides: &Overrides) -> Option<std::sync::Arc<str>> {
    overrides.get(KMS_KEY).filter(|key| !key.is_empty()).map(|key| key.as_str().into())
}

/// Every topic setting of Kafka 4.x and our own, in order of name.
pub const DEFINITIONS: &[Definition] = &[
    define(
        "cleanup.policy",
        Some("log.cleanup.policy"),
        Kind::List,
        "delete",
        0,
        &["compact", "delete"],
        "What happens to old records. `compact` keeps every record in this release: nothing is removed before compaction runs.",
    ),
    define(
        "compression.gzip.level",
        None,
        Kind::Int,
        "-1",
        -1,
        &[],
        "Kept, without effect: batches stay as producers send them.",
    ),
    define(
        "compression.lz4.level",
        None,
        Kind::Int,
        "9",
        1,
        &[],
        "Kept, without effect: batches stay as producers send them.",
    ),
    define(
        "compression.type",
        Some("compression.type"),
        Kind::String,
        "producer",
        0,
        &["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"],
        "Always `producer`: batches stay as producers send them.",
    ),
    define(
        "compression.zstd.level",
        None,
        Kind::Int,
        "3",
        -131_072,
        &[],
        "Kept, without effect: batches stay as producers send them.",
    ),
    define(
        "delete.retention.ms",
        Some("log.cleaner.delete.retention.ms"),
        Kind::Long,
        "86400000",
        0,
        &[],
        "How long a tombstone of a compacted topic stays.",
    ),
    define(
        "file.delete.delay.ms",
        Some("log.segment.delete.delay.ms"),
        Kind::Long,
        "60000",
        0,
        &[],
        "Kept, without effect: a removed segment is erased when no reader can need it.",
    ),
    define(
        "flush.messages",
        Some("log.flush.interval.messages"),
        Kind::Long,
        "9223372036854775807",
        1,
        &[],
        "Kept, without effect: every acknowledged record is already durable.",
    ),
    define(
        "flush.ms",
        Some("log.flush.interval.ms"),
        Kind::Long,
        "9223372036854775807",
        0,
        &[],
        "Kept, without effect: every acknowledged record is already durable.",
    ),
    define(
        "follower.replication.throttled.replicas",
        None,
        Kind::List,
        "",
        0,
        &[],
        "Kept, without effect: there are no replicas.",
    ),
    define(
        "index.interval.bytes",
        Some("log.index.interval.bytes"),
        Kind::Int,
        "4096",
        0,
        &[],
        "Kept, without effect: segments carry their own index.",
    ),
    define(
        "leader.replication.throttled.replicas",
        None,
        Kind::List,
        "",
        0,
        &[],
        "Kept, without effect: there are no replicas.",
    ),
    define("local.retention.bytes", None, Kind::Long, "-2", -2, &[], "Kept, without effect until tiered storage."),
    define("local.retention.ms", None, Kind::Long, "-2", -2, &[], "Kept, without effect until tiered storage."),
    define(
        "max.compaction.lag.ms",
        Some("log.cleaner.max.compaction.lag.ms"),
        Kind::Long,
        "9223372036854775807",
        1,
        &[],
        "Longest time a record stays uncompacted.",
    ),
    define(
        "max.message.bytes",
        Some("message.max.bytes"),
        Kind::Int,
        "1048588",
        0,
        &[],
        "Largest record batch, in bytes, after compression.",
    ),
    define(
        "message.timestamp.after.max.ms",
        Some("log.message.timestamp.after.max.ms"),
        Kind::Long,
        "3600000",
        0,
        &[],
        "How far a record's time may lie ahead of the broker's.",
    ),
    define(
        "message.timestamp.before.max.ms",
        Some("log.message.timestamp.before.max.ms"),
        Kind::Long,
        "9223372036854775807",
        0,
        &[],
        "How far a record's time may lie behind the broker's.",
    ),
    define(
        "message.timestamp.type",
        Some("log.message.timestamp.type"),
        Kind::String,
        "CreateTime",
        0,
        &["CreateTime", "LogAppendTime"],
        "Whose time a record carries: the producer's or the broker's.",
    ),
    define(
        "min.cleanable.dirty.ratio",
        Some("log.cleaner.min.cleanable.ratio"),
        Kind::Double,
        "0.5",
        0,
        &[],
        "When a compacted log is worth compacting.",
    ),
    define(
        "min.compaction.lag.ms",
        Some("log.cleaner.min.compaction.lag.ms"),
        Kind::Long,
        "0",
        0,
        &[],
        "Shortest time a record stays uncompacted.",
    ),
    define(
        "min.insync.replicas",
        None,
        Kind::Int,
        "1",
        1,
        &[],
        "Kept, without effect: every acknowledged record is durable, whatever acks the producer asks.",
    ),
    define(
        "preallocate",
        None,
        Kind::Boolean,
        "false",
        0,
        &[],
        "Kept, without effect: the write-ahead log is always preallocated.",
    ),
    define(
        "remote.log.copy.disable",
        None,
        Kind::Boolean,
        "false",
        0,
        &[],
        "Kept, without effect until tiered storage.",
    ),
    define(
        "remote.log.delete.on.disable",
        None,
        Kind::Boolean,
        "false",
        0,
        &[],
        "Kept, without effect until tiered storage.",
    ),
    define("remote.storage.enable", None, Kind::Boolean, "false", 0, &[], "Tiered storage; not in this release."),
    define(
        "retention.bytes",
        Some("log.retention.bytes"),
        Kind::Long,
        "-1",
        -1,
        &[],
        "Largest size of one partition; -1 is no limit.",
    ),
    define(
        "retention.ms",
        Some("log.retention.ms"),
        Kind::Long,
        "604800000",
        -1,
        &[],
        "Longest age of a record; -1 is no limit.",
    ),
    define(
        KMS_KEY,
        None,
        Kind::String,
        "",
        0,
        &[],
        "The KMS key this topic's records are sealed under instead of the tenant's current one; one of the tenant's keys.",
    ),
    define(
        "segment.bytes",
        Some("log.segment.bytes"),
        Kind::Int,
        "1073741824",
        1_048_576,
        &[],
        "Most bytes of one partition in one segment.",
    ),
    define(
        "segment.index.bytes",
        Some("log.index.size.max.bytes"),
        Kind::Int,
        "10485760",
        4,
        &[],
        "Kept, without effect: segments carry their own index.",
    ),
    define(
        "segment.jitter.ms",
        Some("log.roll.jitter.ms"),
        Kind::Long,
        "0",
        0,
        &[],
        "Random time taken off `segment.ms`.",
    ),
    define(
        "segment.ms",
        Some("log.roll.ms"),
        Kind::Long,
        "604800000",
        1,
        &[],
        "Longest time one segment takes in records of one partition.",
    ),
    define(
        "unclean.leader.election.enable",
        None,
        Kind::Boolean,
        "false",
        0,
        &[],
        "Always false: there are no replicas to lose.",
    ),
];

/// The definition of a topic setting.
#[must_use]
pub fn definition(name: &str) -> Option<&'static Definition> {
    DEFINITIONS.iter().find(|definition| definition.name == name)
}

/// What topics have when they say nothing.
#[derive(Clone, Debug)]
pub struct TopicDefaults {
    /// `num.partitions`.
    pub partitions: i32,
    /// Values set at the broker, by topic-level name.
    pub values: BTreeMap<&'static str, String>,
}

impl TopicDefaults {
    /// Kafka's own.
    #[must_use]
    pub fn kafka() -> Self {
        Self { partitions: 1, values: BTreeMap::new() }
    }

    /// The default of a setting; empty for a name that is none.
    #[must_use]
    pub fn get(&self, name: &str) -> &str {
        self.values.get(name).map_or_else(|| definition(name).map_or("", |found| found.default), String::as_str)
    }
}

/// One topic's own values, by name.
pub type Overrides = BTreeMap<String, String>;

/// Checks names, values and their agreement.
///
/// # Errors
/// Kafka's kind of message, fit for the client.
pub fn check(overrides: &Overrides, defaults: &TopicDefaults) -> Result<(), String> {
    for (name, value) in overrides {
        let Some(found) = definition(name) else {
            return Err(format!("Unknown topic config name: {}", short(name)));
        };
        found.check(value)?;
    }
    let number = |name: &str| effective(overrides, defaults, name).parse::<i64>().unwrap_or(0);
    if number("min.compaction.lag.ms") > number("max.compaction.lag.ms") {
        return Err("conflict: min.compaction.lag.ms must not be larger than max.compaction.lag.ms".to_owned());
    }
    Ok(())
}

/// The value in force.
#[must_use]
pub fn effective<'a>(overrides: &'a Overrides, defaults: &'a TopicDefaults, name: &str) -> &'a str {
    overrides.get(name).map_or_else(|| defaults.get(name), String::as_str)
}

/// What a batch is checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// `max.message.bytes`.
    pub message_bytes_max: usize,
    /// `message.timestamp.before.max.ms`.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`.
    pub timestamp_after_max_ms: i64,
    /// `message.timestamp.type` is LogAppendTime.
    pub log_append_time: bool,
    /// `cleanup.policy` has compact: every record needs a key.
    pub compacted: bool,
}

/// The batch limits in force.
#[must_use]
pub fn batch_limits(overrides: &Overrides, defaults: &TopicDefaults) -> BatchLimits {
    let text = |name: &str| effective(overrides, defaults, name);
    let number = |name: &str| text(name).trim().parse::<i64>().unwrap_or(i64::MAX);
    BatchLimits {
        message_bytes_max: usize::try_from(number("max.message.bytes")).unwrap_or(usize::MAX),
        timestamp_before_max_ms: number("message.timestamp.before.max.ms"),
        timestamp_after_max_ms: number("message.timestamp.after.max.ms"),
        log_append_time: text("message.timestamp.type") == "LogAppendTime",
        compacted: text("cleanup.policy").split(',').any(|word| word.trim() == "compact"),
    }
}

/// The log engine's view of a topic's settings.
#[must_use]
pub fn log_config(overrides: &Overrides, defaults: &TopicDefaults) -> LogConfig {
    let text = |name: &str| effective(overrides, defaults, name);
    let number = |name: &str| text(name).trim().parse::<i64>().unwrap_or(-1);
    let deletes = text("cleanup.policy").split(',').any(|word| word.trim() == "delete");
    LogConfig {
        // Without `delete` nothing leaves by age or size.
        retention_ms: if deletes { number("retention.ms") } else { -1 },
        retention_bytes: if deletes { number("retention.bytes") } else { -1 },
        segment_bytes: number("segment.bytes"),
        segment_ms: number("segment.ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_passes_its_own_check() {
        for definition in DEFINITIONS {
            assert_eq!(definition.check(definition.default), Ok(()), "{}", definition.name);
        }
    }

    #[test]
    fn wrong_values_are_refused_with_the_setting_named() {
        for (name, value) in [
            ("retention.ms", "soon"),
            ("retention.ms", "-2"),
            ("segment.bytes", "1"),
            ("cleanup.policy", "keep"),
            ("message.timestamp.type", "Mine"),
            ("min.cleanable.dirty.ratio", "1.5"),
            ("preallocate", "yes"),
            ("compression.type", "gzip"),
        ] {
            let why = definition(name).unwrap().check(value).unwrap_err();
            assert!(why.contains(name), "{why}");
        }
    }

    #[test]
    fn compacted_topic_without_delete_keeps_everything() {
        let overrides = Overrides::from([("cleanup.policy".to_owned(), "compact".to_owned())]);
        assert_eq!(log_config(&overrides, &TopicDefaults::kafka()).retention_ms, -1);
    }

    #[test]
    fn unknown_setting_is_refused() {
        let overrides = Overrides::from([("no.such".to_owned(), "1".to_owned())]);
        assert!(check(&overrides, &TopicDefaults::kafka()).unwrap_err().contains("no.such"));
    }
}
