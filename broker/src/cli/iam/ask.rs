//! `schloss iam simulate`, `who-can`, `explain`: one question to the policies, answered with its reasons.
//!
//! The same code judges here and on connections; here it is asked to tell why.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use schloss_audit::Filter;
use schloss_authz::policy::Miss;
use schloss_authz::{
    Action, Decision, Engine, Explanation, KeyValue, Keys, NearMiss, Organisation, Principal, RequestContext,
    StatementRef,
};
use serde_json::{Value, json};

use super::super::{Failure, Number, Output, Place, audit};
use super::wrong;
use crate::tenancy;

/// The circumstances of a question.
#[derive(Clone, Debug, Args)]
pub struct Circumstances {
    /// A condition key and its value, as in aws:SourceIp=10.0.0.7; again for more. A key given twice is multi-valued.
    #[arg(long = "context", value_name = "KEY=VALUE")]
    context: Vec<String>,
}

impl Circumstances {
    /// Now, over TLS, with what was given.
    pub fn context(&self) -> Result<RequestContext, Failure> {
        let mut keys = Keys::new();
        keys.set("aws:SecureTransport", "true");
        let mut seen: Vec<(String, Vec<Box<str>>)> = Vec::new();
        for pair in &self.context {
            let (key, value) = pair.split_once('=').filter(|(key, _)| key.contains(':')).ok_or_else(|| {
                Failure::new(
                    Number::Usage,
                    format!("`{pair}` is not of the form KEY=VALUE"),
                    "write it as --context aws:SourceIp=10.0.0.7",
                )
            })?;
            match seen.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(key)) {
                Some((_, values)) => values.push(value.into()),
                None => seen.push((key.to_owned(), vec![value.into()])),
            }
        }
        for (key, mut values) in seen {
            match (values.pop(), values.is_empty()) {
                (Some(value), true) => drop(keys.set(&key, value)),
                (Some(value), false) => {
                    values.push(value);
                    keys.put(&key, KeyValue::Many(values.into()));
                }
                (None, _) => {}
            }
        }
        Ok(RequestContext { now_ms: Some(now_ms()), keys: Arc::new(keys) })
    }
}

pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The policies of an installation's folder, or of one named.
pub fn engine(place: &Place, folder: Option<&std::path::Path>) -> Result<Engine, Failure> {
    let folder = match folder {
        Some(folder) => folder.to_owned(),
        None => audit::config(place)?.organisation_dir,
    };
    let (organisation, _) = tenancy::load(&folder).map_err(wrong)?;
    Engine::new(organisation)
        .map_err(|error| Failure::new(Number::Organisation, error, "report this: the policy engine did not start"))
}

pub fn action(name: &str) -> Result<Action, Failure> {
    let full = if name.contains(':') { name.to_owned() } else { format!("kafka-cluster:{name}") };
    Action::from_full_name(&full).ok_or_else(|| {
        let known: Vec<&str> = Action::ALL.iter().map(|action| action.name()).collect();
        Failure::new(
            Number::Usage,
            format!("there is no action `{name}`"),
            format!("choose one of {}", known.join(", ")),
        )
    })
}

pub fn principal(organisation: &Organisation, arn: &str) -> Result<Principal, Failure> {
    organisation.principal_by_arn(arn).ok_or_else(|| {
        Failure::new(
            Number::Usage,
            format!("no tenant has a principal `{arn}`"),
            "name it by ARN: arn:aws:iam::ACCOUNT:user/NAME, arn:aws:iam::ACCOUNT:role/NAME or \
             arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION",
        )
    })
}

fn no_tenant(resource: &str) -> Failure {
    Failure::new(
        Number::Usage,
        format!("`{resource}` is no resource of a tenant of this organisation"),
        "name it by ARN: arn:aws:kafka:REGION:ACCOUNT:topic/CLUSTER/UUID/NAME",
    )
}

pub struct Question<'a> {
    pub principal: &'a str,
    pub action: &'a str,
    pub resource: &'a str,
}

pub fn simulate(
    engine: &Engine,
    question: &Question<'_>,
    context: &RequestContext,
    output: Output,
) -> Result<ExitCode, Failure> {
    let action = action(question.action)?;
    let principal = principal(&engine.organisation(), question.principal)?;
    let explanation =
        engine.explain(&principal, action, question.resource, context).map_err(|_| no_tenant(question.resource))?;
    print(question.principal, action.full_name(), &explanation, output);
    Ok(if explanation.decision.is_allowed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub fn who_can(
    engine: &Engine,
    named: &str,
    resource: &str,
    context: &RequestContext,
    output: Output,
) -> Result<ExitCode, Failure> {
    let found = engine.who_can(action(named)?, resource, context).map_err(|_| no_tenant(resource))?;
    for able in &found {
        let arn = able.principal.policy_arn();
        let by: Vec<String> = able.decision.decisive.iter().map(ToString::to_string).collect();
        if output == Output::Json {
            let only_if: Vec<Value> = able.only_if.iter().map(near_json).collect();
            println!(
                "{}",
                json!({ "principal": arn, "allowed": able.decision.is_allowed(), "by": by, "only_if": only_if })
            );
        } else if able.decision.is_allowed() {
            println!("{arn}  by {}", by.join(", "));
        } else {
            let conditions: Vec<String> = able.only_if.iter().map(|near| describe(&near.miss)).collect();
            println!("{arn}  not now; would if not: {}", conditions.join("; "));
        }
    }
    if found.is_empty() && output == Output::Text {
        eprintln!("nobody");
    }
    Ok(ExitCode::SUCCESS)
}

/// Explains every event of a request from the audit log: what was recorded, and the same question judged anew.
pub fn explain(place: &Place, request_id: &str, output: Output) -> Result<ExitCode, Failure> {
    let engine = engine(place, None)?;
    let events = events_of(place, request_id)?;
    if events.is_empty() {
        return Err(Failure::new(
            Number::Usage,
            format!("the audit log has no event of request `{request_id}`"),
            "take the id from `schloss audit query` or the client's error; allowed reads and writes are counted by the \
             minute, without ids: try them with `schloss iam simulate`",
        ));
    }
    let in_force = engine.organisation();
    for event in &events {
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (who, what, on) = (text("/actor/user/uid"), text("/unmapped/action"), text("/resources/0/uid"));
        let recorded = json!({
            "time": event.get("time"), "api": text("/api/operation"), "verdict": text("/unmapped/verdict"),
            "reason": text("/unmapped/reason"), "statement": event.pointer("/unmapped/statement"),
        });
        if output == Output::Text {
            println!(
                "recorded   {} by {}: {}",
                text("/unmapped/verdict"),
                text("/api/operation"),
                text("/unmapped/reason")
            );
        }
        let known = Action::from_full_name(what).zip(in_force.principal_by_arn(who));
        let now =
            known.and_then(|(action, principal)| engine.explain(&principal, action, on, &circumstances(event)).ok());
        match (now, output) {
            (Some(explanation), Output::Text) => print(who, what, &explanation, output),
            (None, Output::Text) => {
                println!(
                    "{who}\n{what}\n{on}\nnow        the principal, action or resource is unknown to the files in force\n"
                );
            }
            (now, Output::Json) => {
                let now = now.map(|explanation| explanation_json(who, what, &explanation));
                println!("{}", json!({ "recorded": recorded, "now": now }));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The keys a request had, as far as its event tells.
fn circumstances(event: &Value) -> RequestContext {
    let mut keys = Keys::new();
    keys.set("aws:SecureTransport", "true");
    let facts = [
        ("/src_endpoint/ip", "aws:SourceIp"),
        ("/unmapped/client_id", "schloss:ClientId"),
        ("/unmapped/mechanism", "schloss:Mechanism"),
        ("/unmapped/certificate_sha256", "schloss:CertificateFingerprint"),
    ];
    for (pointer, key) in facts {
        if let Some(value) = event.pointer(pointer).and_then(Value::as_str) {
            keys.set(key, value);
        }
    }
    RequestContext { now_ms: event.get("time").and_then(Value::as_i64), keys: Arc::new(keys) }
}

fn events_of(place: &Place, request_id: &str) -> Result<Vec<Value>, Failure> {
    audit::collect(place, &Filter::default(), &mut |found| {
        let id = found.body.pointer("/api/request/uid").and_then(Value::as_str);
        (id == Some(request_id)).then_some(found.body)
    })
}

fn print(who: &str, what: &str, explanation: &Explanation, output: Output) {
    if output == Output::Json {
        println!("{}", explanation_json(who, what, explanation));
        return;
    }
    let Explanation { decision, resource, nearest, context } = explanation;
    println!("principal  {who}\naction     {what}\nresource   {resource}");
    println!("verdict    {}", crate::authorize::reason(decision));
    for statement in decision.decisive.iter() {
        println!("  by       {statement}");
    }
    if !decision.is_allowed() {
        for near in nearest {
            println!("  near     {}: {}", near.statement, describe(&near.miss));
        }
    }
    if let Some(shadow) = &decision.shadow {
        println!("shadow     {}", crate::authorize::reason(shadow));
    }
    let keys: Vec<String> = context.iter().map(|(key, value)| format!("{key}={value}")).collect();
    println!("context    {}\n", keys.join("  "));
}

fn explanation_json(who: &str, what: &str, explanation: &Explanation) -> Value {
    let Explanation { decision, resource, nearest, context } = explanation;
    let context: serde_json::Map<String, Value> =
        context.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
    json!({
        "principal": who, "action": what, "resource": resource, "decision": decision_json(decision),
        "nearest": nearest.iter().map(near_json).collect::<Vec<_>>(), "context": context,
    })
}

fn decision_json(decision: &Decision) -> Value {
    json!({
        "verdict": decision.verdict.to_string(),
        "decisive": decision.decisive.iter().map(statement_json).collect::<Vec<_>>(),
        "lacking": decision.lacking.map(schloss_authz::Layer::word),
        "shadow": decision.shadow.as_deref().map(decision_json),
    })
}

pub fn statement_json(statement: &StatementRef) -> Value {
    json!({
        "layer": statement.layer.word(), "level": statement.layer.level(), "policy": &*statement.policy,
        "sid": statement.sid, "statement": statement.index,
    })
}

fn near_json(near: &NearMiss) -> Value {
    json!({ "statement": statement_json(&near.statement), "failed": describe(&near.miss) })
}

fn describe(miss: &Miss) -> String {
    match miss {
        Miss::Action => "another action".to_owned(),
        Miss::Resource { part } => format!("the resource differs: {part}"),
        Miss::Principal => "another principal".to_owned(),
        Miss::Condition { operator, key, value } => {
            let value = value.as_deref().map_or_else(|| "absent".to_owned(), |value| format!("`{value}`"));
            format!("{operator} on {key} does not hold, the key is {value}")
        }
    }
}
