//! SCRAM, the server's side.
//!
//! In: the client's two messages, and between them the verifier that the caller found or not. Out: the server's two
//! messages, or one refusal that does not say what was wrong.
//!
//! SPEC: RFC 5802, RFC 7677; KIP-48 for delegation tokens (extension `tokenauth=true`, the user name is the token's id).
//! No channel binding, as in Kafka.
//!
//! Invariants
//! - A name without a verifier goes through the same steps at the same cost, with a salt that is always the same for it
//!   ([`nobody`]); it fails at the same point with the same words.
//! - The client's final message must repeat the header and the nonces it was sent.

mod messages;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schloss_crypto::{ScramMechanism, ScramVerifier, random_array};

pub use messages::{ClientFirst, MessageError};

use messages::ClientFinal;

/// Bytes of a server nonce before encoding.
const NONCE_BYTES: usize = 24;

/// Why an exchange failed; for the audit log, never for the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScramRefusal {
    /// A message out of form.
    #[error("{0}")]
    Message(#[from] MessageError),
    /// The header or the nonces differ from those of the first messages.
    #[error("the final message does not belong to this exchange")]
    OtherExchange,
    /// The proof is of another password, or nobody has that name.
    #[error("unknown user or wrong password")]
    Proof,
}

/// The exchange after the server's first message.
pub struct Challenge {
    gs2_header: String,
    client_first_bare: String,
    server_first: String,
    nonce: String,
}

impl Challenge {
    /// Answers a client's first message with the salt and iterations of `verifier`.
    #[must_use]
    pub fn new(first: &ClientFirst, verifier: &ScramVerifier) -> Self {
        Self::with_nonce(first, verifier, &STANDARD.encode(random_array::<NONCE_BYTES>()))
    }

    fn with_nonce(first: &ClientFirst, verifier: &ScramVerifier, server_nonce: &str) -> Self {
        let nonce = format!("{}{server_nonce}", first.nonce);
        let server_first = format!("r={nonce},s={},i={}", STANDARD.encode(verifier.salt()), verifier.iterations());
        Self { gs2_header: first.gs2_header.clone(), client_first_bare: first.bare.clone(), server_first, nonce }
    }

    /// The server's first message.
    #[must_use]
    pub fn message(&self) -> &[u8] {
        self.server_first.as_bytes()
    }

    /// Judges the client's final message by the same verifier; the server's final message when it is right.
    ///
    /// # Errors
    /// [`ScramRefusal`].
    pub fn finish(&self, verifier: &ScramVerifier, message: &[u8]) -> Result<Vec<u8>, ScramRefusal> {
        let last = ClientFinal::read(message)?;
        if last.binding != self.gs2_header.as_bytes() || last.nonce != self.nonce {
            return Err(ScramRefusal::OtherExchange);
        }
        let signed = format!("{},{},{}", self.client_first_bare, self.server_first, last.without_proof);
        let signature = verifier.check(signed.as_bytes(), &last.proof).ok_or(ScramRefusal::Proof)?;
        Ok(format!("v={}", STANDARD.encode(signature)).into_bytes())
    }
}

/// A verifier that no password fits, for a name nobody has. `salt` must be made from a keyed hash of the name that stays the
/// same for ever, so that asking twice tells nothing, and look like the salts of those who are there.
#[must_use]
pub fn nobody(mechanism: ScramMechanism, salt: Vec<u8>, iterations: u32) -> Option<ScramVerifier> {
    let key = || random_array::<64>().get(..mechanism.digest_bytes()).map(<[u8]>::to_vec);
    ScramVerifier::from_parts(mechanism, salt, iterations, key()?, key()?)
}

impl std::fmt::Debug for Challenge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Challenge(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    const SHA_512_PROOF: &str =
        "bAVI1PH+aHWTFMZ9tNsTtjpWXuReoQs6Ut6/XwvI7TDlFH5xk0LzYDOc+PgHfGPEZCfm2e1djGRDMh+EOBAxkg==";
    const SHA_512_SIGNATURE: &str =
        "GgoHFqukIlqYcF7jRWxh/MenLY2t6vHoqtUWaioODYS0nkD6sGGjPvHgxpxzv1BOX5oM82pa+CeKa8tQ3H2a9Q==";

    fn verifier(mechanism: ScramMechanism, password: &str, salt: &str, iterations: u32) -> ScramVerifier {
        let salt = STANDARD.decode(salt).unwrap();
        ScramVerifier::from_password(mechanism, password.as_bytes(), salt, NonZeroU32::new(iterations).unwrap())
    }

    #[test]
    fn exchange_of_rfc_7677_ends_as_published() {
        let first = ClientFirst::read(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO").unwrap();
        let verifier = verifier(ScramMechanism::Sha256, "pencil", "W22ZaJ0SNY7soEsUEjb6gQ==", 4096);
        let challenge = Challenge::with_nonce(&first, &verifier, "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0");
        assert_eq!(
            challenge.message(),
            b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        );
        let last = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(challenge.finish(&verifier, last).unwrap(), b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn exchange_by_sha_512_ends_as_another_implementation_computes_it() {
        // Computed by Python's hashlib and hmac, which give RFC 7677's proof for its exchange.
        let first = ClientFirst::read(b"n,,n=user,r=hMmKO2yWu7RjSwk0sP1u").unwrap();
        let verifier = verifier(ScramMechanism::Sha512, "pencil", "Yin2FuHTt/M0kJWb0t9OI32n2VmOGi3m+JfjOvuDF88=", 4096);
        let challenge = Challenge::with_nonce(&first, &verifier, "Kjz1dYwzf3xhFnEdZoKm");
        let last = format!("c=biws,r=hMmKO2yWu7RjSwk0sP1uKjz1dYwzf3xhFnEdZoKm,p={SHA_512_PROOF}");
        assert_eq!(
            challenge.finish(&verifier, last.as_bytes()).unwrap(),
            format!("v={SHA_512_SIGNATURE}").into_bytes()
        );
    }

    #[test]
    fn name_nobody_has_gets_the_same_salt_and_iterations_each_time_and_fails_at_the_proof() {
        let first = ClientFirst::read(b"n,,n=nobody,r=abcdef").unwrap();
        let told = |challenge: &Challenge| {
            let text = String::from_utf8(challenge.message().to_vec()).unwrap();
            text.split_once(",s=").unwrap().1.to_owned()
        };
        let verifier = nobody(ScramMechanism::Sha256, vec![7; 16], 8192).unwrap();
        let (one, two) = (Challenge::new(&first, &verifier), {
            let again = nobody(ScramMechanism::Sha256, vec![7; 16], 8192).unwrap();
            Challenge::new(&first, &again)
        });
        assert_eq!(told(&one), told(&two));
        assert!(told(&one).ends_with(",i=8192"));
        assert_ne!(one.message(), two.message(), "the nonces differ");
        let last = format!("c=biws,r={},p={}", one.nonce, STANDARD.encode([0; 32]));
        assert_eq!(one.finish(&verifier, last.as_bytes()), Err(ScramRefusal::Proof));
    }

    #[test]
    fn final_message_of_another_exchange_is_refused() {
        let first = ClientFirst::read(b"n,,n=user,r=abc").unwrap();
        let verifier = nobody(ScramMechanism::Sha256, vec![7; 16], 8192).unwrap();
        let fresh = || Challenge::new(&first, &verifier);
        let proof = STANDARD.encode([0; 32]);
        let other = fresh();
        let replayed = format!("c=biws,r={},p={proof}", other.nonce);
        assert_eq!(fresh().finish(&verifier, replayed.as_bytes()), Err(ScramRefusal::OtherExchange));
        let here = fresh();
        // `eSws` is `y,,`: a header the client did not send first.
        let header = format!("c=eSws,r={},p={proof}", here.nonce);
        assert_eq!(here.finish(&verifier, header.as_bytes()), Err(ScramRefusal::OtherExchange));
    }
}
