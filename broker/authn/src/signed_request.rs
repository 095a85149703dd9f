//! Signature Version 4 in its header form, verified: requests to the STS.
//!
//! In: method, path, headers and body of an HTTP request, then the secret access key found by the caller. Out: proof
//! that the holder of the secret signed this request within the window.
//!
//! SPEC: AWS, "Create a signed AWS API request". Canonical request: method, path, query, the signed headers in order,
//! their names, SHA-256 of the body.
//!
//! Invariants
//! - `host` and `x-amz-date` are signed, and every other `x-amz-…` header that is there: what is not signed is not read.
//! - A header that is signed stands in the request exactly once.
//! - The signature is compared in constant time.

use std::fmt::Write as _;

use schloss_crypto::digest::{constant_time_eq, hmac_sha256, sha256};
use zeroize::Zeroizing;

use crate::sigv4::{ALGORITHM, SignatureRefusal, WINDOW_MS, instant_ms, push_hex, unhex};

/// Headers one request may sign.
const SIGNED_HEADERS_MAX: usize = 64;
/// Bytes of the authorisation header.
const AUTHORIZATION_BYTES_MAX: usize = 4 * 1024;

/// A request as it arrived.
#[derive(Clone, Copy, Debug)]
pub struct HttpRequest<'a> {
    /// `POST`.
    pub method: &'a str,
    /// The path as it was written.
    pub path: &'a str,
    /// The query as it was written, without `?`; sorted by whoever signed it.
    pub query: &'a str,
    /// Names in lower case, and values.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body, whole.
    pub body: &'a [u8],
}

/// What a request says of its signature. Not verified yet.
#[derive(Debug)]
pub struct Authorization<'a> {
    /// The access key's id.
    pub access_key_id: &'a str,
    /// The session token of temporary credentials.
    pub session_token: Option<&'a str>,
    day: &'a str,
    region: &'a str,
    service: &'a str,
    timestamp: &'a str,
    signed_ms: i64,
    signed_headers: Vec<&'a str>,
    signature: [u8; 32],
}

impl<'a> Authorization<'a> {
    /// Reads the headers; `None` when the request is not signed at all.
    ///
    /// # Errors
    /// The first part that is out of form.
    pub fn read(request: &HttpRequest<'a>, service: &str) -> Result<Option<Self>, SignatureRefusal> {
        let Some(header) = only(request, "authorization")? else { return Ok(None) };
        if header.len() > AUTHORIZATION_BYTES_MAX {
            return Err(SignatureRefusal::TooLong);
        }
        let rest = header.strip_prefix(ALGORITHM).ok_or(SignatureRefusal::Algorithm)?;
        let (mut credential, mut signed, mut signature) = (None, None, None);
        for part in rest.split(',') {
            let (name, value) = part.trim().split_once('=').ok_or(SignatureRefusal::Form)?;
            let slot = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut signed,
                "Signature" => &mut signature,
                _ => return Err(SignatureRefusal::Form),
            };
            if slot.replace(value).is_some() {
                return Err(SignatureRefusal::Form);
            }
        }
        let (Some(credential), Some(signed), Some(signature)) = (credential, signed, signature) else {
            return Err(SignatureRefusal::Form);
        };
        let mut scope = credential.split('/');
        let (Some(access_key_id), Some(day), Some(region), Some(named), Some("aws4_request"), None) =
            (scope.next(), scope.next(), scope.next(), scope.next(), scope.next(), scope.next())
        else {
            return Err(SignatureRefusal::Scope);
        };
        if named != service || access_key_id.is_empty() {
            return Err(SignatureRefusal::Scope);
        }
        let timestamp = only(request, "x-amz-date")?.ok_or(SignatureRefusal::Date)?;
        let signed_ms = instant_ms(timestamp).ok_or(SignatureRefusal::Date)?;
        if timestamp.get(..8) != Some(day) {
            return Err(SignatureRefusal::DateScope);
        }
        Ok(Some(Self {
            access_key_id,
            session_token: only(request, "x-amz-security-token")?,
            day,
            region,
            service: named,
            timestamp,
            signed_ms,
            signed_headers: signed_headers(request, signed)?,
            signature: unhex(signature).ok_or(SignatureRefusal::Form)?,
        }))
    }

    /// Checks the window of time.
    ///
    /// # Errors
    /// [`SignatureRefusal::NotYet`], [`SignatureRefusal::Expired`].
    pub fn check_time(&self, now_ms: i64) -> Result<(), SignatureRefusal> {
        if self.signed_ms > now_ms.saturating_add(WINDOW_MS) {
            Err(SignatureRefusal::NotYet)
        } else if now_ms > self.signed_ms.saturating_add(WINDOW_MS) {
            Err(SignatureRefusal::Expired)
        } else {
            Ok(())
        }
    }

    /// Checks the signature by the secret.
    ///
    /// # Errors
    /// [`SignatureRefusal::Mismatch`].
    pub fn verify(&self, request: &HttpRequest<'_>, secret: &str) -> Result<(), SignatureRefusal> {
        let text = self.string_to_sign(request)?;
        let seed = Zeroizing::new(format!("AWS4{secret}"));
        let mut key = Zeroizing::new(hmac_sha256(seed.as_bytes(), &[self.day.as_bytes()]));
        for part in [self.region, self.service, "aws4_request"] {
            *key = hmac_sha256(&*key, &[part.as_bytes()]);
        }
        let expected = hmac_sha256(&*key, &[text.as_bytes()]);
        if constant_time_eq(&expected, &self.signature) { Ok(()) } else { Err(SignatureRefusal::Mismatch) }
    }

    fn string_to_sign(&self, request: &HttpRequest<'_>) -> Result<String, SignatureRefusal> {
        let mut canonical = format!("{}\n{}\n{}\n", request.method, request.path, request.query);
        for name in &self.signed_headers {
            let value = only(request, name)?.ok_or(SignatureRefusal::SignedHeaders)?;
            let _ = write!(canonical, "{name}:");
            let mut words = value.split_ascii_whitespace();
            canonical.push_str(words.next().unwrap_or_default());
            words.for_each(|word| {
                let _ = write!(canonical, " {word}");
            });
            canonical.push('\n');
        }
        let _ = write!(canonical, "\n{}\n", self.signed_headers.join(";"));
        push_hex(&sha256(request.body), &mut canonical);
        let (day, region, service) = (self.day, self.region, self.service);
        let mut text = format!("{ALGORITHM}\n{}\n{day}/{region}/{service}/aws4_request\n", self.timestamp);
        push_hex(&sha256(canonical.as_bytes()), &mut text);
        Ok(text)
    }
}

/// The value of a header that may stand once.
fn only<'a>(request: &HttpRequest<'a>, name: &str) -> Result<Option<&'a str>, SignatureRefusal> {
    let mut values = request.headers.iter().filter(|(other, _)| *other == name).map(|(_, value)| *value);
    let value = values.next();
    if values.next().is_some() { Err(SignatureRefusal::SignedHeaders) } else { Ok(value) }
}

/// Checks the list of signed headers: sorted, each once, with everything that must be in it.
fn signed_headers<'a>(request: &HttpRequest<'a>, list: &'a str) -> Result<Vec<&'a str>, SignatureRefusal> {
    let names: Vec<&str> = list.split(';').take(SIGNED_HEADERS_MAX.saturating_add(1)).collect();
    let sorted = names.is_sorted_by(|one, next| one < next);
    let lower = names.iter().all(|name| !name.is_empty() && !name.bytes().any(|byte| byte.is_ascii_uppercase()));
    let amazon = request.headers.iter().map(|(name, _)| *name).filter(|name| name.starts_with("x-amz-"));
    let all = ["host", "x-amz-date"].into_iter().chain(amazon).all(|name| names.contains(&name));
    if names.len() <= SIGNED_HEADERS_MAX && sorted && lower && all {
        Ok(names)
    } else {
        Err(SignatureRefusal::SignedHeaders)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    const BODY: &[u8] = b"Action=GetCallerIdentity&Version=2011-06-15";
    const AUTHORIZATION: &str = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261122/us-east-1/sts/aws4_request, \
        SignedHeaders=content-type;host;x-amz-date, \
        Signature=f0d161ee77b057b5b5449412ac833090aa76a79c282f513626a3d5085b295216";
    const NOW_MS: i64 = 1_795_342_272_000;

    fn headers(authorization: &str) -> Vec<(&str, &str)> {
        vec![
            ("host", "sts.schloss.example:9095"),
            ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
            ("x-amz-date", "20261122T101112Z"),
            ("authorization", authorization),
        ]
    }

    fn judge(headers: &[(&str, &str)], body: &[u8], secret: &str) -> Result<(), SignatureRefusal> {
        let request = HttpRequest { method: "POST", path: "/", query: "", headers, body };
        let authorization = Authorization::read(&request, "sts")?.ok_or(SignatureRefusal::Form)?;
        authorization.check_time(NOW_MS)?;
        authorization.verify(&request, secret)
    }

    #[test]
    fn request_signed_by_botocore_is_verified() {
        assert_eq!(judge(&headers(AUTHORIZATION), BODY, SECRET), Ok(()));
    }

    #[test]
    fn every_changed_part_is_refused() {
        use SignatureRefusal::{DateScope, Mismatch, SignedHeaders};
        assert_eq!(judge(&headers(AUTHORIZATION), b"Action=AssumeRole&Version=2011-06-15", SECRET), Err(Mismatch));
        assert_eq!(judge(&headers(AUTHORIZATION), BODY, "other"), Err(Mismatch));
        let with = |at: usize, header| {
            let mut changed = headers(AUTHORIZATION);
            changed[at] = header;
            judge(&changed, BODY, SECRET)
        };
        assert_eq!(with(0, ("host", "sts.other.example")), Err(Mismatch));
        assert_eq!(with(1, ("content-type", "text/plain")), Err(Mismatch));
        assert_eq!(with(2, ("x-amz-date", "20261122T101113Z")), Err(Mismatch));
        assert_eq!(with(2, ("x-amz-date", "20261123T101112Z")), Err(DateScope));
        let also = |header| judge(&[headers(AUTHORIZATION), vec![header]].concat(), BODY, SECRET);
        assert_eq!(also(("x-amz-security-token", "t")), Err(SignedHeaders), "unsigned");
        assert_eq!(also(("host", "other")), Err(SignedHeaders), "twice");
        assert_eq!(also(("authorization", AUTHORIZATION)), Err(SignedHeaders), "twice");
    }

    #[test]
    fn malformed_authorisations_are_refused() {
        use SignatureRefusal::{Algorithm, Form, Scope, SignedHeaders};
        let change = |from: &str, to: &str| {
            let changed = AUTHORIZATION.replace(from, to);
            assert_ne!(changed, AUTHORIZATION);
            judge(&headers(&changed), BODY, SECRET)
        };
        assert_eq!(change("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"), Err(Algorithm));
        assert_eq!(change("/sts/", "/kafka-cluster/"), Err(Scope));
        assert_eq!(change("host;", ""), Err(SignedHeaders));
        assert_eq!(change("content-type;host;x-amz-date", "host;content-type;x-amz-date"), Err(SignedHeaders));
        assert_eq!(change("Signature=", "Signature=00"), Err(Form));
        assert_eq!(change("Signature=", "Signatur="), Err(Form));
        let request = HttpRequest { method: "POST", path: "/", query: "", headers: &[("host", "x")], body: BODY };
        assert!(Authorization::read(&request, "sts").unwrap().is_none());
    }

    #[test]
    fn window_is_fifteen_minutes_either_way() {
        let headers = headers(AUTHORIZATION);
        let request = HttpRequest { method: "POST", path: "/", query: "", headers: &headers, body: BODY };
        let authorization = Authorization::read(&request, "sts").unwrap().unwrap();
        assert_eq!(authorization.check_time(NOW_MS - WINDOW_MS), Ok(()));
        assert_eq!(authorization.check_time(NOW_MS - WINDOW_MS - 1), Err(SignatureRefusal::NotYet));
        assert_eq!(authorization.check_time(NOW_MS + WINDOW_MS), Ok(()));
        assert_eq!(authorization.check_time(NOW_MS + WINDOW_MS + 1), Err(SignatureRefusal::Expired));
    }
}
