//! What can go wrong with the store of facts, and what to do next.

use std::path::PathBuf;

use schloss_core::ShardId;

/// Why the store did not do it. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// Another process holds the store.
    #[error("`{path}` is in use by another process; stop it, or choose another data folder")]
    Locked {
        /// The store's file.
        path: PathBuf,
    },
    /// Written by a newer release.
    #[error(
        "`{path}` has format {found}, this release knows up to {known}; start the release that wrote it, or a newer one"
    )]
    NewerFormat {
        /// The store's file.
        path: PathBuf,
        /// The format in the file.
        found: i64,
        /// The newest format known here.
        known: i64,
    },
    /// A file of some other program.
    #[error("`{path}` is not a metadata store of this program; choose another data folder, or restore the file")]
    NotOurs {
        /// The store's file.
        path: PathBuf,
    },
    /// The shard has another owner now.
    #[error("shard {} was taken by another writer", shard.0)]
    Fenced {
        /// The shard.
        shard: ShardId,
    },
    /// No space left.
    #[error("no space left for the metadata store; free some, it goes on by itself")]
    Full,
    /// A stored row is not what was written.
    #[error("the metadata store is damaged in `{what}`; restore it from a backup")]
    Corrupt {
        /// Table or field.
        what: &'static str,
    },
    /// The engine below failed.
    #[error("the metadata store failed with code {code}")]
    Failed {
        /// SQLite's extended result code.
        code: i32,
    },
    /// The store was closed.
    #[error("the metadata store is closed")]
    Closed,
}
