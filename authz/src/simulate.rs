//! Simulation: one question with all its policies on one line, the answer on one line.
//!
//! In: JSON `{id, principal, context, action, resource, resourceAccount, policies: {identity: [doc], boundary: [doc],
//! scp: [[doc]], rcp: [[doc]], resource: [doc], session: [doc]}}`. The context is complete, nothing is added; an empty
//! list means that there is no such policy. Out: `{id, decision, verdict, decisive}`, and `error` when the line or a
//! policy could not be read, which is a denial.
//!
//! The same frame and the same code judge here and on connections.

use std::sync::Arc;

use serde_json::json;

use crate::arn::ResourceName;
use crate::context::{KeyValue, Keys, RequestContext};
use crate::decision::{Decision, StatementRef, Verdict};
use crate::evaluate::{CompiledSet, Layers};
use crate::finding::{Finding, Findings};
use crate::frame::{Asked, Bound, Frame, FrameError};
use crate::json::{self, Node, Value};
use crate::policy::{self, Attached, Caller, DocumentKind};

/// Judges lines.
pub struct Simulator {
    frame: &'static Frame,
}

/// A question of any service, with every policy that has a say.
#[derive(Clone, Debug)]
pub struct Simulation {
    /// The caller's ARN.
    pub principal: String,
    /// The action, of any service.
    pub action: String,
    /// The resource's ARN, or `*`.
    pub resource: String,
    /// The account that owns the resource; without it the one in the ARN.
    pub resource_account: Option<String>,
    /// Every condition key there is.
    pub context: RequestContext,
    /// The policies.
    pub layers: Layers,
}

impl Simulator {
    /// A simulator.
    ///
    /// # Errors
    /// [`FrameError`] when the frame of decisions cannot be built.
    pub fn new() -> Result<Self, FrameError> {
        Ok(Self { frame: Frame::shared()? })
    }

    /// Judges one question.
    #[must_use]
    pub fn decide(&self, simulation: Simulation) -> Decision {
        let account =
            simulation.resource_account.unwrap_or_else(|| ResourceName::split(&simulation.resource).account.to_owned());
        let bound = Bound {
            caller: Caller::parse(&simulation.principal),
            keys: Keys::new(),
            set: CompiledSet::new(&simulation.layers),
            resource_account: Some(account.into()),
        };
        let action = simulation.action.to_ascii_lowercase().into_boxed_str();
        let anonymous = bound.caller.is_anonymous();
        let owned_by_aws = changes_what_aws_owns(&action, &simulation.resource);
        let asks_who_it_is = &*action == "sts:getcalleridentity" && !anonymous;
        let asked = Asked::new(Arc::new(bound), action, simulation.resource.into(), simulation.context);
        let mut decision = self.frame.decide(asked);
        if asks_who_it_is {
            // AWS: needs no permission and cannot be denied.
            decision.verdict = Verdict::Allowed;
            decision.decisive = Arc::default();
        } else if owned_by_aws && decision.is_allowed() {
            decision.verdict = Verdict::ImplicitlyDenied;
            decision.decisive = Arc::default();
        }
        decision
    }

    /// Judges one line and writes the answer as one line, without its end.
    #[must_use]
    pub fn judge(&self, line: &str) -> String {
        let node = match json::read(line) {
            Ok(node) => node,
            Err((at, error)) => {
                return refused(&serde_json::Value::Null, &format!("{at}: {error}"));
            }
        };
        let id = node.member("id").map_or(serde_json::Value::Null, plain);
        match read(&node) {
            Ok(simulation) => {
                let decision = self.decide(simulation);
                let word = if decision.verdict == Verdict::Allowed { "allow" } else { "deny" };
                let decisive: Vec<_> = decision.decisive.iter().map(reference).collect();
                let verdict = decision.verdict.to_string();
                json!({"id": id, "decision": word, "verdict": verdict, "decisive": decisive}).to_string()
            }
            Err(error) => refused(&id, &error.to_string()),
        }
    }
}

/// AWS's own policies, roles and key aliases cannot be changed by anybody.
fn changes_what_aws_owns(action: &str, resource: &str) -> bool {
    let name = ResourceName::split(resource);
    let owned = match action.split_once(':') {
        Some(("iam", _)) => {
            (name.account == "aws" && name.rest.starts_with("policy/")) || name.rest.starts_with("role/aws-reserved/")
        }
        Some(("kms", verb)) => verb.ends_with("alias") && name.rest.starts_with("alias/aws/"),
        _ => false,
    };
    let verbs = ["create", "delete", "set", "tag", "untag", "attach", "detach", "put", "pass", "update"];
    let verb = action.split_once(':').map_or("", |(_, verb)| verb);
    // Attaching an AWS policy changes the role, not the policy.
    owned && verbs.iter().any(|v| verb.starts_with(v))
}

/// Why a line cannot be judged.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SimulationError {
    /// A member that must be there.
    #[error("`{name}` is missing or not of its type")]
    Member {
        /// Its name.
        name: &'static str,
    },
    /// A policy that could not be compiled.
    #[error("{0}")]
    Policy(Box<Finding>),
}

fn refused(id: &serde_json::Value, error: &str) -> String {
    let verdict = Verdict::ImplicitlyDenied.to_string();
    json!({"id": id, "decision": "deny", "verdict": verdict, "decisive": [], "error": error}).to_string()
}

fn reference(statement: &StatementRef) -> serde_json::Value {
    json!({
        "layer": statement.layer.word(),
        "level": statement.layer.level(),
        "policy": &*statement.policy,
        "sid": statement.sid,
        "statement": statement.index,
    })
}

fn plain(node: &Node) -> serde_json::Value {
    match &node.value {
        Value::Text(text) => (**text).into(),
        Value::Number(text) => serde_json::from_str(text).unwrap_or(serde_json::Value::Null),
        _ => serde_json::Value::Null,
    }
}

fn read(node: &Node) -> Result<Simulation, SimulationError> {
    let text = |name: &'static str| -> Result<String, SimulationError> {
        let found = node.member(name).and_then(Node::text);
        found.map(str::to_owned).ok_or(SimulationError::Member { name })
    };
    let policies = node.member("policies");
    let list = |name: &str| policies.and_then(|p| p.member(name)).map_or(&[][..], Node::elements);
    let one_level = |name: &'static str, kind| documents(list(name), name, kind);
    let levels = |name: &'static str, kind| -> Result<Vec<Vec<Attached>>, SimulationError> {
        list(name).iter().map(|level| documents(level.elements(), name, kind)).collect()
    };
    let layers = Layers {
        identity: one_level("identity", DocumentKind::Identity)?,
        boundary: one_level("boundary", DocumentKind::Boundary)?,
        session: one_level("session", DocumentKind::Session)?,
        guardrails: levels("scp", DocumentKind::Guardrail)?,
        resource_controls: levels("rcp", DocumentKind::ResourceControl)?,
        resource: one_level("resource", DocumentKind::Resource)?,
    };
    Ok(Simulation {
        principal: principal(node.member("principal"))?,
        action: text("action")?,
        resource: text("resource")?,
        resource_account: node.member("resourceAccount").and_then(Node::text).map(str::to_owned),
        context: RequestContext { now_ms: None, keys: Arc::new(context(node.member("context"))?) },
        layers,
    })
}

/// Nobody is `null`, `*` or absent.
fn principal(node: Option<&Node>) -> Result<String, SimulationError> {
    match node.map(|n| &n.value) {
        None | Some(Value::Null) => Ok("*".to_owned()),
        Some(Value::Text(text)) => Ok(text.to_string()),
        Some(Value::Object(members)) if members.iter().any(|m| m.node.text() == Some("Anonymous")) => {
            Ok("*".to_owned())
        }
        Some(_) => Err(SimulationError::Member { name: "principal" }),
    }
}

fn context(node: Option<&Node>) -> Result<Keys, SimulationError> {
    let mut keys = Keys::new();
    let members = match node.map(|n| &n.value) {
        None | Some(Value::Null) => return Ok(keys),
        Some(Value::Object(members)) => members,
        Some(_) => return Err(SimulationError::Member { name: "context" }),
    };
    for member in members {
        let value = match &member.node.value {
            Value::List(nodes) => KeyValue::Many(
                nodes.iter().map(scalar).collect::<Option<_>>().ok_or(SimulationError::Member { name: "context" })?,
            ),
            Value::Null => continue,
            _ => KeyValue::One(scalar(&member.node).ok_or(SimulationError::Member { name: "context" })?),
        };
        keys.put(&member.name, value);
    }
    Ok(keys)
}

fn scalar(node: &Node) -> Option<Box<str>> {
    match &node.value {
        Value::Text(text) | Value::Number(text) => Some(text.clone()),
        Value::Bool(value) => Some(if *value { "true".into() } else { "false".into() }),
        _ => None,
    }
}

fn documents(nodes: &[Node], name: &'static str, kind: DocumentKind) -> Result<Vec<Attached>, SimulationError> {
    (0_u32..)
        .zip(nodes)
        .map(|(index, node)| {
            let mut list = Vec::new();
            let file: Arc<str> = format!("{name}[{index}]").into();
            let mut findings = Findings { file: Arc::clone(&file), list: &mut list };
            match policy::read(node, kind, &mut findings) {
                Some(document) => Ok(Attached { name: file, document: Arc::new(document) }),
                None => Err(match list.into_iter().find(|f| f.severity() == crate::Severity::Error) {
                    Some(finding) => SimulationError::Policy(Box::new(finding)),
                    None => SimulationError::Member { name: "policies" },
                }),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_answered_with_its_id_verdict_and_the_deciding_statement() {
        let line = r#"{"id": "7", "principal": "arn:aws:iam::111111111111:user/ann", "context": {}, "action": "s3:GetObject",
            "resource": "arn:aws:s3:::photos/a.png", "resourceAccount": "111111111111", "policies": {"identity": [
            {"Version": "2012-10-17", "Statement": [{"Sid": "Photos", "Effect": "Allow", "Action": "s3:Get*", "Resource": "arn:aws:s3:::photos/*"}]}],
            "boundary": [], "scp": [], "rcp": [], "resource": [], "session": []}}"#;
        let answer: serde_json::Value = serde_json::from_str(&Simulator::new().unwrap().judge(line)).unwrap();
        assert_eq!(
            answer,
            json!({"id": "7", "decision": "allow", "verdict": "Allowed", "decisive": [
                {"layer": "identity", "level": null, "policy": "identity[0]", "sid": "Photos", "statement": 0}]})
        );
    }

    #[test]
    fn a_line_that_cannot_be_read_is_a_denial_that_says_why() {
        let simulator = Simulator::new().unwrap();
        for line in [
            "{",
            "{}",
            r#"{"id": 1, "principal": "a", "action": "a:b", "resource": "*", "policies": {"identity": [{}]}}"#,
        ] {
            let answer: serde_json::Value = serde_json::from_str(&simulator.judge(line)).unwrap();
            assert_eq!(answer["decision"], "deny");
            assert!(answer["error"].is_string());
        }
    }
}
