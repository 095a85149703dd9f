//! `ssl.principal.mapping.rules`: from a distinguished name, or a SPIFFE id, to a principal's name.
//!
//! In: the rules' text, later a name. Out: [`Rules`], later the mapped name.
//!
//! SPEC: KIP-371. A list of `RULE:pattern/replacement/[LU]` or `DEFAULT`, separated by commas or newlines. The first rule
//! whose pattern matches the whole name applies, as Java's `String.replaceAll` would; `DEFAULT` is the name itself.
//!
//! Java's regular expressions and Rust's differ. What only Java can do (look-around, back-references, possessive
//! quantifiers, class names of its own) is refused with the reason; what both write alike but mean differently (`.`,
//! `\d`, `\w`, `\s`) is translated to what Java means. So a rule that is taken means what it means in Kafka.
//!
//! Invariants
//! - Matching takes time linear in the name: no rule can be slow.

use std::fmt::Write as _;

use regex::{Captures, Regex, RegexBuilder};

/// Rules, checked.
#[derive(Clone, Debug)]
pub struct Rules(Vec<Rule>);

#[derive(Clone, Debug)]
enum Rule {
    Default,
    Pattern { whole: Regex, part: Regex, replacement: Vec<Piece>, case: Case },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    AsItIs,
    Lower,
    Upper,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Group(usize),
}

/// Why rules are not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// Neither `DEFAULT` nor `RULE:pattern/replacement/` with `L`, `U` or nothing behind it.
    #[error("rule {number} is neither `DEFAULT` nor `RULE:pattern/replacement/[LU]`")]
    Form {
        /// Which rule, from 1.
        number: usize,
    },
    /// More or longer rules than anybody writes.
    #[error("there are more than {RULES_MAX} rules or more than {TEXT_BYTES_MAX} bytes of them")]
    TooMany,
    /// A pattern that only Java could run.
    #[error("rule {number}: {reason}")]
    Unsupported {
        /// Which rule, from 1.
        number: usize,
        /// What it uses.
        reason: &'static str,
    },
    /// A pattern that is no regular expression here.
    #[error("rule {number}: the pattern cannot be run: {reason}")]
    Pattern {
        /// Which rule, from 1.
        number: usize,
        /// What the parser says, on one line.
        reason: String,
    },
    /// A replacement that Java would fail on.
    #[error("rule {number}: the replacement names a group that the pattern does not have")]
    Replacement {
        /// Which rule, from 1.
        number: usize,
    },
}

const RULES_MAX: usize = 100;
const TEXT_BYTES_MAX: usize = 16 * 1024;
const PROGRAM_BYTES_MAX: usize = 1024 * 1024;
/// A mapped name is at most this long; no principal's is longer.
const NAME_BYTES_MAX: usize = 1024;

impl Rules {
    /// Reads rules.
    ///
    /// # Errors
    /// [`RuleError`], with the number of the rule.
    pub fn read(text: &str) -> Result<Self, RuleError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(RuleError::TooMany);
        }
        let mut rules = Vec::new();
        let mut rest = text.trim();
        while !rest.is_empty() {
            let number = rules.len().saturating_add(1);
            if number > RULES_MAX {
                return Err(RuleError::TooMany);
            }
            let (rule, after) = one(rest, number)?;
            rules.push(rule);
            let after = after.trim_start_matches([' ', '\t', '\r']);
            rest = match after.strip_prefix([',', '\n']) {
                Some(more) if !more.trim().is_empty() => more.trim_start(),
                Some(_) if after.starts_with('\n') => "",
                None if after.is_empty() => "",
                _ => return Err(RuleError::Form { number }),
            };
        }
        if rules.is_empty() { Err(RuleError::Form { number: 1 }) } else { Ok(Self(rules)) }
    }

    /// The principal's name; `None` when no rule applies, which is a refusal.
    #[must_use]
    pub fn apply(&self, name: &str) -> Option<String> {
        self.0.iter().find_map(|rule| rule.apply(name)).filter(|mapped| (1..=NAME_BYTES_MAX).contains(&mapped.len()))
    }
}

/// Reads the rule at the front; what is behind it comes back.
fn one(text: &str, number: usize) -> Result<(Rule, &str), RuleError> {
    if let Some(after) = text.strip_prefix("DEFAULT") {
        return Ok((Rule::Default, after));
    }
    let form = RuleError::Form { number };
    let after = text.strip_prefix("RULE:").ok_or_else(|| form.clone())?;
    let (pattern, after) = until_slash(after).ok_or_else(|| form.clone())?;
    let (replacement, after) = until_slash(after).ok_or(form)?;
    let (case, after) = match after.strip_prefix('L') {
        Some(after) => (Case::Lower, after),
        None => match after.strip_prefix('U') {
            Some(after) => (Case::Upper, after),
            None => (Case::AsItIs, after),
        },
    };
    let pattern = translated(pattern).map_err(|reason| RuleError::Unsupported { number, reason })?;
    let compiled = |pattern: &str| {
        RegexBuilder::new(pattern).size_limit(PROGRAM_BYTES_MAX).build().map_err(|error| {
            let reason = error.to_string();
            let reason = reason.lines().last().unwrap_or_default().trim().trim_start_matches("error: ").to_owned();
            RuleError::Pattern { number, reason }
        })
    };
    let part = compiled(&pattern)?;
    let whole = compiled(&format!(r"\A(?:{pattern})\z"))?;
    let groups = part.captures_len().saturating_sub(1);
    let replacement = pieces(replacement, groups).ok_or(RuleError::Replacement { number })?;
    Ok((Rule::Pattern { whole, part, replacement, case }, after))
}

/// Cuts at the first slash that no backslash stands before.
fn until_slash(text: &str) -> Option<(&str, &str)> {
    let mut escaped = false;
    for (at, letter) in text.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '/' => return Some((text.get(..at)?, text.get(at.checked_add(1)?..)?)),
            _ => {}
        }
    }
    None
}

impl Rule {
    fn apply(&self, name: &str) -> Option<String> {
        let Self::Pattern { whole, part, replacement, case } = self else { return Some(name.to_owned()) };
        whole.is_match(name).then(|| {
            let mapped = replace_all(part, name, replacement);
            match case {
                Case::AsItIs => mapped,
                Case::Lower => mapped.to_lowercase(),
                Case::Upper => mapped.to_uppercase(),
            }
        })
    }
}

/// Java's `replaceAll`: unlike Rust's, an empty match directly behind a match is replaced as well.
fn replace_all(pattern: &Regex, text: &str, replacement: &[Piece]) -> String {
    let mut out = String::new();
    let (mut copied, mut from) = (0, 0);
    while from <= text.len() {
        let Some(captures) = pattern.captures_at(text, from) else { break };
        let Some(found) = captures.get(0) else { break };
        out.push_str(text.get(copied..found.start()).unwrap_or_default());
        expand(replacement, &captures, &mut out);
        copied = found.end();
        from = if found.is_empty() {
            let step = text.get(found.end()..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8);
            found.end().saturating_add(step)
        } else {
            found.end()
        };
        if out.len() > NAME_BYTES_MAX {
            // Longer than any name: the caller refuses it.
            return out;
        }
    }
    out.push_str(text.get(copied..).unwrap_or_default());
    out
}

fn expand(replacement: &[Piece], captures: &Captures<'_>, out: &mut String) {
    for piece in replacement {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Group(group) => out.push_str(captures.get(*group).map_or("", |found| found.as_str())),
        }
    }
}

/// A replacement as Kafka hands it to Java: `$n`, an index above the group count is a literal, `\` takes the next
/// letter as it is.
fn pieces(text: &str, groups: usize) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => literal.push(letters.next()?),
            '$' => {
                let first = letters.next()?.to_digit(10)?;
                let mut group = usize::try_from(first).ok()?;
                if group > groups {
                    if groups == 0 {
                        return None;
                    }
                    let _ = write!(literal, "${group}");
                    continue;
                }
                while let Some(digit) = letters.peek().and_then(|next| next.to_digit(10)) {
                    let longer = group.checked_mul(10)?.checked_add(usize::try_from(digit).ok()?)?;
                    if longer > groups {
                        break;
                    }
                    group = longer;
                    letters.next();
                }
                if !literal.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut literal)));
                }
                pieces.push(Piece::Group(group));
            }
            _ => literal.push(letter),
        }
    }
    if !literal.is_empty() {
        pieces.push(Piece::Text(literal));
    }
    Some(pieces)
}

/// Writes a Java pattern so that Rust's engine takes it for the same, or says why it cannot.
fn translated(pattern: &str) -> Result<String, &'static str> {
    let mut out = String::with_capacity(pattern.len());
    let mut letters = pattern.chars().peekable();
    let mut depth = 0_usize;
    let mut quantified = false;
    while let Some(letter) = letters.next() {
        let was_quantified = std::mem::replace(&mut quantified, false);
        match letter {
            '\\' => escape(letters.next(), depth > 0, &mut out)?,
            '[' => {
                if letters.peek() == Some(&':') && depth > 0 {
                    return Err("`[:` means a class of letters here and a set of characters in Java");
                }
                depth = depth.saturating_add(1);
                out.push('[');
                if letters.peek() == Some(&'^') {
                    out.push('^');
                    letters.next();
                }
            }
            ']' => {
                depth = depth.saturating_sub(1);
                out.push(']');
            }
            '-' | '~' if depth > 0 && letters.peek() == Some(&letter) => {
                return Err("`--` and `~~` inside a class mean something else in Java");
            }
            _ if depth > 0 => out.push(letter),
            '.' => out.push_str(r"[^\n\r\x{85}\x{2028}\x{2029}]"),
            '*' | '+' | '?' | '}' => {
                if letter == '+' && was_quantified {
                    return Err("possessive quantifiers (`*+`, `++`, `?+`) cannot be run");
                }
                // `+?` is lazy; what follows it is no quantifier of it.
                quantified = !was_quantified;
                out.push(letter);
            }
            '(' if letters.peek() == Some(&'?') => {
                out.push('(');
                group(&mut letters, &mut out)?;
            }
            _ => out.push(letter),
        }
    }
    Ok(out)
}

fn group(letters: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut String) -> Result<(), &'static str> {
    letters.next();
    out.push('?');
    match letters.peek() {
        Some('=' | '!') => Err("look-ahead cannot be run"),
        Some('>') => Err("independent groups cannot be run"),
        Some('<') => {
            letters.next();
            out.push('<');
            if matches!(letters.peek(), Some('=' | '!')) { Err("look-behind cannot be run") } else { Ok(()) }
        }
        Some(':') => Ok(()),
        Some('i' | 's' | 'm' | '-') => Err("flags (`(?i)`) differ from Java's; write both cases, or use `/L`"),
        _ => Err("this kind of group differs from Java's"),
    }
}

fn escape(letter: Option<char>, in_class: bool, out: &mut String) -> Result<(), &'static str> {
    let (open, close) = if in_class { ("", "") } else { ("[", "]") };
    let class = |out: &mut String, set: &str| {
        out.push_str(open);
        out.push_str(set);
        out.push_str(close);
    };
    match letter {
        None => return Err("the pattern ends in a backslash"),
        Some('d') => class(out, "0-9"),
        Some('w') => class(out, "a-zA-Z0-9_"),
        Some('s') => class(out, r" \t\n\x0B\f\r"),
        Some('D') => out.push_str("[^0-9]"),
        Some('W') => out.push_str("[^a-zA-Z0-9_]"),
        Some('S') => out.push_str(r"[^ \t\n\x0B\f\r]"),
        Some('1'..='9' | 'k') => return Err("back-references cannot be run"),
        Some('p' | 'P') => return Err("`\\p` names other classes than in Java; write the letters out"),
        Some('Q' | 'E') => return Err("quoting by `\\Q`…`\\E` cannot be run; escape each letter"),
        Some('b' | 'B') => return Err("word boundaries differ from Java's; name the separator instead"),
        Some('Z') => return Err("`\\Z` differs from Java's; a rule matches the whole name anyway"),
        Some(letter @ ('t' | 'n' | 'r' | 'f')) => {
            out.push('\\');
            out.push(letter);
        }
        Some('A') => out.push_str(r"\A"),
        Some('z') => out.push_str(r"\z"),
        Some(letter) if letter.is_ascii_alphanumeric() => return Err("an escape that differs from Java's"),
        Some(letter) => out.push_str(&regex::escape(&letter.to_string())),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(rules: &str, name: &str) -> Option<String> {
        Rules::read(rules).unwrap().apply(name)
    }

    // Expectations are those of Kafka's SslPrincipalMapper for the same rules and names.

    #[test]
    fn first_rule_that_matches_the_whole_name_applies() {
        let rules = "RULE:^CN=(.*?),OU=ServiceUsers.*$/$1/, RULE:^CN=(.*?),OU=(.*?),O=(.*?),L=(.*?),ST=(.*?),C=(.*?)$/$1@$2/L, \
                     RULE:^cn=(.*?),ou=(.*?),dc=(.*?),dc=(.*?)$/$1@$2/U, DEFAULT";
        assert_eq!(map(rules, "CN=Duke,OU=ServiceUsers,O=Org,C=US").unwrap(), "Duke");
        assert_eq!(map(rules, "CN=Duke,OU=SME,O=mycp,L=Fulton,ST=MD,C=US").unwrap(), "duke@sme");
        assert_eq!(map(rules, "cn=duke,ou=JavaSoft,dc=Sun,dc=com").unwrap(), "DUKE@JAVASOFT");
        assert_eq!(map(rules, "OU=JavaSoft,O=Sun").unwrap(), "OU=JavaSoft,O=Sun");
    }

    #[test]
    fn name_that_no_rule_matches_is_nobodys() {
        assert_eq!(map("RULE:^CN=(a+)$/$1/", "CN=ab"), None);
        assert_eq!(map("RULE:CN=(a+)/$1/", "xCN=aa"), None, "a part is not the whole");
        assert_eq!(map("RULE:^CN=(.*)$//", "CN=x"), None, "an empty name is none");
    }

    #[test]
    fn replacement_is_that_of_javas_replace_all() {
        // The lazy group matches nothing once the pattern may match a part: Java leaves the rest standing.
        assert_eq!(map("RULE:CN=(.*?)/$1/", "CN=duke").unwrap(), "duke");
        assert_eq!(map("RULE:.*/X/", "CN=duke").unwrap(), "XX", "once for all of it, once for the empty end");
        assert_eq!(map(r"RULE:^CN=(.*)$/\$1-$1-$2/", "CN=a").unwrap(), "$1-a-$2");
        assert_eq!(map(r"RULE:^(C)N=(.*)$/$12/", "CN=a").unwrap(), "C2");
    }

    #[test]
    fn slash_in_pattern_and_replacement_is_escaped() {
        assert_eq!(
            map(r"RULE:^spiffe:\/\/acme\/ns\/(\w+)\/sa\/(\w+)$/$1\/$2/", "spiffe://acme/ns/a/sa/b").unwrap(),
            "a/b"
        );
    }

    #[test]
    fn rules_may_stand_on_lines() {
        assert_eq!(map("RULE:^CN=x$/one/\nRULE:^CN=y$/two/U\n", "CN=y").unwrap(), "TWO");
    }

    #[test]
    fn text_that_is_no_rule_is_refused_with_its_number() {
        for (text, number) in [
            ("", 1),
            ("RULE:", 1),
            ("RULE:a", 1),
            ("RULE:a/b", 1),
            ("DEFAULT,", 1),
            ("DEFAULT, x", 2),
            ("default", 1),
            ("RULE:a/b/X", 1),
            ("RULE:a/b/LU", 1),
            ("DEFAULT DEFAULT", 1),
            ("RULE:a/b/,,DEFAULT", 2),
        ] {
            assert_eq!(Rules::read(text).unwrap_err(), RuleError::Form { number }, "{text}");
        }
    }

    #[test]
    fn what_only_java_can_run_is_refused_with_the_reason() {
        for pattern in [
            "(?=a)a",
            "(?!a)b",
            "(?<=a)b",
            "(?<!a)b",
            r"(a)\1",
            r"(?<n>a)\k<n>",
            "a*+",
            "a++",
            "a?+",
            "a{1,2}+",
            "(?>a)",
            r"\p{Alpha}",
            r"\Qa\E",
            r"\bx",
            "(?i)a",
            "(?x)a",
            "[a[:alpha:]]",
            "[a--b]",
            r"\h",
        ] {
            let error = Rules::read(&format!("RULE:{pattern}/x/")).unwrap_err();
            assert!(matches!(error, RuleError::Unsupported { number: 1, .. }), "{pattern}: {error}");
        }
        assert!(matches!(Rules::read("RULE:(a/x/").unwrap_err(), RuleError::Pattern { .. }));
        assert_eq!(Rules::read("RULE:a/$1/").unwrap_err(), RuleError::Replacement { number: 1 });
        assert_eq!(Rules::read("RULE:(a)/${n}/").unwrap_err(), RuleError::Replacement { number: 1 });
    }

    #[test]
    fn classes_mean_what_they_mean_in_java() {
        // ARABIC-INDIC DIGIT ONE is no digit to Java's `\d`, NEXT LINE is no letter to its `.`.
        assert_eq!(map(r"RULE:^CN=(\d)$/$1/", "CN=\u{661}"), None);
        assert_eq!(map(r"RULE:^CN=(\w)$/$1/", "CN=ü"), None);
        assert_eq!(map(r"RULE:^CN=([\w.]+)$/$1/", "CN=a.b").unwrap(), "a.b");
        assert_eq!(map("RULE:^CN=(.)$/$1/", "CN=\u{85}"), None);
    }

    #[test]
    fn lazy_quantifiers_are_not_taken_for_possessive_ones() {
        assert_eq!(map("RULE:^CN=(.+?)(,.*)?$/$1/", "CN=a,OU=b").unwrap(), "a");
    }

    #[test]
    fn pattern_made_to_be_slow_is_answered_at_once() {
        let rules = Rules::read("RULE:^(a+)+$/$1/").unwrap();
        let name = format!("{}!", "a".repeat(50_000));
        let start = std::time::Instant::now();
        assert_eq!(rules.apply(&name), None);
        assert!(start.elapsed().as_secs() < 5);
    }
}
