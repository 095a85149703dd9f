//! The decisions a connection has met already.
//!
//! Keys are compared in full; a hash alone never answers. (Whoever may choose names may search for collisions.)
//!
//! Invariants
//! - At most `2 × GENERATION_ENTRIES` decisions: when the young generation is full it becomes the old one, the old one goes.
//! - Holds for one set of connection keys: another `Arc` of keys empties it.
//! - A decision that depends on time is answered only between the moment it was made and `valid_until_ms`.

use std::collections::HashMap;
use std::sync::Arc;

use crate::action::{self, Action};
use crate::arn::{ResourceKind, ResourceRef};
use crate::context::{Keys, RequestContext};
use crate::decision::Decision;

#[derive(Debug, Default)]
pub(crate) struct DecisionCache {
    keys: Option<Arc<Keys>>,
    young: Generation,
    old: Generation,
    entries: usize,
}

/// Names by action and kind; the name itself is the key of the inner map.
#[derive(Debug, Default)]
struct Generation(Vec<HashMap<Box<str>, Entry>>);

#[derive(Clone, Debug)]
struct Entry {
    decision: Decision,
    made_ms: Option<i64>,
}

impl DecisionCache {
    /// The decision, when it is known and still holds.
    pub fn look_up(&mut self, action: Action, resource: ResourceRef<'_>, context: &RequestContext) -> Option<Decision> {
        if !self.keys.as_ref().is_some_and(|keys| Arc::ptr_eq(keys, &context.keys)) {
            *self = Self { keys: Some(Arc::clone(&context.keys)), ..Self::default() };
            return None;
        }
        let slot = slot(action, resource.kind);
        if let Some(entry) = self.young.0.get(slot).and_then(|names| names.get(resource.name)) {
            return entry.holds(context).then(|| entry.decision.clone());
        }
        let entry = self.old.0.get_mut(slot).and_then(|names| names.remove(resource.name))?;
        if !entry.holds(context) {
            return None;
        }
        let decision = entry.decision.clone();
        self.put(slot, resource.name, entry);
        Some(decision)
    }

    /// Remembers a decision.
    pub fn insert(&mut self, action: Action, resource: ResourceRef<'_>, context: &RequestContext, decision: &Decision) {
        if resource.name.len() > NAME_BYTES_MAX {
            return;
        }
        let entry = Entry { decision: decision.clone(), made_ms: context.now_ms };
        self.put(slot(action, resource.kind), resource.name, entry);
    }

    fn put(&mut self, slot: usize, name: &str, entry: Entry) {
        if self.entries >= GENERATION_ENTRIES {
            self.old = std::mem::take(&mut self.young);
            self.entries = 0;
        }
        if self.young.0.is_empty() {
            self.young.0.resize_with(SLOTS, HashMap::new);
        }
        if let Some(names) = self.young.0.get_mut(slot)
            && names.insert(name.into(), entry).is_none()
        {
            self.entries = self.entries.saturating_add(1);
        }
    }
}

impl Entry {
    fn holds(&self, context: &RequestContext) -> bool {
        match (self.decision.valid_until_ms, self.made_ms, context.now_ms) {
            (None, _, _) => true,
            (Some(until), Some(made), Some(now)) => made <= now && now < until,
            (Some(_), _, _) => false,
        }
    }
}

fn slot(action: Action, kind: ResourceKind) -> usize {
    action.index().saturating_mul(ResourceKind::ALL.len()).saturating_add(kind as usize)
}

/// Two of these are 4,096 decisions, about 0.5 MB at worst for a connection that names that many things.
const GENERATION_ENTRIES: usize = 2_048;
/// Topics have at most 249 bytes; longer group ids are judged anew each time rather than kept.
const NAME_BYTES_MAX: usize = 256;
const SLOTS: usize = action::COUNT * ResourceKind::ALL.len();
