//! The token of the MSK IAM signers: a presigned URL in base64.
//!
//! In: a bearer token of one part. Out: the same [`Presigned`] request that AWS_MSK_IAM carries.
//!
//! SPEC: aws-msk-iam-sasl-signer for Java, Python, Go and Node: base64url of
//! `https://kafka.<region>.amazonaws.com/?Action=kafka-cluster%3AConnect&X-Amz-…&User-Agent=…`, where `User-Agent` was added
//! after signing.
//!
//! SECURITY: the signed host is the region's, not the broker's. Whoever sees such a token can use it on every cluster of
//! the account until it ends. The caller binds it to the first address that shows it and may refuse the kind altogether.

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};

use crate::sigv4::{Parts, Presigned, SignatureRefusal};

/// Why a token is not taken; the words are for the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlRefusal {
    /// Not base64 of a URL of the service.
    #[error("the token is not a signed URL of kafka.<region>.amazonaws.com")]
    Form,
    /// A parameter nobody knows, twice, or missing.
    #[error("the signed URL does not have exactly the known parameters")]
    Parameters,
    /// The host is of another region than the signature.
    #[error("the signed URL's host is of another region than its signature")]
    Region,
    /// A part of the signature.
    #[error(transparent)]
    Signature(#[from] SignatureRefusal),
}

/// What the token asks for, and how its maker calls itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedUrl {
    /// The signed part.
    pub presigned: Presigned,
    /// Not signed, not to be trusted.
    pub user_agent: String,
}

const NAMES: [&str; 9] = [
    "Action",
    "User-Agent",
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-Security-Token",
    "X-Amz-Signature",
    "X-Amz-SignedHeaders",
];

/// Reads a token.
///
/// # Errors
/// [`UrlRefusal`].
pub fn read(token: &str) -> Result<SignedUrl, UrlRefusal> {
    let bytes = URL_SAFE_NO_PAD.decode(token).or_else(|_| URL_SAFE.decode(token)).map_err(|_| UrlRefusal::Form)?;
    let url = String::from_utf8(bytes).map_err(|_| UrlRefusal::Form)?;
    // The Java signer writes no path, the others `/`; what is signed is `/` either way.
    let (host, query) = url.strip_prefix("https://").and_then(|rest| rest.split_once('?')).ok_or(UrlRefusal::Form)?;
    let host = host.strip_suffix('/').unwrap_or(host);
    let mut values: [Option<String>; 9] = Default::default();
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').ok_or(UrlRefusal::Parameters)?;
        let at = NAMES.iter().position(|known| *known == name).ok_or(UrlRefusal::Parameters)?;
        let slot = values.get_mut(at).filter(|slot| slot.is_none()).ok_or(UrlRefusal::Parameters)?;
        *slot = Some(decoded(value).ok_or(UrlRefusal::Form)?);
    }
    let [action, agent, algorithm, credential, date, expires, session_token, signature, signed_headers] = &values;
    let present = |value: &'_ Option<String>| value.clone().ok_or(UrlRefusal::Parameters);
    let presigned = Presigned::new(&Parts {
        action: &present(action)?,
        algorithm: &present(algorithm)?,
        credential: &present(credential)?,
        date: &present(date)?,
        expires: &present(expires)?,
        session_token: session_token.as_deref(),
        signed_headers: &present(signed_headers)?,
        signature: &present(signature)?,
        host,
    })?;
    let of_region = ["amazonaws.com", "amazonaws.com.cn"]
        .iter()
        .any(|suffix| host == format!("kafka.{}.{suffix}", presigned.region));
    if !of_region {
        return Err(UrlRefusal::Region);
    }
    Ok(SignedUrl { presigned, user_agent: agent.clone().unwrap_or_default().chars().take(512).collect() })
}

/// Percent-decoding; a `+` is a plus.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || u8::try_from(char::from(rest.next()?).to_digit(16)?).ok();
        let (high, low) = (digit()?, digit()?);
        bytes.push(high.checked_shl(4)? | low);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sigv4::SigningKey;

    /// Made by aws-msk-iam-sasl-signer-python with the example key and the clock at 2026-11-22T10:11:12Z.
    const SIGNER_TOKEN: &str = include_str!("../../corpus/signed_url/python-signer");
    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

    fn url(change: impl FnOnce(String) -> String) -> Result<SignedUrl, UrlRefusal> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(SIGNER_TOKEN.trim()).unwrap()).unwrap();
        read(&URL_SAFE_NO_PAD.encode(change(text)))
    }

    #[test]
    fn token_of_the_official_signer_verifies() {
        let signed = read(SIGNER_TOKEN.trim()).unwrap();
        let key = SigningKey::derive(SECRET, signed.presigned.day(), &signed.presigned.region);
        assert_eq!(signed.presigned.verify(&key), Ok(()));
        assert_eq!(signed.presigned.region, "eu-central-1");
        assert!(signed.user_agent.starts_with("aws-msk-iam-sasl-signer-python"));
    }

    #[test]
    fn parameters_that_are_unknown_repeated_or_missing_are_refused() {
        assert_eq!(url(|text| format!("{text}&X=1")), Err(UrlRefusal::Parameters));
        assert_eq!(url(|text| format!("{text}&X-Amz-Date=20261122T101112Z")), Err(UrlRefusal::Parameters));
        assert_eq!(url(|text| text.replace("&X-Amz-Expires=900", "")), Err(UrlRefusal::Parameters));
    }

    #[test]
    fn url_without_a_path_is_the_one_with_the_root_as_path() {
        let with = url(|text| text).unwrap();
        assert_eq!(url(|text| text.replace("com/?", "com?")).unwrap(), with);
        assert_eq!(url(|text| text.replace("com/?", "com//?")), Err(UrlRefusal::Region));
    }

    #[test]
    fn other_hosts_are_refused() {
        for host in ["kafka.us-east-1.amazonaws.com", "evil.example", "kafka.eu-central-1.amazonaws.com.evil.example"] {
            let refusal = url(|text| text.replace("kafka.eu-central-1.amazonaws.com", host));
            assert_eq!(refusal, Err(UrlRefusal::Region), "{host}");
        }
        assert_eq!(url(|text| text.replace("https://", "http://")), Err(UrlRefusal::Form));
    }
}
