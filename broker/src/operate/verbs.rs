//! The commands an operator may give to the running broker, one row each.

use futures::future::BoxFuture;
use serde_json::json;

use super::{OperatorCall, Outcome, credentials, keys};
use crate::tenancy::tenant_id;

/// One command.
pub struct Verb {
    /// Of `schloss <noun> <verb>`.
    pub noun: &'static str,
    /// Of `schloss <noun> <verb>`.
    pub verb: &'static str,
    /// What it does.
    pub run: for<'c> fn(&'c OperatorCall) -> BoxFuture<'c, Outcome>,
}

/// Words of a body that are told in the audit event: what the command is about, never a secret.
pub const TOLD: [&str; 6] = ["tenant", "topic", "user", "role", "key", "id"];

/// All commands. A new one is a row here and a function in the room that does the work.
static VERBS: [Verb; 10] = [
    Verb { noun: "broker", verb: "show", run: |call| Box::pin(broker_show(call)) },
    Verb { noun: "tenant", verb: "list", run: |call| Box::pin(tenant_list(call)) },
    Verb { noun: "tenant", verb: "show", run: |call| Box::pin(keys::tenant_show(call)) },
    Verb { noun: "keys", verb: "rewrap", run: |call| Box::pin(keys::rewrap(call)) },
    Verb { noun: "keys", verb: "rewrite", run: |call| Box::pin(keys::rewrite(call)) },
    Verb { noun: "keys", verb: "shred-topic", run: |call| Box::pin(keys::shred_topic(call)) },
    Verb { noun: "keys", verb: "shred-tenant", run: |call| Box::pin(keys::shred_tenant(call)) },
    Verb { noun: "segment", verb: "verify", run: |call| Box::pin(keys::verify_segments(call)) },
    Verb { noun: "break-glass", verb: "open", run: |call| Box::pin(crate::break_glass::open(call)) },
    Verb { noun: "backup", verb: "create", run: |call| Box::pin(crate::backup::create(call)) },
];

/// The command of this name.
pub fn find(noun: &str, verb: &str) -> Option<&'static Verb> {
    VERBS.iter().chain(&credentials::VERBS).find(|known| known.noun == noun && known.verb == verb)
}

async fn broker_show(call: &OperatorCall) -> Outcome {
    let (digest, epoch) = call.broker.tenancy.version();
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "node": call.broker.config.node_id,
        "ready": call.broker.readiness().is_ok(),
        "tenants": call.broker.tenancy.tenants().len(),
        "organisation": { "sha256": digest, "epoch": epoch },
    }))
}

async fn tenant_list(call: &OperatorCall) -> Outcome {
    let organisation = call.broker.tenancy.policies().organisation();
    let tenants = organisation.tenants().map(|entry| {
        let open = tenant_id(entry).and_then(|id| call.broker.tenancy.tenant(id));
        json!({
            "alias": entry.alias(),
            "account": entry.account().to_string(),
            "cluster": entry.cluster().arn_of(schloss_authz::ResourceRef::CLUSTER),
            "hosts": entry.hosts(),
            "kms_key": entry.kms_key(),
            "open": open.is_some(),
        })
    });
    Ok(json!({ "tenants": tenants.collect::<Vec<_>>() }))
}
