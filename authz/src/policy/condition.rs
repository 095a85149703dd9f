//! `Condition`: operators, keys, values.
//!
//! All operators and keys of a block must hold; of a key's values one is enough, for a negated operator none may hold.
//!
//! Invariants
//! - An absent key: positive operators fail, negated ones and `…IfExists` pass, `Null` tells, `ForAllValues` passes,
//!   `ForAnyValue` fails.
//! - A list needs `ForAllValues` or `ForAnyValue`: without them it matches nothing, negated operators included.
//! - A value that cannot be compared (no number, no date, a variable without value) makes the condition fail.

use std::net::IpAddr;

use ipnet::IpNet;

use super::date;
use super::resource::split_outside_variables;
use super::template::{Reading, Template, VariableError};
use crate::arn::ResourceName;
use crate::context::{Facts, Found, is_time_key};

/// One operator on one key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Condition {
    /// As written, for explanations.
    pub operator: Box<str>,
    /// As written.
    pub key: Box<str>,
    pub lower: Box<str>,
    test: Test,
    pub quantifier: Option<Quantifier>,
    if_exists: bool,
    values: Vec<Wanted>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quantifier {
    ForAllValues,
    ForAnyValue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Test {
    family: Family,
    order: Order,
    negated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Text { wildcards: bool, ignore_case: bool },
    Numeric,
    Date,
    Bool,
    Binary,
    Ip,
    Arn,
    Null,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A value of the policy, read by its operator's family.
#[derive(Clone, Debug, PartialEq)]
enum Wanted {
    Text(Template),
    Number(f64),
    Moment(i64),
    Network(IpNet),
    Arn(Box<[Template]>),
    Absent(bool),
}

/// What is wrong with a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConditionError {
    /// No such operator.
    #[error("the operator does not exist")]
    UnknownOperator,
    /// `NullIfExists`, or a quantifier before `Null`.
    #[error("`Null` takes neither `IfExists` nor a quantifier")]
    NullAlone,
    /// No `prefix:` in the key, or a blank.
    #[error("the key is not of the form `service:name`")]
    BadKey,
    /// A value of another kind than the operator compares.
    #[error("a value is not {expected}")]
    BadValue {
        /// What it should be.
        expected: &'static str,
    },
    /// A bad variable.
    #[error(transparent)]
    Variable(#[from] VariableError),
}

impl Condition {
    pub fn parse(operator: &str, key: &str, values: &[&str], variables: bool) -> Result<Self, ConditionError> {
        let lower = operator.to_ascii_lowercase();
        let (quantifier, rest) = match lower.split_once(':') {
            Some(("forallvalues", rest)) => (Some(Quantifier::ForAllValues), rest),
            Some(("foranyvalue", rest)) => (Some(Quantifier::ForAnyValue), rest),
            Some(_) => return Err(ConditionError::UnknownOperator),
            None => (None, &*lower),
        };
        let (name, if_exists) = match rest.strip_suffix("ifexists") {
            Some(name) => (name, true),
            None => (rest, false),
        };
        let test = Test::of(name).ok_or(ConditionError::UnknownOperator)?;
        if test.family == Family::Null && (if_exists || quantifier.is_some()) {
            return Err(ConditionError::NullAlone);
        }
        if !key.contains(':') || key.chars().any(char::is_control) {
            return Err(ConditionError::BadKey);
        }
        let values = values.iter().map(|v| test.family.read(v, variables)).collect::<Result<_, _>>()?;
        let lower = key.to_ascii_lowercase().into();
        Ok(Self { operator: operator.into(), key: key.into(), lower, test, quantifier, if_exists, values })
    }

    pub fn holds(&self, facts: &Facts<'_>) -> bool {
        let found = facts.value(&self.lower);
        if self.test.family == Family::Null {
            let absent = found.is_none();
            return self.values.contains(&Wanted::Absent(absent));
        }
        match (self.quantifier, found) {
            (Some(Quantifier::ForAllValues), None) => true,
            (Some(Quantifier::ForAnyValue), None) => false,
            (None, None) => self.if_exists || self.test.negated,
            (None, Some(Found::Many(_))) => false,
            (_, Some(Found::One(value))) => self.value_holds(facts, &value),
            (Some(Quantifier::ForAllValues), Some(Found::Many(values))) => {
                values.iter().all(|v| self.value_holds(facts, v))
            }
            (Some(Quantifier::ForAnyValue), Some(Found::Many(values))) => {
                values.iter().any(|v| self.value_holds(facts, v))
            }
        }
    }

    /// One value of the request against all of the policy.
    fn value_holds(&self, facts: &Facts<'_>, value: &str) -> bool {
        let timed = is_time_key(&self.lower);
        let mut compared = self.values.iter().map(|wanted| {
            if timed {
                facts.touched_time(if let Wanted::Moment(moment) = wanted { Some(*moment) } else { None });
            }
            self.test.compare(facts, wanted, value)
        });
        if self.test.negated {
            compared.all(|equal| equal == Some(false))
        } else {
            compared.any(|equal| equal == Some(true))
        }
    }

    /// The keys its variables name.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.values.iter().flat_map(|value| {
            let templates: &[Template] = match value {
                Wanted::Text(template) => std::slice::from_ref(template),
                Wanted::Arn(templates) => templates,
                _ => &[],
            };
            templates.iter().flat_map(Template::variables)
        })
    }
}

impl Test {
    /// The operator of a lower-case name without quantifier and `IfExists`.
    fn of(name: &str) -> Option<Self> {
        use Order::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual};
        let text = |wildcards, ignore_case| Family::Text { wildcards, ignore_case };
        let (family, order, negated) = match name {
            "stringequals" => (text(false, false), Equal, false),
            "stringnotequals" => (text(false, false), Equal, true),
            "stringequalsignorecase" => (text(false, true), Equal, false),
            "stringnotequalsignorecase" => (text(false, true), Equal, true),
            "stringlike" => (text(true, false), Equal, false),
            "stringnotlike" => (text(true, false), Equal, true),
            "numericequals" => (Family::Numeric, Equal, false),
            "numericnotequals" => (Family::Numeric, Equal, true),
            "numericlessthan" => (Family::Numeric, Less, false),
            "numericlessthanequals" => (Family::Numeric, LessOrEqual, false),
            "numericgreaterthan" => (Family::Numeric, Greater, false),
            "numericgreaterthanequals" => (Family::Numeric, GreaterOrEqual, false),
            "dateequals" => (Family::Date, Equal, false),
            "datenotequals" => (Family::Date, Equal, true),
            "datelessthan" => (Family::Date, Less, false),
            "datelessthanequals" => (Family::Date, LessOrEqual, false),
            "dategreaterthan" => (Family::Date, Greater, false),
            "dategreaterthanequals" => (Family::Date, GreaterOrEqual, false),
            "bool" => (Family::Bool, Equal, false),
            "binaryequals" => (Family::Binary, Equal, false),
            "ipaddress" => (Family::Ip, Equal, false),
            "notipaddress" => (Family::Ip, Equal, true),
            "arnequals" | "arnlike" => (Family::Arn, Equal, false),
            "arnnotequals" | "arnnotlike" => (Family::Arn, Equal, true),
            "null" => (Family::Null, Equal, false),
            _ => return None,
        };
        Some(Self { family, order, negated })
    }

    /// Whether the request's value stands in the operator's relation to the policy's; `None` when they cannot be compared.
    fn compare(self, facts: &Facts<'_>, wanted: &Wanted, value: &str) -> Option<bool> {
        match (wanted, self.family) {
            (Wanted::Text(template), Family::Text { ignore_case, .. }) => template.matches(facts, value, ignore_case),
            (Wanted::Text(template), Family::Bool) => {
                let truth = value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false");
                truth.then(|| template.matches(facts, value, true)).flatten()
            }
            (Wanted::Text(template), _) => template.matches(facts, value, false),
            (Wanted::Number(wanted), _) => number(value)?.partial_cmp(wanted).map(|o| self.order.accepts(o)),
            (Wanted::Moment(wanted), _) => Some(self.order.accepts(date::parse(value)?.cmp(wanted))),
            (Wanted::Network(network), _) => Some(network.contains(&value.parse::<IpAddr>().ok()?.to_canonical())),
            (Wanted::Arn(parts), _) => arn_matches(facts, parts, value),
            (Wanted::Absent(_), _) => None,
        }
    }
}

impl Order {
    fn accepts(self, ordering: std::cmp::Ordering) -> bool {
        match self {
            Self::Equal => ordering.is_eq(),
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
        }
    }
}

impl Family {
    fn read(self, text: &str, variables: bool) -> Result<Wanted, ConditionError> {
        let literal = Reading { wildcards: false, variables };
        let bad = |expected| ConditionError::BadValue { expected };
        match self {
            Self::Text { wildcards, .. } => Ok(Wanted::Text(Template::parse(text, Reading { wildcards, variables })?)),
            Self::Numeric => number(text).map(Wanted::Number).ok_or(bad("a number")),
            Self::Date => date::parse(text).map(Wanted::Moment).ok_or(bad("a date (ISO 8601 or seconds since 1970)")),
            Self::Bool if text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false") => {
                Ok(Wanted::Text(Template::parse(text, literal)?))
            }
            Self::Bool if variables && text.contains("${") => Ok(Wanted::Text(Template::parse(text, literal)?)),
            Self::Bool => Err(bad("`true` or `false`")),
            Self::Binary => Ok(Wanted::Text(Template::parse(text, Reading { wildcards: false, variables: false })?)),
            Self::Ip => network(text).map(Wanted::Network).ok_or(bad("an IP address or network")),
            Self::Arn => {
                let parts = split_outside_variables(text, variables);
                if parts.len() < 6 || parts.first() != Some(&"arn") {
                    return Err(bad("an ARN of six parts"));
                }
                let reading = Reading { wildcards: true, variables };
                let parts = parts.iter().skip(1).map(|p| Template::parse(p, reading));
                Ok(Wanted::Arn(parts.collect::<Result<_, _>>()?))
            }
            Self::Null if text.eq_ignore_ascii_case("true") => Ok(Wanted::Absent(true)),
            Self::Null if text.eq_ignore_ascii_case("false") => Ok(Wanted::Absent(false)),
            Self::Null => Err(bad("`true` or `false`")),
        }
    }
}

fn number(text: &str) -> Option<f64> {
    let text = text.trim();
    let plain = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+' | b'e' | b'E'));
    text.parse().ok().filter(|n: &f64| plain && n.is_finite())
}

fn network(text: &str) -> Option<IpNet> {
    match text.parse::<IpNet>() {
        Ok(network) => Some(network.trunc()),
        Err(_) => text.parse::<IpAddr>().ok().map(|address| IpNet::from(address.to_canonical())),
    }
}

fn arn_matches(facts: &Facts<'_>, parts: &[Template], value: &str) -> Option<bool> {
    let name = ResourceName::split(value);
    if !name.is_arn {
        return None;
    }
    let values = [name.partition, name.service, name.region, name.account, name.rest];
    let mut all = true;
    for (template, value) in parts.iter().zip(values) {
        all &= template.matches(facts, value, false)?;
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::{KeyValue, Keys, RequestContext};
    use std::sync::Arc;

    fn holds(operator: &str, values: &[&str], present: Option<KeyValue>) -> bool {
        let mut keys = Keys::new();
        if let Some(value) = present {
            keys.put("aws:key", value);
        }
        let request = RequestContext { now_ms: None, keys: Arc::new(keys) };
        let none = Keys::new();
        Condition::parse(operator, "aws:Key", values, true).unwrap().holds(&Facts::new(&none, &request))
    }

    fn one(text: &str) -> Option<KeyValue> {
        Some(KeyValue::One(text.into()))
    }

    fn many(texts: &[&str]) -> Option<KeyValue> {
        Some(KeyValue::Many(texts.iter().map(|t| (*t).into()).collect()))
    }

    #[test]
    fn an_absent_key_is_judged_by_the_kind_of_operator() {
        assert!(!holds("StringEquals", &["a"], None));
        assert!(holds("StringNotEquals", &["a"], None));
        assert!(holds("StringEqualsIfExists", &["a"], None));
        assert!(holds("Null", &["true"], None));
        assert!(holds("ForAllValues:StringEquals", &["a"], None));
        assert!(!holds("ForAnyValue:StringEquals", &["a"], None));
        assert!(!holds("ForAnyValue:StringNotEquals", &["a"], None));
    }

    #[test]
    fn values_of_a_key_are_or_and_negated_ones_are_nor() {
        assert!(holds("StringEquals", &["a", "b"], one("b")));
        assert!(!holds("StringNotEquals", &["a", "b"], one("b")));
        assert!(holds("StringNotEquals", &["a", "b"], one("c")));
    }

    #[test]
    fn lists_need_a_quantifier() {
        assert!(!holds("StringEquals", &["a"], many(&["a"])));
        assert!(!holds("StringNotEquals", &["a"], many(&["b"])));
        assert!(holds("ForAllValues:StringEquals", &["a", "b"], many(&["a", "b"])));
        assert!(!holds("ForAllValues:StringEquals", &["a"], many(&["a", "b"])));
        assert!(holds("ForAnyValue:StringEquals", &["a"], many(&["a", "b"])));
        assert!(holds("ForAnyValue:StringNotEquals", &["a"], many(&["a", "b"])));
        assert!(!holds("ForAllValues:StringNotEquals", &["a"], many(&["a", "b"])));
        assert!(holds("ForAllValues:StringEquals", &["a"], many(&[])));
    }

    #[test]
    fn every_family_compares_by_its_own_rules() {
        assert!(holds("StringEqualsIgnoreCase", &["ABC"], one("abc")));
        assert!(holds("StringLike", &["a?c*"], one("abcdef")));
        assert!(!holds("StringEquals", &["a*"], one("abc")));
        assert!(holds("NumericLessThanEquals", &["10"], one("10.0")));
        assert!(!holds("NumericNotEquals", &["10"], one("ten")));
        assert!(holds("DateGreaterThan", &["2026-01-01T00:00:00Z"], one("1800000000")));
        assert!(holds("Bool", &["TRUE"], one("true")));
        assert!(!holds("Bool", &["true"], one("yes")));
        assert!(holds("IpAddress", &["10.0.0.0/8", "2001:db8::/32"], one("2001:db8::1")));
        assert!(holds("NotIpAddress", &["10.0.0.0/8"], one("11.0.0.1")));
        assert!(holds("IpAddress", &["10.0.0.0/8"], one("::ffff:10.1.2.3")));
        assert!(holds("BinaryEquals", &["QmluYXJ5"], one("QmluYXJ5")));
        assert!(holds("ArnEquals", &["arn:aws:iam::*:role/team/*"], one("arn:aws:iam::111111111111:role/team/a")));
        assert!(!holds("ArnNotLike", &["arn:aws:iam::1:role/a"], one("no arn")));
    }

    #[test]
    fn operators_and_values_that_do_not_exist_are_refused() {
        let refuse = |operator: &str, value: &str| Condition::parse(operator, "aws:Key", &[value], true).unwrap_err();
        assert_eq!(refuse("StringSimilar", "a"), ConditionError::UnknownOperator);
        assert_eq!(refuse("ForSomeValues:StringEquals", "a"), ConditionError::UnknownOperator);
        assert_eq!(refuse("NullIfExists", "true"), ConditionError::NullAlone);
        assert!(matches!(refuse("NumericEquals", "ten"), ConditionError::BadValue { .. }));
        assert!(matches!(refuse("IpAddress", "10.0.0.0/33"), ConditionError::BadValue { .. }));
        assert!(matches!(refuse("DateEquals", "tomorrow"), ConditionError::BadValue { .. }));
    }
}
