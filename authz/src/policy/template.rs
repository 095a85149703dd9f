//! Texts of a policy that may hold variables and wildcards.
//!
//! In: `orders-${aws:username}-*`. Out: whether a text matches it under the keys of a request.
//!
//! Invariants
//! - A value that replaces a variable is literal: a user called `*` gets nothing that is not called `*`.
//! - A variable without value and default makes the whole text match nothing, in Deny statements too.
//! - Variables exist only in documents of version 2012-10-17; before, `${` is text.

use crate::context::{Facts, Found, is_time_key};
use crate::glob::{Glob, GlobBuilder};

/// A compiled text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Template {
    /// No variable: compiled once.
    Fixed(Glob),
    /// Compiled for each request.
    Variable(Box<[Piece]>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Piece {
    Literal(Box<str>),
    Pattern(Box<str>),
    Key { lower: Box<str>, default: Option<Box<str>> },
}

/// How `*` and `?` are read, and whether `${` begins a variable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    pub wildcards: bool,
    pub variables: bool,
}

/// What is wrong with a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VariableError {
    /// `${` without `}`.
    #[error("a variable has no closing `}}`")]
    Unclosed,
    /// Nothing, or a name with other than letters, digits and `:/._-=@+`.
    #[error("a variable's name is empty or has a character that no condition key has")]
    BadName,
    /// Something after the comma that is not in single quotes.
    #[error("a variable's default is not in single quotes")]
    BadDefault,
}

impl Template {
    pub fn parse(text: &str, reading: Reading) -> Result<Self, VariableError> {
        let mut pieces: Vec<Piece> = Vec::new();
        let plain =
            |s: &str| -> Piece { if reading.wildcards { Piece::Pattern(s.into()) } else { Piece::Literal(s.into()) } };
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${").filter(|_| reading.variables) {
            if !before.is_empty() {
                pieces.push(plain(before));
            }
            let end = closing_brace(after).ok_or(VariableError::Unclosed)?;
            let (inside, behind) = after.split_at(end);
            pieces.push(variable(inside)?);
            rest = behind.strip_prefix('}').unwrap_or(behind);
        }
        if !rest.is_empty() || pieces.is_empty() {
            pieces.push(plain(rest));
        }
        if pieces.iter().any(|p| matches!(p, Piece::Key { .. })) {
            return Ok(Self::Variable(pieces.into_boxed_slice()));
        }
        let mut glob = GlobBuilder::default();
        for piece in &pieces {
            match piece {
                Piece::Literal(text) => glob.literal(text),
                Piece::Pattern(text) => glob.pattern(text),
                Piece::Key { .. } => {}
            }
        }
        Ok(Self::Fixed(glob.finish()))
    }

    /// The keys its variables name.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        let pieces: &[Piece] = match self {
            Self::Fixed(_) => &[],
            Self::Variable(pieces) => pieces,
        };
        pieces.iter().filter_map(|p| if let Piece::Key { lower, .. } = p { Some(&**lower) } else { None })
    }

    /// A text that matches, with `filler` for every `*`; `None` when a variable has no value.
    pub fn sample(&self, facts: &Facts<'_>, filler: &str) -> Option<String> {
        let fill = |text: &str| text.replace('*', filler).replace('?', "x");
        match self {
            Self::Fixed(glob) => Some(glob.sample(filler)),
            Self::Variable(pieces) => {
                let mut sample = String::new();
                for piece in pieces {
                    match piece {
                        Piece::Literal(text) => sample.push_str(text),
                        Piece::Pattern(text) => sample.push_str(&fill(text)),
                        Piece::Key { lower, default } => sample.push_str(&resolve(facts, lower, default.as_deref())?),
                    }
                }
                Some(sample)
            }
        }
    }

    /// Whether a text matches; `None` when a variable has no value.
    pub fn matches(&self, facts: &Facts<'_>, text: &str, ignore_case: bool) -> Option<bool> {
        match self {
            Self::Fixed(glob) if !ignore_case => Some(glob.matches(text)),
            Self::Fixed(Glob::Exact(wanted)) => Some(wanted.to_lowercase() == text.to_lowercase()),
            Self::Fixed(glob) => Some(glob.matches(text)),
            Self::Variable(pieces) => {
                let fold = |s: &str| {
                    if ignore_case { s.to_lowercase() } else { s.to_owned() }
                };
                let mut glob = GlobBuilder::default();
                for piece in pieces {
                    match piece {
                        Piece::Literal(text) => glob.literal(&fold(text)),
                        Piece::Pattern(text) => glob.pattern(&fold(text)),
                        Piece::Key { lower, default } => {
                            glob.literal(&fold(&resolve(facts, lower, default.as_deref())?))
                        }
                    }
                }
                let glob = glob.finish();
                Some(if ignore_case { glob.matches(&text.to_lowercase()) } else { glob.matches(text) })
            }
        }
    }
}

fn resolve<'a>(facts: &Facts<'a>, lower: &str, default: Option<&'a str>) -> Option<std::borrow::Cow<'a, str>> {
    if is_time_key(lower) {
        facts.touched_time(None);
    }
    match facts.value(lower) {
        Some(Found::One(value)) => Some(value),
        // A list has no one value to stand here, whatever the default says.
        Some(Found::Many(_)) => None,
        None => default.map(std::borrow::Cow::Borrowed),
    }
}

/// Where the `}` of a variable stands that is not inside a quoted default.
fn closing_brace(text: &str) -> Option<usize> {
    let mut quoted = false;
    for (at, c) in text.char_indices() {
        match c {
            '\'' => quoted = !quoted,
            '}' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

fn variable(inside: &str) -> Result<Piece, VariableError> {
    if matches!(inside, "*" | "?" | "$") {
        return Ok(Piece::Literal(inside.into()));
    }
    let (name, default) = match inside.split_once(',') {
        None => (inside, None),
        Some((name, default)) => {
            let quoted = default.trim().strip_prefix('\'').and_then(|d| d.strip_suffix('\''));
            (name, Some(quoted.ok_or(VariableError::BadDefault)?))
        }
    };
    let name = name.trim();
    let fits = |c: char| c.is_alphanumeric() || matches!(c, ':' | '/' | '.' | '_' | '-' | '=' | '@' | '+' | ' ');
    if name.is_empty() || !name.chars().all(fits) {
        return Err(VariableError::BadName);
    }
    Ok(Piece::Key { lower: name.to_ascii_lowercase().into(), default: default.map(Into::into) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::{KeyValue, Keys, RequestContext};
    use std::sync::Arc;

    const FULL: Reading = Reading { wildcards: true, variables: true };

    fn matches(pattern: &str, text: &str, name: Option<&str>) -> Option<bool> {
        let mut keys = Keys::new();
        if let Some(name) = name {
            keys.set("aws:username", name);
        }
        keys.put("aws:TagKeys", KeyValue::Many(Box::new(["a".into()])));
        let request = RequestContext { now_ms: None, keys: Arc::new(Keys::new()) };
        Template::parse(pattern, FULL).unwrap().matches(&Facts::new(&keys, &request), text, false)
    }

    #[test]
    fn a_variables_value_is_never_a_wildcard() {
        assert_eq!(matches("t-${aws:username}", "t-anything", Some("*")), Some(false));
        assert_eq!(matches("t-${aws:username}", "t-*", Some("*")), Some(true));
    }

    #[test]
    fn a_variable_without_value_takes_its_default_or_matches_nothing() {
        assert_eq!(matches("t-${aws:username}", "t-", None), None);
        assert_eq!(matches("t-${aws:username, 'nobody'}", "t-nobody", None), Some(true));
        assert_eq!(matches("${aws:TagKeys, 'x'}", "x", None), None);
    }

    #[test]
    fn escaped_wildcards_stand_for_themselves() {
        assert_eq!(matches("a${*}b*", "a*bcd", None), Some(true));
        assert_eq!(matches("a${*}b*", "axbcd", None), Some(false));
        assert_eq!(matches("${$}{x", "${x", None), Some(true));
    }

    #[test]
    fn before_2012_a_variable_is_text() {
        let template = Template::parse("${aws:username}", Reading { wildcards: true, variables: false }).unwrap();
        assert_eq!(template, Template::Fixed(Glob::Exact("${aws:username}".into())));
    }
}
