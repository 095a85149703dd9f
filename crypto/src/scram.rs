//! SCRAM verifiers (RFC 5802, RFC 7677): made from a password, checked against a proof.
//!
//! In: a password or the salted password that a client derived from it. Out: a [`ScramVerifier`], which can check a
//! client's proof and sign for the server, but from which the password cannot be read back.
//!
//! Invariants
//! - A verifier is wiped on drop, has no `Clone` and no `Debug` of its bytes.
//! - Proofs are compared in constant time.

use std::num::NonZeroU32;

use ring::{digest, hmac, pbkdf2};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// The two mechanisms Kafka knows (KIP-84); their numbers on the wire are 1 and 2 (KIP-554).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ScramMechanism {
    /// `SCRAM-SHA-256`.
    Sha256,
    /// `SCRAM-SHA-512`.
    Sha512,
}

impl ScramMechanism {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    /// The name on the wire of SASL.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "SCRAM-SHA-256",
            Self::Sha512 => "SCRAM-SHA-512",
        }
    }

    /// The mechanism of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mechanism| mechanism.name() == name)
    }

    /// The number in Describe- and AlterUserScramCredentials.
    #[must_use]
    pub const fn number(self) -> i8 {
        match self {
            Self::Sha256 => 1,
            Self::Sha512 => 2,
        }
    }

    /// The mechanism of this number.
    #[must_use]
    pub fn from_number(number: i8) -> Option<Self> {
        Self::ALL.into_iter().find(|mechanism| mechanism.number() == number)
    }

    /// Bytes of its digests.
    #[must_use]
    pub const fn digest_bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    fn hash(self, bytes: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha512 => &digest::SHA512,
        };
        digest::digest(algorithm, bytes).as_ref().to_vec()
    }

    fn hmac(self, key: &[u8], bytes: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha512 => hmac::HMAC_SHA512,
        };
        hmac::sign(&hmac::Key::new(algorithm, key), bytes).as_ref().to_vec()
    }

    /// RFC 5802's `Hi`: what Kafka's clients send as salted password.
    fn salted_password(self, password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
            Self::Sha512 => pbkdf2::PBKDF2_HMAC_SHA512,
        };
        let mut salted = vec![0; self.digest_bytes()];
        pbkdf2::derive(algorithm, iterations, salt, password, &mut salted);
        salted
    }
}

/// What the server keeps of a password.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct ScramVerifier {
    #[zeroize(skip)]
    mechanism: ScramMechanism,
    salt: Vec<u8>,
    iterations: u32,
    stored_key: Vec<u8>,
    server_key: Vec<u8>,
}

impl ScramVerifier {
    /// From a password (its UTF-8 bytes as they are: Kafka does no SASLprep).
    #[must_use]
    pub fn from_password(mechanism: ScramMechanism, password: &[u8], salt: Vec<u8>, iterations: NonZeroU32) -> Self {
        let mut salted = mechanism.salted_password(password, &salt, iterations);
        let verifier = Self::derive(mechanism, &salted, salt, iterations.get());
        salted.zeroize();
        verifier
    }

    /// From a salted password, as AlterUserScramCredentials carries it; `None` unless it has the digest's length.
    #[must_use]
    pub fn from_salted_password(
        mechanism: ScramMechanism,
        salted: &[u8],
        salt: Vec<u8>,
        iterations: NonZeroU32,
    ) -> Option<Self> {
        (salted.len() == mechanism.digest_bytes()).then(|| Self::derive(mechanism, salted, salt, iterations.get()))
    }

    /// From stored parts; `None` when their lengths do not fit the mechanism.
    #[must_use]
    pub fn from_parts(
        mechanism: ScramMechanism,
        salt: Vec<u8>,
        iterations: u32,
        stored_key: Vec<u8>,
        server_key: Vec<u8>,
    ) -> Option<Self> {
        let fits = [&stored_key, &server_key].iter().all(|key| key.len() == mechanism.digest_bytes());
        fits.then_some(Self { mechanism, salt, iterations, stored_key, server_key })
    }

    fn derive(mechanism: ScramMechanism, salted: &[u8], salt: Vec<u8>, iterations: u32) -> Self {
        let mut client_key = mechanism.hmac(salted, b"Client Key");
        let stored_key = mechanism.hash(&client_key);
        client_key.zeroize();
        let server_key = mechanism.hmac(salted, b"Server Key");
        Self { mechanism, salt, iterations, stored_key, server_key }
    }

    /// Its mechanism.
    #[must_use]
    pub fn mechanism(&self) -> ScramMechanism {
        self.mechanism
    }

    /// The salt told to clients.
    #[must_use]
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// The number of iterations told to clients.
    #[must_use]
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    /// RFC 5802's StoredKey, to be sealed.
    #[must_use]
    pub fn stored_key(&self) -> &[u8] {
        &self.stored_key
    }

    /// RFC 5802's ServerKey, to be sealed.
    #[must_use]
    pub fn server_key(&self) -> &[u8] {
        &self.server_key
    }

    /// Checks a client's proof over the exchange's `AuthMessage` and gives the server's signature; `None` when it is wrong.
    #[must_use]
    pub fn check(&self, auth_message: &[u8], proof: &[u8]) -> Option<Vec<u8>> {
        let mut client_key = self.mechanism.hmac(&self.stored_key, auth_message);
        let right_length = proof.len() == client_key.len();
        for (byte, proven) in client_key.iter_mut().zip(proof) {
            *byte ^= proven;
        }
        let same = self.mechanism.hash(&client_key).ct_eq(&self.stored_key);
        client_key.zeroize();
        let signature = self.mechanism.hmac(&self.server_key, auth_message);
        (bool::from(same) && right_length).then_some(signature)
    }
}

impl std::fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ScramVerifier({}, ..)", self.mechanism.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: [u8; 16] =
        [0x5b, 0x6d, 0x99, 0x68, 0x9d, 0x12, 0x35, 0x8e, 0xec, 0xa0, 0x4b, 0x14, 0x12, 0x36, 0xfa, 0x81];
    const AUTH_MESSAGE: &[u8] = b"n=user,r=rOprNGfwEbeRWgbNEkqO,\
        r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,\
        c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    /// `dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=`
    const PROOF: &str = "747cdb65aa56224e2352137e52d7bdcad6a0f738df30782caa69a2cfb0277554";
    /// `6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=`
    const SIGNATURE: &str = "eabae24d1062db75a9451ff0b6ea7e98c8546549ff741e672d3251b2397de46e";

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    fn pencil() -> ScramVerifier {
        let iterations = NonZeroU32::new(4096).unwrap();
        ScramVerifier::from_password(ScramMechanism::Sha256, b"pencil", SALT.to_vec(), iterations)
    }

    #[test]
    fn exchange_of_rfc_7677_is_accepted_and_signed_as_published() {
        assert_eq!(pencil().check(AUTH_MESSAGE, &unhex(PROOF)), Some(unhex(SIGNATURE)));
    }

    #[test]
    fn every_flipped_bit_and_every_other_length_of_a_proof_is_refused() {
        let (verifier, proof) = (pencil(), unhex(PROOF));
        for bit in 0..proof.len() * 8 {
            let mut wrong = proof.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(verifier.check(AUTH_MESSAGE, &wrong).is_none());
        }
        for length in [0, 31, 33] {
            let mut wrong = proof.clone();
            wrong.resize(length, 0);
            assert!(verifier.check(AUTH_MESSAGE, &wrong).is_none());
        }
        assert!(verifier.check(b"another message", &proof).is_none());
    }

    #[test]
    fn salted_password_of_a_client_gives_the_same_verifier_as_the_password() {
        for mechanism in ScramMechanism::ALL {
            let iterations = NonZeroU32::new(4096).unwrap();
            let salted = mechanism.salted_password(b"pencil", &SALT, iterations);
            let whole = ScramVerifier::from_password(mechanism, b"pencil", SALT.to_vec(), iterations);
            let derived = ScramVerifier::from_salted_password(mechanism, &salted, SALT.to_vec(), iterations).unwrap();
            assert_eq!(whole.stored_key(), derived.stored_key());
            assert_eq!(whole.server_key(), derived.server_key());
            assert!(ScramVerifier::from_salted_password(mechanism, &salted[1..], SALT.to_vec(), iterations).is_none());
        }
    }

    #[test]
    fn debug_of_a_verifier_shows_no_key() {
        assert_eq!(format!("{:?}", pencil()), "ScramVerifier(SCRAM-SHA-256, ..)");
    }
}
