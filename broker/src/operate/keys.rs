//! What an operator may do about keys: look, wrap anew, rewrite, shred, check.
//!
//! In: commands that came through the operator door. Out: what was done, in JSON, with ids and aliases and no names of topics that were
//! not said. Each command is in the audit log before it runs; a shredding leaves a certificate there.

use std::sync::Arc;

use schloss_core::TenantId;
use schloss_storage::{Engine, Shredded};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{OperatorCall, OperatorRefusal, Outcome, cluster_keys};

/// ReEncrypt calls a second when nothing is said: far below AWS's quota of 10,000 for symmetric operations.
const REWRAP_RATE: u64 = 50;
/// MiB a second of a rewrite or a check when nothing is said.
const REWRITE_MIB: u64 = 50;

/// `tenant show`: one tenant, or all.
pub async fn tenant_show(call: &OperatorCall) -> Outcome {
    let tenants = match call.body.get("tenant").and_then(Value::as_str) {
        Some(_) => vec![call.tenant()?],
        None => {
            let organisation = call.broker.tenancy.policies().organisation();
            organisation.tenants().filter_map(crate::tenancy::tenant_id).collect()
        }
    };
    let shown: Vec<Value> = tenants.into_iter().map(|tenant| show(call, tenant)).collect();
    Ok(json!({ "tenants": shown }))
}

fn show(call: &OperatorCall, id: TenantId) -> Value {
    let broker = &call.broker;
    let organisation = broker.tenancy.policies().organisation();
    let entry = organisation.tenants().find(|entry| crate::tenancy::tenant_id(entry) == Some(id));
    let keys: Vec<Value> = broker
        .vault
        .describe(id.to_bytes())
        .into_iter()
        .map(|key| {
            json!({
                "key": key.name.key_ref,
                "provider": key.name.provider,
                "current": key.current,
                "state": key.state.text(),
                "for_seconds": key.since.map(|since| since.as_secs()),
            })
        })
        .collect();
    let wrapped: Vec<Value> = broker
        .engine
        .wrapping_keys(id)
        .into_iter()
        .map(|(key, segments)| json!({ "key": key, "segments": segments }))
        .collect();
    let waits = broker.waiting.reason(id);
    json!({
        "alias": entry.map(schloss_authz::Tenant::alias),
        "account": id.to_string(),
        "kms_key": entry.map(schloss_authz::Tenant::kms_key),
        "key_state": broker.vault.tenant_state(id.to_bytes()).text(),
        "open": broker.tenancy.tenant(id).is_some(),
        "waits_for_key": waits.map(|(why, since)| json!({ "why": why, "for_seconds": since.as_secs() })),
        "in_doubt": broker.engine.in_doubt(id).map(|doubt| doubt.tables.clone()),
        "keys": keys,
        "segments_wrapped_by": wrapped,
    })
}

/// `keys rewrap`: every live wrapped key under the tenant's current KMS key, or the cluster's.
pub async fn rewrap(call: &OperatorCall) -> Outcome {
    let rate = u32::try_from(number(call, "rate", REWRAP_RATE)).unwrap_or(u32::MAX);
    if call.body.get("cluster").and_then(Value::as_bool) == Some(true) {
        return cluster_keys::rewrap(call, rate).await;
    }
    let tenant = call.tenant()?;
    undoubted(call, tenant)?;
    let progress = watch::Sender::new((0, 0));
    let done = call.told(&progress, call.broker.engine.rewrap(tenant, rate, &progress)).await;
    let done = done.map_err(|error| {
        let next = if error.is_of_kms() {
            "check both KMS keys and their policies (kms:ReEncryptFrom, kms:ReEncryptTo), then run it again: it goes on"
        } else {
            "look at the broker's log, then run it again: it goes on"
        };
        OperatorRefusal::new("NotRewrapped", error, next)
    })?;
    if !done.log_held {
        call.broker.vault.retire_others(tenant.to_bytes());
    }
    let next = if done.log_held {
        "keep the old KMS key enabled and run it again later: a key of this tenant is away, and entries of the log, or set aside, are still under the old one"
    } else {
        "the old KMS key may be disabled; `schloss tenant drop-key` takes it out of the tenant's file"
    };
    Ok(json!({ "rewrapped": done.rewrapped, "kept": done.kept, "log_held": done.log_held, "next": next }))
}

/// `keys rewrite`: records into new segments under new data keys.
pub async fn rewrite(call: &OperatorCall) -> Outcome {
    let tenant = call.tenant()?;
    undoubted(call, tenant)?;
    let topic = match call.body.get("topic").and_then(Value::as_str) {
        Some(name) => Some(topic_named(call, tenant, name)?.id),
        None => None,
    };
    let pace = number(call, "rate", REWRITE_MIB).saturating_mul(1 << 20);
    let progress = watch::Sender::new((0, 0));
    let refused = |error: &dyn std::fmt::Display| {
        OperatorRefusal::new("NotRewritten", error, "look at the broker's log, then run it again")
    };
    call.broker.engine.flush_now().await.map_err(|error| refused(&error))?;
    let done = call.told(&progress, call.broker.engine.rewrite(tenant, topic, pace, &progress)).await;
    let done = done.map_err(|error| refused(&error))?;
    Ok(json!({ "segments": done.segments, "bytes": done.bytes }))
}

/// `keys shred-topic`.
pub async fn shred_topic(call: &OperatorCall) -> Outcome {
    confirmed(call)?;
    let tenant = call.tenant()?;
    let topic = topic_named(call, tenant, call.text("topic")?)?;
    let open = call.broker.tenancy.tenant(tenant).ok_or_else(not_open)?;
    // From here nobody finds it by name; a shredding that breaks off is begun again by its id.
    open.catalog.hide(topic.id);
    open.groups.topic_deleted(topic.id).await.map_err(|error| not_shredded(&error))?;
    let done = call.broker.engine.shred_topic(tenant, topic.id, topic.partitions).await;
    let done = done.map_err(|error| not_shredded(&error))?;
    certify(call, tenant, "topic", json!({ "topic_id": topic.id.to_string() }), done).await
}

/// `keys shred-tenant`.
pub async fn shred_tenant(call: &OperatorCall) -> Outcome {
    confirmed(call)?;
    let tenant = call.tenant()?;
    if let Some(open) = call.broker.tenancy.remove(tenant) {
        open.groups.close();
        call.broker.end_sessions();
    }
    let done = call.broker.engine.shred_tenant(tenant).await.map_err(|error| not_shredded(&error))?;
    certify(call, tenant, "tenant", json!({}), done).await
}

async fn certify(call: &OperatorCall, tenant: TenantId, what: &'static str, more: Value, done: Shredded) -> Outcome {
    let mut statement = json!({
        "shredded": what,
        "tenant": tenant.to_string(),
        "time_ms": call.broker.clock.now_ms(),
        "by": format!("operator:{}", call.operator),
        "request_id": call.request_id,
        "objects_erased": done.objects,
        "topic_keys_destroyed": done.topic_keys,
        "log_purged": done.log_purged,
        "kms_keys": call.broker.vault.describe(tenant.to_bytes()).into_iter().map(|key| key.name.key_ref).collect::<Vec<_>>(),
        "holds": if what == "topic" {
            "no copy of the data folder opens the topic's segments: its own key is destroyed; entries of the log copied before they were flushed are outside of this"
        } else {
            "wrapped keys in this installation are destroyed; copies elsewhere open until the tenant's KMS keys are deleted: schedule their deletion"
        },
    });
    if let (Some(statement), Some(more)) = (statement.as_object_mut(), more.as_object()) {
        statement.extend(more.clone());
    }
    let certificate = call.broker.audit.certify(Some(tenant), statement.to_string()).await.map_err(|error| {
        OperatorRefusal::new(
            "NotCertified",
            format!("it is shredded, but the certificate could not be written: {error}"),
            "free the audit log's disk and run it again",
        )
    })?;
    call.broker.audit.checkpoint().await.map_err(|error| {
        OperatorRefusal::new("NotCertified", error, "the certificate is written and is signed with the next checkpoint")
    })?;
    Ok(json!({ "statement": statement, "certificate": certificate }))
}

/// `segment verify`: every live segment, read and checked now.
pub async fn verify_segments(call: &OperatorCall) -> Outcome {
    let tenant = match call.body.get("tenant").and_then(Value::as_str) {
        Some(_) => Some(call.tenant()?),
        None => None,
    };
    let pace = number(call, "rate", REWRITE_MIB.saturating_mul(10)).saturating_mul(1 << 20);
    let progress = watch::Sender::new((0, 0));
    let engine: Arc<Engine> = Arc::clone(&call.broker.engine);
    let found = call.told(&progress, engine.scrub(tenant, pace, &progress)).await;
    let list = |found: Vec<(String, String)>| {
        found.into_iter().map(|(object, what)| json!({ "object": object, "what": what })).collect::<Vec<_>>()
    };
    let damaged = found.damaged.into_iter().map(|(object, what)| (object, what.to_owned())).collect();
    Ok(json!({
        "good": found.good,
        "bytes": found.bytes,
        "damaged": list(damaged),
        "unread": list(found.unread),
    }))
}

fn topic_named(
    call: &OperatorCall,
    tenant: TenantId,
    name: &str,
) -> Result<Arc<crate::catalog::Topic>, OperatorRefusal> {
    let open = call.broker.tenancy.tenant(tenant).ok_or_else(not_open)?;
    open.catalog.by_name(name).ok_or_else(|| {
        OperatorRefusal::new("NoSuchTopic", format!("the tenant has no topic `{name}`"), "say one of its topics")
    })
}

fn not_open() -> OperatorRefusal {
    OperatorRefusal::new(
        "NotOpen",
        "the tenant is not open: its KMS key cannot be used now, or its rows of the manifest are in doubt",
        "`schloss tenant show` tells why; enable the key and ask again within a minute",
    )
}

/// Rows that are not what was written are neither wrapped anew nor moved.
fn undoubted(call: &OperatorCall, tenant: TenantId) -> Result<(), OperatorRefusal> {
    call.broker.engine.in_doubt(tenant).map_or(Ok(()), |doubt| {
        let next = "stop the broker and look with `schloss manifest verify`; restore the data folder, or `schloss manifest accept`";
        Err(OperatorRefusal::new("InDoubt", doubt, next))
    })
}

fn not_shredded(error: &dyn std::fmt::Display) -> OperatorRefusal {
    OperatorRefusal::new("NotShredded", error, "it is not finished: mend the cause and run it again, it goes on")
}

fn confirmed(call: &OperatorCall) -> Result<(), OperatorRefusal> {
    if call.body.get("yes").and_then(Value::as_bool) == Some(true) {
        return Ok(());
    }
    Err(OperatorRefusal::new("NotConfirmed", "what is shredded never comes back", "say --yes if that is meant"))
}

fn number(call: &OperatorCall, key: &str, default: u64) -> u64 {
    call.body.get(key).and_then(Value::as_u64).filter(|number| *number > 0).unwrap_or(default)
}
