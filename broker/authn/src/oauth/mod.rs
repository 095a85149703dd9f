//! OAUTHBEARER: the framing of RFC 7628, and what kind of token it carries.
//!
//! In: the client's message. Out: a bearer token of one of two kinds: a signed JWT ([`jwt`]), or the signed URL that the
//! MSK IAM signers for Java, Python, Go and Node make ([`signed_url`]). The two are told apart by their form alone.
//!
//! SPEC: RFC 7628 section 3.1 (client), 3.2.2 (the error, after which the client sends one `\x01` and the exchange fails);
//! RFC 5801 for the header.

pub mod jwt;
pub mod signed_url;

use crate::MESSAGE_BYTES_MAX;

/// Why a message is not taken; the words are for the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BearerRefusal {
    /// Longer than any honest one.
    #[error("the message is longer than its bound")]
    TooLong,
    /// Not the form of RFC 7628.
    #[error("the message is not in the form of RFC 7628")]
    Form,
    /// Channel binding, which the mechanism does not have.
    #[error("channel binding is asked for and not offered")]
    ChannelBinding,
    /// Another scheme than `Bearer`.
    #[error("the authorization is not by bearer token")]
    Scheme,
}

/// What the client sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Bearer {
    /// Who it wants to be; empty when it leaves that to the token.
    pub authorization_id: String,
    /// The token as it came.
    pub token: String,
}

/// Which kind of token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Three parts with dots between them.
    Jwt,
    /// One part; the signed URL in base64.
    SignedUrl,
}

impl Bearer {
    /// Reads the client's first message.
    ///
    /// # Errors
    /// [`BearerRefusal`].
    pub fn read(message: &[u8]) -> Result<Self, BearerRefusal> {
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(BearerRefusal::TooLong);
        }
        let text = std::str::from_utf8(message).map_err(|_| BearerRefusal::Form)?;
        let (header, fields) = text.split_once('\u{1}').ok_or(BearerRefusal::Form)?;
        let mut header = header.split(',');
        let (Some(flag), Some(identity), Some(""), None) = (header.next(), header.next(), header.next(), header.next())
        else {
            return Err(BearerRefusal::Form);
        };
        match flag {
            "n" | "y" => {}
            _ if flag.starts_with("p=") => return Err(BearerRefusal::ChannelBinding),
            _ => return Err(BearerRefusal::Form),
        }
        let authorization_id = match identity {
            "" => "",
            _ => identity.strip_prefix("a=").ok_or(BearerRefusal::Form)?,
        };
        // Each field ends in \x01, and one more ends the message.
        let fields = fields.strip_suffix("\u{1}\u{1}").ok_or(BearerRefusal::Form)?;
        let mut token = None;
        for field in fields.split('\u{1}') {
            let (name, value) = field.split_once('=').ok_or(BearerRefusal::Form)?;
            let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphabetic());
            if !is_name || (name == "auth" && token.is_some()) {
                return Err(BearerRefusal::Form);
            }
            if name == "auth" {
                let (scheme, value) = value.split_once(' ').ok_or(BearerRefusal::Scheme)?;
                if !scheme.eq_ignore_ascii_case("bearer") {
                    return Err(BearerRefusal::Scheme);
                }
                token = Some(value);
            }
        }
        let token =
            token.filter(|token| !token.is_empty() && token.bytes().all(is_token)).ok_or(BearerRefusal::Form)?;
        Ok(Self { authorization_id: authorization_id.to_owned(), token: token.to_owned() })
    }

    /// Which kind of token it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        if self.token.contains('.') { Kind::Jwt } else { Kind::SignedUrl }
    }
}

// SECURITY: a bearer token opens doors; it is never printed.
impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bearer(..)")
    }
}

/// RFC 6750: the letters of a bearer token.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte)
}

/// The error of RFC 7628, sent as a challenge. It says that the token is not taken and nothing else.
pub const INVALID_TOKEN: &[u8] = br#"{"status":"invalid_token"}"#;

/// What the client answers to [`INVALID_TOKEN`].
#[must_use]
pub fn is_acknowledgement(message: &[u8]) -> bool {
    message == [1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_and_identity_are_read_with_and_without_extensions() {
        let bearer = Bearer::read(b"n,,\x01auth=Bearer a.b.c\x01\x01").unwrap();
        assert_eq!((bearer.authorization_id.as_str(), bearer.token.as_str(), bearer.kind()), ("", "a.b.c", Kind::Jwt));
        let bearer = Bearer::read(b"n,a=me,\x01auth=bearer aHR0\x01traceId=1 2\x01\x01").unwrap();
        assert_eq!((bearer.authorization_id.as_str(), bearer.kind()), ("me", Kind::SignedUrl));
    }

    #[test]
    fn messages_out_of_form_are_refused() {
        use BearerRefusal as R;
        let wrong: [(&[u8], R); 12] = [
            (b"", R::Form),
            (b"n,,auth=Bearer x\x01\x01", R::Form),
            (b"n,,\x01auth=Bearer x\x01", R::Form),
            (b"n,,\x01auth=Bearer x", R::Form),
            (b"n,,\x01auth=Bearer \x01\x01", R::Form),
            (b"n,,\x01auth=Bearer x y\x01\x01", R::Form),
            (b"n,,\x01auth=Basic x\x01\x01", R::Scheme),
            (b"n,,\x01auth=Bearer\x01\x01", R::Scheme),
            (b"p=tls-exporter,,\x01auth=Bearer x\x01\x01", R::ChannelBinding),
            (b"n,me,\x01auth=Bearer x\x01\x01", R::Form),
            (b"n,,\x01auth=Bearer x\x01auth=Bearer y\x01\x01", R::Form),
            (b"n,,\x01x1=y\x01auth=Bearer x\x01\x01", R::Form),
        ];
        for (message, refusal) in wrong {
            assert_eq!(Bearer::read(message), Err(refusal), "{:?}", String::from_utf8_lossy(message));
        }
        assert_eq!(Bearer::read(&vec![b'n'; MESSAGE_BYTES_MAX + 1]), Err(R::TooLong));
    }

    #[test]
    fn debug_of_a_bearer_does_not_show_the_token() {
        let bearer = Bearer::read(b"n,,\x01auth=Bearer secret\x01\x01").unwrap();
        assert_eq!(format!("{bearer:?}"), "Bearer(..)");
    }
}
