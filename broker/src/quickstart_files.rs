//! The quickstart organisation, carried in the binary so that an installed one needs no checkout.

use std::io;
use std::path::Path;

const FILES: &[(&str, &str)] = &[
    ("organisation.toml", include_str!("../../policies/examples/quickstart/organisation.toml")),
    (
        "tenants/acme/certificates.toml",
        include_str!("../../policies/examples/quickstart/tenants/acme/certificates.toml"),
    ),
    (
        "tenants/acme/groups/auditors.toml",
        include_str!("../../policies/examples/quickstart/tenants/acme/groups/auditors.toml"),
    ),
    (
        "tenants/acme/policies/admin.json",
        include_str!("../../policies/examples/quickstart/tenants/acme/policies/admin.json"),
    ),
    (
        "tenants/acme/policies/consumer.json",
        include_str!("../../policies/examples/quickstart/tenants/acme/policies/consumer.json"),
    ),
    (
        "tenants/acme/policies/producer.json",
        include_str!("../../policies/examples/quickstart/tenants/acme/policies/producer.json"),
    ),
    ("tenants/acme/tenant.toml", include_str!("../../policies/examples/quickstart/tenants/acme/tenant.toml")),
    ("tenants/acme/users/admin.toml", include_str!("../../policies/examples/quickstart/tenants/acme/users/admin.toml")),
    (
        "tenants/acme/users/auditor.toml",
        include_str!("../../policies/examples/quickstart/tenants/acme/users/auditor.toml"),
    ),
    (
        "tenants/acme/users/consumer.toml",
        include_str!("../../policies/examples/quickstart/tenants/acme/users/consumer.toml"),
    ),
    (
        "tenants/acme/users/producer.toml",
        include_str!("../../policies/examples/quickstart/tenants/acme/users/producer.toml"),
    ),
    (
        "tenants/globex/certificates.toml",
        include_str!("../../policies/examples/quickstart/tenants/globex/certificates.toml"),
    ),
    (
        "tenants/globex/groups/auditors.toml",
        include_str!("../../policies/examples/quickstart/tenants/globex/groups/auditors.toml"),
    ),
    (
        "tenants/globex/policies/admin.json",
        include_str!("../../policies/examples/quickstart/tenants/globex/policies/admin.json"),
    ),
    (
        "tenants/globex/policies/consumer.json",
        include_str!("../../policies/examples/quickstart/tenants/globex/policies/consumer.json"),
    ),
    (
        "tenants/globex/policies/producer.json",
        include_str!("../../policies/examples/quickstart/tenants/globex/policies/producer.json"),
    ),
    ("tenants/globex/tenant.toml", include_str!("../../policies/examples/quickstart/tenants/globex/tenant.toml")),
    (
        "tenants/globex/users/admin.toml",
        include_str!("../../policies/examples/quickstart/tenants/globex/users/admin.toml"),
    ),
    (
        "tenants/globex/users/auditor.toml",
        include_str!("../../policies/examples/quickstart/tenants/globex/users/auditor.toml"),
    ),
    (
        "tenants/globex/users/consumer.toml",
        include_str!("../../policies/examples/quickstart/tenants/globex/users/consumer.toml"),
    ),
    (
        "tenants/globex/users/producer.toml",
        include_str!("../../policies/examples/quickstart/tenants/globex/users/producer.toml"),
    ),
];

/// Writes the organisation into a folder that does not exist yet, whole or not at all.
pub fn write(folder: &Path) -> io::Result<()> {
    let draft = folder.with_extension("draft");
    if draft.exists() {
        std::fs::remove_dir_all(&draft)?;
    }
    for (name, text) in FILES {
        let path = draft.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, text)?;
    }
    std::fs::rename(draft, folder)
}
