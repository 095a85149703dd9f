//! The order in which AWS evaluates policies.
//!
//! 1 an explicit Deny anywhere; 2 resource control policies; 3 guardrails, each level; 4 the resource's policy;
//! 5 identity policies; 6 the permission boundary; 7 the session policy. Across accounts both sides must allow.
//!
//! In: the layers that bind to a caller and a question. Out: denying statements, or what grants, or what is lacking.
//!
//! Invariants
//! - Candidates of a known action are found by its bit: statements about other actions cost nothing.
//! - A layer that does not exist limits nothing; a layer that exists and is silent denies.

use std::sync::Arc;

use crate::action::{self, Action, ActionName};
use crate::arn::ResourceName;
use crate::decision::{Layer, StatementRef};
use crate::policy::{Attached, Document, Effect, Fit, Question, Statement};

/// Every policy that has a say, by layer.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// Identity policies.
    pub identity: Vec<Attached>,
    /// The permission boundary; empty when there is none.
    pub boundary: Vec<Attached>,
    /// Session policies; empty when there are none.
    pub session: Vec<Attached>,
    /// Guardrails, level by level, the root's first.
    pub guardrails: Vec<Vec<Attached>>,
    /// Resource control policies, level by level.
    pub resource_controls: Vec<Vec<Attached>>,
    /// The resource's policies; empty when there are none.
    pub resource: Vec<Attached>,
}

impl Layers {
    /// The same layers with shadow versions in the place of the ones in force; `None` when there are none.
    pub(crate) fn shadowed(&self) -> Option<Self> {
        let mut any = false;
        let mut replace = |policies: &[Attached]| -> Vec<Attached> {
            let one = |policy: &Attached| match &policy.document.shadow {
                Some(shadow) => {
                    any = true;
                    Attached { name: format!("{} (shadow)", policy.name).into(), document: Arc::clone(shadow) }
                }
                None => policy.clone(),
            };
            policies.iter().map(one).collect()
        };
        let shadowed = Self {
            identity: replace(&self.identity),
            boundary: replace(&self.boundary),
            session: replace(&self.session),
            guardrails: self.guardrails.iter().map(|level| replace(level)).collect(),
            resource_controls: self.resource_controls.iter().map(|level| replace(level)).collect(),
            resource: replace(&self.resource),
        };
        any.then_some(shadowed)
    }
}

/// One statement under its layer and policy.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub layer: Layer,
    pub policy: Arc<str>,
    document: Arc<Document>,
    pub index: u32,
}

impl Candidate {
    pub fn statement(&self) -> Option<&Statement> {
        self.document.statements.get(usize::try_from(self.index).ok()?)
    }

    pub fn reference(&self) -> StatementRef {
        let sid = self.statement().and_then(Statement::sid).map(Into::into);
        StatementRef { layer: self.layer, policy: Arc::clone(&self.policy), sid, index: self.index }
    }
}

/// Layers, indexed by action.
#[derive(Debug)]
pub(crate) struct CompiledSet {
    pub candidates: Vec<Candidate>,
    /// By [`Action::index`]; one more for actions that are not ours, which get all.
    denies: Box<[Box<[u32]>]>,
    allows: Box<[Box<[u32]>]>,
    pub has_boundary: bool,
    has_session: bool,
    has_resource: bool,
    guardrail_levels: usize,
    /// Per level whether it restricts: one that holds only Denies stands beside AWS's full-access default.
    control_levels: Box<[bool]>,
}

impl CompiledSet {
    pub fn new(layers: &Layers) -> Self {
        let mut candidates = Vec::new();
        let mut add = |layer: Layer, policies: &[Attached]| {
            for policy in policies {
                for index in 0..policy.document.statements.len() {
                    let index = u32::try_from(index).unwrap_or(u32::MAX);
                    let (name, document) = (Arc::clone(&policy.name), Arc::clone(&policy.document));
                    candidates.push(Candidate { layer, policy: name, document, index });
                }
            }
        };
        add(Layer::Identity, &layers.identity);
        add(Layer::Boundary, &layers.boundary);
        add(Layer::Session, &layers.session);
        add(Layer::Resource, &layers.resource);
        for (level, policies) in (0..).zip(&layers.guardrails) {
            add(Layer::Guardrail(level), policies);
        }
        for (level, policies) in (0..).zip(&layers.resource_controls) {
            add(Layer::ResourceControl(level), policies);
        }
        let allows = |p: &Attached| p.document.statements.iter().any(|s| s.effect == Effect::Allow);
        Self {
            denies: index(&candidates, Effect::Deny),
            allows: index(&candidates, Effect::Allow),
            has_boundary: !layers.boundary.is_empty(),
            has_session: !layers.session.is_empty(),
            has_resource: !layers.resource.is_empty(),
            guardrail_levels: layers.guardrails.len(),
            control_levels: layers.resource_controls.iter().map(|level| level.iter().any(allows)).collect(),
            candidates,
        }
    }

    /// The statements of an effect that name the action.
    pub fn rows(&self, effect: Effect, known: Option<Action>) -> impl Iterator<Item = (u32, &Candidate, &Statement)> {
        let lists = if effect == Effect::Deny { &self.denies } else { &self.allows };
        let rows = lists.get(known.map_or(action::COUNT, Action::index)).map_or(&[][..], |list| &**list);
        rows.iter().filter_map(|&row| {
            let candidate = self.candidates.get(usize::try_from(row).ok()?)?;
            Some((row, candidate, candidate.statement()?))
        })
    }

    /// Every denying statement.
    pub fn denying(&self, question: &Question<'_>) -> Vec<u32> {
        let rows = self.rows(Effect::Deny, question.action.known);
        // Guardrails hold for principals of the organisation's accounts; nobody and services are none.
        let guarded = !question.caller.is_anonymous() && !question.caller.is_service();
        let rows = rows.filter(|(_, c, _)| guarded || !matches!(c.layer, Layer::Guardrail(_)));
        rows.filter(|(_, _, s)| s.matches(question).is_some()).map(|(row, _, _)| row).collect()
    }

    /// The statements that grant, one per layer needed; or the first layer that lacks one.
    pub fn granting(&self, question: &Question<'_>, sides: &Sides<'_>) -> Result<Vec<u32>, Layer> {
        let grants = self.grants(question);
        let caller = question.caller;
        let mut used = Vec::with_capacity(4);
        for (level, (grant, restricts)) in (0..).zip(grants.controls.iter().zip(&self.control_levels)) {
            match grant {
                Some(row) => used.push(*row),
                None if *restricts => return Err(Layer::ResourceControl(level)),
                None => {}
            }
        }
        if caller.is_anonymous() || caller.is_service() {
            // Neither has policies of its own; guardrails do not hold for them.
            return match grants.resource_direct {
                Some((Fit::Direct, row)) => Ok(with(used, [Some(row)])),
                _ => Err(Layer::Resource),
            };
        }
        for (level, grant) in (0..).zip(&grants.guardrails) {
            used.push(grant.ok_or(Layer::Guardrail(level))?);
        }
        let session = if self.has_session { Some(grants.session.ok_or(Layer::Session)) } else { None };
        let boundary = if self.has_boundary { Some(grants.boundary.ok_or(Layer::Boundary)) } else { None };
        if caller.account.as_deref() != sides.resource_account {
            let resource = grants.resource_direct.map(|(_, row)| row).or(grants.resource_account);
            let rows = [Some(resource.ok_or(Layer::Resource)?), Some(grants.identity.ok_or(Layer::Identity)?)];
            return Ok(with(with(used, rows), [boundary.transpose()?, session.transpose()?]));
        }
        // A grant to the caller itself reaches past the boundary's silence, not past the session's.
        if let Some((Fit::Direct, row)) = grants.resource_direct {
            return Ok(with(used, [Some(row), session.transpose()?]));
        }
        let asks = match sides.delegation {
            Delegation::Implied => false,
            Delegation::IfPolicy => self.has_resource,
            Delegation::Always => true,
        };
        let delegated = if asks { Some(grants.resource_account.ok_or(Layer::Resource)) } else { None };
        let core = match (grants.identity, grants.resource_direct) {
            (Some(row), None) => [Some(row), delegated.transpose()?],
            (_, Some((_, row))) => [Some(row), None],
            (None, None) => return Err(Layer::Identity),
        };
        Ok(with(with(used, core), [boundary.transpose()?, session.transpose()?]))
    }

    fn grants(&self, question: &Question<'_>) -> Grants {
        let mut grants = Grants {
            guardrails: vec![None; self.guardrail_levels],
            controls: vec![None; self.control_levels.len()],
            ..Grants::default()
        };
        for (row, candidate, statement) in self.rows(Effect::Allow, question.action.known) {
            let slot = match candidate.layer {
                Layer::Identity => &mut grants.identity,
                Layer::Boundary => &mut grants.boundary,
                Layer::Session => &mut grants.session,
                Layer::Guardrail(level) => match grants.guardrails.get_mut(usize::from(level)) {
                    Some(slot) => slot,
                    None => continue,
                },
                Layer::ResourceControl(level) => match grants.controls.get_mut(usize::from(level)) {
                    Some(slot) => slot,
                    None => continue,
                },
                Layer::Resource => {
                    match statement.matches(question) {
                        Some(Fit::Account) => grants.resource_account = grants.resource_account.or(Some(row)),
                        Some(fit) if grants.resource_direct.is_none_or(|(best, _)| fit > best) => {
                            grants.resource_direct = Some((fit, row));
                        }
                        _ => {}
                    }
                    continue;
                }
            };
            if slot.is_none() && statement.matches(question).is_some() {
                *slot = Some(row);
            }
        }
        grants
    }
}

/// Facts of the two accounts that the order depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sides<'a> {
    /// The account that owns the resource.
    pub resource_account: Option<&'a str>,
    /// Whether the resource's own policy must let its account's identity policies decide.
    pub delegation: Delegation,
}

/// Whether a resource trusts its own account's identity policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delegation {
    /// As nearly everywhere.
    Implied,
    /// Only as its policy says, when it has one: roles and their trust policies.
    IfPolicy,
    /// Only as its policy says: KMS keys.
    Always,
}

impl Delegation {
    /// The rule of the action's service.
    pub fn of(action: ActionName<'_>, resource: ResourceName<'_>) -> Self {
        match action.service {
            "kms" if resource.rest.starts_with("key/") => Self::Always,
            "sts" => Self::IfPolicy,
            _ => Self::Implied,
        }
    }
}

#[derive(Default)]
struct Grants {
    identity: Option<u32>,
    boundary: Option<u32>,
    session: Option<u32>,
    guardrails: Vec<Option<u32>>,
    controls: Vec<Option<u32>>,
    resource_direct: Option<(Fit, u32)>,
    resource_account: Option<u32>,
}

fn with<const N: usize>(mut used: Vec<u32>, more: [Option<u32>; N]) -> Vec<u32> {
    used.extend(more.into_iter().flatten());
    used
}

fn index(candidates: &[Candidate], effect: Effect) -> Box<[Box<[u32]>]> {
    let of = |mask: u32| -> Box<[u32]> {
        let fits = |c: &Candidate| c.statement().is_some_and(|s| s.effect == effect && s.mask & mask != 0);
        (0..).zip(candidates).filter(|(_, c)| fits(c)).map(|(row, _)| row).collect()
    };
    let all = (0..).zip(candidates).filter(|(_, c)| c.statement().is_some_and(|s| s.effect == effect));
    let all: Box<[u32]> = all.map(|(row, _)| row).collect();
    Action::ALL.iter().map(|a| of(a.bit())).chain([all]).collect()
}
