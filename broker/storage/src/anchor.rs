//! A shard's last checkpoint, kept beside the objects: a manifest that is behind it is an older one put over newer objects, and one that
//! does not know the shard at all is not the manifest of these objects.
//!
//! Object `checkpoint/<shard>`: epoch u64 | sequence number u64 | CRC-32C of the 16 bytes before, big-endian; one that does not fit its
//! checksum claims nothing. Written after each flush is in the manifest, so it is never
//! ahead of the manifest it was written with. It is no secret and no proof: whoever can put both back is not noticed here (SECURITY.md).

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use schloss_core::ShardId;
use schloss_metadata::Metadata;

use crate::error::OpenError;
use crate::wal::crc32c;

fn path(shard: ShardId) -> Path {
    Path::from(format!("checkpoint/{:04}", shard.0))
}

/// Notes a checkpoint. A note that fails leaves an older one, which claims less.
pub async fn note(objects: &dyn ObjectStore, shard: ShardId, (epoch, seq): (u64, u64)) {
    let mut bytes = [epoch.to_be_bytes(), seq.to_be_bytes()].concat();
    bytes.extend_from_slice(&crc32c(&bytes).to_be_bytes());
    if let Err(error) = objects.put(&path(shard), PutPayload::from(bytes)).await {
        tracing::warn!(%error, "a checkpoint could not be noted beside the objects");
    }
}

/// Refuses a manifest that is older than the objects. Before anything is swept: to such a manifest newer objects are orphans.
pub async fn check(metadata: &dyn Metadata, objects: &dyn ObjectStore) -> Result<(), OpenError> {
    let checkpoints = metadata.checkpoints().await?;
    let unread = |error: object_store::Error| OpenError::Io {
        what: "the checkpoints beside the objects cannot be listed",
        source: std::io::Error::other(error),
    };
    let notes: Vec<_> = objects.list(Some(&Path::from("checkpoint"))).try_collect().await.map_err(unread)?;
    for note in notes {
        let shard = note.location.filename().and_then(|name| name.parse().ok());
        if let Some(shard) = shard.filter(|shard| checkpoints.iter().all(|(known, _)| known.0 != *shard)) {
            return Err(OpenError::UnknownShard { shard });
        }
    }
    for (shard, checkpoint) in checkpoints {
        let noted = match objects.get(&path(shard)).await {
            Ok(found) => found.bytes().await,
            Err(object_store::Error::NotFound { .. }) => continue,
            Err(error) => Err(error),
        };
        let noted = noted.map_err(|error| OpenError::Io {
            what: "a checkpoint beside the objects cannot be read",
            source: std::io::Error::other(error),
        })?;
        let checked = noted.split_at_checked(16).is_some_and(|(place, crc)| crc == crc32c(place).to_be_bytes());
        if !checked {
            tracing::warn!(shard = shard.0, "the checkpoint beside the objects is damaged and is passed over");
            continue;
        }
        let place = |at: usize| noted.get(at..).and_then(|rest| rest.first_chunk().copied()).map(u64::from_be_bytes);
        let (Some(epoch), Some(seq)) = (place(0), place(8)) else { continue };
        if (epoch, seq) > checkpoint {
            return Err(OpenError::OlderManifest { shard: shard.0, manifest: checkpoint, objects: (epoch, seq) });
        }
    }
    Ok(())
}
