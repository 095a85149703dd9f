//! The tree is as the manual draws it: who may depend on whom, who may touch what, and how large a room may be.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Arrows between our crates (broker/manual/architecture.md).
const ARROWS: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("authz", &[]),
    ("crypto", &[]),
    ("certs", &[]),
    ("kms", &["crypto"]),
    ("wire", &["core"]),
    ("metadata", &["core", "crypto"]),
    ("coordinator", &["core"]),
    ("audit", &["core", "crypto"]),
    ("authn", &["core", "authz", "crypto"]),
    ("storage", &["core", "wire", "crypto", "metadata"]),
];

/// Crates that one room alone may depend on.
const ONLY: &[(&str, &[&str])] = &[
    ("ring", &["crypto"]),
    ("rusqlite", &["metadata"]),
    ("aws-sdk-kms", &["kms"]),
    ("aws-config", &["kms"]),
    ("casbin", &["authz"]),
    ("rcgen", &["certs"]),
    ("jsonwebtoken", &["authn"]),
    ("zstd", &["wire"]),
    ("lz4_flex", &["wire"]),
];

/// No file is longer; above it there is more than one subject in it.
const LINES_MAX: usize = 800;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn manifests() -> BTreeMap<String, String> {
    let folders = [
        "authz",
        "crypto",
        "crypto/kms",
        "certs",
        "broker",
        "broker/core",
        "broker/authn",
        "broker/wire",
        "broker/storage",
        "broker/metadata",
        "broker/coordinator",
        "broker/audit",
    ];
    folders
        .into_iter()
        .map(|folder| {
            let text = std::fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
            (folder.rsplit('/').next().unwrap().to_owned(), text)
        })
        .collect()
}

/// Names of the ordinary dependencies of a manifest.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let ordinary = manifest.split("[dependencies]").nth(1).unwrap_or_default();
    let ordinary = ordinary.split("\n[").next().unwrap_or_default();
    ordinary
        .lines()
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() && !matches!(name.as_str(), "target" | ".git" | "data" | "dev") {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

fn all_sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ["authz", "broker", "certs", "crypto"] {
        sources(&root().join(folder), &mut found);
    }
    found
}

#[test]
fn crates_depend_only_along_the_drawn_arrows() {
    let manifests = manifests();
    for (name, allowed) in ARROWS {
        let ours = dependencies(&manifests[*name])
            .into_iter()
            .filter_map(|crate_name| crate_name.strip_prefix("schloss-").map(str::to_owned));
        for arrow in ours {
            assert!(allowed.contains(&arrow.as_str()), "{name} depends on {arrow}, which the manual does not draw");
        }
    }
}

#[test]
fn dangerous_crates_are_touched_by_one_room_only() {
    for (crate_name, rooms) in ONLY {
        for (room, manifest) in manifests() {
            assert!(
                !dependencies(&manifest).contains(*crate_name) || rooms.contains(&room.as_str()),
                "{room} depends on {crate_name}"
            );
        }
    }
}

#[test]
fn casbin_is_built_without_its_cache() {
    // SECURITY: casbin's `cached` feature compares 64-bit hashes instead of keys: an authorisation bypass.
    let workspace = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let line = workspace.lines().find(|line| line.starts_with("casbin")).unwrap();
    assert!(!line.contains("cached"), "{line}");
}

#[test]
fn no_source_file_is_longer_than_its_bound() {
    for path in all_sources() {
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        let generated = path.ends_with("layout_table.rs");
        assert!(generated || lines <= LINES_MAX, "{}: {lines} lines", path.display());
    }
}

#[test]
fn requests_are_decoded_in_one_room_only() {
    for path in all_sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        let inside = path.components().any(|part| part.as_os_str() == "wire");
        // The demo's client decodes answers of its own broker.
        let client = path.ends_with("cli/client.rs") || path.ends_with("tests/tidy.rs");
        assert!(inside || client || !text.contains("::decode("), "{} decodes", path.display());
    }
}

#[test]
fn unsafe_code_is_forbidden_everywhere() {
    let workspace = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(workspace.contains("unsafe_code = \"forbid\""));
    for (room, manifest) in manifests() {
        assert!(manifest.contains("[lints]\nworkspace = true"), "{room} does not take the workspace's lints");
    }
}
