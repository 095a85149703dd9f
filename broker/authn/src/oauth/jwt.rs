//! JSON Web Tokens of an identity provider.
//!
//! In: a token, an issuer's rules and its key set, the time. Out: the claims, proved; or the step that failed.
//!
//! SPEC: RFC 7519, RFC 7515, RFC 7517, RFC 8725 (best practice). Signatures are checked by `jsonwebtoken`.
//!
//! Invariants
//! - The algorithms are the issuer's list, fixed by the operator, asymmetric only: a token cannot choose `none` or HMAC.
//! - `exp` must be there. Issuer and audience must be the configured ones. Time is the caller's.
//! - A `crit` header is refused: nothing critical is understood here.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Why a token is not taken; the words are for the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtRefusal {
    /// Not three parts of base64 with JSON objects in the first two.
    #[error("the token is no JWT")]
    Form,
    /// Encrypted, or with critical headers.
    #[error("the token's header asks for something that is not understood")]
    Header,
    /// Not in the issuer's list.
    #[error("the token's algorithm is not in the issuer's list")]
    Algorithm,
    /// No key of the set fits its header.
    #[error("the issuer's key set has no key for the token")]
    UnknownKey,
    /// Signed by another key, or changed.
    #[error("the token's signature does not match")]
    Signature,
    /// Of another issuer.
    #[error("the token is of another issuer")]
    Issuer,
    /// For somebody else.
    #[error("the token is for another audience")]
    Audience,
    /// `exp` is missing or no number.
    #[error("the token has no expiry")]
    NoExpiry,
    /// Out of date.
    #[error("the token has expired")]
    Expired,
    /// Not yet valid, or issued in the future.
    #[error("the token is not valid yet")]
    NotYet,
}

/// What an issuer's tokens must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// `iss`, compared byte by byte.
    pub issuer: String,
    /// One of these must be in `aud`.
    pub audiences: Vec<String>,
    /// The algorithms taken.
    pub algorithms: Vec<Algorithm>,
    /// How far the issuer's clock may be off.
    pub skew_ms: i64,
}

/// The algorithms an issuer may be configured with: none with a shared secret.
pub const ALGORITHMS: [(&str, Algorithm); 9] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

/// The algorithm of this name.
#[must_use]
pub fn algorithm(name: &str) -> Option<Algorithm> {
    ALGORITHMS.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    crit: Option<Value>,
    #[serde(default)]
    enc: Option<Value>,
    #[serde(default)]
    b64: Option<Value>,
}

/// What an unproved token says of itself: enough to choose whose keys to check it by, and for nothing else.
#[derive(Clone, PartialEq, Eq)]
pub struct Unproved {
    /// `iss`.
    pub issuer: String,
    /// `kid` of the header.
    pub key_id: Option<String>,
    algorithm: Algorithm,
}

impl Unproved {
    /// Reads header and issuer.
    ///
    /// # Errors
    /// [`JwtRefusal::Form`], [`JwtRefusal::Header`], [`JwtRefusal::Algorithm`].
    pub fn read(token: &str) -> Result<Self, JwtRefusal> {
        let mut parts = token.split('.');
        let (Some(header), Some(body), Some(_signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(JwtRefusal::Form);
        };
        let header: Header = object(header)?;
        if header.crit.is_some() || header.enc.is_some() || header.b64.is_some() {
            return Err(JwtRefusal::Header);
        }
        #[derive(Deserialize)]
        struct Body {
            iss: String,
        }
        let body: Body = object(body)?;
        let algorithm = algorithm(&header.alg).ok_or(JwtRefusal::Algorithm)?;
        Ok(Self { issuer: body.iss, key_id: header.kid, algorithm })
    }
}

fn object<T: for<'de> Deserialize<'de>>(part: &str) -> Result<T, JwtRefusal> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| JwtRefusal::Form)?;
    serde_json::from_slice(&bytes).map_err(|_| JwtRefusal::Form)
}

/// An issuer's public keys.
pub struct KeySet(Vec<Key>);

struct Key {
    id: Option<String>,
    algorithm: Option<KeyAlgorithm>,
    key: DecodingKey,
}

/// Why a key set is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Not a JWK set.
    #[error("the answer is no JWK set")]
    Form,
    /// No usable key in it.
    #[error("the key set has no key that could check a signature")]
    Empty,
    /// More keys than anybody has.
    #[error("the key set has more than {KEYS_MAX} keys")]
    TooMany,
}

/// Keys of one issuer, at most; and keys tried for a token that names none.
const KEYS_MAX: usize = 64;
const UNNAMED_TRIED_MAX: usize = 8;

impl KeySet {
    /// Reads a JWK set (RFC 7517). Keys of kinds that are not used here are left out.
    ///
    /// # Errors
    /// [`KeySetError`].
    pub fn read(text: &[u8]) -> Result<Self, KeySetError> {
        #[derive(Deserialize)]
        struct Raw {
            keys: Vec<Value>,
        }
        let raw: Raw = serde_json::from_slice(text).map_err(|_| KeySetError::Form)?;
        if raw.keys.len() > KEYS_MAX {
            return Err(KeySetError::TooMany);
        }
        let jwks = raw.keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok()).collect();
        let set = JwkSet { keys: jwks };
        let keys: Vec<Key> = set.keys.iter().filter_map(usable).collect();
        if keys.is_empty() { Err(KeySetError::Empty) } else { Ok(Self(keys)) }
    }

    /// Whether a token with this key id could be checked.
    #[must_use]
    pub fn knows(&self, key_id: Option<&str>) -> bool {
        key_id.is_none_or(|id| self.0.iter().any(|key| key.id.as_deref() == Some(id)))
    }
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeySet({} keys)", self.0.len())
    }
}

fn usable(jwk: &Jwk) -> Option<Key> {
    if matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption)) {
        return None;
    }
    // SECURITY: a symmetric key in a public set would let anybody sign.
    if matches!(jwk.algorithm, jsonwebtoken::jwk::AlgorithmParameters::OctetKey(_)) {
        return None;
    }
    let key = DecodingKey::from_jwk(jwk).ok()?;
    Some(Key { id: jwk.common.key_id.clone(), algorithm: jwk.common.key_algorithm, key })
}

/// Checks a token.
///
/// # Errors
/// [`JwtRefusal`].
pub fn verify(token: &str, rules: &Rules, keys: &KeySet, now_ms: i64) -> Result<Map<String, Value>, JwtRefusal> {
    let unproved = Unproved::read(token)?;
    let algorithm = unproved.algorithm;
    if !rules.algorithms.contains(&algorithm) {
        return Err(JwtRefusal::Algorithm);
    }
    let mut validation = Validation::new(algorithm);
    // Time, issuer and audience are judged below, by the caller's clock and without the library's defaults.
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let named = |key: &&Key| match (&unproved.key_id, &key.id) {
        (Some(wanted), Some(id)) => wanted == id,
        (Some(_), None) => false,
        (None, _) => true,
    };
    let fits = |key: &&Key| key.algorithm.is_none_or(|own| format!("{own:?}") == format!("{algorithm:?}"));
    let mut refusal = JwtRefusal::UnknownKey;
    let candidates = keys.0.iter().filter(named).filter(fits).take(UNNAMED_TRIED_MAX);
    for key in candidates {
        match decode::<Map<String, Value>>(token, &key.key, &validation) {
            Ok(proved) => return judge(proved.claims, rules, now_ms),
            Err(_) => refusal = JwtRefusal::Signature,
        }
    }
    Err(refusal)
}

fn judge(claims: Map<String, Value>, rules: &Rules, now_ms: i64) -> Result<Map<String, Value>, JwtRefusal> {
    if claims.get("iss").and_then(Value::as_str) != Some(&rules.issuer) {
        return Err(JwtRefusal::Issuer);
    }
    let ours = |audience: &Value| audience.as_str().is_some_and(|text| rules.audiences.iter().any(|own| own == text));
    let for_us = match claims.get("aud") {
        Some(Value::Array(audiences)) => audiences.iter().any(ours),
        Some(audience) => ours(audience),
        None => false,
    };
    if !for_us {
        return Err(JwtRefusal::Audience);
    }
    let until = expiry_ms(&claims).ok_or(JwtRefusal::NoExpiry)?;
    if now_ms >= until.saturating_add(rules.skew_ms) {
        return Err(JwtRefusal::Expired);
    }
    for name in ["nbf", "iat"] {
        let Some(value) = claims.get(name) else { continue };
        let from = seconds_ms(value).ok_or(JwtRefusal::Form)?;
        if from > now_ms.saturating_add(rules.skew_ms) {
            return Err(JwtRefusal::NotYet);
        }
    }
    Ok(claims)
}

/// When a token ends, in milliseconds since 1970.
#[must_use]
pub fn expiry_ms(claims: &Map<String, Value>) -> Option<i64> {
    claims.get("exp").and_then(seconds_ms)
}

/// When it was issued.
#[must_use]
pub fn issued_ms(claims: &Map<String, Value>) -> Option<i64> {
    claims.get("iat").and_then(seconds_ms)
}

/// A NumericDate (RFC 7519); fractions are cut.
fn seconds_ms(value: &Value) -> Option<i64> {
    let whole = value.as_i64();
    #[allow(clippy::cast_possible_truncation)]
    let cut = || value.as_f64().filter(|seconds| (0.0..1e12).contains(seconds)).map(|seconds| seconds as i64);
    whole.or_else(cut)?.checked_mul(1000)
}

/// A claim as condition keys see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its name; inside an object the names on the way, with `/` between them (`kubernetes.io/namespace`).
    pub name: String,
    /// Its values as text.
    pub values: Vec<String>,
    /// Whether it is a list, also one of one.
    pub is_list: bool,
}

/// The claims as values for condition keys: texts, numbers, truths, lists of these, and what stands in objects.
#[must_use]
pub fn condition_values(claims: &Map<String, Value>) -> Vec<Claim> {
    let mut found = Vec::new();
    gather(claims, "", 0, &mut found);
    found
}

fn gather(claims: &Map<String, Value>, prefix: &str, depth: usize, found: &mut Vec<Claim>) {
    let scalar = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    };
    for (name, value) in claims {
        let name = format!("{prefix}{name}");
        if found.len() >= CLAIMS_MAX || name.len() > CLAIM_NAME_BYTES_MAX {
            continue;
        }
        match value {
            Value::Array(list) if list.len() <= CLAIM_LIST_MAX => {
                found.push(Claim { name, values: list.iter().filter_map(scalar).collect(), is_list: true });
            }
            Value::Object(inner) if depth < CLAIM_DEPTH_MAX => {
                gather(inner, &format!("{name}/"), depth.saturating_add(1), found);
            }
            _ => {
                if let Some(text) = scalar(value) {
                    found.push(Claim { name, values: vec![text], is_list: false });
                }
            }
        }
    }
}

const CLAIMS_MAX: usize = 100;
const CLAIM_NAME_BYTES_MAX: usize = 128;
const CLAIM_LIST_MAX: usize = 500;
/// Objects in objects; Kubernetes has two levels.
const CLAIM_DEPTH_MAX: usize = 3;

#[cfg(test)]
#[path = "jwt_tests.rs"]
mod tests;
