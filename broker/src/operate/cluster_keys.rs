//! `keys rewrap --cluster`: everything live that the cluster's former KMS key wraps, under its current one. Online and resumable.
//!
//! In: a running broker whose config names both. Out: the audit log's signing key, the keys of its events, and the installation's keys in
//! the manifest, wrapped anew; afterwards the former key can be disabled. Backups are files of their own and stay as they were made.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use schloss_audit::AuditError;
use schloss_core::ClusterId;
use schloss_crypto::{EncryptionContext, KeyError, KeyVault, Purpose, SealError, WrappedKey};
use schloss_metadata::{KeyRow, MetadataError};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{OperatorCall, OperatorRefusal};
use crate::keys::CLUSTER;

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    #[error(transparent)]
    Sealed(#[from] SealError),
    #[error("a stored key is for `{0}`, which this release does not know")]
    Unknown(String),
}

/// Keys wrapped anew, and keys that were already.
#[derive(Default)]
struct Done {
    rewrapped: AtomicU64,
    kept: AtomicU64,
}

impl Done {
    fn count(&self, anew: bool) {
        let counter = if anew { &self.rewrapped } else { &self.kept };
        counter.fetch_add(1, Relaxed);
    }
}

/// Does it, at most `rate` calls a second.
pub async fn rewrap(call: &OperatorCall, rate: u32) -> Result<Value, OperatorRefusal> {
    let pace = Duration::from_secs(1) / rate.max(1);
    let (progress, done) = (watch::Sender::new((0, 0)), Done::default());
    let outcome = call.told(&progress, everything(call, pace, &progress, &done)).await;
    outcome.map_err(|error| {
        let next = match error {
            Trouble::Key(_) | Trouble::Audit(AuditError::Key(_)) => {
                "check both KMS keys and their policies (kms:ReEncryptFrom, kms:ReEncryptTo), and that `kms.cluster.keys` names the former one; then run it again: it goes on"
            }
            _ => "look at the broker's log, then run it again: it goes on",
        };
        OperatorRefusal::new("NotRewrapped", error, next)
    })?;
    call.broker.vault.retire_others(CLUSTER);
    Ok(json!({
        "rewrapped": done.rewrapped.load(Relaxed),
        "kept": done.kept.load(Relaxed),
        "next": "the former KMS key may be disabled and taken out of `kms.cluster.keys`, but for backups made under it: \
                 they open with it only, so make a new one in a new folder first",
    }))
}

async fn everything(
    call: &OperatorCall,
    pace: Duration,
    progress: &watch::Sender<(u64, u64)>,
    done: &Done,
) -> Result<(), Trouble> {
    let broker = &call.broker;
    let cluster = ClusterId::from_bytes(broker.metadata.cluster_id().await?);
    let rows = broker.metadata.all_keys(CLUSTER).await?;
    let first = rows.len() as u64;
    for row in rows {
        done.count(rewrap_row(call, cluster, row).await?);
        tokio::time::sleep(pace).await;
    }
    let folder = broker.config.data_dir.join("audit");
    schloss_audit::rewrap(&folder, cluster, &*broker.vault, |number, of, anew| {
        done.count(anew);
        progress.send_replace((first.saturating_add(number), first.saturating_add(of)));
        // Nothing was asked about a key that is where it should be.
        tokio::time::sleep(if anew { pace } else { Duration::ZERO })
    })
    .await?;
    Ok(())
}

async fn rewrap_row(call: &OperatorCall, cluster: ClusterId, row: KeyRow) -> Result<bool, Trouble> {
    let purpose = match row.purpose.as_str() {
        "integrity" => Purpose::Integrity,
        _ => return Err(Trouble::Unknown(row.purpose)),
    };
    let context = EncryptionContext { cluster: cluster.to_bytes(), tenant: CLUSTER, purpose };
    let wrapped = WrappedKey::from_bytes(&row.wrapped)?;
    let Some(anew) = call.broker.vault.rewrap(&context, &wrapped, None).await? else { return Ok(false) };
    call.broker.metadata.rewrap_key(KeyRow { wrapped: anew.to_bytes()?, ..row }).await?;
    Ok(true)
}
