//! Seals single values: names and secrets in the metadata store, audit bodies, keys under a key of the local keyring.
//!
//! Byte form: version `01` | salt \[32\] | commitment \[32\] | ciphertext | tag \[16\].
//! Key, commitment = HKDF-SHA-512(salt = the random salt, ikm = the given key, labels `value`, `value-commit`); nonce zero.
//! Associated data = version ‖ suite u16 ‖ binding, where the binding says what the value is and where it stands.
//!
//! Invariant: the salt is 32 fresh random bytes per value, so a derived key seals one plaintext only.

use crate::aead::{COMMIT_BYTES, Nonce, Root, SUITE, SealError, TAG_BYTES};
use crate::layout::Reader;
use crate::{DataKey, digest, random_array};

/// Bytes a sealed value is longer than its plaintext.
pub const VALUE_OVERHEAD_BYTES: usize = 1 + SALT_BYTES + COMMIT_BYTES + TAG_BYTES;
const SALT_BYTES: usize = 32;
const VERSION: u8 = 1;
const WHAT: &str = "sealed value";

/// Seals `plaintext` so that it opens only under the same key and `binding`.
#[must_use]
pub fn seal_value(key: &DataKey, binding: &[u8], plaintext: &[u8]) -> Vec<u8> {
    seal_with_salt(key, binding, plaintext, random_array())
}

fn seal_with_salt(key: &DataKey, binding: &[u8], plaintext: &[u8], salt: [u8; SALT_BYTES]) -> Vec<u8> {
    let root = Root::new(key, &salt);
    let mut text = plaintext.to_vec();
    // A plaintext beyond GCM's 64 GiB does not fit into memory here.
    let Ok(tag) = root.key("value").seal(Nonce::ONCE, &associated_data(binding), &mut text) else {
        std::process::abort()
    };
    [&[VERSION], &salt[..], &root.commitment("value-commit"), &text, &tag].concat()
}

/// Opens what [`seal_value`] made.
///
/// # Errors
/// [`SealError::Malformed`], [`SealError::WrongKey`], or [`SealError::Tampered`] (also for another binding).
pub fn open_value(key: &DataKey, binding: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
    let mut reader = Reader::new(sealed);
    let (Some([VERSION]), Some(salt), Some(commit)) =
        (reader.array::<1>(), reader.array::<SALT_BYTES>(), reader.array::<COMMIT_BYTES>())
    else {
        return Err(SealError::Malformed { what: WHAT });
    };
    let root = Root::new(key, &salt);
    if !root.committed("value-commit", &commit) {
        return Err(SealError::WrongKey { what: WHAT });
    }
    let mut text = reader.rest().to_vec();
    root.key("value").open(Nonce::ONCE, &associated_data(binding), &mut text, WHAT)?;
    text.truncate(text.len().saturating_sub(TAG_BYTES));
    Ok(text)
}

/// Wraps one key under another, for providers that keep key-encryption keys themselves.
#[must_use]
pub fn wrap_key(wrapping: &DataKey, binding: &[u8], key: &DataKey) -> Vec<u8> {
    seal_value(wrapping, binding, key.bytes())
}

/// Opens what [`wrap_key`] made.
///
/// # Errors
/// As [`open_value`].
pub fn unwrap_key(wrapping: &DataKey, binding: &[u8], wrapped: &[u8]) -> Result<DataKey, SealError> {
    let mut bytes = open_value(wrapping, binding, wrapped)?;
    DataKey::take_slice(&mut bytes).ok_or(SealError::Malformed { what: "wrapped key" })
}

fn associated_data(binding: &[u8]) -> Vec<u8> {
    [&[VERSION], &SUITE.to_be_bytes()[..], binding].concat()
}

/// Finds names without storing them: HMAC-SHA-256 under a key of the tenant's own.
pub struct IndexKey(DataKey);

impl IndexKey {
    /// From the tenant's index data key.
    #[must_use]
    pub fn new(key: &DataKey) -> Self {
        Self(Root::new(key, b"").secret("name-index"))
    }

    /// The row key of `name`. `kind` keeps topics, groups and others apart.
    #[must_use]
    pub fn name_index(&self, kind: u8, name: &str) -> [u8; 32] {
        self.bytes_index(kind, name.as_bytes())
    }

    /// The row key of any bytes, for keys that are not text.
    #[must_use]
    pub fn bytes_index(&self, kind: u8, key: &[u8]) -> [u8; 32] {
        digest::hmac_sha256(self.0.bytes(), &[&[kind], key])
    }
}

impl std::fmt::Debug for IndexKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IndexKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> DataKey {
        DataKey::take(&mut [byte; 32])
    }

    #[test]
    fn value_has_these_exact_bytes() {
        let sealed = seal_with_salt(&key(1), b"row 1", b"orders", [2; 32]);
        assert_eq!(crate::vectors::hex(&sealed), crate::vectors::vector("sealed-value"));
        let binding = [b"topic-key".as_slice(), &[0x33; 16], &[0x77; 16]].concat();
        let topic_key = seal_with_salt(&key(3), &binding, &[2; 32], [4; 32]);
        assert_eq!(crate::vectors::hex(&topic_key), crate::vectors::vector("topic-key-file"));
    }

    #[test]
    fn value_opens_under_its_key_and_binding_only() {
        let sealed = seal_value(&key(1), b"row 1", b"orders");
        assert_eq!(sealed.len(), b"orders".len() + VALUE_OVERHEAD_BYTES);
        assert_eq!(open_value(&key(1), b"row 1", &sealed).unwrap(), b"orders");
        assert_eq!(open_value(&key(1), b"row 2", &sealed), Err(SealError::Tampered { what: WHAT }));
        assert_eq!(open_value(&key(2), b"row 1", &sealed), Err(SealError::WrongKey { what: WHAT }));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_of_a_value_is_refused() {
        let sealed = seal_value(&key(1), b"b", b"secret");
        for at in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[at / 8] ^= 1 << (at % 8);
            assert!(open_value(&key(1), b"b", &bad).is_err(), "bit {at}");
        }
        for cut in 0..sealed.len() {
            assert!(open_value(&key(1), b"b", &sealed[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn two_seals_of_one_value_differ() {
        assert_ne!(seal_value(&key(1), b"", b"x"), seal_value(&key(1), b"", b"x"));
    }

    #[test]
    fn wrapped_key_opens_again() {
        let wrapped = wrap_key(&key(1), b"ctx", &key(9));
        assert_eq!(unwrap_key(&key(1), b"ctx", &wrapped).unwrap().bytes(), &[9; 32]);
    }

    #[test]
    fn name_index_depends_on_key_kind_and_name() {
        let index = IndexKey::new(&key(1));
        let one = index.name_index(1, "orders");
        assert_eq!(one, index.name_index(1, "orders"));
        assert_ne!(one, index.name_index(2, "orders"));
        assert_ne!(one, index.name_index(1, "order"));
        assert_ne!(one, IndexKey::new(&key(2)).name_index(1, "orders"));
    }
}
