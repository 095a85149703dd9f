//! Key bytes and randomness.
//!
//! Must not: give key bytes to a log line, a serialiser or another room except where a KMS hands them in.

use std::fmt;

use ring::rand::{SecureRandom, SystemRandom};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A 256-bit key. Wiped on drop; cannot be cloned, printed or serialised.
///
/// SECURITY: its bytes stay where they were put: a key that moves, as it does through every `await`, moves its pointer, and leaves no
/// copy behind that nobody wipes.
pub struct DataKey(Box<[u8; 32]>);

impl Drop for DataKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl DataKey {
    /// A fresh key from the operating system's randomness.
    #[must_use]
    pub fn generate() -> Self {
        let mut key = Self(Box::new([0; 32]));
        random_bytes(&mut *key.0);
        key
    }

    /// Takes over key bytes, wiping the caller's copy. For providers that hand out plain keys.
    #[must_use]
    pub fn take(bytes: &mut [u8; 32]) -> Self {
        let mut key = Self(Box::new([0; 32]));
        key.0.copy_from_slice(bytes);
        bytes.zeroize();
        key
    }

    /// Takes over key bytes of unknown length, wiping the caller's copy; `None` unless there are exactly 32.
    #[must_use]
    pub fn take_slice(bytes: &mut [u8]) -> Option<Self> {
        let key = <&mut [u8; 32]>::try_from(&mut *bytes).ok().map(Self::take);
        bytes.zeroize();
        key
    }

    /// Stretches a passphrase by PBKDF2-HMAC-SHA-256.
    #[must_use]
    pub fn from_passphrase(passphrase: &[u8], salt: &[u8], iterations: std::num::NonZeroU32) -> Self {
        let mut key = Self(Box::new([0; 32]));
        ring::pbkdf2::derive(ring::pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, passphrase, &mut *key.0);
        key
    }

    /// A second copy, for a holder that must be able to drop its own at any time.
    pub(crate) fn copy(&self) -> Self {
        Self(self.0.clone())
    }

    /// A copy for a KMS that wraps what we made instead of making keys itself. Wiped on drop.
    #[must_use]
    pub fn expose(&self) -> zeroize::Zeroizing<[u8; 32]> {
        zeroize::Zeroizing::new(*self.0)
    }

    /// The key bytes, for this room only.
    pub(crate) const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(..)")
    }
}

/// A secret that is text: a secret access key, a password, a session token. Wiped on drop; cannot be cloned, printed or
/// serialised by accident.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SecretText(String);

impl SecretText {
    /// Takes the text over.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// A fresh secret access key: 40 characters of base64 over 30 random bytes, as AWS writes them.
    #[must_use]
    pub fn generate() -> Self {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut bytes: [u8; 40] = random_array();
        // 64 divides 256: every character is equally likely.
        let text =
            bytes.iter().filter_map(|byte| ALPHABET.get(usize::from(byte % 64))).copied().map(char::from).collect();
        bytes.zeroize();
        Self(text)
    }

    /// The text. Never for a log, an error or an answer other than the one that shows it once.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(..)")
    }
}

/// Overwrites bytes that held a secret.
pub fn wipe(bytes: &mut [u8]) {
    bytes.zeroize();
}

/// Overwrites and empties a text that held a secret.
pub fn wipe_text(text: &mut String) {
    text.zeroize();
}

/// Fills `buffer` from the operating system's randomness.
///
/// Ends the process when there is none: going on with guessable keys would be worse than stopping,
/// and no caller could do better.
pub fn random_bytes(buffer: &mut [u8]) {
    if SystemRandom::new().fill(buffer).is_err() {
        std::process::abort();
    }
}

/// `N` bytes from the operating system's randomness.
#[must_use]
pub fn random_array<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    random_bytes(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_of_a_key_does_not_show_it() {
        assert_eq!(format!("{:?}", DataKey::generate()), "DataKey(..)");
        assert_eq!(format!("{:?}", SecretText::generate()), "SecretText(..)");
    }

    #[test]
    fn generated_secrets_have_forty_characters_and_differ() {
        let (one, two) = (SecretText::generate(), SecretText::generate());
        assert_eq!(one.expose().len(), 40);
        assert_ne!(one.expose(), two.expose());
    }

    #[test]
    fn taking_a_key_wipes_the_source_and_refuses_other_lengths() {
        let mut bytes = [7; 32];
        let key = DataKey::take(&mut bytes);
        assert_eq!((bytes, key.bytes()), ([0; 32], &[7; 32]));
        let mut short = vec![7; 31];
        assert!(DataKey::take_slice(&mut short).is_none());
        assert_eq!(short, vec![0; 31]);
    }

    #[test]
    fn passphrase_key_equals_the_published_pbkdf2_vector() {
        // PBKDF2-HMAC-SHA-256, "passwd", "salt", 1 iteration (RFC 7914, section 11), first 32 bytes.
        let key = DataKey::from_passphrase(b"passwd", b"salt", std::num::NonZeroU32::MIN);
        assert_eq!(
            key.bytes()[..16],
            [0x55, 0xac, 0x04, 0x6e, 0x56, 0xe3, 0x08, 0x9f, 0xec, 0x16, 0x91, 0xc2, 0x25, 0x44, 0xb6, 0x05]
        );
    }
}
