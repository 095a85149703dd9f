//! The installation's id, in a file beside the manifest: for tools that read sealed files while the broker holds the manifest, and to tell
//! another installation's manifest from this one's.

use std::path::Path;

use schloss_core::ClusterId;

use crate::failure::{Failure, Number};

/// File of the data folder.
const FILE: &str = "cluster-id";

/// Notes the id.
///
/// # Errors
/// [`Number::DataFolder`].
pub fn write(data: &Path, cluster: ClusterId) -> Result<(), Failure> {
    std::fs::write(data.join(FILE), format!("{cluster}\n")).map_err(|error| {
        Failure::new(
            Number::DataFolder,
            format!("`{}`: {error}", data.display()),
            "check rights and free space of the data folder",
        )
    })
}

/// The id that [`write`] noted.
#[must_use]
pub fn read(data: &Path) -> Option<ClusterId> {
    let text = std::fs::read_to_string(data.join(FILE)).ok()?;
    Some(ClusterId::from_bytes(*uuid::Uuid::parse_str(text.trim()).ok()?.as_bytes()))
}
