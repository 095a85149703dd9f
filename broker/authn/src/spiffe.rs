//! SPIFFE ids in client certificates.
//!
//! SPEC: SPIFFE-ID and X509-SVID: exactly one URI among the alternative names, `spiffe://<trust domain>/<path>`.

/// A checked SPIFFE id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpiffeId<'a> {
    /// The whole id.
    pub id: &'a str,
    /// The trust domain.
    pub trust_domain: &'a str,
    /// The path, from its first `/`; empty for the trust domain itself.
    pub path: &'a str,
}

const ID_BYTES_MAX: usize = 2048;
const TRUST_DOMAIN_BYTES_MAX: usize = 255;

/// The SPIFFE id of a certificate with these URIs; `None` when it is no X509-SVID: with two URIs it is not one.
#[must_use]
pub fn of(uris: &[String]) -> Option<SpiffeId<'_>> {
    match uris {
        [only] => parse(only),
        _ => None,
    }
}

/// Reads one id.
#[must_use]
pub fn parse(id: &str) -> Option<SpiffeId<'_>> {
    let rest = id.strip_prefix("spiffe://").filter(|_| id.len() <= ID_BYTES_MAX)?;
    let (trust_domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let in_domain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    if trust_domain.is_empty() || trust_domain.len() > TRUST_DOMAIN_BYTES_MAX || !trust_domain.bytes().all(in_domain) {
        return None;
    }
    let in_segment = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let is_segment =
        |segment: &str| !segment.is_empty() && !matches!(segment, "." | "..") && segment.bytes().all(in_segment);
    let sound = match path.strip_prefix('/') {
        None => path.is_empty(),
        Some(segments) => segments.split('/').all(is_segment),
    };
    sound.then_some(SpiffeId { id, trust_domain, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_is_split_in_trust_domain_and_path() {
        let id = parse("spiffe://acme.example/ns/shop/sa/orders").unwrap();
        assert_eq!((id.trust_domain, id.path), ("acme.example", "/ns/shop/sa/orders"));
        assert_eq!(parse("spiffe://acme.example").unwrap().path, "");
    }

    #[test]
    fn ids_that_the_standard_refuses_are_refused() {
        for id in [
            "spiffe://",
            "spiffe:///path",
            "https://acme.example/a",
            "spiffe://Acme.example/a",
            "spiffe://acme:8443/a",
            "spiffe://user@acme/a",
            "spiffe://acme/",
            "spiffe://acme/a/",
            "spiffe://acme/a//b",
            "spiffe://acme/a/../b",
            "spiffe://acme/a?x",
            "spiffe://acme/a%2fb",
            "SPIFFE://acme/a",
        ] {
            assert_eq!(parse(id), None, "{id}");
        }
    }

    #[test]
    fn certificate_with_two_uris_has_no_spiffe_id() {
        let one = "spiffe://acme/a".to_owned();
        assert!(of(std::slice::from_ref(&one)).is_some());
        assert!(of(&[one, "spiffe://acme/b".to_owned()]).is_none());
        assert!(of(&[]).is_none());
    }
}
