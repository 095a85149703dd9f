//! A subject in the text form Kafka's mapping rules see: RFC 2253, as Java's `X500Principal.getName()` writes it.

use std::fmt::Write as _;

use x509_parser::der_parser::ber::{Class, Tag};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// The keywords of RFC 2253; every other attribute is written as its dotted id.
const KEYWORDS: [(&str, &str); 9] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
];

/// RFC 2253: last attribute first, `+` within a set, special characters escaped.
#[must_use]
pub fn rfc2253(name: &X509Name<'_>) -> String {
    let mut sets: Vec<String> = name
        .iter_rdn()
        .map(|set| set.iter().map(attribute).collect::<Vec<_>>().join("+"))
        .collect();
    sets.reverse();
    sets.join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let id = attribute.attr_type().to_id_string();
    let keyword = KEYWORDS.iter().find(|(known, _)| *known == id).map(|(_, keyword)| *keyword);
    match (keyword, attribute.as_str()) {
        (Some(keyword), Ok(text)) => format!("{keyword}={}", escape(text)),
        (keyword, _) => format!("{}=#{}", keyword.unwrap_or(&id), hex_der(attribute)),
    }
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let last = text.chars().count().saturating_sub(1);
    for (at, c) in text.chars().enumerate() {
        let special = matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';');
        let edge = (at == 0 && matches!(c, ' ' | '#')) || (at == last && c == ' ');
        if special || edge {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// The value as DER in hexadecimal: the form for types without a keyword.
fn hex_der(attribute: &AttributeTypeAndValue<'_>) -> String {
    let value = attribute.attr_value();
    let class = match value.header.class() {
        Class::Universal => 0_u32,
        Class::Application => 0x40,
        Class::ContextSpecific => 0x80,
        Class::Private => 0xc0,
    };
    let Tag(tag) = value.header.tag();
    let mut bytes = vec![u8::try_from(class | (tag & 0x1f)).unwrap_or(0)];
    let data = value.data;
    match u8::try_from(data.len()) {
        Ok(len) if len < 0x80 => bytes.push(len),
        _ => {
            let len: Vec<u8> = data.len().to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
            bytes.push(0x80 | u8::try_from(len.len()).unwrap_or(0));
            bytes.extend(len);
        }
    }
    bytes.extend_from_slice(data);
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    fn subject(attributes: &[(DnType, &str)]) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in attributes {
            params.distinguished_name.push(kind.clone(), *value);
        }
        let cert = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(cert.der()).unwrap();
        rfc2253(parsed.subject())
    }

    #[test]
    fn subject_is_written_last_attribute_first() {
        let text = subject(&[
            (DnType::CountryName, "DE"),
            (DnType::OrganizationName, "acme"),
            (DnType::CommonName, "producer"),
        ]);
        assert_eq!(text, "CN=producer,O=acme,C=DE");
    }

    #[test]
    fn characters_that_could_forge_another_attribute_are_escaped() {
        assert_eq!(subject(&[(DnType::CommonName, "a,O=globex")]), r"CN=a\,O=globex");
        assert_eq!(subject(&[(DnType::CommonName, " #a+b\\ ")]), r"CN=\ #a\+b\\\ ");
        assert_eq!(subject(&[(DnType::CommonName, "#a")]), r"CN=\#a");
    }

    #[test]
    fn attribute_without_a_keyword_is_its_id_and_der() {
        // A title ("2.5.4.12") of "Dr" as UTF8String.
        let title = DnType::CustomDnType(vec![2, 5, 4, 12]);
        assert_eq!(subject(&[(title, "Dr")]), "2.5.4.12=#0c024472");
    }
}
