//! The keys that recovery needs, asked for before it needs them: many at once, and one that hangs holds nobody else.
//!
//! In: tenants of state rows, sections of log entries. Out: opened keys, and which tenants to leave sealed.
//!
//! Invariants
//! - A tenant whose key was refused, or gave no answer within [`PATIENCE`], is not asked about again during this recovery.
//! - Only refusals and outages end here; what is damaged is found, and told, by recovery itself.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use schloss_core::{ClusterId, TenantId};
use schloss_crypto::{EntryId, KeyError, KeyVault, Outage, WalKeys};

use crate::error::OpenError;
use crate::keys::RowKeys;
use crate::locked;
use crate::patience::until_quiet;
use crate::wal::entry::Section;

/// Keys asked for at once: far below KMS quotas, far above what one after the other would do.
const AT_ONCE: usize = 32;
/// A KMS answers in some ten milliseconds; who has not in this time is opened later, in the background.
const PATIENCE: Duration = Duration::from_secs(1);

/// A key of the log: its tenant and its wrapped form.
pub type SectionKey = (TenantId, Vec<u8>);

/// See the head of this file. One for all shards of a start.
#[derive(Default)]
pub struct EarlyKeys {
    away: Mutex<HashMap<TenantId, KeyError>>,
}

impl EarlyKeys {
    /// Why a tenant is to be left sealed, if it is.
    pub fn away(&self, tenant: TenantId) -> Option<KeyError> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner).get(&tenant).cloned()
    }

    fn leave(&self, tenant: TenantId, why: KeyError) {
        self.away.lock().unwrap_or_else(PoisonError::into_inner).entry(tenant).or_insert(why);
    }

    fn leave_unanswered(&self, tenants: impl IntoIterator<Item = TenantId>) {
        for tenant in tenants {
            let key_ref = format!("of tenant {tenant}");
            self.leave(tenant, KeyError::Unreachable { key_ref, why: Outage::NoAnswer });
        }
    }

    /// Opens the row keys of these tenants; they stay with `rows`.
    pub async fn open_row_keys(&self, tenants: impl Iterator<Item = TenantId>, rows: &Arc<RowKeys>) {
        let mut wanted: HashSet<TenantId> = tenants.filter(|tenant| self.away(*tenant).is_none()).collect();
        let asked = wanted.clone().into_iter().map(|tenant| {
            let rows = Arc::clone(rows);
            async move { (tenant, rows.get(tenant).await.err()) }
        });
        until_quiet(asked, AT_ONCE, PATIENCE, |(tenant, trouble)| {
            wanted.remove(&tenant);
            if let Some(why) = trouble.as_ref().and_then(locked::key_is_away) {
                self.leave(tenant, why);
            }
        })
        .await;
        self.leave_unanswered(wanted);
    }

    /// Opens the keys of sections, each with its entry's name, that `known` lacks and puts them there.
    pub async fn open_section_keys<'s>(
        &self,
        cluster: ClusterId,
        sections: impl Iterator<Item = (Section<'s>, EntryId)>,
        vault: &Arc<dyn KeyVault>,
        known: &mut HashMap<SectionKey, WalKeys>,
    ) {
        let mut wanted: HashMap<SectionKey, (EntryId, u32)> = HashMap::new();
        for (section, id) in sections {
            let name = (section.tenant, section.wrapped.to_vec());
            if !known.contains_key(&name) && self.away(section.tenant).is_none() {
                wanted.entry(name).or_insert((id, section.generation));
            }
        }
        let asked = wanted.clone().into_iter().map(|(name, (id, generation))| {
            let vault = Arc::clone(vault);
            async move {
                let opened = locked::epoch_key(cluster, name.0, id, generation, &name.1, &*vault).await;
                (name, opened)
            }
        });
        until_quiet(asked, AT_ONCE, PATIENCE, |(name, opened)| {
            wanted.remove(&name);
            match opened {
                Ok(keys) => drop(known.insert(name, keys)),
                Err(OpenError::Key(why @ (KeyError::Denied { .. } | KeyError::Unreachable { .. }))) => {
                    self.leave(name.0, why);
                }
                // Damaged: asked again, and told with its place, when its turn comes.
                Err(_) => {}
            }
        })
        .await;
        self.leave_unanswered(wanted.into_keys().map(|(tenant, _)| tenant));
    }
}
