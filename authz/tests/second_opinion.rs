//! The engine against a second evaluator, written from AWS's documentation with another algorithm and no shared code:
//! it works on the JSON itself, compares wildcards by a table, dates as text, and the layers as one formula.
//!
//! 120,000 generated questions a run, from a fixed seed; `SCHLOSS_SEED` and `SCHLOSS_CASES` change it.

use schloss_authz::simulate::Simulator;
use serde_json::{Map, Value, json};

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    fn some<'a>(&mut self, list: &[&'a str], most: usize) -> Vec<&'a str> {
        (0..=self.below(most)).map(|_| *self.pick(list)).collect()
    }
}

const ACTIONS: &[&str] =
    &["kafka-cluster:ReadData", "kafka-cluster:WriteData", "kafka-cluster:Connect", "s3:GetObject"];
const ACTION_PATTERNS: &[&str] = &[
    "*",
    "*",
    "kafka-cluster:*",
    "kafka-cluster:*Data",
    "KAFKA-cluster:readdata",
    "kafka-cluster:?riteData",
    "s3:Get*",
    "kafka-cluster:Read",
    "kafka-cluster:WriteData",
];
const RESOURCES: &[&str] = &[
    "arn:aws:kafka:eu:111111111111:topic/a/u-1/ann.news",
    "arn:aws:kafka:eu:111111111111:topic/a/u-1/orders",
    "arn:aws:kafka:us:111111111111:group/a/u-1/x:y/z",
    "arn:aws:kafka:eu:111111111111:cluster/a/u-1",
    "arn:aws:s3:::photos/a.png",
];
const RESOURCE_PATTERNS: &[&str] = &[
    "*",
    "*",
    "arn:aws:kafka:*:111111111111:*",
    "arn:aws:kafka:eu:*:topic/*",
    "arn:aws:kafka:*:*:topic/a/*/${aws:username}.*",
    "arn:aws:kafka:*:*:top*/a/u-1/orders",
    "arn:aws:kafka:e?:111111111111:topic/a/u-1/orders",
    "arn:aws:kafka:*:*:group/a/*/x:*",
    "arn:aws:s3:::photos/*",
    "arn:aws:s3:::*",
    "arn:aws:kafka:*:*:topic/*/${aws:PrincipalTag/team, 'orders'}",
    "arn:aws:kafka:*:*:*/a/u-1/orders",
    "arn:aws:kafka:*:*:topic/a/u-1/${aws:TagKeys}",
];
const PRINCIPALS: &[&str] = &[
    "arn:aws:iam::111111111111:user/ann",
    "arn:aws:iam::111111111111:user/bob",
    "arn:aws:sts::111111111111:assumed-role/reader/s1",
    "arn:aws:iam::111111111111:role/reader",
    "arn:aws:iam::222222222222:user/eve",
    "arn:aws:sts::222222222222:assumed-role/reader/s1",
    "arn:aws:sts::111111111111:federated-user/ann",
];
const NAMED: &[&str] = &[
    "*",
    "111111111111",
    "222222222222",
    "arn:aws:iam::111111111111:root",
    "arn:aws:iam::111111111111:user/ann",
    "arn:aws:iam::111111111111:role/team/reader",
    "arn:aws:iam::111111111111:role/reader",
    "arn:aws:sts::111111111111:assumed-role/reader/s1",
    "arn:aws:iam::222222222222:user/eve",
    "arn:aws:iam::222222222222:role/reader",
];
const TEXTS: &[&str] =
    &["ann", "Ann", "red", "blue", "r*", "?ed", "${aws:username}", "${aws:absent}", "${aws:absent, 'red'}", "${*}"];
const NUMBERS: &[&str] = &["5", "10", "10.0", "-3", "60"];
const MOMENTS: &[&str] = &["2025-01-01T00:00:00Z", "2026-06-01T12:00:00Z", "2026-06-01T12:00:01Z"];
const NETWORKS: &[&str] = &["10.0.0.0/8", "10.1.2.3", "10.1.2.3/32", "192.168.0.0/16", "0.0.0.0/0"];
const ARNS: &[&str] =
    &["arn:aws:iam::111111111111:user/*", "arn:aws:iam::*:role/reader", "arn:aws:iam::111111111111:*/${aws:username}"];

fn context(chance: &mut Chance) -> Value {
    let mut keys = Map::new();
    let mut put = |chance: &mut Chance, key: &str, values: &[&str]| {
        if !chance.one_in(3) {
            keys.insert(key.to_owned(), (*chance.pick(values)).into());
        }
    };
    put(chance, "aws:username", &["ann", "bob", "*"]);
    put(chance, "aws:PrincipalTag/team", &["red", "Red", "blue", "r*"]);
    put(chance, "aws:SourceIp", &["10.1.2.3", "192.168.7.7", "8.8.8.8"]);
    put(chance, "aws:MultiFactorAuthAge", &["5", "10", "59", "sixty"]);
    put(chance, "aws:CurrentTime", MOMENTS);
    put(chance, "aws:SecureTransport", &["true", "false", "maybe"]);
    put(chance, "aws:PrincipalArn", &["arn:aws:iam::111111111111:user/ann", "arn:aws:iam::1:role/reader", "none"]);
    if !chance.one_in(3) {
        let tags: Vec<&str> = (0..chance.below(3)).map(|_| *chance.pick(&["red", "blue", "ann"])).collect();
        keys.insert("aws:TagKeys".to_owned(), json!(tags));
    }
    Value::Object(keys)
}

fn condition(chance: &mut Chance) -> Value {
    let text_keys = &["aws:username", "AWS:principaltag/TEAM", "aws:TagKeys", "aws:absent"];
    let (operators, keys, values): (&[&str], &[&str], &[&str]) = match chance.below(8) {
        0 => (
            &["StringEquals", "StringNotEquals", "StringEqualsIgnoreCase", "StringNotEqualsIgnoreCase"],
            text_keys,
            TEXTS,
        ),
        1 | 2 => (&["StringLike", "StringNotLike"], text_keys, TEXTS),
        3 => (
            &[
                "NumericEquals",
                "NumericNotEquals",
                "NumericLessThan",
                "NumericLessThanEquals",
                "NumericGreaterThan",
                "NumericGreaterThanEquals",
            ],
            &["aws:MultiFactorAuthAge", "aws:absent"],
            NUMBERS,
        ),
        4 => (
            &[
                "DateEquals",
                "DateNotEquals",
                "DateLessThan",
                "DateLessThanEquals",
                "DateGreaterThan",
                "DateGreaterThanEquals",
            ],
            &["aws:CurrentTime"],
            MOMENTS,
        ),
        5 => (&["IpAddress", "NotIpAddress"], &["aws:SourceIp", "aws:absent"], NETWORKS),
        6 => (&["ArnEquals", "ArnLike", "ArnNotEquals", "ArnNotLike"], &["aws:PrincipalArn"], ARNS),
        _ => (&["Bool", "Null"], &["aws:SecureTransport", "aws:username", "aws:TagKeys"], &["true", "false"]),
    };
    let mut operator = (*chance.pick(operators)).to_owned();
    if operator != "Null" {
        if chance.one_in(4) {
            operator = format!("{}:{operator}", chance.pick(&["ForAllValues", "ForAnyValue"]));
        }
        if chance.one_in(4) {
            operator.push_str("IfExists");
        }
    }
    let key = *chance.pick(keys);
    json!({ operator: { key: chance.some(values, 2) } })
}

fn statement(chance: &mut Chance, principals: bool, denies: usize) -> Value {
    let mut members = Map::new();
    members.insert("Effect".into(), if chance.one_in(denies) { "Deny" } else { "Allow" }.into());
    let not = |chance: &mut Chance, name: &str| {
        if chance.one_in(6) { format!("Not{name}") } else { name.to_owned() }
    };
    members.insert(not(chance, "Action"), json!(chance.some(ACTION_PATTERNS, 2)));
    members.insert(not(chance, "Resource"), json!(chance.some(RESOURCE_PATTERNS, 2)));
    if principals {
        let named = chance.some(NAMED, 2);
        let value = if chance.one_in(5) { json!("*") } else { json!({ "AWS": named }) };
        members.insert(not(chance, "Principal"), value);
    }
    if chance.one_in(2) {
        members.insert("Condition".into(), condition(chance));
    }
    Value::Object(members)
}

fn document(chance: &mut Chance, principals: bool) -> Value {
    let count = 1 + chance.below(3);
    let statements: Vec<Value> = (0..count).map(|_| statement(chance, principals, 5)).collect();
    let version = if chance.one_in(10) { "2008-10-17" } else { "2012-10-17" };
    json!({ "Version": version, "Statement": statements })
}

fn documents(chance: &mut Chance, most: usize, principals: bool) -> Vec<Value> {
    (0..chance.below(most + 1)).map(|_| document(chance, principals)).collect()
}

fn question(chance: &mut Chance) -> Value {
    let levels = |chance: &mut Chance| -> Vec<Value> {
        if chance.one_in(2) {
            return Vec::new();
        }
        let full = json!({"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}});
        (0..=chance.below(2))
            .map(|_| {
                let mut level = documents(chance, 1, false);
                if !chance.one_in(4) {
                    level.push(full.clone())
                }
                json!(level)
            })
            .collect()
    };
    json!({
        "id": chance.next().to_string(),
        "principal": chance.pick(PRINCIPALS),
        "context": context(chance),
        "action": chance.pick(ACTIONS),
        "resource": chance.pick(RESOURCES),
        "resourceAccount": "111111111111",
        "policies": {
            "identity": documents(chance, 3, false),
            "boundary": if chance.one_in(4) { documents(chance, 1, false) } else { Vec::new() },
            "session": if chance.one_in(4) { documents(chance, 1, false) } else { Vec::new() },
            "scp": levels(chance),
            "rcp": levels(chance),
            "resource": if chance.one_in(2) { documents(chance, 2, true) } else { Vec::new() },
        },
    })
}

// ---- the second evaluator ----

type Symbol = (char, bool);

/// Text with variables put in; each character with whether it may act as a wildcard.
fn expand(text: &str, version: &str, context: &Map<String, Value>) -> Option<Vec<Symbol>> {
    let mut symbols = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        if version == "2012-10-17" && rest.starts_with("${") {
            let end = rest.find('}').unwrap();
            let inside = &rest[2..end];
            rest = &rest[end + 1..];
            if ["*", "?", "$"].contains(&inside) {
                symbols.extend(inside.chars().map(|c| (c, false)));
                continue;
            }
            let mut parts = inside.split(", ");
            let name = parts.next().unwrap().to_lowercase();
            let found = context.iter().find(|(k, _)| k.to_lowercase() == name).map(|(_, v)| v);
            let value = match found {
                Some(Value::String(text)) => text.clone(),
                Some(_) => return None,
                None => parts.next()?.trim_matches('\'').to_owned(),
            };
            symbols.extend(value.chars().map(|c| (c, false)));
        } else {
            let c = rest.chars().next().unwrap();
            symbols.push((c, true));
            rest = &rest[c.len_utf8()..];
        }
    }
    Some(symbols)
}

/// Wildcards by a table of which prefixes match which.
fn like(pattern: &[Symbol], text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let mut row = vec![false; text.len() + 1];
    row[0] = true;
    for &(symbol, wild) in pattern {
        let mut next = vec![false; text.len() + 1];
        for at in 0..=text.len() {
            next[at] = match (wild, symbol) {
                (true, '*') => row[at] || (at > 0 && next[at - 1]),
                (true, '?') => at > 0 && row[at - 1],
                _ => at > 0 && row[at - 1] && text[at - 1] == symbol,
            };
        }
        row = next;
    }
    row[text.len()]
}

fn plain(text: &str) -> Vec<Symbol> {
    text.chars().map(|c| (c, true)).collect()
}

fn strings(value: &Value) -> Vec<&str> {
    match value {
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        other => other.as_str().into_iter().collect(),
    }
}

fn action_named(statement: &Value, action: &str) -> bool {
    let any = |list: &Value| strings(list).iter().any(|p| like(&plain(&p.to_lowercase()), &action.to_lowercase()));
    match statement.get("Action") {
        Some(list) => any(list),
        None => !any(&statement["NotAction"]),
    }
}

fn resource_named(statement: &Value, version: &str, asked: &Asked<'_>) -> bool {
    // `None`: everything fits but a variable that has no value.
    let one = |pattern: &str| -> Option<bool> {
        if pattern == "*" {
            return Some(true);
        }
        let (wanted, have): (Vec<&str>, Vec<&str>) =
            (pattern.splitn(6, ':').collect(), asked.resource.splitn(6, ':').collect());
        if !(0..5).all(|part| like(&plain(wanted[part]), have[part])) {
            return Some(false);
        }
        // S3 has no type word; otherwise the word up to the first `/` is compared as it stands.
        let word = if wanted[2] == "s3" { 0 } else { wanted[5].find('/').map_or(0, |at| at + 1) };
        let (word, id) = wanted[5].split_at(word);
        if !have[5].starts_with(word) {
            return Some(false);
        }
        expand(id, version, asked.context).map(|p| like(&p, &have[5][word.len()..]))
    };
    match statement.get("Resource") {
        Some(list) => strings(list).iter().any(|p| one(p) == Some(true)),
        None => strings(&statement["NotResource"]).iter().all(|p| one(p) == Some(false)),
    }
}

fn ip(text: &str) -> Option<u32> {
    let parts: Vec<u32> = text.split('.').map(|p| p.parse().ok()).collect::<Option<_>>()?;
    Some(parts.iter().fold(0, |all, part| all * 256 + part))
}

/// One value of the request against one of the policy, for the operator without its negation. `None`: incomparable.
fn compare(base: &str, wanted: &str, have: &str, version: &str, context: &Map<String, Value>) -> Option<bool> {
    let lower =
        |s: Vec<Symbol>| s.into_iter().flat_map(|(c, w)| c.to_lowercase().map(move |c| (c, w))).collect::<Vec<_>>();
    let literal = |s: Vec<Symbol>| s.into_iter().map(|(c, _)| (c, false)).collect::<Vec<_>>();
    Some(match base {
        "StringEquals" => like(&literal(expand(wanted, version, context)?), have),
        "StringEqualsIgnoreCase" => like(&literal(lower(expand(wanted, version, context)?)), &have.to_lowercase()),
        "StringLike" => like(&expand(wanted, version, context)?, have),
        "Bool" => {
            if have != "true" && have != "false" {
                return None;
            }
            wanted == have
        }
        "IpAddress" => {
            let (network, bits) = wanted.split_once('/').unwrap_or((wanted, "32"));
            let shift = 32 - bits.parse::<u64>().unwrap();
            (u64::from(ip(network)?) >> shift) == (u64::from(ip(have)?) >> shift)
        }
        "ArnEquals" | "ArnLike" => {
            let (wanted, have): (Vec<&str>, Vec<&str>) =
                (wanted.splitn(6, ':').collect(), have.splitn(6, ':').collect());
            if have.len() < 6 {
                return None;
            }
            let mut all = true;
            for (w, h) in wanted.iter().zip(&have) {
                all &= like(&expand(w, version, context)?, h);
            }
            all
        }
        _ if base.starts_with("Date") => ordered(&base[4..], have.cmp(wanted)),
        _ => ordered(&base[7..], have.parse::<f64>().ok()?.partial_cmp(&wanted.parse::<f64>().ok()?)?),
    })
}

fn ordered(relation: &str, order: std::cmp::Ordering) -> bool {
    match relation {
        "Equals" => order.is_eq(),
        "LessThan" => order.is_lt(),
        "LessThanEquals" => order.is_le(),
        "GreaterThan" => order.is_gt(),
        _ => order.is_ge(),
    }
}

fn condition_holds(operator: &str, key: &str, values: &Value, version: &str, context: &Map<String, Value>) -> bool {
    let found = context.iter().find(|(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, v)| v);
    if operator == "Null" {
        return strings(values).contains(&if found.is_none() { "true" } else { "false" });
    }
    let (quantifier, rest) = operator.split_once(':').map_or((None, operator), |(q, r)| (Some(q), r));
    let (rest, if_exists) = rest.strip_suffix("IfExists").map_or((rest, false), |r| (r, true));
    let negated = rest.contains("Not");
    let base = rest.replacen("Not", "", 1);
    let Some(found) = found else {
        return match quantifier {
            Some("ForAllValues") => true,
            Some(_) => false,
            None => if_exists || negated,
        };
    };
    let holds = |have: &str| {
        let results: Vec<Option<bool>> =
            strings(values).iter().map(|w| compare(&base, w, have, version, context)).collect();
        if negated { results.iter().all(|r| *r == Some(false)) } else { results.contains(&Some(true)) }
    };
    match (quantifier, found) {
        (None, Value::Array(_)) => false,
        (Some("ForAllValues"), list) => strings(list).iter().all(|have| holds(have)),
        (_, list) => strings(list).iter().any(|have| holds(have)),
    }
}

#[derive(PartialEq, Clone, Copy)]
enum Names {
    Account,
    Role,
    Caller,
}

fn principal_named(statement: &Value, principal: &str, bounded: bool) -> Option<Names> {
    let account = principal.split(':').nth(4).unwrap();
    let one = |named: &str| -> Option<Names> {
        if named == "*" {
            return Some(Names::Caller);
        }
        if named == account || named == format!("arn:aws:iam::{account}:root") {
            return Some(Names::Account);
        }
        let role_name = named.split(":role/").nth(1).map(|path| path.split('/').next_back().unwrap());
        let same_account = named.split(':').nth(4) == Some(account);
        if let (Some(role), Some(session)) = (role_name, principal.split("assumed-role/").nth(1))
            && same_account
            && session.split('/').next() == Some(role)
        {
            return Some(Names::Role);
        }
        if let Some(user) = principal.split("federated-user/").nth(1)
            && named == format!("arn:aws:iam::{account}:user/{user}")
        {
            return Some(Names::Role);
        }
        (named == principal).then_some(if principal.contains(":role/") { Names::Role } else { Names::Caller })
    };
    let fits = |value: &Value| -> Vec<Names> {
        let names = value.get("AWS").map_or_else(|| strings(value), strings);
        names.iter().filter_map(|n| one(n)).collect()
    };
    match statement.get("Principal") {
        Some(value) => {
            let fits = fits(value);
            [Names::Caller, Names::Role, Names::Account].into_iter().find(|names| fits.contains(names))
        }
        None => {
            let hits_all = bounded && statement["Effect"] == "Deny";
            (hits_all || fits(&statement["NotPrincipal"]).is_empty()).then_some(Names::Caller)
        }
    }
}

struct Asked<'a> {
    action: &'a str,
    resource: &'a str,
    context: &'a Map<String, Value>,
}

fn statement_matches(statement: &Value, version: &str, asked: &Asked<'_>) -> bool {
    let conditions = statement.get("Condition").and_then(Value::as_object);
    action_named(statement, asked.action)
        && resource_named(statement, version, asked)
        && conditions.into_iter().flatten().all(|(operator, keys)| {
            keys.as_object().unwrap().iter().all(|(k, v)| condition_holds(operator, k, v, version, asked.context))
        })
}

fn second_opinion(question: &Value) -> &'static str {
    let context = question["context"].as_object().unwrap();
    let asked = Asked {
        action: question["action"].as_str().unwrap(),
        resource: question["resource"].as_str().unwrap(),
        context,
    };
    let principal = question["principal"].as_str().unwrap();
    let policies = &question["policies"];
    let bounded = !policies["boundary"].as_array().unwrap().is_empty();
    let of = |documents: &Value, effect: &str, with_principal: bool| -> Vec<Names> {
        let mut found = Vec::new();
        for document in documents.as_array().unwrap() {
            let statements = match &document["Statement"] {
                Value::Array(list) => list.clone(),
                one => vec![one.clone()],
            };
            for statement in statements.iter().filter(|s| s["Effect"] == effect) {
                if statement_matches(statement, document["Version"].as_str().unwrap(), &asked) {
                    let names = if with_principal {
                        principal_named(statement, principal, bounded)
                    } else {
                        Some(Names::Caller)
                    };
                    found.extend(names);
                }
            }
        }
        found
    };
    let levels = |name: &str| policies[name].as_array().unwrap().clone();
    let plain_layers = ["identity", "boundary", "session"];
    let denied = plain_layers.iter().any(|layer| !of(&policies[*layer], "Deny", false).is_empty())
        || !of(&policies["resource"], "Deny", true).is_empty()
        || ["scp", "rcp"].iter().any(|name| levels(name).iter().any(|level| !of(level, "Deny", false).is_empty()));
    if denied {
        return "ExplicitlyDenied";
    }
    let allows = |layer: &Value| !of(layer, "Allow", false).is_empty();
    let absent_or_allows = |name: &str| policies[name].as_array().unwrap().is_empty() || allows(&policies[name]);
    let guardrails = levels("scp").iter().all(allows);
    let controls = levels("rcp").iter().all(|level| !level.to_string().contains("\"Allow\"") || allows(level));
    let identity = allows(&policies["identity"]);
    let grants = of(&policies["resource"], "Allow", true);
    let same_account = principal.split(':').nth(4) == question["resourceAccount"].as_str();
    let core = if same_account {
        grants.contains(&Names::Caller) || (absent_or_allows("boundary") && (grants.contains(&Names::Role) || identity))
    } else {
        absent_or_allows("boundary") && identity && !grants.is_empty()
    };
    if core && guardrails && controls && absent_or_allows("session") { "Allowed" } else { "ImplicitlyDenied" }
}

#[test]
fn two_evaluators_agree_on_generated_questions_of_all_families() {
    let from = |name: &str, default: u64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let mut chance = Chance(from("SCHLOSS_SEED", 20_261_124));
    let simulator = Simulator::new().unwrap();
    let mut seen = [0_u64; 3];
    for case in 0..from("SCHLOSS_CASES", 120_000) {
        let question = question(&mut chance);
        let answer: Value = serde_json::from_str(&simulator.judge(&question.to_string())).unwrap();
        let wanted = second_opinion(&question);
        assert!(answer.get("error").is_none(), "case {case}: {answer}");
        assert_eq!(answer["verdict"], wanted, "case {case}: {question}");
        seen[["Allowed", "ImplicitlyDenied", "ExplicitlyDenied"].iter().position(|v| *v == wanted).unwrap()] += 1;
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
    println!("{seen:?}");
}
