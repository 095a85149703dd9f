//! Files of certificates: read with bounds, written whole or not at all.
//!
//! Must not: keep a private key in memory that is not wiped, follow a name given by a peer.

use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::TlsError;

/// A chain of RSA-4096 certificates with a large revocation list fits many times.
pub(crate) const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Tenants with client certificates on one broker.
pub(crate) const AUTHORITY_FILES_MAX: usize = 16_384;

/// Who may read a file that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Secrecy {
    /// Anyone on the machine: certificates.
    Public,
    /// The owner alone: keys and files with a password.
    Owner,
}

/// Reads a file of at most [`FILE_BYTES_MAX`]; the bytes are wiped when dropped, as one of these files is a key.
pub(crate) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let failed = |source| TlsError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Zeroizing::new(Vec::new());
    let taken = file.take(FILE_BYTES_MAX.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(taken).is_ok_and(|taken| taken <= FILE_BYTES_MAX) {
        Ok(bytes)
    } else {
        Err(TlsError::TooLarge { path: path.to_owned(), bytes_max: FILE_BYTES_MAX })
    }
}

/// The `*.pem` files of a folder by name, hidden ones left out (a mounted secret has such beside the real ones).
pub(crate) fn pem_files(folder: &Path) -> Result<Vec<PathBuf>, TlsError> {
    let failed = |source| TlsError::Read { path: folder.to_owned(), source };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden || path.extension().is_none_or(|extension| extension != "pem") {
            continue;
        }
        if paths.len() >= AUTHORITY_FILES_MAX {
            return Err(TlsError::TooManyFiles { folder: folder.to_owned(), files_max: AUTHORITY_FILES_MAX });
        }
        paths.push(path);
    }
    paths.sort();
    Ok(paths)
}

/// All certificates of a PEM text, at least one.
pub(crate) fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|_malformed| TlsError::NotPem { path: path.to_owned() })?;
    if found.is_empty() {
        return Err(TlsError::NoCertificate { path: path.to_owned() });
    }
    Ok(found)
}

/// All revocation lists of a PEM text; none is fine.
pub(crate) fn revocation_lists(
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
    found.map_err(|_malformed| TlsError::NotPem { path: path.to_owned() })
}

/// The first private key of a PEM text.
pub(crate) fn private_key(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|_none| TlsError::NoKey { path: path.to_owned() })
}

/// SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut fingerprint = [0; 32];
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    for (to, from) in fingerprint.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    fingerprint
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Replaces a file as one act: a reader, or a crash, sees the old one or the new one, whole.
pub(crate) fn replace(path: &Path, bytes: &[u8], secrecy: Secrecy) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mode = match secrecy {
        Secrecy::Public => 0o644,
        Secrecy::Owner => 0o600,
    };
    // SECURITY: the mode is given at creation, so a key is at no moment readable by others.
    let mut file =
        tempfile::Builder::new().prefix(".new-").permissions(Permissions::from_mode(mode)).tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_file_is_readable_by_its_owner_only_even_when_it_replaces_an_open_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        std::fs::write(&path, "old").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        replace(&path, b"new", Secrecy::Owner).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn file_beyond_the_bound_is_refused_without_reading_it_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("huge.pem");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert!(matches!(read(&path), Err(TlsError::TooLarge { .. })));
    }

    #[test]
    fn hidden_and_foreign_files_are_no_authorities() {
        let folder = tempfile::tempdir().unwrap();
        for name in [".new-x.pem", "README", "acme.pem", "b.key"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(pem_files(folder.path()).unwrap(), [folder.path().join("acme.pem")]);
    }
}
