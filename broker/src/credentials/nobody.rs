//! What a name that nobody has looks like to who asks for it: a salt and iterations, the same for ever, of the kind that
//! the tenant's real users have.
//!
//! Clients choose their own salts (AlterUserScramCredentials): Kafka's tools send some 26 letters and digits, librdkafka 64
//! bytes, `schloss iam` makes 16. A false salt of another kind than all real ones would tell that nobody is there.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use schloss_core::TenantId;
use schloss_crypto::{ScramMechanism, digest};

use super::Credentials;

/// Apart from every other use of a tenant's index key.
const KIND: u8 = 0x4e;
/// Of users that `schloss iam` makes, and of a tenant without any.
const DEFAULT: Form = Form { is_base36: false, bytes: 16, iterations: 8_192 };
/// Of delegation tokens, all of them.
const TOKEN: Form = Form { is_base36: false, bytes: 16, iterations: 4_096 };
const BASE36: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// One kind of salt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Form {
    is_base36: bool,
    bytes: usize,
    iterations: u32,
}

/// The kinds a tenant has, as of a version of the store.
pub(super) type Forms = std::collections::HashMap<(TenantId, ScramMechanism), (u64, Arc<[Form]>)>;

/// What is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// The salt.
    pub salt: Vec<u8>,
    /// The iterations.
    pub iterations: u32,
}

impl Credentials {
    /// What a user that does not exist looks like.
    #[must_use]
    pub fn look_of_nobody(&self, tenant: Option<TenantId>, mechanism: ScramMechanism, name: &str) -> Look {
        let forms = tenant.map(|tenant| self.forms(tenant, mechanism));
        let forms = forms.as_deref().filter(|forms| !forms.is_empty()).unwrap_or(&[DEFAULT]);
        let choice = usize::from(self.secret_of_name(tenant, mechanism, "kind", name)[0]);
        let form = forms.get(choice % forms.len()).copied().unwrap_or(DEFAULT);
        self.dressed(tenant, mechanism, name, form)
    }

    /// What a delegation token that does not exist looks like.
    #[must_use]
    pub fn look_of_no_token(&self, tenant: Option<TenantId>, mechanism: ScramMechanism, name: &str) -> Look {
        self.dressed(tenant, mechanism, name, TOKEN)
    }

    fn dressed(&self, tenant: Option<TenantId>, mechanism: ScramMechanism, name: &str, form: Form) -> Look {
        let blocks = form.bytes.div_ceil(32);
        let mut salt: Vec<u8> = (0..blocks)
            .flat_map(|block| self.secret_of_name(tenant, mechanism, &format!("salt {block}"), name))
            .take(form.bytes)
            .collect();
        if form.is_base36 {
            for byte in &mut salt {
                *byte = BASE36.get(usize::from(*byte) % BASE36.len()).copied().unwrap_or(b'0');
            }
        }
        Look { salt, iterations: form.iterations }
    }

    /// A keyed hash under a key that outlives restarts and is the same on every broker: one made from the tenant's index key,
    /// or that of the tenant with the lowest number for names of no tenant.
    fn secret_of_name(&self, tenant: Option<TenantId>, mechanism: ScramMechanism, what: &str, name: &str) -> [u8; 32] {
        let text = format!("{}/{what}/{name}", mechanism.name());
        self.look(|maps| {
            let own = tenant.and_then(|tenant| maps.secrets.get(&tenant));
            let secrets = own.or_else(|| maps.secrets.iter().min_by_key(|(id, _)| **id).map(|(_, secrets)| secrets));
            match secrets {
                Some(secrets) => secrets.nobody.bytes_index(KIND, text.as_bytes()),
                // No tenant is open: nobody can log in, and there is nothing to hide.
                None => digest::sha256(text.as_bytes()),
            }
        })
    }

    /// The kinds of salt that a tenant's users have, sorted; gathered anew when credentials change.
    fn forms(&self, tenant: TenantId, mechanism: ScramMechanism) -> Arc<[Form]> {
        let version = *self.changes.borrow();
        let mut kept = self.forms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, forms)) = kept.get(&(tenant, mechanism))
            && *of == version
        {
            return Arc::clone(forms);
        }
        let forms: BTreeSet<Form> = self.look(|maps| {
            let own = maps.scram.iter().filter(|((owner, of, _), _)| *owner == tenant && *of == mechanism);
            own.map(|(_, stored)| form_of(stored.verifier.salt(), stored.verifier.iterations())).collect()
        });
        let forms: Arc<[Form]> = forms.into_iter().collect();
        kept.insert((tenant, mechanism), (version, Arc::clone(&forms)));
        forms
    }
}

fn form_of(salt: &[u8], iterations: u32) -> Form {
    let is_base36 = salt.iter().all(|byte| BASE36.contains(byte));
    Form { is_base36, bytes: salt.len(), iterations }
}
