//! The organisation's folder, edited by commands: the whole set is validated with the change before a byte is written,
//! and each file is swapped in by renaming, so that a reader sees the old one or the new one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Failure, Number};
use crate::config::Config;
use crate::tenancy;

/// How long a running broker may take to report a change in force, before the command stops waiting for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// One change: files written in this order, `None` removes.
pub type Edit = Vec<(String, Option<String>)>;

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// A running broker reports it in force.
    InForce,
    /// No broker reported it: none runs, or it is slow.
    Written,
}

/// All files of the organisation in place.
///
/// # Errors
/// [`Number::Organisation`].
pub fn files(config: &Config) -> Result<BTreeMap<String, String>, Failure> {
    tenancy::read_files(&config.organisation_dir).map_err(unsound)
}

/// Makes a change if the set is sound with it.
///
/// # Errors
/// [`Number::Organisation`] with every mistake, [`Number::File`].
pub fn change(config: &Config, edit: Edit) -> Result<Applied, Failure> {
    let folder = &config.organisation_dir;
    let _one = lock(folder)?;
    let mut files = files(config)?;
    for (path, text) in &edit {
        match text {
            Some(text) => drop(files.insert(path.clone(), text.clone())),
            None => drop(files.remove(path)),
        }
    }
    tenancy::check(&files).map_err(unsound)?;
    for (path, text) in edit {
        write(&folder.join(&path), text.as_deref()).map_err(|error| {
            Failure::new(Number::File, format!("`{path}`: {error}"), "check the rights of the organisation's folder")
        })?;
    }
    let digest = tenancy::digest_of_folder(folder).map_err(unsound)?;
    Ok(wait(config, &digest))
}

fn unsound(error: tenancy::LoadError) -> Failure {
    Failure::new(Number::Organisation, error, "mend the lines above; nothing was changed")
}

/// One command at a time; the lock goes with the file.
fn lock(folder: &Path) -> Result<File, Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(
            Number::File,
            format!("`{}`: {error}", folder.display()),
            "name an installation with --dir or --config",
        )
    };
    let file = File::open(folder).map_err(failed)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
    Ok(file)
}

fn write(path: &Path, text: Option<&str>) -> std::io::Result<()> {
    let Some(text) = text else { return std::fs::remove_file(path) };
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    // Hidden files are not read as part of the set.
    let draft = folder.join(format!(".{}.draft", path.file_name().unwrap_or_default().to_string_lossy()));
    let mut file = File::create(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&draft, path)
}

fn wait(config: &Config, digest: &str) -> Applied {
    let in_force = || crate::broker::read_organisation_in_force(&config.data_dir);
    if in_force().is_none() {
        return Applied::Written;
    }
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if in_force().as_deref() == Some(digest) {
            return Applied::InForce;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Applied::Written
}
