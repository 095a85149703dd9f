//! A secret for every name that nobody has, the same for ever: what makes unknown SCRAM users look like known ones.

use schloss_core::TenantId;
use schloss_crypto::{ScramMechanism, digest};

use super::Credentials;

/// Apart from every other use of a tenant's index key.
const KIND: u8 = 0x4e;

impl Credentials {
    /// A keyed hash of a name under a key that outlives restarts and is the same on every broker: one made from the
    /// tenant's index key, or that of the tenant with the lowest number for names of no tenant.
    #[must_use]
    pub fn secret_of_name(&self, tenant: Option<TenantId>, mechanism: ScramMechanism, name: &str) -> [u8; 32] {
        let text = format!("{}/{name}", mechanism.name());
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
}
