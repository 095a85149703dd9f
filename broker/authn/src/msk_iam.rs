//! AWS_MSK_IAM: one message of the client, one answer.
//!
//! In: the client's JSON. Out: a [`Presigned`] request to connect, or which member is wrong; and the exact answer.
//!
//! SPEC: the README and classes of aws/aws-msk-iam-auth: an object of strings, in any order, all names lower case.
//!
//! Invariants
//! - Unknown, repeated and missing members are refused: nothing the broker does not understand is let through unsigned.
//! - The answer has two members and no more; the Java client refuses any other.

use std::borrow::Cow;

use serde::Deserialize;

use crate::MESSAGE_BYTES_MAX;
use crate::sigv4::{Parts, Presigned, SignatureRefusal};

/// The one version there is.
pub const VERSION: &str = "2020_10_22";

/// Why a message is not taken; the words are for the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadRefusal {
    /// Longer than any honest one.
    #[error("the message is longer than its bound")]
    TooLong,
    /// Not an object of exactly the known members, each a string, each once.
    #[error("the message is not a JSON object of exactly the known members")]
    Form,
    /// Another version.
    #[error("the version is not 2020_10_22")]
    Version,
    /// A member is wrong.
    #[error(transparent)]
    Signature(#[from] SignatureRefusal),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload<'a> {
    #[serde(borrow)]
    version: Cow<'a, str>,
    #[serde(borrow)]
    host: Cow<'a, str>,
    #[serde(borrow, rename = "user-agent")]
    user_agent: Cow<'a, str>,
    #[serde(borrow)]
    action: Cow<'a, str>,
    #[serde(borrow, rename = "x-amz-algorithm")]
    algorithm: Cow<'a, str>,
    #[serde(borrow, rename = "x-amz-credential")]
    credential: Cow<'a, str>,
    #[serde(borrow, rename = "x-amz-date")]
    date: Cow<'a, str>,
    #[serde(borrow, rename = "x-amz-signedheaders")]
    signed_headers: Cow<'a, str>,
    #[serde(borrow, rename = "x-amz-expires")]
    expires: Cow<'a, str>,
    #[serde(borrow, rename = "x-amz-signature")]
    signature: Cow<'a, str>,
    #[serde(borrow, default, rename = "x-amz-security-token")]
    session_token: Option<Cow<'a, str>>,
}

/// What the client asks for, and how it calls itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The signed part.
    pub presigned: Presigned,
    /// Not signed, not to be trusted: for `aws:UserAgent`.
    pub user_agent: String,
}

/// Reads the client's message.
///
/// # Errors
/// [`PayloadRefusal`].
pub fn read(message: &[u8]) -> Result<Request, PayloadRefusal> {
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(PayloadRefusal::TooLong);
    }
    let payload: Payload<'_> = serde_json::from_slice(message).map_err(|_| PayloadRefusal::Form)?;
    if payload.version != VERSION {
        return Err(PayloadRefusal::Version);
    }
    let presigned = Presigned::new(&Parts {
        action: &payload.action,
        algorithm: &payload.algorithm,
        credential: &payload.credential,
        date: &payload.date,
        expires: &payload.expires,
        session_token: payload.session_token.as_deref(),
        signed_headers: &payload.signed_headers,
        signature: &payload.signature,
        host: &payload.host,
    })?;
    let user_agent = payload.user_agent.chars().take(USER_AGENT_CHARS_MAX).collect();
    Ok(Request { presigned, user_agent })
}

const USER_AGENT_CHARS_MAX: usize = 512;

/// The server's answer to a login that was accepted.
#[must_use]
pub fn answer(request_id: &str) -> Vec<u8> {
    serde_json::json!({ "version": VERSION, "request-id": request_id }).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn whole() -> Value {
        json!({
            "version": "2020_10_22", "host": "kafka.example", "user-agent": "test", "action": "kafka-cluster:Connect",
            "x-amz-algorithm": "AWS4-HMAC-SHA256", "x-amz-date": "20261122T101112Z", "x-amz-expires": "900",
            "x-amz-credential": "AKIDEXAMPLE/20261122/eu-central-1/kafka-cluster/aws4_request",
            "x-amz-signedheaders": "host", "x-amz-signature": "ab".repeat(32),
        })
    }

    fn with(name: &str, value: Value) -> Result<Request, PayloadRefusal> {
        let mut payload = whole();
        payload[name] = value;
        read(payload.to_string().as_bytes())
    }

    #[test]
    fn members_may_come_in_any_order() {
        let members: Vec<String> =
            whole().as_object().unwrap().iter().map(|(name, value)| format!("{name:?}:{value}")).collect();
        let forward = read(format!("{{{}}}", members.join(",")).as_bytes()).unwrap();
        let backward: Vec<String> = members.into_iter().rev().collect();
        assert_eq!(read(format!("{{{}}}", backward.join(",")).as_bytes()).unwrap(), forward);
    }

    #[test]
    fn unknown_repeated_and_missing_members_are_refused() {
        assert_eq!(with("x-amz-extra", json!("1")), Err(PayloadRefusal::Form));
        let doubled = whole().to_string().replacen('{', r#"{"host":"other","#, 1);
        assert_eq!(read(doubled.as_bytes()), Err(PayloadRefusal::Form));
        for name in whole().as_object().unwrap().keys() {
            let mut payload = whole();
            payload.as_object_mut().unwrap().remove(name);
            assert_eq!(read(payload.to_string().as_bytes()), Err(PayloadRefusal::Form), "{name}");
        }
    }

    #[test]
    fn each_member_that_says_something_else_is_refused_with_its_name() {
        use SignatureRefusal as R;
        let wrong = [
            ("action", json!("kafka-cluster:ReadData"), R::Action),
            ("x-amz-algorithm", json!("AWS4-HMAC-SHA1"), R::Algorithm),
            ("x-amz-signedheaders", json!("host;x-amz-date"), R::SignedHeaders),
            ("x-amz-credential", json!("AKIDEXAMPLE/20261122/eu-central-1/sts/aws4_request"), R::Scope),
            ("x-amz-credential", json!("AKIDEXAMPLE/20261121/eu-central-1/kafka-cluster/aws4_request"), R::DateScope),
            ("x-amz-credential", json!("AK&ID/20261122/eu-central-1/kafka-cluster/aws4_request"), R::Scope),
            ("x-amz-date", json!("20261322T101112Z"), R::Date),
            ("x-amz-expires", json!("901"), R::Expires),
            ("x-amz-expires", json!("+90"), R::Expires),
            ("x-amz-expires", json!("0"), R::Expires),
            ("x-amz-expires", json!("0.9"), R::Expires),
            ("x-amz-expires", json!("900.1"), R::Expires),
            ("x-amz-expires", json!("9."), R::Expires),
            ("x-amz-expires", json!("1e2"), R::Expires),
            ("x-amz-signature", json!("abc"), R::Form),
            ("host", json!("h".repeat(300)), R::TooLong),
        ];
        for (name, value, refusal) in wrong {
            assert_eq!(with(name, value.clone()), Err(PayloadRefusal::Signature(refusal)), "{name} {value}");
        }
        assert_eq!(with("version", json!("2020_10_23")), Err(PayloadRefusal::Version));
        assert_eq!(with("x-amz-expires", json!(900)), Err(PayloadRefusal::Form));
    }

    #[test]
    fn validity_may_have_a_fraction() {
        let presigned = with("x-amz-expires", json!("612.25")).unwrap().presigned;
        assert_eq!(presigned.until_ms - presigned.signed_ms, 612_200);
    }

    #[test]
    fn answer_has_exactly_the_two_members_the_java_client_takes() {
        let answer: Value = serde_json::from_slice(&answer("r-1")).unwrap();
        assert_eq!(answer, json!({ "version": "2020_10_22", "request-id": "r-1" }));
    }
}
