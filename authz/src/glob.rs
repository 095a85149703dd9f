//! Wildcards: `*` is any run of characters, `?` is exactly one.
//!
//! In: a pattern, once. Out: whether a text matches, many times. A character is a Unicode scalar value, as AWS counts.
//!
//! Invariants
//! - Matching needs no memory beyond the compiled pattern and time of at most pattern × text.
//! - Text put in by [`GlobBuilder::literal`] never acts as a wildcard: what a client calls itself cannot widen a policy.

/// A compiled pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Glob {
    /// `*`
    Any,
    /// No wildcard.
    Exact(Box<str>),
    /// One `*`, at the end.
    Prefix(Box<str>),
    /// Anything else.
    Tokens(Box<[Token]>),
}

/// One element of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// This character.
    Literal(char),
    /// `?`
    One,
    /// `*`
    Many,
}

impl Glob {
    /// Compiles a pattern in which `*` and `?` are wildcards.
    #[must_use]
    pub fn new(pattern: &str) -> Self {
        let mut builder = GlobBuilder::default();
        builder.pattern(pattern);
        builder.finish()
    }

    /// A pattern without wildcards.
    #[must_use]
    pub fn literal(text: &str) -> Self {
        Self::Exact(text.into())
    }

    /// Whether the whole text matches.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(wanted) => &**wanted == text,
            Self::Prefix(prefix) => text.starts_with(&**prefix),
            Self::Tokens(tokens) => tokens_match(tokens, text),
        }
    }

    /// A text that matches, with `filler` for every `*`.
    #[must_use]
    pub fn sample(&self, filler: &str) -> String {
        match self {
            Self::Any => filler.to_owned(),
            Self::Exact(text) => text.to_string(),
            Self::Prefix(prefix) => format!("{prefix}{filler}"),
            Self::Tokens(tokens) => tokens.iter().fold(String::new(), |mut text, token| {
                match token {
                    Token::Literal(c) => text.push(*c),
                    Token::One => text.push('x'),
                    Token::Many => text.push_str(filler),
                }
                text
            }),
        }
    }

    /// The pattern's text. A literal wildcard cannot be told from a real one here: for display, not for matching.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Any => "*".to_owned(),
            Self::Exact(text) => text.to_string(),
            Self::Prefix(prefix) => format!("{prefix}*"),
            Self::Tokens(tokens) => {
                let letter = |token: &Token| match token {
                    Token::Literal(c) => *c,
                    Token::One => '?',
                    Token::Many => '*',
                };
                tokens.iter().map(letter).collect()
            }
        }
    }

    /// Whether this is `*`.
    #[must_use]
    pub fn is_any(&self) -> bool {
        matches!(self, Self::Any)
    }

    /// The text, when there is no wildcard.
    #[must_use]
    pub fn exact(&self) -> Option<&str> {
        match self {
            Self::Exact(text) => Some(text),
            _ => None,
        }
    }
}

/// Builds a pattern of pieces, some of which are literal.
#[derive(Debug, Default)]
pub struct GlobBuilder {
    tokens: Vec<Token>,
}

impl GlobBuilder {
    /// Adds text in which `*` and `?` are wildcards.
    pub fn pattern(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '*' if self.tokens.last() == Some(&Token::Many) => {}
                '*' => self.tokens.push(Token::Many),
                '?' => self.tokens.push(Token::One),
                _ => self.tokens.push(Token::Literal(c)),
            }
        }
    }

    /// Adds text that stands for itself.
    pub fn literal(&mut self, text: &str) {
        self.tokens.extend(text.chars().map(Token::Literal));
    }

    /// The pattern, in its cheapest form.
    #[must_use]
    pub fn finish(self) -> Glob {
        let wild = self.tokens.iter().filter(|t| !matches!(t, Token::Literal(_))).count();
        let text = || -> Box<str> {
            let literal = |t: &Token| {
                if let Token::Literal(c) = t { Some(*c) } else { None }
            };
            self.tokens.iter().filter_map(literal).collect::<String>().into_boxed_str()
        };
        match (wild, self.tokens.last(), self.tokens.len()) {
            (1, Some(Token::Many), 1) => Glob::Any,
            (0, _, _) => Glob::Exact(text()),
            (1, Some(Token::Many), _) => Glob::Prefix(text()),
            _ => Glob::Tokens(self.tokens.into_boxed_slice()),
        }
    }
}

/// Walks both sides once and returns to the last `*` on a mismatch; earlier ones never need to be tried again.
fn tokens_match(tokens: &[Token], text: &str) -> bool {
    let mut pattern = tokens;
    let mut rest = text.chars();
    let mut star: Option<(&[Token], std::str::Chars<'_>)> = None;
    loop {
        let fits = match pattern.split_first() {
            Some((Token::Many, after)) => {
                if after.is_empty() {
                    return true;
                }
                star = Some((after, rest.clone()));
                pattern = after;
                continue;
            }
            Some((token, after)) => {
                let mut ahead = rest.clone();
                match ahead.next() {
                    None => return false,
                    Some(c) if *token == Token::One || *token == Token::Literal(c) => {
                        pattern = after;
                        rest = ahead;
                        true
                    }
                    Some(_) => false,
                }
            }
            None if rest.clone().next().is_none() => return true,
            None => false,
        };
        if !fits {
            let Some((after, mut from)) = star else {
                return false;
            };
            if from.next().is_none() {
                return false;
            }
            pattern = after;
            rest = from.clone();
            star = Some((after, from));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, as recursion: slow and plainly right.
    fn by_definition(pattern: &[char], text: &[char]) -> bool {
        match (pattern.first(), text.first()) {
            (None, None) => true,
            (Some('*'), _) => {
                by_definition(&pattern[1..], text) || (!text.is_empty() && by_definition(pattern, &text[1..]))
            }
            (Some('?'), Some(_)) => by_definition(&pattern[1..], &text[1..]),
            (Some(p), Some(t)) if p == t => by_definition(&pattern[1..], &text[1..]),
            _ => false,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]
        #[test]
        fn matching_agrees_with_its_definition(pattern in "[ab*?ö]{0,9}", text in "[abö]{0,9}") {
            let p: Vec<char> = pattern.chars().collect();
            let t: Vec<char> = text.chars().collect();
            prop_assert_eq!(Glob::new(&pattern).matches(&text), by_definition(&p, &t));
        }
    }

    #[test]
    fn a_question_mark_is_one_character_not_one_byte() {
        assert!(Glob::new("a?c").matches("aöc"));
        assert!(!Glob::new("a??c").matches("aöc"));
    }

    #[test]
    fn a_literal_star_matches_only_a_star() {
        let mut builder = GlobBuilder::default();
        builder.literal("*");
        builder.pattern("-x*");
        let glob = builder.finish();
        assert!(glob.matches("*-xyz"));
        assert!(!glob.matches("a-xyz"));
    }
}
