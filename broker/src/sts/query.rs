//! AWS's Query protocol: a form of names and values, lists as `Tags.member.1.Key`.
//!
//! In: the body of a request, bounded. Out: values by name. Every name once; nothing is reserved by a claimed number.

use std::collections::BTreeMap;

/// Bytes of a body: a web identity token of 20,000 characters and fifty tags fit, percent-encoded.
pub const BODY_BYTES_MAX: usize = 192 * 1024;
/// Names in one body: more than every list at its limit has.
const NAMES_MAX: usize = 256;

/// A request's names and values.
#[derive(Debug)]
pub struct Query(BTreeMap<String, String>);

/// Why a body is no form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Too long, or too many names.
    #[error("the request is too large")]
    TooLarge,
    /// Not percent-encoded UTF-8.
    #[error("the request is not a well-formed form")]
    Malformed,
    /// A name twice: what one reader takes first, another takes last.
    #[error("a parameter is given twice")]
    Twice,
}

impl Query {
    /// Reads a body of the type `application/x-www-form-urlencoded`.
    ///
    /// # Errors
    /// [`QueryError`].
    pub fn parse(body: &[u8]) -> Result<Self, QueryError> {
        if body.len() > BODY_BYTES_MAX {
            return Err(QueryError::TooLarge);
        }
        let mut values = BTreeMap::new();
        for pair in body.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            let mut halves = pair.splitn(2, |byte| *byte == b'=');
            let name = decode(halves.next().unwrap_or_default())?;
            let value = decode(halves.next().unwrap_or_default())?;
            if values.len() >= NAMES_MAX {
                return Err(QueryError::TooLarge);
            }
            if values.insert(name, value).is_some() {
                return Err(QueryError::Twice);
            }
        }
        Ok(Self(values))
    }

    /// A value; an empty one counts as absent.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The elements of a list, in order: `NAME.member.1`, `NAME.member.1.FIELD`. Ends at the first that is missing.
    pub fn list<'q>(&'q self, name: &'q str, field: &'q str) -> impl Iterator<Item = &'q str> {
        (1_u32..).map_while(move |number| {
            let name = if field.is_empty() {
                format!("{name}.member.{number}")
            } else {
                format!("{name}.member.{number}.{field}")
            };
            self.0.get(&name).map(String::as_str)
        })
    }
}

fn decode(text: &[u8]) -> Result<String, QueryError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let mut digit = || rest.next().and_then(|byte| char::from(*byte).to_digit(16));
                let (Some(high), Some(low)) = (digit(), digit()) else { return Err(QueryError::Malformed) };
                bytes.push(u8::try_from(high * 16 + low).map_err(|_| QueryError::Malformed)?);
            }
            byte => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).map_err(|_| QueryError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn form_is_read_with_its_lists() {
        let query = Query::parse(
            b"Action=AssumeRole&Tags.member.1.Key=a+b&Tags.member.1.Value=%C3%BC&Tags.member.2.Key=c&T.member.1=x&E=",
        )
        .unwrap();
        assert_eq!(query.value("Action"), Some("AssumeRole"));
        assert_eq!(query.value("E"), None);
        assert_eq!(query.list("Tags", "Key").collect::<Vec<_>>(), ["a b", "c"]);
        assert_eq!(query.list("Tags", "Value").collect::<Vec<_>>(), ["\u{fc}"]);
        assert_eq!(query.list("T", "").collect::<Vec<_>>(), ["x"]);
    }

    #[test]
    fn malformed_doubled_and_oversized_forms_are_refused() {
        for body in [&b"a=%"[..], b"a=%4", b"a=%zz", b"a=%ff", b"%=1"] {
            assert_eq!(Query::parse(body).unwrap_err(), QueryError::Malformed);
        }
        assert_eq!(Query::parse(b"a=1&a=2").unwrap_err(), QueryError::Twice);
        let many: String = (0..=NAMES_MAX).map(|n| format!("n{n}=1&")).collect();
        assert_eq!(Query::parse(many.as_bytes()).unwrap_err(), QueryError::TooLarge);
        assert_eq!(Query::parse(&vec![b'a'; BODY_BYTES_MAX + 1]).unwrap_err(), QueryError::TooLarge);
    }
}
