//! Ed25519 signatures, for audit checkpoints.

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use zeroize::Zeroizing;

/// What DER puts before the 32 bytes of an Ed25519 public key (RFC 8410, SubjectPublicKeyInfo).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Why a key was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SigningError {
    /// Not an Ed25519 key in the expected form.
    #[error("not an Ed25519 key")]
    NotAKey,
}

/// Signs. The private part stays inside.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// A fresh key as PKCS#8 (to be sealed and stored). Reopen it with [`SigningKey::from_pkcs8`].
    #[must_use]
    pub fn generate_pkcs8() -> Zeroizing<Vec<u8>> {
        match Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()) {
            Ok(document) => Zeroizing::new(document.as_ref().to_vec()),
            // As in `random_bytes`: without randomness there is nothing safe left to do.
            Err(_) => std::process::abort(),
        }
    }

    /// Takes a PKCS#8 document.
    ///
    /// # Errors
    /// [`SigningError::NotAKey`].
    pub fn from_pkcs8(document: &[u8]) -> Result<Self, SigningError> {
        Ed25519KeyPair::from_pkcs8(document).map(Self).map_err(|_| SigningError::NotAKey)
    }

    /// Signs `message`.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let signature = self.0.sign(message);
        signature.as_ref().first_chunk().copied().unwrap_or([0; 64])
    }

    /// The public half.
    #[must_use]
    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey(self.0.public_key().as_ref().first_chunk().copied().unwrap_or([0; 32]))
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

/// Verifies what the [`SigningKey`] signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyingKey([u8; 32]);

impl VerifyingKey {
    /// From the 32 raw bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 raw bytes.
    #[must_use]
    pub const fn to_bytes(&self) -> [u8; 32] {
        self.0
    }

    /// DER SubjectPublicKeyInfo, which `openssl pkey -pubin` reads.
    #[must_use]
    pub fn to_spki(&self) -> Vec<u8> {
        [&SPKI_PREFIX[..], &self.0].concat()
    }

    /// The inverse of [`VerifyingKey::to_spki`].
    ///
    /// # Errors
    /// [`SigningError::NotAKey`].
    pub fn from_spki(der: &[u8]) -> Result<Self, SigningError> {
        let raw = der.strip_prefix(&SPKI_PREFIX).ok_or(SigningError::NotAKey)?;
        raw.try_into().map(Self).map_err(|_| SigningError::NotAKey)
    }

    /// True when `signature` is this key's over `message`.
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(message, signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signature_verifies_for_its_message_and_key_only() {
        let key = SigningKey::from_pkcs8(&SigningKey::generate_pkcs8()).unwrap();
        let public = VerifyingKey::from_spki(&key.verifying_key().to_spki()).unwrap();
        let signature = key.sign(b"head");
        assert!(public.verify(b"head", &signature));
        assert!(!public.verify(b"heat", &signature));
        assert!(!public.verify(b"head", &signature[..63]));
        let other = SigningKey::from_pkcs8(&SigningKey::generate_pkcs8()).unwrap();
        assert!(!other.verifying_key().verify(b"head", &signature));
    }
}
