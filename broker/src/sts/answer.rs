//! AWS's XML answers and errors of the STS.

use std::fmt::Write as _;

/// The namespace of every answer.
const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

/// An error as SDKs know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// AWS's code.
    pub code: Code,
    /// What the caller is told; never why a policy refused.
    pub message: String,
    /// Which step failed, for the audit log only.
    pub step: &'static str,
    /// Why, for the audit log only.
    pub reason: String,
}

/// The codes of this endpoint (AWS: *Common errors* and the errors of each action of the STS API reference).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// A policy, or the lack of one.
    AccessDenied,
    /// A session token that has ended.
    ExpiredToken,
    /// A web identity token that has ended.
    ExpiredTokenException,
    /// The identity provider cannot be asked.
    IdpCommunicationError,
    /// The identity provider's token is refused by its claims.
    IdpRejectedClaim,
    /// The authorisation header is not complete.
    IncompleteSignature,
    /// Our own trouble.
    InternalFailure,
    /// No such operation.
    InvalidAction,
    /// No such access key, or a session token that is not its.
    InvalidClientTokenId,
    /// A web identity token that cannot be read or proved.
    InvalidIdentityToken,
    /// A session policy with a mistake.
    MalformedPolicyDocument,
    /// Not signed at all.
    MissingAuthenticationToken,
    /// Policies and tags do not fit a token.
    PackedPolicyTooLarge,
    /// Another secret, another request, or too old.
    SignatureDoesNotMatch,
    /// Too many requests.
    Throttling,
    /// A parameter out of form.
    ValidationError,
}

impl Code {
    /// As it stands in the answer.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AccessDenied => "AccessDenied",
            Self::ExpiredToken => "ExpiredToken",
            Self::ExpiredTokenException => "ExpiredTokenException",
            Self::IdpCommunicationError => "IDPCommunicationError",
            Self::IdpRejectedClaim => "IDPRejectedClaim",
            Self::IncompleteSignature => "IncompleteSignature",
            Self::InternalFailure => "InternalFailure",
            Self::InvalidAction => "InvalidAction",
            Self::InvalidClientTokenId => "InvalidClientTokenId",
            Self::InvalidIdentityToken => "InvalidIdentityToken",
            Self::MalformedPolicyDocument => "MalformedPolicyDocument",
            Self::MissingAuthenticationToken => "MissingAuthenticationToken",
            Self::PackedPolicyTooLarge => "PackedPolicyTooLarge",
            Self::SignatureDoesNotMatch => "SignatureDoesNotMatch",
            Self::Throttling => "Throttling",
            Self::ValidationError => "ValidationError",
        }
    }

    /// The HTTP status.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::AccessDenied
            | Self::ExpiredToken
            | Self::IdpRejectedClaim
            | Self::InvalidClientTokenId
            | Self::MissingAuthenticationToken
            | Self::SignatureDoesNotMatch => 403,
            Self::InternalFailure => 500,
            Self::ExpiredTokenException
            | Self::IdpCommunicationError
            | Self::IncompleteSignature
            | Self::InvalidAction
            | Self::InvalidIdentityToken
            | Self::MalformedPolicyDocument
            | Self::PackedPolicyTooLarge
            | Self::Throttling
            | Self::ValidationError => 400,
        }
    }
}

impl Refusal {
    /// A refusal whose reason is what the caller is told.
    #[must_use]
    pub fn new(code: Code, step: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, step, reason: message.clone(), message }
    }

    /// The same with a reason for the audit log.
    #[must_use]
    pub fn because(mut self, reason: impl std::fmt::Display) -> Self {
        self.reason = reason.to_string();
        self
    }

    /// The body.
    #[must_use]
    pub fn body(&self, request_id: &str) -> String {
        let kind = if self.code.status() >= 500 { "Receiver" } else { "Sender" };
        format!(
            "<ErrorResponse xmlns=\"{NAMESPACE}\"><Error><Type>{kind}</Type><Code>{}</Code><Message>{}</Message></Error>\
             <RequestId>{}</RequestId></ErrorResponse>",
            self.code.name(),
            Text(&self.message),
            Text(request_id),
        )
    }
}

/// Elements of an answer, written one after the other.
#[derive(Debug, Default)]
pub struct Elements(String);

impl Elements {
    /// An element with text.
    #[must_use]
    pub fn text(mut self, name: &str, text: impl std::fmt::Display) -> Self {
        let _ = write!(self.0, "<{name}>{}</{name}>", Text(&text.to_string()));
        self
    }

    /// An element with text, when there is one.
    #[must_use]
    pub fn maybe(self, name: &str, text: Option<impl std::fmt::Display>) -> Self {
        match text {
            Some(text) => self.text(name, text),
            None => self,
        }
    }

    /// An element with elements.
    #[must_use]
    pub fn inside(mut self, name: &str, inner: Self) -> Self {
        let _ = write!(self.0, "<{name}>{}</{name}>", inner.0);
        self
    }

    /// The whole answer of an operation.
    #[must_use]
    pub fn body(self, operation: &str, request_id: &str) -> String {
        format!(
            "<{operation}Response xmlns=\"{NAMESPACE}\"><{operation}Result>{}</{operation}Result>\
             <ResponseMetadata><RequestId>{}</RequestId></ResponseMetadata></{operation}Response>",
            self.0,
            Text(request_id),
        )
    }
}

/// Text as XML takes it; characters XML has no form for become `?`.
struct Text<'a>(&'a str);

impl std::fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in self.0.chars() {
            match c {
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '&' => f.write_str("&amp;")?,
                '"' => f.write_str("&quot;")?,
                '\t' | '\n' | '\r' => f.write_char(' ')?,
                c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => f.write_char('?')?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_stays_text() {
        let refusal = Refusal::new(Code::ValidationError, "parameters", "</Message><x>&\"\u{0}\u{1b}\n");
        let body = refusal.body("r");
        assert!(body.contains("<Message>&lt;/Message&gt;&lt;x&gt;&amp;&quot;?? </Message>"), "{body}");
    }

    #[test]
    fn answers_have_the_form_of_the_query_protocol() {
        let body = Elements::default().inside("A", Elements::default().text("B", 1)).body("GetCallerIdentity", "id");
        assert_eq!(
            body,
            "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult>\
             <A><B>1</B></A></GetCallerIdentityResult><ResponseMetadata><RequestId>id</RequestId></ResponseMetadata>\
             </GetCallerIdentityResponse>"
        );
    }
}
