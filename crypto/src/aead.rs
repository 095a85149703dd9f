//! AES-256-GCM with explicit nonces and HKDF-SHA-512, as every sealed form here uses them.
//!
//! Invariant: callers give each (key, nonce) pair at most once; how is stated in each module's head.

use ring::{aead, hkdf};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use crate::DataKey;

/// Suite 1: HKDF-SHA-512, AES-256-GCM, 32-byte commitment. The only one so far.
pub(crate) const SUITE: u16 = 1;
/// Length of a GCM tag.
pub(crate) const TAG_BYTES: usize = 16;
/// Length of a key commitment.
pub(crate) const COMMIT_BYTES: usize = 32;

/// Why sealed bytes were not opened, or plaintext not sealed. Never carries bytes of either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Not our format, cut, or fields that contradict each other.
    #[error("the {what} is not in the expected form")]
    Malformed {
        /// The part.
        what: &'static str,
    },
    /// A format of a newer program.
    #[error("format version {version}, suite {suite} is not known to this program")]
    UnknownFormat {
        /// The version field.
        version: u16,
        /// The suite field.
        suite: u16,
    },
    /// A sound object, but not the one asked for.
    #[error("the object is another one: its {field} differs")]
    OtherObject {
        /// The first differing field.
        field: &'static str,
    },
    /// The key does not belong to these bytes.
    #[error("the key is not the one the {what} was sealed with")]
    WrongKey {
        /// The part.
        what: &'static str,
    },
    /// The tag does not verify: bytes, place or owner were changed.
    #[error("the {what} fails its integrity check")]
    Tampered {
        /// The part.
        what: &'static str,
    },
    /// Larger than a bound of the format.
    #[error("the {what} is larger than the format allows")]
    TooLong {
        /// The part.
        what: &'static str,
    },
    /// A segment without a single frame.
    #[error("a segment needs at least one frame")]
    Empty,
}

/// The pseudo-random key one object's keys are expanded from.
pub(crate) struct Root(hkdf::Prk);

impl Root {
    /// HKDF-Extract-SHA-512.
    pub(crate) fn new(key: &DataKey, salt: &[u8]) -> Self {
        Self(hkdf::Salt::new(hkdf::HKDF_SHA512, salt).extract(key.bytes()))
    }

    /// The same with two input keys one after the other: without either there is nothing to open.
    pub(crate) fn of_both(key: &DataKey, other: &DataKey, salt: &[u8]) -> Self {
        let mut both = [0; 64];
        let (first, second) = both.split_at_mut(32);
        first.copy_from_slice(key.bytes());
        second.copy_from_slice(other.bytes());
        let root = Self(hkdf::Salt::new(hkdf::HKDF_SHA512, salt).extract(&both));
        both.zeroize();
        root
    }

    fn expand(&self, label: &str) -> [u8; 32] {
        let mut out = [0; 32];
        let suite = SUITE.to_be_bytes();
        let info = [b"schloss/1/".as_slice(), label.as_bytes(), &suite];
        // Cannot fail: 32 bytes are far below HKDF's bound, and the buffer has the length asked for.
        // If it ever did, an all-zero key must not seal anything.
        if self.0.expand(&info, Len32).and_then(|okm| okm.fill(&mut out)).is_err() {
            std::process::abort();
        }
        out
    }

    /// The AES key of `label`.
    pub(crate) fn key(&self, label: &str) -> SealKey {
        let mut bytes = self.expand(label);
        let key = aead::UnboundKey::new(&aead::AES_256_GCM, &bytes);
        bytes.zeroize();
        match key {
            Ok(key) => SealKey(aead::LessSafeKey::new(key)),
            // Cannot happen: the algorithm takes exactly 32 bytes.
            Err(_) => std::process::abort(),
        }
    }

    /// Bytes that only this key and salt give; stored, and compared before anything is opened.
    pub(crate) fn commitment(&self, label: &str) -> [u8; COMMIT_BYTES] {
        self.expand(label)
    }

    /// Compares a stored commitment in constant time.
    pub(crate) fn committed(&self, label: &str, stored: &[u8]) -> bool {
        self.commitment(label).ct_eq(stored).into()
    }

    /// 32 bytes for other uses, for example an HMAC key.
    pub(crate) fn secret(&self, label: &str) -> DataKey {
        DataKey::take(&mut self.expand(label))
    }
}

struct Len32;

impl hkdf::KeyType for Len32 {
    fn len(&self) -> usize {
        32
    }
}

/// An AES-256-GCM key for explicit nonces.
pub(crate) struct SealKey(aead::LessSafeKey);

impl SealKey {
    /// Encrypts in place and returns the tag.
    pub(crate) fn seal(&self, nonce: Nonce, aad: &[u8], text: &mut [u8]) -> Result<[u8; TAG_BYTES], SealError> {
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce.ring(), aead::Aad::from(aad), text)
            .map_err(|_| SealError::TooLong { what: "plaintext" })?;
        tag.as_ref().first_chunk().copied().ok_or(SealError::Malformed { what: "tag" })
    }

    /// Decrypts `text` (ciphertext and tag) in place; the plaintext is all but the last 16 bytes.
    pub(crate) fn open(&self, nonce: Nonce, aad: &[u8], text: &mut [u8], what: &'static str) -> Result<(), SealError> {
        self.0
            .open_in_place(nonce.ring(), aead::Aad::from(aad), text)
            .map(|_| ())
            .map_err(|_| SealError::Tampered { what })
    }
}

/// Domain (32 bits) ‖ number (64 bits).
#[derive(Clone, Copy)]
pub(crate) struct Nonce {
    pub(crate) domain: u32,
    pub(crate) number: u64,
}

impl Nonce {
    /// For keys that seal one thing only.
    pub(crate) const ONCE: Self = Self { domain: 0, number: 0 };

    fn ring(self) -> aead::Nonce {
        let [a, b, c, d] = self.domain.to_be_bytes();
        let [e, f, g, h, i, j, k, l] = self.number.to_be_bytes();
        aead::Nonce::assume_unique_for_key([a, b, c, d, e, f, g, h, i, j, k, l])
    }
}
