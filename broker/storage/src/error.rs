//! What the engine refuses, and Kafka's code for each.

use schloss_core::ErrorCode;
use schloss_crypto::{KeyError, SealError};
use schloss_metadata::MetadataError;

use crate::integrity::Damage;

/// Why batches were not appended. Nothing of them is in the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The partition is gone.
    #[error("the partition does not exist")]
    UnknownPartition,
    /// A sequence number that does not follow.
    #[error("the sequence number does not follow the last one")]
    OutOfOrderSequence,
    /// Older than the batches still remembered.
    #[error("the batch was appended before, too long ago to say where")]
    DuplicateSequence,
    /// A producer epoch lower than the newest.
    #[error("the producer's epoch is older than the newest")]
    ProducerFenced,
    /// A producer this partition has not seen, not starting at 0.
    #[error("the producer is not known here")]
    UnknownProducer,
    /// The disk or the tail is full; retry.
    #[error("the log is full for the moment; retry")]
    Full,
    /// The tenant's key cannot be had; retry.
    #[error("the tenant's key cannot be had now; retry")]
    Key,
    /// The shard has stopped; see the broker's log.
    #[error("the log has stopped")]
    Stopped,
}

impl AppendError {
    /// Kafka's code.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::UnknownPartition => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
            Self::OutOfOrderSequence => ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
            Self::DuplicateSequence => ErrorCode::DUPLICATE_SEQUENCE_NUMBER,
            Self::ProducerFenced => ErrorCode::INVALID_PRODUCER_EPOCH,
            Self::UnknownProducer => ErrorCode::UNKNOWN_PRODUCER_ID,
            Self::Full | Self::Key | Self::Stopped => ErrorCode::KAFKA_STORAGE_ERROR,
        }
    }
}

/// Why there is nothing to read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Below the log start or above the high watermark.
    #[error("offset {offset} is not in {log_start}..={high_watermark}")]
    OffsetOutOfRange {
        /// Asked.
        offset: i64,
        /// First that exists.
        log_start: i64,
        /// Next to be written.
        high_watermark: i64,
    },
    /// The partition is gone.
    #[error("the partition does not exist")]
    UnknownPartition,
    /// The stored bytes are not what was written.
    #[error("stored records are not what was written: {}", .0.word())]
    Damaged(Damage),
    /// The stored bytes or their key cannot be had now.
    #[error("stored records cannot be read: {0}")]
    Storage(String),
}

impl ReadError {
    /// Kafka's code.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::OffsetOutOfRange { .. } => ErrorCode::OFFSET_OUT_OF_RANGE,
            Self::UnknownPartition => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
            Self::Damaged(_) | Self::Storage(_) => ErrorCode::KAFKA_STORAGE_ERROR,
        }
    }
}

/// Why a change of partitions or state was not made.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The partition is gone.
    #[error("the partition does not exist")]
    UnknownPartition,
    /// The manifest.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The log.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The topic's own key.
    #[error(transparent)]
    TopicKey(#[from] crate::topic_keys::TopicKeyError),
    /// An offset that is not there.
    #[error("the offset is beyond the high watermark")]
    OffsetOutOfRange,
}

impl LogError {
    /// Kafka's code.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::UnknownPartition => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
            Self::Metadata(_) | Self::TopicKey(_) => ErrorCode::KAFKA_STORAGE_ERROR,
            Self::Append(error) => error.code(),
            Self::OffsetOutOfRange => ErrorCode::OFFSET_OUT_OF_RANGE,
        }
    }
}

/// Why the engine does not start. Nothing was changed that a later start would miss.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The manifest.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// A key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The write-ahead log cannot be proved whole.
    #[error("shard {shard}: the write-ahead log is damaged at epoch {epoch}, entry {seq}: {what}")]
    Damaged {
        /// Which shard.
        shard: u32,
        /// Which epoch.
        epoch: u64,
        /// Which entry.
        seq: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The write-ahead log is of a release whose entries had no proofs.
    #[error("the write-ahead log has format 1, whose entries cannot be proved; this release writes format 2")]
    UnprovedLog,
    /// The manifest is an older copy.
    #[error(
        "shard {shard}: the manifest ends at {manifest:?}, the objects at {objects:?}: it is an older manifest over newer objects"
    )]
    OlderManifest {
        /// Which shard.
        shard: u32,
        /// Its checkpoint.
        manifest: (u64, u64),
        /// The one beside the objects.
        objects: (u64, u64),
    },
    /// Entries set aside for one tenant are not what was written. That tenant's matter only.
    #[error("entries set aside in `{object}` are not what was written: {}", .damage.word())]
    SetAside {
        /// The object.
        object: String,
        /// What is wrong.
        damage: Damage,
    },
    /// A sealed value does not open.
    #[error("{what} does not open: {source}")]
    Sealed {
        /// What it is.
        what: &'static str,
        /// Why.
        source: SealError,
    },
    /// A tenant's rows of the manifest.
    #[error(transparent)]
    InDoubt(#[from] crate::locked::InDoubt),
    /// A checkpoint of a shard that the manifest has no row of.
    #[error(
        "the objects have a checkpoint of shard {shard}, which the manifest does not know: it is not the manifest of these objects"
    )]
    UnknownShard {
        /// Which shard.
        shard: u32,
    },
    /// A stored key of a tenant.
    #[error(transparent)]
    KeyTrouble(#[from] crate::keys::KeyTrouble),
}

impl OpenError {
    /// Whether it keeps one tenant sealed and nobody else: its key is away, or what was set aside for it is damaged.
    #[must_use]
    pub const fn is_one_tenants(&self) -> bool {
        self.key_is_away() || matches!(self, Self::SetAside { .. })
    }

    /// Which of the installation's things is not what was written, when it is that.
    #[must_use]
    pub fn damaged(&self) -> Option<String> {
        match self {
            Self::Damaged { shard, .. } => Some(format!("write-ahead log of shard {shard}")),
            Self::OlderManifest { .. } => Some("manifest".to_owned()),
            Self::Sealed { what, .. } => Some((*what).to_owned()),
            _ => None,
        }
    }

    /// Whether it is only that a KMS key cannot be used now.
    #[must_use]
    pub const fn key_is_away(&self) -> bool {
        match self {
            Self::KeyTrouble(trouble) => trouble.key_is_away(),
            Self::Key(KeyError::Denied { .. } | KeyError::Unreachable { .. }) => true,
            _ => false,
        }
    }
}
