//! The cluster's change of KMS key: what the log needs to go on and to be read is wrapped anew; not a line of it is touched.
//!
//! The signing key's file is replaced. Keys of events stand in `open` lines, which are chained and signed: their new wrapped forms lie
//! beside the streams, in `rewrapped-keys.json` (`{"<SHA-256 of the key as the line has it>": "<its newest wrapped form, base64>"}`),
//! and [`crate::query`] looks there first.
//!
//! Invariants
//! - The plain keys stay, so a false entry opens nothing: events fail to open and say so.
//! - What is wrapped anew is on disk before more is asked for; a run that was cut goes on where it was.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use schloss_core::ClusterId;
use schloss_crypto::digest::sha256;
use schloss_crypto::{KeyVault, WrappedKey};

use crate::keys::{self, write_whole};
use crate::line::{Body, Line};
use crate::stream::{AuditError, files, streams};

const FILE: &str = "rewrapped-keys.json";
/// Keys wrapped anew between two writes of the file.
const BATCH: usize = 8;

/// Newest wrapped forms of keys in `open` lines.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    path: PathBuf,
    newest: BTreeMap<String, String>,
}

impl Moved {
    pub(crate) fn load(folder: &Path) -> Result<Self, AuditError> {
        let path = folder.join(FILE);
        let newest = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|_| AuditError::Malformed { path: path.clone() })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => return Err(AuditError::Io { path, source }),
        };
        Ok(Self { path, newest })
    }

    /// The newest wrapped form of a key as its line has it; `None` when either is malformed.
    pub(crate) fn newest(&self, in_line: &str) -> Option<WrappedKey> {
        let bytes = BASE64.decode(in_line).ok()?;
        let bytes = match self.newest.get(&name(&bytes)) {
            Some(text) => BASE64.decode(text).ok()?,
            None => bytes,
        };
        WrappedKey::from_bytes(&bytes).ok()
    }

    fn put(&mut self, in_line: &str, wrapped: &WrappedKey) -> Option<()> {
        let bytes = BASE64.decode(in_line).ok()?;
        self.newest.insert(name(&bytes), BASE64.encode(wrapped.to_bytes().ok()?));
        Some(())
    }

    fn save(&self) -> Result<(), AuditError> {
        let text = serde_json::to_vec_pretty(&self.newest).unwrap_or_default();
        write_whole(&self.path, &text).map_err(|source| AuditError::Io { path: self.path.clone(), source })
    }
}

fn name(bytes: &[u8]) -> String {
    sha256(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Wraps every key of the log anew under the cluster's current KMS key. `told` hears of each: how many of how many, and whether it
/// was wrapped anew or had been; it may wait, to keep to a rate.
///
/// # Errors
/// [`AuditError`]; what was done stays done.
pub async fn rewrap<F: Future<Output = ()>>(
    folder: &Path,
    cluster: ClusterId,
    vault: &dyn KeyVault,
    mut told: impl FnMut(u64, u64, bool) -> F,
) -> Result<(), AuditError> {
    let mut moved = Moved::load(folder)?;
    let place = folder.to_owned();
    let in_lines = tokio::task::spawn_blocking(move || keys_in_lines(&place)).await;
    let failed = |error| AuditError::Io { path: folder.into(), source: io::Error::other(error) };
    let in_lines = in_lines.map_err(failed)??;
    let of = (in_lines.len() as u64).saturating_add(1);
    let signing = keys::rewrap_signing_key(folder, cluster, vault).await?;
    told(1, of, signing).await;
    let context = keys::context(cluster);
    let mut unsaved = 0_usize;
    for (in_line, number) in in_lines.iter().zip(2_u64..) {
        let malformed = || AuditError::Malformed { path: folder.join(FILE) };
        let wrapped = moved.newest(in_line).ok_or_else(malformed)?;
        let anew = match vault.rewrap(&context, &wrapped, None).await {
            Ok(anew) => anew,
            Err(error) => {
                moved.save()?;
                return Err(error.into());
            }
        };
        if let Some(anew) = &anew {
            moved.put(in_line, anew).ok_or_else(malformed)?;
            unsaved = unsaved.saturating_add(1);
        }
        if unsaved >= BATCH {
            moved.save()?;
            unsaved = 0;
        }
        told(number, of, anew.is_some()).await;
    }
    if unsaved > 0 { moved.save() } else { Ok(()) }
}

/// Keys of all `open` lines, each once.
fn keys_in_lines(folder: &Path) -> Result<BTreeSet<String>, AuditError> {
    let mut found = BTreeSet::new();
    for stream in streams(folder)? {
        for (_, path) in files(&folder.join(&stream))? {
            let text = fs::read(&path).map_err(|source| AuditError::Io { path: path.clone(), source })?;
            for (at, raw) in (1..).zip(text.split_inclusive(|byte| *byte == b'\n')) {
                // A line still being written has no newline yet.
                let Some(raw) = raw.strip_suffix(b"\n") else { break };
                let (line, _) = Line::parse(raw).ok_or_else(|| AuditError::Broken { path: path.clone(), line: at })?;
                if let Body::Open { key, .. } = line.body {
                    found.insert(key);
                }
            }
        }
    }
    Ok(found)
}
