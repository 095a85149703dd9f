//! A distinguished name as text.
//!
//! SPEC: RFC 2253 as Java's `X500Principal.getName()` writes it, since Kafka's mapping rules are written against
//! that text: most specific first, nine attributes by keyword, any other as its OID with the value in hexadecimal.

use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use crate::files::hex;

/// The name as text, or `None` when one of its values is no valid string.
pub(crate) fn rfc2253(name: &X509Name<'_>) -> Option<String> {
    let mut parts = Vec::new();
    for relative in name.iter_rdn() {
        let attributes: Option<Vec<String>> = relative.iter().map(attribute).collect();
        parts.push(attributes?.join("+"));
    }
    parts.reverse();
    Some(parts.join(","))
}

/// The common name when there is exactly one. Of two, choosing would be guessing, so there is none.
pub(crate) fn common_name(name: &X509Name<'_>) -> Option<String> {
    let mut all = name.iter_common_name();
    match (all.next(), all.next()) {
        (Some(only), None) => only.as_str().ok().map(str::to_owned),
        _ => None,
    }
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> Option<String> {
    let oid = attribute.attr_type().to_id_string();
    match (keyword(&oid), attribute.as_str()) {
        (Some(keyword), Ok(text)) => Some(format!("{keyword}={}", escaped(text))),
        (keyword, _) => Some(format!("{}=#{}", keyword.unwrap_or(&oid), hex(&der(attribute)?))),
    }
}

/// Tag, length and value as they stood in the certificate (DER, so there is one way to write them).
fn der(attribute: &AttributeTypeAndValue<'_>) -> Option<Vec<u8>> {
    use x509_parser::asn1_rs::ToDer as _;
    attribute.attr_value().to_der_vec_raw().ok()
}

fn keyword(oid: &str) -> Option<&'static str> {
    Some(match oid {
        "2.5.4.3" => "CN",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "STREET",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "0.9.2342.19200300.100.1.25" => "DC",
        "0.9.2342.19200300.100.1.1" => "UID",
        _ => return None,
    })
}

fn escaped(text: &str) -> String {
    let leading = text.chars().take_while(|character| *character == ' ').count();
    let trailing_from = text.trim_end_matches(' ').chars().count();
    let mut out = String::with_capacity(text.len());
    for (at, character) in text.chars().enumerate() {
        match character {
            ',' | '=' | '+' | '<' | '>' | '#' | ';' | '"' | '\\' => out.extend(['\\', character]),
            ' ' if at < leading || at >= trailing_from => out.push_str("\\ "),
            '\0' => out.push_str("\\00"),
            _ => out.push(character),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair};
    use x509_parser::prelude::{FromDer, X509Certificate};

    use super::*;

    fn named(parts: Vec<(DnType, DnValue)>) -> (String, Option<String>) {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in parts {
            params.distinguished_name.push(kind, value);
        }
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let (_, parsed) = X509Certificate::from_der(certificate.der()).unwrap();
        (rfc2253(parsed.subject()).unwrap(), common_name(parsed.subject()))
    }

    fn utf8(text: &str) -> DnValue {
        DnValue::Utf8String(text.to_owned())
    }

    // The texts on the right were printed by `X500Principal.getName()` of OpenJDK 17.

    #[test]
    fn most_specific_part_comes_first() {
        let (name, common) =
            named(vec![(DnType::OrganizationName, utf8("acme")), (DnType::CommonName, utf8("producer"))]);
        assert_eq!(name, "CN=producer,O=acme");
        assert_eq!(common.as_deref(), Some("producer"));
    }

    #[test]
    fn special_characters_are_escaped_as_java_escapes_them() {
        let (name, _) = named(vec![(DnType::CountryName, utf8("DE")), (DnType::CommonName, utf8("a,b=c #x\"q\\"))]);
        assert_eq!(name, "CN=a\\,b\\=c \\#x\\\"q\\\\,C=DE");
    }

    #[test]
    fn outer_spaces_are_escaped_and_letters_beyond_ascii_are_not() {
        let (name, _) = named(vec![(DnType::OrganizationName, utf8("ü")), (DnType::CommonName, utf8(" lead "))]);
        assert_eq!(name, "CN=\\ lead\\ ,O=ü");
    }

    #[test]
    fn attribute_without_keyword_is_its_oid_and_hexadecimal() {
        let serial = DnType::CustomDnType(vec![2, 5, 4, 5]);
        let (name, _) =
            named(vec![(DnType::CommonName, utf8("x")), (serial, DnValue::PrintableString("123".try_into().unwrap()))]);
        assert_eq!(name, "2.5.4.5=#1303313233,CN=x");
    }

    #[test]
    fn forged_separator_inside_a_value_stays_inside_it() {
        let (name, _) = named(vec![(DnType::CommonName, utf8("eve,CN=admin"))]);
        assert_eq!(name, "CN=eve\\,CN\\=admin");
    }
}
