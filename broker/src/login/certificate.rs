//! mTLS: the certificate by itself is the login.
//!
//! In order: the tenant's explicit map (`certificates.toml`), its rules for SPIFFE ids, its rules for subjects
//! (`ssl.principal.mapping.rules`). A mapped name is a user of the tenant, or `role/NAME` a role. None: nobody.

use schloss_authz::organisation::Tenant as Entry;
use schloss_authz::{CertificateFacts, Principal, SessionTerms};
use schloss_certs::ClientIdentity;

use super::door::Door;
use super::identity::Proof;
use super::rules::{Rules, session_name};
use super::{Failed, Proved, Told};
use crate::broker::Broker;
use crate::tenancy::tenant_id;

/// The way's name in policies and the audit log.
pub const MECHANISM: &str = "mTLS";

impl Broker {
    /// Who a certificate stands for.
    ///
    /// # Errors
    /// [`Failed`].
    pub(crate) fn by_certificate(&self, door: &Door) -> Result<Proved, Failed> {
        let failed = |why: &dyn std::fmt::Display| Failed::at("certificate", why, Told::AccessDenied).by(MECHANISM);
        let certificate = door.certificate.as_ref().ok_or_else(|| failed(&"the client showed no certificate"))?;
        if !door.takes_certificates() {
            return Err(failed(&"the listener takes no certificates as a login"));
        }
        let organisation = self.tenancy.policies().organisation();
        let entry = organisation.tenants().find(|tenant| tenant.alias() == certificate.tenant);
        let entry = entry.ok_or_else(|| failed(&"the certificate's CA belongs to no tenant"))?;
        let number = tenant_id(entry).ok_or_else(|| failed(&"the tenant's account id is malformed"))?;
        if !self.tls.is_still_good(certificate) {
            return Err(failed(&"the certificate has expired or was revoked").of(number));
        }
        let rules = self.login.rules.of(self.tenancy.policies().epoch(), entry);
        let principal = principal(entry, &rules, certificate).map_err(|why| failed(&why).of(number))?;
        Ok(Proved {
            tenant: number,
            principal,
            terms: SessionTerms::default(),
            proof: Proof::Certificate,
            mechanism: MECHANISM,
            until_ms: Some(certificate.not_after_ms),
            details: Vec::new(),
        })
    }
}

/// Whose certificate it is; the first way that has an answer decides.
pub(super) fn principal(entry: &Entry, rules: &Rules, certificate: &ClientIdentity) -> Result<Principal, String> {
    // SECURITY: X509-SVID: a certificate with a SPIFFE id has one URI. Of two, choosing would be guessing.
    let claims_spiffe = certificate.uris.iter().any(|uri| uri.starts_with("spiffe:"));
    let is_sound = !claims_spiffe || schloss_authn::spiffe::of(&certificate.uris).is_some();
    let facts = CertificateFacts {
        subject: &certificate.subject,
        common_name: certificate.common_name.as_deref(),
        uris: if is_sound { &certificate.uris } else { &[] },
        dns: &certificate.dns,
        emails: &certificate.emails,
    };
    let unmapped = match entry.identify(&facts) {
        Ok(principal) => return Ok(principal),
        Err(error) => error,
    };
    let spiffe = rules.spiffe_mapping.as_ref().and_then(|mapping| {
        let id = schloss_authn::spiffe::of(&certificate.uris)?;
        mapping.apply(id.id)
    });
    let mapped = spiffe.or_else(|| rules.subject_mapping.as_ref()?.apply(&certificate.subject));
    let Some(name) = mapped else { return Err(unmapped.to_string()) };
    let found = match name.strip_prefix("role/") {
        Some(role) => entry.role(role, &session_name(certificate.common_name.as_deref().unwrap_or("certificate"))),
        None => entry.user(&name),
    };
    found.ok_or_else(|| format!("the mapping rules give `{name}`, and the tenant has no such user or role"))
}
