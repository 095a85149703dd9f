//! Reads JSON and keeps where everything stood.
//!
//! In: text of a policy or of one line of a batch. Out: a tree of [`Node`]s, each with line and column, or the
//! first [`JsonError`] with its place. A finding about a policy is only useful when it names the place, which the
//! common readers throw away.
//!
//! Invariants
//! - Nesting is bounded by [`DEPTH_MAX`], so that hostile text cannot exhaust the stack.
//! - Members keep their order and repetitions; whoever reads them decides what a repetition means.
//! - Numbers stay text: a condition value keeps the digits its author wrote.
//!
//! Must not: accept anything outside RFC 8259.

use std::fmt;
use std::iter::Peekable;
use std::str::Chars;

/// A place in a file. Both count from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The line, from 1.
    pub line: u32,
    /// The column, from 1.
    pub column: u32,
}

impl Position {
    /// The first character of a file.
    pub const START: Self = Self { line: 1, column: 1 };
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// One value and where it begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its first character.
    pub at: Position,
    /// What it is.
    pub value: Value,
}

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number, as written.
    Number(Box<str>),
    /// A string, escapes resolved.
    Text(Box<str>),
    /// `[...]`
    List(Vec<Node>),
    /// `{...}`
    Object(Vec<Member>),
}

/// One `"name": value` of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// The name, escapes resolved.
    pub name: Box<str>,
    /// Where the name begins.
    pub name_at: Position,
    /// The value.
    pub node: Node,
}

impl Node {
    /// The member of this name, when this is an object that has it (the first one, when repeated).
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&Node> {
        match &self.value {
            Value::Object(members) => members.iter().find(|m| &*m.name == name).map(|m| &m.node),
            _ => None,
        }
    }

    /// The text, when this is a string.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The elements: of a list its own, of `null` none, of anything else the value itself.
    #[must_use]
    pub fn elements(&self) -> &[Node] {
        match &self.value {
            Value::List(nodes) => nodes,
            Value::Null => &[],
            _ => std::slice::from_ref(self),
        }
    }
}

/// Why a text is no JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// The text ended inside a value.
    #[error("the text ends before the value does")]
    UnexpectedEnd,
    /// A character that cannot stand here.
    #[error("unexpected character `{found}`, expected {expected}")]
    Unexpected {
        /// What stands there.
        found: char,
        /// What could.
        expected: &'static str,
    },
    /// A control character inside a string.
    #[error("a control character stands unescaped in a string")]
    ControlCharacter,
    /// An escape that RFC 8259 does not know, or half of a surrogate pair.
    #[error("the escape is not valid")]
    BadEscape,
    /// A number with a leading zero, or without digits.
    #[error("the number is not valid")]
    BadNumber,
    /// Something after the value.
    #[error("there is more text after the value")]
    Trailing,
    /// Deeper than [`DEPTH_MAX`].
    #[error("values nest deeper than {DEPTH_MAX} levels")]
    TooDeep,
}

/// Reads one value that fills the whole text.
///
/// # Errors
/// The first mistake and its place.
pub fn read(text: &str) -> Result<Node, (Position, JsonError)> {
    let mut reader = Reader { rest: text.chars().peekable(), at: Position::START };
    let node = reader.value(0)?;
    reader.blanks();
    match reader.peek() {
        None => Ok(node),
        Some(_) => Err((reader.at, JsonError::Trailing)),
    }
}

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
    at: Position,
}

type Read<T> = Result<T, (Position, JsonError)>;

impl Reader<'_> {
    fn peek(&mut self) -> Option<char> {
        self.rest.peek().copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.next()?;
        if c == '\n' {
            self.at = Position { line: self.at.line.saturating_add(1), column: 1 };
        } else {
            self.at.column = self.at.column.saturating_add(1);
        }
        Some(c)
    }

    fn fail<T>(&self, error: JsonError) -> Read<T> {
        Err((self.at, error))
    }

    fn unexpected<T>(&mut self, expected: &'static str) -> Read<T> {
        match self.peek() {
            Some(found) => self.fail(JsonError::Unexpected { found, expected }),
            None => self.fail(JsonError::UnexpectedEnd),
        }
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t' | '\n' | '\r')) {
            self.next();
        }
    }

    fn eat(&mut self, wanted: char, expected: &'static str) -> Read<()> {
        if self.peek() == Some(wanted) {
            self.next();
            Ok(())
        } else {
            self.unexpected(expected)
        }
    }

    fn value(&mut self, depth: u32) -> Read<Node> {
        if depth >= DEPTH_MAX {
            return self.fail(JsonError::TooDeep);
        }
        self.blanks();
        let at = self.at;
        let value = match self.peek() {
            Some('{') => self.object(depth)?,
            Some('[') => self.list(depth)?,
            Some('"') => Value::Text(self.string()?),
            Some('t') => self.word("true", Value::Bool(true))?,
            Some('f') => self.word("false", Value::Bool(false))?,
            Some('n') => self.word("null", Value::Null)?,
            Some('-' | '0'..='9') => Value::Number(self.number()?),
            _ => return self.unexpected("a value"),
        };
        Ok(Node { at, value })
    }

    fn word(&mut self, word: &'static str, value: Value) -> Read<Value> {
        for wanted in word.chars() {
            self.eat(wanted, "`true`, `false` or `null`")?;
        }
        Ok(value)
    }

    fn list(&mut self, depth: u32) -> Read<Value> {
        self.next();
        let mut nodes = Vec::new();
        self.blanks();
        if self.peek() == Some(']') {
            self.next();
            return Ok(Value::List(nodes));
        }
        loop {
            nodes.push(self.value(depth.saturating_add(1))?);
            self.blanks();
            match self.peek() {
                Some(',') => self.next(),
                Some(']') => {
                    self.next();
                    return Ok(Value::List(nodes));
                }
                _ => return self.unexpected("`,` or `]`"),
            };
        }
    }

    fn object(&mut self, depth: u32) -> Read<Value> {
        self.next();
        let mut members = Vec::new();
        self.blanks();
        if self.peek() == Some('}') {
            self.next();
            return Ok(Value::Object(members));
        }
        loop {
            self.blanks();
            let name_at = self.at;
            if self.peek() != Some('"') {
                return self.unexpected("a name in quotes");
            }
            let name = self.string()?;
            self.blanks();
            self.eat(':', "`:`")?;
            let node = self.value(depth.saturating_add(1))?;
            members.push(Member { name, name_at, node });
            self.blanks();
            match self.peek() {
                Some(',') => self.next(),
                Some('}') => {
                    self.next();
                    return Ok(Value::Object(members));
                }
                _ => return self.unexpected("`,` or `}`"),
            };
        }
    }

    fn string(&mut self) -> Read<Box<str>> {
        self.next();
        let mut text = String::new();
        loop {
            match self.peek() {
                None => return self.fail(JsonError::UnexpectedEnd),
                Some('"') => {
                    self.next();
                    return Ok(text.into_boxed_str());
                }
                Some('\\') => {
                    self.next();
                    text.push(self.escape()?);
                }
                Some(c) if c < ' ' => return self.fail(JsonError::ControlCharacter),
                Some(c) => {
                    self.next();
                    text.push(c);
                }
            }
        }
    }

    fn escape(&mut self) -> Read<char> {
        let at = self.at;
        Ok(match self.next() {
            Some(c @ ('"' | '\\' | '/')) => c,
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => {
                let first = self.hex4()?;
                if (0xD800..0xDC00).contains(&first) {
                    self.eat('\\', "the second half of a surrogate pair")?;
                    self.eat('u', "the second half of a surrogate pair")?;
                    let second = self.hex4()?;
                    let pair = char::decode_utf16([first, second]).next();
                    return pair.and_then(Result::ok).ok_or((at, JsonError::BadEscape));
                }
                char::from_u32(u32::from(first)).ok_or((at, JsonError::BadEscape))?
            }
            _ => return Err((at, JsonError::BadEscape)),
        })
    }

    fn hex4(&mut self) -> Read<u16> {
        let mut code: u16 = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|c| c.to_digit(16)).and_then(|d| u16::try_from(d).ok());
            let Some(digit) = digit else {
                return self.fail(JsonError::BadEscape);
            };
            code = (code << 4) | digit;
            self.next();
        }
        Ok(code)
    }

    fn number(&mut self) -> Read<Box<str>> {
        let mut text = String::new();
        let at = self.at;
        while let Some(c @ ('0'..='9' | '-' | '+' | '.' | 'e' | 'E')) = self.peek() {
            text.push(c);
            self.next();
        }
        if is_number(&text) { Ok(text.into_boxed_str()) } else { Err((at, JsonError::BadNumber)) }
    }
}

/// RFC 8259's `number`, which is narrower than what Rust parses.
fn is_number(text: &str) -> bool {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|e| digits(e.strip_prefix(['+', '-']).unwrap_or(e)))
}

/// A policy nests six deep; this leaves room and keeps the stack small.
pub const DEPTH_MAX: u32 = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_knows_its_line_and_column() {
        let node = read("{\n  \"a\": [1,\n    \"ö\\u00e9\", true]\n}").unwrap();
        let list = node.member("a").unwrap();
        assert_eq!(list.at, Position { line: 2, column: 8 });
        assert_eq!(list.elements()[1].at, Position { line: 3, column: 5 });
        assert_eq!(list.elements()[1].text(), Some("öé"));
        assert_eq!(list.elements()[2].at, Position { line: 3, column: 16 });
    }

    #[test]
    fn a_mistake_names_its_place() {
        assert_eq!(
            read("{\"a\": 1,}"),
            Err((Position { line: 1, column: 9 }, JsonError::Unexpected { found: '}', expected: "a name in quotes" }))
        );
        assert_eq!(read("[1] 2"), Err((Position { line: 1, column: 5 }, JsonError::Trailing)));
        assert_eq!(read("\"a"), Err((Position { line: 1, column: 3 }, JsonError::UnexpectedEnd)));
    }

    #[test]
    fn nesting_beyond_the_limit_is_refused() {
        assert!(matches!(read(&"[".repeat(100_000)), Err((_, JsonError::TooDeep))));
    }

    #[test]
    fn numbers_outside_rfc_8259_are_refused() {
        for bad in ["01", "1.", ".5", "-", "1e", "+1", "1e+"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        for good in ["0", "-0.5", "1e9", "12.5E-3"] {
            assert!(read(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn half_a_surrogate_pair_is_refused() {
        assert!(read("\"\\ud83d\"").is_err());
        assert!(read("\"\\udc00\"").is_err());
        assert_eq!(read("\"\\ud83d\\ude00\"").unwrap().text(), Some("😀"));
    }
}
