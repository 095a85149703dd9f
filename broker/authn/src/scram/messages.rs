//! The client's SCRAM messages.
//!
//! SPEC: RFC 5802, section 7; extensions as in KIP-48. Bounds are ours.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Why a message is not one of SCRAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Above the bound.
    #[error("the SCRAM message is longer than its bound")]
    TooLong,
    /// Not UTF-8.
    #[error("the SCRAM message is not UTF-8")]
    NotText,
    /// Not in the form of RFC 5802.
    #[error("the SCRAM message is malformed")]
    Malformed,
    /// The client wants its TLS channel bound, which is not offered.
    #[error("channel binding is asked for and not offered")]
    ChannelBinding,
    /// An authorization identity other than the user itself.
    #[error("another authorization identity is asked for")]
    OtherIdentity,
    /// A mandatory extension (`m=`), which nobody has defined.
    #[error("a mandatory extension is asked for")]
    MandatoryExtension,
}

const MESSAGE_BYTES_MAX: usize = 4096;
const NAME_BYTES_MAX: usize = 1024;

/// `n,,n=user,r=nonce[,extensions]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFirst {
    /// The user's name, unescaped; of a delegation token its id.
    pub user: String,
    /// Whether the name is a delegation token's id (`tokenauth=true`).
    pub is_token: bool,
    pub(super) nonce: String,
    pub(super) gs2_header: String,
    pub(super) bare: String,
}

impl ClientFirst {
    /// Reads the message.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn read(message: &[u8]) -> Result<Self, MessageError> {
        let text = text(message)?;
        let mut parts = text.splitn(3, ',');
        let (Some(flag), Some(identity), Some(bare)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(MessageError::Malformed);
        };
        match flag {
            "n" | "y" => {}
            _ if flag.starts_with("p=") => return Err(MessageError::ChannelBinding),
            _ => return Err(MessageError::Malformed),
        }
        let mut attributes = bare.split(',');
        let first = attributes.next().unwrap_or_default();
        if first.starts_with("m=") {
            return Err(MessageError::MandatoryExtension);
        }
        let user = first.strip_prefix("n=").and_then(unescaped).ok_or(MessageError::Malformed)?;
        if user.is_empty() || user.len() > NAME_BYTES_MAX {
            return Err(MessageError::Malformed);
        }
        if !identity.is_empty() {
            let identity = identity.strip_prefix("a=").and_then(unescaped).ok_or(MessageError::Malformed)?;
            if identity != user {
                return Err(MessageError::OtherIdentity);
            }
        }
        let nonce = attributes.next().and_then(|part| part.strip_prefix("r=")).ok_or(MessageError::Malformed)?;
        if nonce.is_empty() || !nonce.bytes().all(is_printable) {
            return Err(MessageError::Malformed);
        }
        let mut is_token = false;
        for extension in attributes {
            let (name, value) = extension.split_once('=').ok_or(MessageError::Malformed)?;
            if name == "tokenauth" {
                is_token = value.eq_ignore_ascii_case("true");
            }
        }
        Ok(Self {
            user,
            is_token,
            nonce: nonce.to_owned(),
            gs2_header: text.get(..text.len().saturating_sub(bare.len())).unwrap_or_default().to_owned(),
            bare: bare.to_owned(),
        })
    }
}

/// `c=header,r=nonce[,extensions],p=proof`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClientFinal {
    pub binding: Vec<u8>,
    pub nonce: String,
    pub proof: Vec<u8>,
    pub without_proof: String,
}

impl ClientFinal {
    pub fn read(message: &[u8]) -> Result<Self, MessageError> {
        let text = text(message)?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(MessageError::Malformed)?;
        let mut attributes = without_proof.split(',');
        let binding = attributes.next().and_then(|part| part.strip_prefix("c=")).ok_or(MessageError::Malformed)?;
        let nonce = attributes.next().and_then(|part| part.strip_prefix("r=")).ok_or(MessageError::Malformed)?;
        let decoded = |text: &str| STANDARD.decode(text).map_err(|_| MessageError::Malformed);
        Ok(Self {
            binding: decoded(binding)?,
            nonce: nonce.to_owned(),
            proof: decoded(proof)?,
            without_proof: without_proof.to_owned(),
        })
    }
}

fn text(message: &[u8]) -> Result<&str, MessageError> {
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(MessageError::TooLong);
    }
    std::str::from_utf8(message).map_err(|_| MessageError::NotText)
}

/// RFC 5802: printable ASCII without the comma.
fn is_printable(byte: u8) -> bool {
    matches!(byte, 0x21..=0x2b | 0x2d..=0x7e)
}

/// `=2C` is a comma, `=3D` an equals sign; any other `=` is a mistake, and so is NUL.
fn unescaped(name: &str) -> Option<String> {
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some((before, after)) = rest.split_once('=') {
        out.push_str(before);
        let code = after.get(..2)?;
        out.push(match code {
            "2C" => ',',
            "3D" => '=',
            _ => return None,
        });
        rest = after.get(2..)?;
    }
    out.push_str(rest);
    (!out.contains('\0')).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_names_are_read_and_bad_escapes_refused() {
        assert_eq!(ClientFirst::read(b"n,,n=a=2Cb=3D,r=x").unwrap().user, "a,b=");
        for name in ["a=2c", "a=", "a=2", "a==", "\0", ""] {
            let message = format!("n,,n={name},r=x");
            assert_eq!(ClientFirst::read(message.as_bytes()), Err(MessageError::Malformed), "{name:?}");
        }
    }

    #[test]
    fn another_identity_channel_binding_and_mandatory_extensions_are_refused() {
        assert!(ClientFirst::read(b"n,a=ann,n=ann,r=x").is_ok());
        assert_eq!(ClientFirst::read(b"n,a=root,n=ann,r=x"), Err(MessageError::OtherIdentity));
        assert_eq!(ClientFirst::read(b"p=tls-exporter,,n=ann,r=x"), Err(MessageError::ChannelBinding));
        assert_eq!(ClientFirst::read(b"n,,m=1,n=ann,r=x"), Err(MessageError::MandatoryExtension));
    }

    #[test]
    fn tokenauth_is_read_from_the_extensions() {
        assert!(ClientFirst::read(b"n,,n=id,r=x,tokenauth=true").unwrap().is_token);
        assert!(!ClientFirst::read(b"n,,n=id,r=x,tokenauth=false").unwrap().is_token);
        assert!(!ClientFirst::read(b"n,,n=id,r=x").unwrap().is_token);
        assert_eq!(ClientFirst::read(b"n,,n=id,r=x,tokenauth"), Err(MessageError::Malformed));
    }

    #[test]
    fn header_and_bare_message_are_kept_as_they_came() {
        let first = ClientFirst::read(b"y,a=ann,n=ann,r=x,k=v").unwrap();
        assert_eq!((first.gs2_header.as_str(), first.bare.as_str()), ("y,a=ann,", "n=ann,r=x,k=v"));
    }

    #[test]
    fn longer_message_than_the_bound_is_refused() {
        let message = format!("n,,n={},r=x", "a".repeat(MESSAGE_BYTES_MAX));
        assert_eq!(ClientFirst::read(message.as_bytes()), Err(MessageError::TooLong));
    }
}
