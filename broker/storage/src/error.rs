//! What the engine refuses, and as which Kafka error it leaves the house.

use std::path::PathBuf;

use schloss_core::{ErrorCode, ShardId, TenantId};
use schloss_crypto::{KeyError, SealError};
use schloss_metadata::MetadataError;

/// Why a write-ahead log failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalError {
    /// The disk is full; nothing was written.
    #[error("no space left for the write-ahead log")]
    NoSpace,
    /// Written data may or may not be on disk; the writer must not go on.
    #[error("the write-ahead log could not be synced ({kind})")]
    Unsynced {
        /// The system's word.
        kind: std::io::ErrorKind,
    },
    /// Reading or preparing files failed.
    #[error("the write-ahead log failed on `{file}` ({kind})")]
    Io {
        /// Which file.
        file: String,
        /// The system's word.
        kind: std::io::ErrorKind,
    },
    /// Something stands where an entry should, and it is not the torn end.
    #[error(
        "the write-ahead log is damaged at epoch {epoch}, entry {seq}; acknowledged records are behind it: restore \
         the file from a backup, nothing was changed"
    )]
    Damaged {
        /// The epoch.
        epoch: u64,
        /// The entry that cannot be read.
        seq: u64,
    },
    /// Files of another installation, shard or release.
    #[error("`{file}` is not of this installation, shard and format; put the right folder in place")]
    NotOurs {
        /// Which file.
        file: String,
    },
    /// Written by a newer release.
    #[error("`{file}` has format {found}; start the release that wrote it, or a newer one")]
    NewerFormat {
        /// Which file.
        file: String,
        /// The format in it.
        found: u16,
    },
    /// Another process has the folder.
    #[error("`{path}` is in use by another process; stop it, or choose another data folder")]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// One entry would not fit into one file.
    #[error("an entry of {bytes} bytes does not fit")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// Sealing or opening failed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The log was closed.
    #[error("the write-ahead log is closed")]
    Closed,
}

/// Why the engine did not start. Nothing acknowledged was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The store of facts.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// A shard's log.
    #[error("shard {}: {error}", shard.0)]
    Wal {
        /// The shard.
        shard: ShardId,
        /// Why.
        error: WalError,
    },
    /// A tenant's stored data does not open under its own key.
    #[error("shard {}: stored data of tenant {tenant} cannot be used: {error}; restore it from a backup", shard.0)]
    Sealed {
        /// The shard.
        shard: ShardId,
        /// Whose.
        tenant: TenantId,
        /// Why.
        error: SealError,
    },
    /// The object store.
    #[error("the segment store cannot be read; check the folder's rights and space")]
    Store,
}

/// Why records or state were not taken. Nothing of them is in the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// No such partition here.
    #[error("no such partition")]
    UnknownPartition,
    /// The batch's header is not one.
    #[error("the batch is malformed")]
    Malformed,
    /// Larger than any entry can be.
    #[error("the batch is larger than a log entry can be")]
    TooLarge,
    /// The sequence number leaves a gap.
    #[error("sequence {got} came where {expected} was expected")]
    OutOfOrderSequence {
        /// What came.
        got: i32,
        /// What should have.
        expected: i32,
    },
    /// A newer incarnation of this producer wrote here.
    #[error("producer epoch {got} is older than {current}")]
    InvalidProducerEpoch {
        /// What came.
        got: i16,
        /// What is known.
        current: i16,
    },
    /// Records can be deleted only inside of the log.
    #[error("the offset is outside of the log")]
    OffsetOutOfRange,
    /// The tenant's KMS key refuses.
    #[error("the tenant's KMS key refuses")]
    KeyDenied,
    /// The KMS does not answer.
    #[error("the KMS does not answer")]
    KeyUnreachable,
    /// The disk is full.
    #[error("no space left")]
    NoSpace,
    /// The tail stayed full for too long.
    #[error("the log has no room for more until its tail is flushed")]
    Overloaded,
    /// The shard stopped after a failed write; a restart recovers it.
    #[error("the shard is stopped")]
    Stopped,
}

impl From<&AppendError> for ErrorCode {
    fn from(error: &AppendError) -> Self {
        match error {
            AppendError::UnknownPartition => Self::UNKNOWN_TOPIC_OR_PARTITION,
            AppendError::Malformed => Self::CORRUPT_MESSAGE,
            AppendError::TooLarge => Self::MESSAGE_TOO_LARGE,
            AppendError::OutOfOrderSequence { .. } => Self::OUT_OF_ORDER_SEQUENCE_NUMBER,
            AppendError::InvalidProducerEpoch { .. } => Self::INVALID_PRODUCER_EPOCH,
            AppendError::OffsetOutOfRange => Self::OFFSET_OUT_OF_RANGE,
            // Retriable: clients keep their buffers until key, space or shard are back.
            AppendError::KeyDenied
            | AppendError::KeyUnreachable
            | AppendError::NoSpace
            | AppendError::Overloaded
            | AppendError::Stopped => Self::KAFKA_STORAGE_ERROR,
        }
    }
}

/// Why nothing could be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No such partition here.
    #[error("no such partition")]
    UnknownPartition,
    /// Outside the log.
    #[error("the offset is outside of {log_start}..={high_watermark}")]
    OffsetOutOfRange {
        /// First readable offset.
        log_start: i64,
        /// The end.
        high_watermark: i64,
    },
    /// The tenant's KMS key refuses, or was not proved yet.
    #[error("the tenant's KMS key is not available")]
    Key,
    /// Altered or cut data: never served.
    #[error("stored data did not verify: {0}")]
    Tampered(SealError),
    /// The segment store failed.
    #[error("the segment store failed")]
    Store,
}

impl From<&ReadError> for ErrorCode {
    fn from(error: &ReadError) -> Self {
        match error {
            ReadError::UnknownPartition => Self::UNKNOWN_TOPIC_OR_PARTITION,
            ReadError::OffsetOutOfRange { .. } => Self::OFFSET_OUT_OF_RANGE,
            ReadError::Key | ReadError::Tampered(_) | ReadError::Store => Self::KAFKA_STORAGE_ERROR,
        }
    }
}

/// A refusal of the vault as an append's.
pub(crate) fn append_error(error: &KeyError) -> AppendError {
    match error {
        KeyError::Unreachable { .. } => AppendError::KeyUnreachable,
        KeyError::Denied { .. } | KeyError::Corrupt { .. } | KeyError::ContextMismatch => AppendError::KeyDenied,
    }
}
