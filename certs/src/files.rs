//! PEM files: read whole, written whole.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use crate::CertError;

/// All certificates of a PEM file, in order.
///
/// # Errors
/// [`CertError::NoCertificate`] when there is none or one is broken.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertError> {
    let text = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(CertError::NoCertificate { path: path.into() }),
    }
}

/// The private key of a PEM file that only its owner may read.
///
/// # Errors
/// [`CertError::KeyOpenToOthers`], [`CertError::NoPrivateKey`].
pub fn read_private_key(path: &Path) -> Result<PrivateKeyDer<'static>, CertError> {
    let text = read(path)?;
    let metadata = fs::metadata(path).map_err(|source| CertError::Io { path: path.into(), source })?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(CertError::KeyOpenToOthers { path: path.into(), mode });
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|_| CertError::NoPrivateKey { path: path.into() })
}

pub(crate) fn read_crls(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, CertError> {
    let text = read(path)?;
    let crls: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&text).collect();
    crls.ok().filter(|crls| !crls.is_empty()).ok_or(CertError::BadCrl { path: path.into() })
}

/// Writes a file only its owner can read (keys, passwords), replacing it as a whole.
///
/// # Errors
/// [`CertError::Io`].
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), CertError> {
    write(path, bytes, 0o600)
}

/// Writes a file everybody can read, replacing it as a whole.
///
/// # Errors
/// [`CertError::Io`].
pub fn write_public(path: &Path, bytes: &[u8]) -> Result<(), CertError> {
    write(path, bytes, 0o644)
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), CertError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let replace = || -> io::Result<()> {
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    replace().map_err(|source| CertError::Io { path: path.into(), source })
}

fn read(path: &Path) -> Result<Vec<u8>, CertError> {
    fs::read(path).map_err(|source| CertError::Io { path: path.into(), source })
}
