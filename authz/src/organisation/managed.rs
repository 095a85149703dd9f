//! The policies that come with Schloss, under `managed/<name>`. Their texts are in `policies/managed/`.

/// Names and texts.
pub const MANAGED: &[(&str, &str)] = &[
    ("read-only", include_str!("../../../policies/managed/read-only.json")),
    ("producer", include_str!("../../../policies/managed/producer.json")),
    ("idempotent-producer", include_str!("../../../policies/managed/idempotent-producer.json")),
    ("transactional-producer", include_str!("../../../policies/managed/transactional-producer.json")),
    ("consumer", include_str!("../../../policies/managed/consumer.json")),
    ("streams-application", include_str!("../../../policies/managed/streams-application.json")),
    ("connect-worker", include_str!("../../../policies/managed/connect-worker.json")),
    ("administrator", include_str!("../../../policies/managed/administrator.json")),
    ("auditor", include_str!("../../../policies/managed/auditor.json")),
    ("full-access", include_str!("../../../policies/managed/full-access.json")),
];
