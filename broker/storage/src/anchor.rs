//! A shard's last checkpoint, kept beside the objects: a manifest that is behind it is an older one put over newer objects.
//!
//! Object `checkpoint/<shard>`: epoch u64 | sequence number u64, big-endian. Written after each flush is in the manifest, so it is never
//! ahead of the manifest it was written with. It is no secret and no proof: whoever can put both back is not noticed here (SECURITY.md).

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use schloss_core::ShardId;
use schloss_metadata::Metadata;

use crate::error::OpenError;

fn path(shard: ShardId) -> Path {
    Path::from(format!("checkpoint/{:04}", shard.0))
}

/// Notes a checkpoint. A note that fails leaves an older one, which claims less.
pub async fn note(objects: &dyn ObjectStore, shard: ShardId, (epoch, seq): (u64, u64)) {
    let bytes = [epoch.to_be_bytes(), seq.to_be_bytes()].concat();
    if let Err(error) = objects.put(&path(shard), PutPayload::from(bytes)).await {
        tracing::warn!(%error, "a checkpoint could not be noted beside the objects");
    }
}

/// Refuses a manifest that is older than the objects. Before anything is swept: to such a manifest newer objects are orphans.
pub async fn check(metadata: &dyn Metadata, objects: &dyn ObjectStore) -> Result<(), OpenError> {
    for (shard, checkpoint) in metadata.checkpoints().await? {
        let noted = match objects.get(&path(shard)).await {
            Ok(found) => found.bytes().await,
            Err(object_store::Error::NotFound { .. }) => continue,
            Err(error) => Err(error),
        };
        let noted = noted.map_err(|error| OpenError::Io {
            what: "a checkpoint beside the objects cannot be read",
            source: std::io::Error::other(error),
        })?;
        let place = |at: usize| noted.get(at..).and_then(|rest| rest.first_chunk().copied()).map(u64::from_be_bytes);
        let (Some(epoch), Some(seq)) = (place(0), place(8)) else { continue };
        if (epoch, seq) > checkpoint {
            return Err(OpenError::OlderManifest { shard: shard.0, manifest: checkpoint, objects: (epoch, seq) });
        }
    }
    Ok(())
}
