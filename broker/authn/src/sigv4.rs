//! Signature Version 4 in its query form, verified.
//!
//! In: the parts of a presigned request to connect ([`Presigned`]), the secret access key found by the caller, the time.
//! Out: proof that the holder of the secret signed these parts within their window.
//!
//! SPEC: AWS, "Create a signed AWS API request" and "Authenticating requests: using query parameters". Canonical request
//! `GET`, `/`, the query sorted by name and percent-encoded by RFC 3986, the one header `host`, the hash of no body.
//!
//! Invariants
//! - Everything the peer sent takes part in the canonical request, or is fixed.
//! - The signature is compared in constant time.
//! - A signing key is kept only for the secret it came from, and wiped when it leaves the cache.

use std::collections::HashMap;
use std::fmt::Write as _;

use schloss_crypto::digest::{constant_time_eq, hmac_sha256, sha256};
use time::{Date, Month, OffsetDateTime, Time};
use zeroize::Zeroizing;

/// The signing service of MSK.
pub const SERVICE: &str = "kafka-cluster";
/// The action that connects.
pub const ACTION: &str = "kafka-cluster:Connect";
/// The one algorithm.
pub const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// How far the signer's clock may be off, and the longest validity.
pub const WINDOW_MS: i64 = 15 * 60 * 1000;
const EXPIRES_SECONDS_MAX: i64 = 900;
const ACCESS_KEY_BYTES_MAX: usize = 128;
const REGION_BYTES_MAX: usize = 64;
const TOKEN_BYTES_MAX: usize = 16 * 1024;
const HOST_BYTES_MAX: usize = 253;

/// Why a signature is not taken; the words are for the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureRefusal {
    /// Not `AWS4-HMAC-SHA256`.
    #[error("the algorithm is not AWS4-HMAC-SHA256")]
    Algorithm,
    /// Not the action that connects.
    #[error("the signed action is not kafka-cluster:Connect")]
    Action,
    /// Other headers than `host` are signed.
    #[error("the signed headers are not exactly `host`")]
    SignedHeaders,
    /// Not `key/date/region/kafka-cluster/aws4_request`.
    #[error("the credential scope is malformed or of another service")]
    Scope,
    /// Not `yyyymmddThhmmssZ`.
    #[error("the date of signing is malformed")]
    Date,
    /// The scope's day is not the day of signing.
    #[error("the credential scope is of another day than the signature")]
    DateScope,
    /// Not a number of seconds from 1 to 900, with a fraction or without.
    #[error("the validity is not 1 to 900 seconds")]
    Expires,
    /// Not 64 hexadecimal digits.
    #[error("the signature is malformed")]
    Form,
    /// A part beyond its bound.
    #[error("a part is longer than its bound")]
    TooLong,
    /// Signed too far in the future.
    #[error("the signature is of the future")]
    NotYet,
    /// Out of its validity.
    #[error("the signature has expired")]
    Expired,
    /// The secret is another one, or a part was changed.
    #[error("the signature does not match")]
    Mismatch,
}

/// A request to connect that somebody signed. The signature is not verified yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presigned {
    /// The access key's id.
    pub access_key_id: String,
    /// The region it was signed for.
    pub region: String,
    /// The session token of temporary credentials.
    pub session_token: Option<String>,
    /// The host it was signed for, without port, as the peer wrote it.
    pub host: String,
    /// When it was signed, in milliseconds since 1970.
    pub signed_ms: i64,
    /// Until when it is good by itself.
    pub until_ms: i64,
    /// What the peer claims to be the signature.
    pub signature: [u8; 32],
    timestamp: String,
    expires: String,
}

/// The raw parts, as they were written.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// `Action`.
    pub action: &'a str,
    /// `X-Amz-Algorithm`.
    pub algorithm: &'a str,
    /// `X-Amz-Credential`.
    pub credential: &'a str,
    /// `X-Amz-Date`.
    pub date: &'a str,
    /// `X-Amz-Expires`.
    pub expires: &'a str,
    /// `X-Amz-Security-Token`.
    pub session_token: Option<&'a str>,
    /// `X-Amz-SignedHeaders`.
    pub signed_headers: &'a str,
    /// `X-Amz-Signature`.
    pub signature: &'a str,
    /// The signed host.
    pub host: &'a str,
}

impl Presigned {
    /// Checks the form of the parts.
    ///
    /// # Errors
    /// The first part that is out of form.
    pub fn new(parts: &Parts<'_>) -> Result<Self, SignatureRefusal> {
        if parts.action != ACTION {
            return Err(SignatureRefusal::Action);
        }
        if parts.algorithm != ALGORITHM {
            return Err(SignatureRefusal::Algorithm);
        }
        if parts.signed_headers != "host" {
            return Err(SignatureRefusal::SignedHeaders);
        }
        let mut scope = parts.credential.split('/');
        let (Some(key), Some(day), Some(region), Some(SERVICE), Some("aws4_request"), None) =
            (scope.next(), scope.next(), scope.next(), scope.next(), scope.next(), scope.next())
        else {
            return Err(SignatureRefusal::Scope);
        };
        let too_long = key.len() > ACCESS_KEY_BYTES_MAX
            || region.len() > REGION_BYTES_MAX
            || parts.host.len() > HOST_BYTES_MAX
            || parts.session_token.is_some_and(|token| token.len() > TOKEN_BYTES_MAX);
        if too_long {
            return Err(SignatureRefusal::TooLong);
        }
        let word = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !key.bytes().all(|b| b.is_ascii_alphanumeric()) || key.is_empty() || !word(region) {
            return Err(SignatureRefusal::Scope);
        }
        let signed_ms = instant_ms(parts.date).ok_or(SignatureRefusal::Date)?;
        if parts.date.get(..8) != Some(day) {
            return Err(SignatureRefusal::DateScope);
        }
        let validity_ms = validity_ms(parts.expires).ok_or(SignatureRefusal::Expires)?;
        Ok(Self {
            access_key_id: key.to_owned(),
            region: region.to_owned(),
            session_token: parts.session_token.map(str::to_owned),
            host: parts.host.to_owned(),
            signed_ms,
            until_ms: signed_ms.saturating_add(validity_ms),
            signature: unhex(parts.signature).ok_or(SignatureRefusal::Form)?,
            timestamp: parts.date.to_owned(),
            expires: parts.expires.to_owned(),
        })
    }

    /// Checks the window of time.
    ///
    /// # Errors
    /// [`SignatureRefusal::NotYet`], [`SignatureRefusal::Expired`].
    pub fn check_time(&self, now_ms: i64) -> Result<(), SignatureRefusal> {
        if self.signed_ms > now_ms.saturating_add(WINDOW_MS) {
            return Err(SignatureRefusal::NotYet);
        }
        if now_ms > self.until_ms {
            return Err(SignatureRefusal::Expired);
        }
        Ok(())
    }

    /// Checks the signature with the secret's signing key.
    ///
    /// # Errors
    /// [`SignatureRefusal::Mismatch`].
    pub fn verify(&self, key: &SigningKey) -> Result<(), SignatureRefusal> {
        let expected = hmac_sha256(&*key.0, &[self.string_to_sign().as_bytes()]);
        if constant_time_eq(&expected, &self.signature) { Ok(()) } else { Err(SignatureRefusal::Mismatch) }
    }

    /// The day of the credential scope.
    #[must_use]
    pub fn day(&self) -> &str {
        self.timestamp.get(..8).unwrap_or_default()
    }

    fn string_to_sign(&self) -> String {
        let mut request = String::with_capacity(512);
        request.push_str("GET\n/\n");
        self.push_query(&mut request);
        let _ = write!(request, "\nhost:{}\n\nhost\n{EMPTY_SHA256}", self.host);
        let (day, region) = (self.day(), &self.region);
        let mut text = format!("{ALGORITHM}\n{}\n{day}/{region}/{SERVICE}/aws4_request\n", self.timestamp);
        push_hex(&sha256(request.as_bytes()), &mut text);
        text
    }

    fn push_query(&self, out: &mut String) {
        out.push_str("Action=kafka-cluster%3AConnect&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=");
        out.push_str(&self.access_key_id);
        let _ = write!(out, "%2F{}%2F{}%2F{SERVICE}%2Faws4_request", self.day(), self.region);
        let _ = write!(out, "&X-Amz-Date={}&X-Amz-Expires={}", self.timestamp, self.expires);
        if let Some(token) = &self.session_token {
            out.push_str("&X-Amz-Security-Token=");
            push_encoded(token, out);
        }
        out.push_str("&X-Amz-SignedHeaders=host");
    }
}

/// SHA-256 of no bytes.
const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// The key that signs for one secret, day, region and service. Wiped on drop.
#[derive(Clone)]
pub struct SigningKey(Zeroizing<[u8; 32]>);

impl SigningKey {
    /// Derives it: four HMACs.
    #[must_use]
    pub fn derive(secret: &str, day: &str, region: &str) -> Self {
        let seed = Zeroizing::new(format!("AWS4{secret}"));
        let mut key = Zeroizing::new(hmac_sha256(seed.as_bytes(), &[day.as_bytes()]));
        for part in [region, SERVICE, "aws4_request"] {
            *key = hmac_sha256(&*key, &[part.as_bytes()]);
        }
        Self(key)
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

/// Signing keys derived lately. A client that comes back the same day costs two hashes instead of six.
#[derive(Debug)]
pub struct SigningKeys {
    keys: HashMap<(String, String, String), ([u8; 32], SigningKey)>,
    max: usize,
}

impl SigningKeys {
    /// An empty cache of at most `max` keys.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { keys: HashMap::new(), max }
    }

    /// The key for a presigned request, derived or remembered. Only for secrets of accounts that exist.
    pub fn of(&mut self, presigned: &Presigned, secret: &str) -> SigningKey {
        let name = (presigned.access_key_id.clone(), presigned.day().to_owned(), presigned.region.clone());
        // SECURITY: an id whose secret was replaced must not be served by the old secret's key.
        let fingerprint = sha256(secret.as_bytes());
        if let Some((of, key)) = self.keys.get(&name)
            && constant_time_eq(of, &fingerprint)
        {
            return key.clone();
        }
        let key = SigningKey::derive(secret, presigned.day(), &presigned.region);
        if self.keys.len() >= self.max {
            // Rare: a day's keys went out of use at once at midnight, or there are more principals than room.
            self.keys.clear();
        }
        self.keys.insert(name, (fingerprint, key.clone()));
        key
    }

    /// Forgets everything, when credentials changed.
    pub fn clear(&mut self) {
        self.keys.clear();
    }
}

/// `yyyymmddThhmmssZ` in milliseconds since 1970.
pub(crate) fn instant_ms(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let shape = bytes.len() == 16 && bytes.get(8) == Some(&b'T') && bytes.get(15) == Some(&b'Z');
    if !shape {
        return None;
    }
    let number = |from: usize, to: usize| -> Option<u16> {
        let digits = text.get(from..to)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let small = |from: usize| number(from, from.saturating_add(2)).and_then(|n| u8::try_from(n).ok());
    let date = Date::from_calendar_date(i32::from(number(0, 4)?), Month::try_from(small(4)?).ok()?, small(6)?).ok()?;
    let time = Time::from_hms(small(9)?, small(11)?, small(13)?).ok()?;
    OffsetDateTime::new_utc(date, time).unix_timestamp().checked_mul(1000)
}

/// Seconds from 1 to 900 in milliseconds; the JavaScript signer writes a fraction when credentials end soon.
fn validity_ms(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| (1..=9).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let seconds = whole.parse::<i64>().ok()?;
    let tenths = fraction.get(..1)?.parse::<i64>().ok()?;
    let ms = seconds.checked_mul(1000)?.checked_add(tenths.checked_mul(100)?)?;
    (1000..=EXPIRES_SECONDS_MAX.checked_mul(1000)?).contains(&ms).then_some(ms)
}

/// RFC 3986: everything but letters, digits, `-`, `.`, `_` and `~` is encoded.
fn push_encoded(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

pub(crate) fn push_hex(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
}

/// 64 lower- or upper-case hexadecimal digits.
pub(crate) fn unhex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 {
        return None;
    }
    let mut bytes = [0_u8; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        let mut value = 0_u8;
        for digit in pair {
            let digit = u8::try_from(char::from(*digit).to_digit(16)?).ok()?;
            value = value.checked_shl(4)? | digit;
        }
        *byte = value;
    }
    Some(bytes)
}

#[cfg(test)]
#[path = "sigv4_tests.rs"]
mod tests;
