//! Proves what no tenant's key can prove: that the manifest's rows are all there, and which sections an entry of the log has.
//!
//! In: the cluster's data key of [`Purpose::Integrity`](crate::Purpose::Integrity). Out: proofs (HMAC-SHA-256) and sealed sums.
//! It opens nothing of any tenant.
//!
//! | label | what the derived key is for |
//! | --- | --- |
//! | `manifest-row` | HMAC of one row of the manifest; never stored as it is |
//! | `manifest-seal` | seals the sums of those ([`crate::value`]) |
//! | `log-entry` | HMAC of an entry of the write-ahead log, stored in the entry |
//!
//! Each is HKDF-SHA-512 of the data key with an empty salt.

use ring::hmac;

use crate::aead::{Root, SealError};
use crate::value::{open_value, seal_value};
use crate::{DataKey, digest};

/// Length of a proof.
pub const PROOF_BYTES: usize = 32;

/// The installation's key of proofs. Held as long as the process lives.
pub struct IntegrityKey {
    rows: hmac::Key,
    entries: hmac::Key,
    seal: DataKey,
}

impl IntegrityKey {
    /// From the cluster's integrity data key.
    #[must_use]
    pub fn new(key: &DataKey) -> Self {
        let root = Root::new(key, b"");
        let mac = |label| hmac::Key::new(hmac::HMAC_SHA256, root.secret(label).bytes());
        Self { rows: mac("manifest-row"), entries: mac("log-entry"), seal: root.secret("manifest-seal") }
    }

    /// Proof of one row. `row` is an unambiguous byte form of its table and all its columns. It must not be stored in the clear:
    /// sums of proofs that are known can be made to agree.
    #[must_use]
    pub fn row_proof(&self, row: &[u8]) -> [u8; PROOF_BYTES] {
        sign(&self.rows, &[row])
    }

    /// Seals sums of row proofs; `binding` says whose they are.
    #[must_use]
    pub fn seal_sums(&self, binding: &[u8], sums: &[u8]) -> Vec<u8> {
        seal_value(&self.seal, binding, sums)
    }

    /// Opens what [`IntegrityKey::seal_sums`] made.
    ///
    /// # Errors
    /// [`SealError`], also under another binding.
    pub fn open_sums(&self, binding: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        open_value(&self.seal, binding, sealed)
    }

    /// Proof of one log entry, over `parts` one after the other (the caller makes them unambiguous).
    #[must_use]
    pub fn entry_proof(&self, parts: &[&[u8]]) -> [u8; PROOF_BYTES] {
        sign(&self.entries, parts)
    }

    /// Whether `proof` is an entry's, in constant time.
    #[must_use]
    pub fn entry_is_proved(&self, parts: &[&[u8]], proof: &[u8]) -> bool {
        digest::constant_time_eq(&self.entry_proof(parts), proof)
    }
}

impl std::fmt::Debug for IntegrityKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IntegrityKey(..)")
    }
}

fn sign(key: &hmac::Key, parts: &[&[u8]]) -> [u8; PROOF_BYTES] {
    let mut context = hmac::Context::with_key(key);
    for part in parts {
        context.update(part);
    }
    // HMAC-SHA-256 always gives 32 bytes.
    context.sign().as_ref().first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> IntegrityKey {
        IntegrityKey::new(&DataKey::take(&mut [byte; 32]))
    }

    #[test]
    fn proofs_depend_on_key_content_and_use() {
        assert_eq!(key(1).row_proof(b"row"), key(1).row_proof(b"row"));
        assert_ne!(key(1).row_proof(b"row"), key(2).row_proof(b"row"));
        assert_ne!(key(1).row_proof(b"row"), key(1).row_proof(b"other"));
        assert_ne!(key(1).row_proof(b"row"), key(1).entry_proof(&[b"row"]));
        assert_eq!(key(1).entry_proof(&[b"ab", b"c"]), key(1).entry_proof(&[b"abc"]));
    }

    #[test]
    fn entry_proof_is_checked_whole() {
        let proof = key(1).entry_proof(&[b"entry"]);
        assert!(key(1).entry_is_proved(&[b"entry"], &proof));
        assert!(!key(1).entry_is_proved(&[b"entry"], &proof[..31]));
        assert!(!key(2).entry_is_proved(&[b"entry"], &proof));
    }

    #[test]
    fn sums_open_under_their_binding_only() {
        let sealed = key(1).seal_sums(b"acme", b"sums");
        assert_eq!(key(1).open_sums(b"acme", &sealed).unwrap(), b"sums");
        assert!(key(1).open_sums(b"globex", &sealed).is_err());
        assert!(key(2).open_sums(b"acme", &sealed).is_err());
    }
}
