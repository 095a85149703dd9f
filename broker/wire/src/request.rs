//! From a frame to a request.
//!
//! In: one frame without its length. Out: [`Request`], or a [`ParseError`] that says whether an answer is possible.
//!
//! Must not: call a decoder before the walk.

use bytes::{Buf, Bytes};
use kafka_protocol::messages::{ApiKey, RequestKind};
use kafka_protocol::protocol::StrBytes;

use crate::{layout_table, newer, versions, walk};

pub use crate::walk::{ELEMENTS_MAX, WalkError};

/// API key of ApiVersions, the one request that is answered in a version it does not have.
pub const API_VERSIONS: i16 = 18;

/// What stands before each body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// Which API.
    pub api_key: i16,
    /// Which version of it.
    pub api_version: i16,
    /// Comes back in the response.
    pub correlation_id: i32,
    /// What the client calls itself. Not to be trusted, not to be logged unescaped.
    pub client_id: Option<StrBytes>,
}

/// A request whose body was walked and decoded.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Its header.
    pub header: RequestHeader,
    /// Its body.
    pub body: RequestKind,
}

/// Why a frame is no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// An API or version that is not served. An ApiVersions request gets an answer in version 0 with
    /// `UNSUPPORTED_VERSION` and the ranges; for any other the connection ends, as with Kafka.
    #[error("version {api_version} of API {api_key} is not served")]
    UnsupportedVersion {
        /// The API asked for.
        api_key: i16,
        /// The version asked for.
        api_version: i16,
        /// For the answer.
        correlation_id: i32,
    },
    /// The header is cut or out of form.
    #[error("malformed request header")]
    Header,
    /// The body is out of form.
    #[error("malformed body of API {api_key} version {api_version}: {error}")]
    Body {
        /// The API.
        api_key: i16,
        /// Its version.
        api_version: i16,
        /// What the walk found.
        error: WalkError,
    },
    /// The walk passed, the decoder refused; in practice text that is not UTF-8.
    #[error("body of API {api_key} version {api_version} is not decodable")]
    Undecodable {
        /// The API.
        api_key: i16,
        /// Its version.
        api_version: i16,
    },
}

/// Parses one frame. Byte fields of the result are slices of it.
///
/// # Errors
/// See [`ParseError`]; a malformed frame ends the connection, as nothing after it can be trusted.
pub fn parse(frame: Bytes) -> Result<Request, ParseError> {
    let (header, mut body) = split_header(frame)?;
    let (api_key, api_version) = (header.api_key, header.api_version);
    let undecodable = ParseError::Undecodable { api_key, api_version };
    let layout = layout_table::of_request(api_key).ok_or(undecodable)?;
    match walk::body(layout, api_version, &body) {
        Ok(()) => {}
        // Kafka ignores bytes behind a body, and librdkafka sends some behind Metadata; what came before them was walked.
        Err(WalkError::Trailing { left }) => body.truncate(body.len().saturating_sub(left)),
        Err(error) => return Err(ParseError::Body { api_key, api_version, error }),
    }
    let key = ApiKey::try_from(api_key).map_err(|()| undecodable)?;
    let body_kind = newer::decode(key, api_version, &mut body).ok_or(undecodable)?;
    if body.has_remaining() {
        return Err(undecodable);
    }
    Ok(Request { header, body: body_kind })
}

/// Reads the header, and refuses what is not served before it looks any further.
fn split_header(mut frame: Bytes) -> Result<(RequestHeader, Bytes), ParseError> {
    let short = |_| ParseError::Header;
    let api_key = frame.try_get_i16().map_err(short)?;
    let api_version = frame.try_get_i16().map_err(short)?;
    let correlation_id = frame.try_get_i32().map_err(short)?;
    if !versions::is_served(api_key, api_version) {
        return Err(ParseError::UnsupportedVersion { api_key, api_version, correlation_id });
    }
    let key = ApiKey::try_from(api_key).map_err(|()| ParseError::Header)?;
    let client_id = match frame.try_get_i16().map_err(short)? {
        -1 => None,
        length => {
            let length = usize::try_from(length).map_err(|_| ParseError::Header)?;
            if length > frame.len() {
                return Err(ParseError::Header);
            }
            Some(StrBytes::from_utf8(frame.split_to(length)).map_err(|_| ParseError::Header)?)
        }
    };
    if key.request_header_version(api_version) >= 2 {
        let tags = walk::header_tags(&frame).map_err(|_| ParseError::Header)?;
        frame.advance(tags);
    }
    Ok((RequestHeader { api_key, api_version, correlation_id, client_id }, frame))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(api_key: i16, version: i16, client_id: Option<&str>, tags: &[u8], body: &[u8]) -> Bytes {
        let mut frame = Vec::new();
        frame.extend(api_key.to_be_bytes());
        frame.extend(version.to_be_bytes());
        frame.extend(7_i32.to_be_bytes());
        match client_id {
            None => frame.extend((-1_i16).to_be_bytes()),
            Some(id) => {
                frame.extend(i16::try_from(id.len()).unwrap().to_be_bytes());
                frame.extend(id.as_bytes());
            }
        }
        frame.extend(tags);
        frame.extend(body);
        frame.into()
    }

    #[test]
    fn metadata_that_claims_two_billion_topics_is_refused() {
        let body = i32::MAX.to_be_bytes();
        assert_eq!(
            parse(frame(3, 4, None, &[], &body)).unwrap_err(),
            ParseError::Body { api_key: 3, api_version: 4, error: WalkError::Short { at: 0 } }
        );
    }

    #[test]
    fn produce_that_claims_two_billion_topics_is_refused() {
        let body = [&[0xff, 0xff, 0, 1, 0, 0, 0, 1][..], &i32::MAX.to_be_bytes()].concat();
        assert_eq!(
            parse(frame(0, 3, None, &[], &body)).unwrap_err(),
            ParseError::Body { api_key: 0, api_version: 3, error: WalkError::Short { at: 8 } }
        );
    }

    #[test]
    fn flexible_header_with_tags_is_read() {
        let request = parse(frame(18, 3, Some("me"), &[1, 5, 2, 9, 9], &[2, b'a', 2, b'1', 0])).unwrap();
        assert_eq!(request.header.client_id.as_deref(), Some("me"));
        assert_eq!(request.header.correlation_id, 7);
        let RequestKind::ApiVersions(body) = request.body else { panic!("another body") };
        assert_eq!(&*body.client_software_name, "a");
    }

    #[test]
    fn unknown_version_of_api_versions_keeps_its_correlation_id() {
        assert_eq!(
            parse(frame(18, 9, None, &[0], &[])).unwrap_err(),
            ParseError::UnsupportedVersion { api_key: 18, api_version: 9, correlation_id: 7 }
        );
    }

    #[test]
    fn bytes_behind_the_body_are_ignored_as_kafka_ignores_them() {
        let with = parse(frame(18, 0, None, &[], &[0])).unwrap();
        let without = parse(frame(18, 0, None, &[], &[])).unwrap();
        assert_eq!(with.body, without.body);
    }

    #[test]
    fn text_that_is_not_utf8_is_refused() {
        let body = [0, 0, 0, 1, 0, 1, 0xff, 1];
        assert_eq!(
            parse(frame(3, 4, None, &[], &body)).unwrap_err(),
            ParseError::Undecodable { api_key: 3, api_version: 4 }
        );
    }

    #[test]
    fn every_cut_of_a_header_is_refused() {
        let whole = frame(18, 3, Some("me"), &[0], &[]);
        for length in 0..whole.len() {
            assert!(parse(whole.slice(..length)).is_err());
        }
    }
}
