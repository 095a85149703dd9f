//! What a data key is for. Every wrap is bound to it; opening under another context fails at the KMS.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What one key may be used for. Part of [`EncryptionContext`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Purpose {
    /// Seals one segment object.
    Segment {
        /// The segment's id.
        segment: [u8; 16],
    },
    /// An epoch key: the parent of a tenant's write-ahead-log section keys of one writer.
    Wal {
        /// The shard.
        shard: u32,
        /// The writer's epoch of that shard.
        epoch: u64,
        /// Counts the keys of this writer, from 0 (a new one every few minutes).
        generation: u32,
    },
    /// Names, verifiers, secrets in the metadata store.
    Metadata {
        /// Counts the tenant's metadata keys, from 0.
        generation: u32,
    },
    /// The key of the HMAC by which names are found.
    Index,
    /// Bodies of audit events.
    Audit,
    /// Proofs of the manifest's rows and of log entries.
    Integrity,
    /// Seals nothing: made and opened only to see whether the KMS still allows it.
    Probe,
    /// Seals one backup's manifest snapshot.
    Backup {
        /// The snapshot's id.
        snapshot: [u8; 16],
    },
}

impl Purpose {
    /// The word in the encryption context.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Segment { .. } => "segment",
            Self::Wal { .. } => "wal",
            Self::Metadata { .. } => "metadata",
            Self::Index => "index",
            Self::Audit => "audit",
            Self::Integrity => "integrity",
            Self::Probe => "probe",
            Self::Backup { .. } => "backup",
        }
    }
}

/// The facts a wrapped key is bound to. AWS KMS calls this the encryption context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EncryptionContext {
    /// The installation.
    pub cluster: [u8; 16],
    /// The tenant (its account number, big-endian); zero is the installation itself.
    pub tenant: [u8; 16],
    /// What the key is for.
    pub purpose: Purpose,
}

impl EncryptionContext {
    /// The pairs handed to a KMS, so that key policies can name tenant and purpose
    /// (`kms:EncryptionContext:schloss:tenant`).
    #[must_use]
    pub fn pairs(&self) -> BTreeMap<String, String> {
        let mut pairs = BTreeMap::new();
        let mut put = |key: &str, value: String| pairs.insert(format!("schloss:{key}"), value);
        put("v", "1".to_owned());
        put("cluster", hex(&self.cluster));
        put("tenant", account(self.tenant));
        put("purpose", self.purpose.name().to_owned());
        match self.purpose {
            Purpose::Segment { segment } => {
                put("segment", hex(&segment));
            }
            Purpose::Wal { shard, epoch, generation } => {
                put("shard", shard.to_string());
                put("epoch", epoch.to_string());
                put("generation", generation.to_string());
            }
            Purpose::Metadata { generation } => {
                put("generation", generation.to_string());
            }
            Purpose::Backup { snapshot } => {
                put("snapshot", hex(&snapshot));
            }
            Purpose::Index | Purpose::Audit | Purpose::Integrity | Purpose::Probe => {}
        }
        pairs
    }

    /// One unambiguous byte string of the pairs, for providers that take associated data.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (key, value) in self.pairs() {
            for part in [key, value] {
                bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
                bytes.extend_from_slice(part.as_bytes());
            }
        }
        bytes
    }
}

/// Twelve digits as AWS writes accounts; ids that are no account number stay hexadecimal.
fn account(tenant: [u8; 16]) -> String {
    let number = u128::from_be_bytes(tenant);
    if number <= 999_999_999_999 { format!("{number:012}") } else { hex(&tenant) }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_pairs_name_cluster_tenant_and_purpose() {
        let context = EncryptionContext {
            cluster: [0xab; 16],
            tenant: 111_122_223_333_u128.to_be_bytes(),
            purpose: Purpose::Wal { shard: 3, epoch: 9, generation: 1 },
        };
        let pairs: Vec<_> = context.pairs().into_iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            pairs.join(" "),
            "schloss:cluster=abababababababababababababababab schloss:epoch=9 schloss:generation=1 \
             schloss:purpose=wal schloss:shard=3 schloss:tenant=111122223333 schloss:v=1"
        );
    }
}
