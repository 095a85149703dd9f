//! Who may become a role: the role's trust policy together with the caller's own policies, in AWS's order.
//!
//! In: a caller, a role, the actions that becoming it takes (`sts:AssumeRole`, and `sts:TagSession` or
//! `sts:SetSourceIdentity` when asked for), the circumstances. Out: the decision on the last action, or the first refusal.
//!
//! Invariants
//! - A role without a trust policy can be assumed by nobody, whatever the caller's policies allow.
//! - A caller from another account needs both sides, as everywhere.

use std::sync::Arc;

use crate::arn::AccountId;
use crate::context::{Keys, RequestContext};
use crate::decision::Decision;
use crate::engine::Engine;
use crate::evaluate::{CompiledSet, Layers};
use crate::frame::{Asked, Bound};
use crate::organisation::{Organisation, Principal};
use crate::policy::{Attached, Caller};
use crate::session::SessionTerms;
use crate::{BindError, Tenant};

/// Who wants to become the role.
#[derive(Clone, Copy, Debug)]
pub enum Assumer<'a> {
    /// A user or a session of a role, with the terms of its own session.
    Principal(&'a Principal, &'a SessionTerms),
    /// Somebody whom this identity provider vouches for: its ARN (`arn:aws:iam::ACCOUNT:oidc-provider/HOST`).
    Federated(&'a str),
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct RoleRequest<'a> {
    /// Who.
    pub assumer: Assumer<'a>,
    /// The role's account.
    pub account: AccountId,
    /// The role's name.
    pub role: &'a str,
    /// Every action it takes, for example `sts:AssumeRole`. All must be allowed.
    pub actions: &'a [&'a str],
    /// The circumstances: `sts:ExternalId`, `aws:RequestTag/…`, the token's claims.
    pub context: RequestContext,
}

/// Why the role cannot be had. What the caller is told is one and the same for all of them.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AssumeRefused {
    /// No such account or role.
    #[error("the role does not exist")]
    UnknownRole,
    /// The role has no trust policy.
    #[error("the role has no trust policy")]
    NoTrust,
    /// The caller is gone, or its session cannot be bound.
    #[error("the caller cannot be bound: {0}")]
    Caller(#[from] BindError),
    /// An action was refused.
    #[error("`{action}` is refused ({verdict})", verdict = decision.verdict)]
    Denied {
        /// Which.
        action: Box<str>,
        /// Why.
        decision: Decision,
    },
}

impl Engine {
    /// Judges whether the caller may become the role.
    ///
    /// # Errors
    /// [`AssumeRefused`].
    pub fn judge_assumption(&self, request: &RoleRequest<'_>) -> Result<Decision, AssumeRefused> {
        let organisation = self.organisation();
        let tenant = organisation.tenant(request.account).ok_or(AssumeRefused::UnknownRole)?;
        let role = tenant.role(request.role, "").ok_or(AssumeRefused::UnknownRole)?;
        let trust = tenant.trust(request.role).ok_or(AssumeRefused::NoTrust)?;
        let bound = Arc::new(bound(&organisation, request, trust)?);
        let mut last = None;
        for action in request.actions {
            let name = action.to_ascii_lowercase().into_boxed_str();
            let asked = Asked::new(Arc::clone(&bound), name, role.policy_arn().into(), request.context.clone());
            let decision = self.frame().decide(asked);
            if !decision.is_allowed() {
                return Err(AssumeRefused::Denied { action: (*action).into(), decision });
            }
            last = Some(decision);
        }
        last.ok_or(AssumeRefused::UnknownRole)
    }
}

fn bound(organisation: &Organisation, request: &RoleRequest<'_>, trust: &Attached) -> Result<Bound, BindError> {
    let (mut layers, mut keys, caller) = match request.assumer {
        Assumer::Principal(principal, terms) => {
            let (mut layers, mut keys) = organisation.binding(principal)?;
            layers.session = organisation.session_policies(principal.account, terms)?;
            keys.put_all(&terms.keys);
            (layers, keys, Caller::parse(&principal.arn()))
        }
        Assumer::Federated(provider) => {
            let controls = organisation.resource_controls().to_vec();
            let layers = Layers { resource_controls: controls, ..Layers::default() };
            (layers, Keys::new(), Caller::parse(provider))
        }
    };
    layers.resource = vec![trust.clone()];
    keys.set("aws:ResourceAccount", request.account.to_string());
    let resource_account = Some(request.account.to_string().into());
    Ok(Bound { caller, keys, set: CompiledSet::new(&layers), resource_account })
}

impl Organisation {
    /// The policies that limit a session, in line and by name.
    pub(crate) fn session_policies(
        &self,
        account: AccountId,
        terms: &SessionTerms,
    ) -> Result<Vec<Attached>, BindError> {
        let tenant: &Tenant = self.tenant(account).ok_or(BindError::UnknownTenant)?;
        let named = terms.named.iter().map(|name| tenant.policy(name).cloned().ok_or(BindError::UnknownPolicy));
        // SECURITY: a limit that is gone must not become no limit.
        named.chain(terms.policies.iter().cloned().map(Ok)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::policy::Library;

    fn engine(trust: Option<&str>, ann: &str) -> Engine {
        let tenant = |account: &str, name: &str| {
            format!(
                "account = \"{account}\"\nkms_key = \"k\"\n[cluster]\nname = \"{name}\"\nuuid = \"{name}-1\"\nregion = \"eu\"\n"
            )
        };
        let mut files: BTreeMap<String, String> = [
            ("organisation.toml", "guardrails = [[\"managed/full-access\"]]".to_owned()),
            ("tenants/north/tenant.toml", tenant("111111111111", "north")),
            ("tenants/south/tenant.toml", tenant("222222222222", "south")),
            ("tenants/north/policies/ann.json", ann.to_owned()),
            ("tenants/north/users/ann.toml", "policies = [\"ann\"]".to_owned()),
            ("tenants/south/users/eve.toml", "policies = []".to_owned()),
            ("tenants/north/roles/reader.toml", trust.map_or("", |_| "trust = \"t\"").to_owned()),
        ]
        .map(|(path, text)| (path.to_owned(), text))
        .into();
        if let Some(trust) = trust {
            files.insert("tenants/north/trust/t.json".to_owned(), trust.to_owned());
        }
        Engine::new(Organisation::load(&files, &mut Library::default()).unwrap()).unwrap()
    }

    const NOTHING: &str =
        r#"{"Version":"2012-10-17","Statement":{"Effect":"Deny","Action":"sts:TagSession","Resource":"*"}}"#;
    const MAY: &str =
        r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"sts:AssumeRole","Resource":"*"}}"#;

    fn trust(principal: &str, condition: &str) -> String {
        format!(
            r#"{{"Version":"2012-10-17","Statement":{{"Effect":"Allow","Principal":{principal},"Action":"sts:*"{condition}}}}}"#
        )
    }

    fn ask(engine: &Engine, account: u64, user: &str, actions: &[&str], external: Option<&str>) -> bool {
        let organisation = engine.organisation();
        let account: AccountId = format!("{account:012}").parse().unwrap();
        let principal = organisation.tenant(account).unwrap().user(user).unwrap();
        let mut keys = Keys::new();
        if let Some(external) = external {
            keys.set("sts:ExternalId", external);
        }
        let context = RequestContext { now_ms: Some(1), keys: Arc::new(keys) };
        let terms = SessionTerms::default();
        let assumer = Assumer::Principal(&principal, &terms);
        let north = "111111111111".parse().unwrap();
        engine.judge_assumption(&RoleRequest { assumer, account: north, role: "reader", actions, context }).is_ok()
    }

    const ASSUME: &[&str] = &["sts:AssumeRole"];

    #[test]
    fn role_without_a_trust_policy_is_nobodys_even_when_the_caller_may_everything() {
        assert!(!ask(&engine(None, MAY), 111_111_111_111, "ann", ASSUME, None));
    }

    #[test]
    fn trust_in_a_user_of_the_account_is_enough_and_trust_in_the_account_needs_its_policy() {
        let ann = r#"{"AWS":"arn:aws:iam::111111111111:user/ann"}"#;
        assert!(ask(&engine(Some(&trust(ann, "")), NOTHING), 111_111_111_111, "ann", ASSUME, None));
        let account = trust(r#"{"AWS":"111111111111"}"#, "");
        assert!(!ask(&engine(Some(&account), NOTHING), 111_111_111_111, "ann", ASSUME, None));
        assert!(ask(&engine(Some(&account), MAY), 111_111_111_111, "ann", ASSUME, None));
    }

    #[test]
    fn user_of_another_account_needs_its_own_policy_beside_the_trust() {
        let eve = trust(r#"{"AWS":"arn:aws:iam::222222222222:user/eve"}"#, "");
        assert!(!ask(&engine(Some(&eve), MAY), 222_222_222_222, "eve", ASSUME, None));
    }

    #[test]
    fn every_action_must_be_allowed() {
        let ann = trust(r#"{"AWS":"arn:aws:iam::111111111111:user/ann"}"#, "");
        let engine = engine(Some(&ann), NOTHING);
        assert!(!ask(&engine, 111_111_111_111, "ann", &["sts:AssumeRole", "sts:TagSession"], None));
        assert!(!ask(&engine, 111_111_111_111, "ann", &[], None));
    }

    #[test]
    fn external_id_is_compared() {
        let condition = r#","Condition":{"StringEquals":{"sts:ExternalId":"42"}}"#;
        let engine = engine(Some(&trust(r#"{"AWS":"arn:aws:iam::111111111111:user/ann"}"#, condition)), NOTHING);
        assert!(ask(&engine, 111_111_111_111, "ann", ASSUME, Some("42")));
        assert!(!ask(&engine, 111_111_111_111, "ann", ASSUME, Some("43")));
        assert!(!ask(&engine, 111_111_111_111, "ann", ASSUME, None));
    }

    #[test]
    fn session_limited_by_a_policy_that_is_gone_cannot_be_bound() {
        let engine = engine(None, MAY);
        let organisation = engine.organisation();
        let account = "111111111111".parse().unwrap();
        let role = organisation.tenant(account).unwrap().role("reader", "s").unwrap();
        let terms = SessionTerms { named: vec!["gone".into()], ..SessionTerms::default() };
        assert_eq!(engine.bind_session(&role, account, &terms).unwrap_err(), BindError::UnknownPolicy);
        let known = SessionTerms { named: vec!["ann".into()], ..SessionTerms::default() };
        assert!(engine.bind_session(&role, account, &known).is_ok());
    }
}
