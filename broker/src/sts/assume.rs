//! AssumeRole and GetSessionToken: from a caller to a session. [`Wish`] is what AssumeRoleWithWebIdentity shares.

use std::net::SocketAddr;

use schloss_authn::signed_request::HttpRequest;
use schloss_authz::{AssumeRefused, Assumer, KeyValue, Keys, RequestContext, RoleRequest};
use schloss_core::TenantId;

use super::Trail;
use super::answer::{Code, Elements, Refusal};
use super::caller::Caller;
use super::parameters::{
    Policies, RoleArn, SessionTags, duration, external_id, invalid, no_second_factor, policies, session_name,
    source_identity, tags,
};
use super::query::Query;
use crate::authorize::reason;
use crate::broker::Broker;
use crate::credentials::{CredentialError, NewSession, SessionClaims, rfc3339};

/// AWS: a session got by way of another session lasts an hour at most.
const CHAINED_SECONDS_MAX: i64 = 3_600;
const ROLE_SECONDS_DEFAULT: i64 = 3_600;
const ROLE_SECONDS_MAX: i64 = 43_200;
const USER_SECONDS_DEFAULT: i64 = 43_200;
const USER_SECONDS_MAX: i64 = 129_600;

/// AssumeRole.
pub(super) fn role(
    broker: &Broker,
    query: &Query,
    caller: &Caller,
    source: SocketAddr,
    request: &HttpRequest<'_>,
    trail: &mut Trail,
) -> Result<Elements, Refusal> {
    no_second_factor(query)?;
    let mut wish = Wish::read(query, trail)?;
    if let Some(claims) = &caller.claims {
        wish.inherit(claims, caller)?;
    }
    let mut keys = wish.keys();
    if let Some(id) = external_id(query)? {
        keys.set("sts:ExternalId", id);
    }
    if let Some((_, agent)) = request.headers.iter().find(|(name, _)| *name == "user-agent") {
        keys.set("aws:UserAgent", *agent);
    }
    let assumer = Assumer::Principal(&caller.principal, &caller.terms);
    let told = denied(&caller.principal.arn(), "AssumeRole", wish.role.arn);
    let tenant = wish.judge(broker, assumer, "sts:AssumeRole", keys, source, trail).map_err(|why| told.because(why))?;
    let seconds = wish.seconds(broker, query, caller.claims.is_some())?;
    let claims = wish.claims(broker.clock.now_ms(), seconds);
    issue(broker, tenant, &wish, claims, trail)
}

/// GetSessionToken: a user's own rights, for a while.
pub(super) fn session_token(
    broker: &Broker,
    query: &Query,
    caller: &Caller,
    trail: &mut Trail,
) -> Result<Elements, Refusal> {
    no_second_factor(query)?;
    if caller.claims.is_some() {
        const TOLD: &str = "Cannot call GetSessionToken with session credentials";
        return Err(Refusal::new(Code::AccessDenied, "kind of the credential", TOLD));
    }
    let seconds = duration(query, USER_SECONDS_DEFAULT, USER_SECONDS_MAX)?;
    let issued_ms = broker.clock.now_ms();
    let mut claims = SessionClaims::new(caller.principal.name(), issued_ms, issued_ms.saturating_add(seconds * 1_000));
    claims.made_with = Some(caller.access_key_id.clone());
    let expires_ms = claims.expires_ms;
    let session = broker.credentials.new_session(caller.tenant, claims).map_err(not_made)?;
    trail.details.push(("issued_access_key_id", session.access_key_id.to_string()));
    Ok(Elements::default().inside("Credentials", credentials(&session, expires_ms)))
}

/// What a caller wants, well-formed.
pub(super) struct Wish<'q> {
    pub role: RoleArn<'q>,
    pub session: &'q str,
    policies: Policies,
    tags: SessionTags,
    source_identity: Option<Box<str>>,
}

impl<'q> Wish<'q> {
    pub fn read(query: &'q Query, trail: &mut Trail) -> Result<Self, Refusal> {
        let role = RoleArn::of(query)?;
        trail.resource = Some(role.arn.to_owned());
        let session = session_name(query)?;
        trail.details.push(("session_name", session.to_owned()));
        let (policies, tags) = (policies(query, role.account)?, tags(query)?);
        duration(query, ROLE_SECONDS_DEFAULT, ROLE_SECONDS_MAX)?;
        Ok(Self { role, session, policies, tags, source_identity: source_identity(query)?.map(Into::into) })
    }

    /// A chain of roles hands on its transitive tags and its source identity; neither can be changed on the way.
    fn inherit(&mut self, claims: &SessionClaims, caller: &Caller) -> Result<(), Refusal> {
        for key in &claims.transitive {
            if self.tags.tags.keys().any(|tag| tag.eq_ignore_ascii_case(key)) {
                return Err(invalid("a tag is inherited from the calling session and cannot be set anew"));
            }
            if let Some(value) = claims.tags.get(key) {
                self.tags.tags.insert(key.clone(), value.clone());
                self.tags.transitive.push(key.clone());
            }
        }
        if let Some(inherited) = &claims.source_identity {
            if self.source_identity.as_ref().is_some_and(|asked| asked != inherited) {
                let told = denied(&caller.principal.arn(), "SetSourceIdentity", self.role.arn);
                return Err(told.because("the source identity of a session cannot be changed"));
            }
            self.source_identity = Some(inherited.clone());
        }
        Ok(())
    }

    /// The condition keys of the request itself (AWS: keys of `sts`, and `aws:RequestTag`).
    pub fn keys(&self) -> Keys {
        let mut keys = Keys::new();
        keys.set("sts:RoleSessionName", self.session);
        if let Some(identity) = &self.source_identity {
            keys.set("sts:SourceIdentity", identity.clone());
        }
        if !self.tags.tags.is_empty() {
            keys.put("aws:TagKeys", KeyValue::Many(self.tags.tags.keys().cloned().collect()));
        }
        if !self.tags.transitive.is_empty() {
            keys.put("sts:TransitiveTagKeys", KeyValue::Many(self.tags.transitive.clone().into()));
        }
        for (tag, value) in &self.tags.tags {
            keys.set(&format!("aws:RequestTag/{tag}"), value.clone());
        }
        keys
    }

    /// Judges the trust policy and the caller's own; gives the role's tenant. Why not is for the audit log.
    pub fn judge(
        &self,
        broker: &Broker,
        assumer: Assumer<'_>,
        action: &str,
        keys: Keys,
        source: SocketAddr,
        trail: &mut Trail,
    ) -> Result<TenantId, String> {
        let mut actions = vec![action];
        if !self.tags.tags.is_empty() {
            actions.push("sts:TagSession");
        }
        if let Some(identity) = &self.source_identity {
            actions.push("sts:SetSourceIdentity");
            trail.details.push(("source_identity", identity.to_string()));
        }
        let context = RequestContext::connection(keys, source.ip(), broker.clock.now_ms());
        let (account, role) = (self.role.account, self.role.name);
        let organisation = broker.tenancy.policies().organisation();
        if organisation.tenant(account).is_some_and(schloss_authz::Tenant::is_suspended) {
            return Err("the role's tenant is suspended".to_owned());
        }
        let request = RoleRequest { assumer, account, role, actions: &actions, context };
        let decision = broker.tenancy.policies().judge_assumption(&request).map_err(|refused| match refused {
            AssumeRefused::Denied { action, decision } => format!("{action}: {}", reason(&decision)),
            other => other.to_string(),
        })?;
        trail.details.push(("statement", decision.decisive.first().map(ToString::to_string).unwrap_or_default()));
        let tenant = TenantId::new(account.number()).ok_or("the account is no tenant")?;
        // The role's own tenant reads of it in its log, too.
        if !trail.tenants.contains(&tenant) {
            trail.tenants.push(tenant);
        }
        Ok(tenant)
    }

    /// The length of the session, by what was asked and what the role allows.
    pub fn seconds(&self, broker: &Broker, query: &Query, chained: bool) -> Result<i64, Refusal> {
        let organisation = broker.tenancy.policies().organisation();
        let of_role =
            organisation.tenant(self.role.account).and_then(|tenant| tenant.session_seconds_max(self.role.name));
        let of_role = of_role.unwrap_or(ROLE_SECONDS_DEFAULT);
        let seconds = duration(query, ROLE_SECONDS_DEFAULT, ROLE_SECONDS_MAX)?;
        if seconds > of_role {
            return Err(invalid("The requested DurationSeconds exceeds the MaxSessionDuration set for this role."));
        }
        if chained && seconds > CHAINED_SECONDS_MAX {
            return Err(invalid(
                "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining",
            ));
        }
        for name in &self.policies.named {
            let tenant = organisation.tenant(self.role.account);
            if tenant.is_none_or(|tenant| !tenant.has_policy(name)) {
                return Err(invalid("PolicyArns names a policy that the role's account does not have"));
            }
        }
        Ok(seconds)
    }

    pub fn claims(&self, issued_ms: i64, seconds: i64) -> SessionClaims {
        let mut claims =
            SessionClaims::new(self.role.name, issued_ms, issued_ms.saturating_add(seconds.saturating_mul(1_000)));
        claims.session = Some(self.session.into());
        claims.policies.clone_from(&self.policies.inline);
        claims.named.clone_from(&self.policies.named);
        claims.tags.clone_from(&self.tags.tags);
        claims.transitive.clone_from(&self.tags.transitive);
        claims.source_identity.clone_from(&self.source_identity);
        claims
    }
}

/// Makes the session and writes what every AssumeRole answers.
pub(super) fn issue(
    broker: &Broker,
    tenant: TenantId,
    wish: &Wish<'_>,
    claims: SessionClaims,
    trail: &mut Trail,
) -> Result<Elements, Refusal> {
    let (packed, expires_ms, identity) = (claims.packed_percent(), claims.expires_ms, claims.source_identity.clone());
    let organisation = broker.tenancy.policies().organisation();
    let principal = organisation.tenant(wish.role.account).and_then(|tenant| tenant.role(wish.role.name, wish.session));
    let principal = principal.ok_or_else(|| denied("", "AssumeRole", wish.role.arn))?;
    let session = broker.credentials.new_session(tenant, claims).map_err(not_made)?;
    trail.details.push(("issued_access_key_id", session.access_key_id.to_string()));
    let user = Elements::default()
        .text("AssumedRoleId", format!("{}:{}", wish.role.name, wish.session))
        .text("Arn", principal.arn());
    Ok(Elements::default()
        .inside("Credentials", credentials(&session, expires_ms))
        .inside("AssumedRoleUser", user)
        .text("PackedPolicySize", packed)
        .maybe("SourceIdentity", identity))
}

fn credentials(session: &NewSession, expires_ms: i64) -> Elements {
    Elements::default()
        .text("AccessKeyId", &session.access_key_id)
        .text("SecretAccessKey", session.secret.expose())
        .text("SessionToken", session.token.expose())
        .text("Expiration", rfc3339(expires_ms))
}

/// AWS's words; the same whether a policy refused, the role has no trust policy, or there is no such role.
pub(super) fn denied(caller: &str, action: &str, role: &str) -> Refusal {
    let told = format!("User: {caller} is not authorized to perform: sts:{action} on resource: {role}");
    Refusal::new(Code::AccessDenied, "trust policy", told)
}

fn not_made(error: CredentialError) -> Refusal {
    match error {
        CredentialError::Quota { .. } => Refusal::new(
            Code::PackedPolicyTooLarge,
            "size of the token",
            "Packed size of session policies and tags exceeds the limit",
        ),
        error => {
            Refusal::new(Code::InternalFailure, "session", "The session could not be made; try again").because(error)
        }
    }
}
