//! A copy of the cluster stream's newest checkpoint line, beside the streams (`newest-checkpoint.json`).
//!
//! Without it the end of the cluster's own stream could be cut off, or the stream be taken away, and nothing left in the folder
//! would contradict. It is replaced as a whole after the line itself is durable, so it never names what a crash may take back.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use schloss_crypto::signing::VerifyingKey;

use crate::CLUSTER_STREAM;
use crate::keys::write_whole;
use crate::line::{Body, Head, Line, is_signed_by};
use crate::stream::AuditError;
use crate::verify::FaultKind;

/// What the copy says.
pub(crate) struct Newest {
    /// The checkpoint's own place.
    pub(crate) head: Head,
    /// The lines of other streams it names.
    pub(crate) named: BTreeMap<String, Head>,
}

pub(crate) fn path(folder: &Path) -> PathBuf {
    folder.join("newest-checkpoint.json")
}

/// Replaces the copy by `line` (with its newline).
pub(crate) fn write(folder: &Path, line: &[u8]) -> io::Result<()> {
    write_whole(&path(folder), line)
}

/// Reads the copy: `None` when there is none, a fault when it is not a signed checkpoint of the cluster's stream.
pub(crate) fn read(folder: &Path, key: &VerifyingKey) -> Result<Option<Result<Newest, FaultKind>>, AuditError> {
    let path = path(folder);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(Some(judge(&bytes, key))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(AuditError::Io { path, source }),
    }
}

fn judge(bytes: &[u8], key: &VerifyingKey) -> Result<Newest, FaultKind> {
    let (line, hash) = bytes.strip_suffix(b"\n").and_then(Line::parse).ok_or(FaultKind::Altered)?;
    if !is_signed_by(&line, CLUSTER_STREAM, key) {
        return Err(FaultKind::BadSignature { since: 0 });
    }
    match line.body {
        Body::Checkpoint { streams, .. } => Ok(Newest { head: Head { seq: line.seq, hash }, named: streams }),
        Body::Open { .. } | Body::Event { .. } | Body::Certificate { .. } => Err(FaultKind::Altered),
    }
}
