//! One-time tokens: how a tenant's first administrator gets its first access key.
//!
//! The operator makes one for a user of the tenant; whoever holds it turns it into an access key, once, before it
//! expires. Only its digest is stored, sealed.

use schloss_core::TenantId;
use schloss_crypto::{SecretText, digest};
use schloss_metadata::Metadata;
use schloss_storage::TenantKeys;
use serde::{Deserialize, Serialize};

use super::store::{self, CredentialError, Kind};
use super::{Credentials, NewAccessKey};

/// How a token begins, so that scanners for secrets know it.
const PREFIX: &str = "schloss-bootstrap-";

/// A token that was not redeemed yet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Bootstrap {
    digest: String,
    user: Box<str>,
    expires_ms: i64,
}

/// Why a token is not redeemed. Its bearer is told one and the same.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapRefused {
    /// Nobody's, or redeemed already.
    #[error("the token is unknown or was redeemed already")]
    Unknown,
    /// Too late.
    #[error("the token has expired")]
    Expired,
    /// The key could not be made.
    #[error(transparent)]
    Credential(#[from] CredentialError),
}

fn digest_of(token: &str) -> String {
    store::hex(&digest::sha256(token.as_bytes()))
}

pub(super) async fn read(
    metadata: &dyn Metadata,
    tenant: TenantId,
    keys: &TenantKeys,
) -> Result<Vec<(Box<str>, (TenantId, Bootstrap))>, CredentialError> {
    let rows: Vec<Bootstrap> = store::read(metadata, tenant, keys, Kind::Bootstrap).await?;
    Ok(rows.into_iter().map(|row| (row.digest.as_str().into(), (tenant, row))).collect())
}

impl Credentials {
    /// Makes a token for a user, who the caller knows to exist.
    ///
    /// # Errors
    /// The store's.
    pub async fn create_bootstrap_token(
        &self,
        tenant: TenantId,
        user: &str,
        expires_ms: i64,
    ) -> Result<SecretText, CredentialError> {
        let _one = self.changing.lock().await;
        let token = SecretText::new(format!("{PREFIX}{}", SecretText::generate().expose()));
        let bootstrap = Bootstrap { digest: digest_of(token.expose()), user: user.into(), expires_ms };
        let row = store::row(tenant, &self.keys(tenant).await?, Kind::Bootstrap, &bootstrap.digest, &bootstrap)?;
        self.metadata.put_sealed(vec![row]).await?;
        let digest: Box<str> = bootstrap.digest.as_str().into();
        self.change(|maps| drop(maps.bootstraps.insert(digest, (tenant, bootstrap))));
        Ok(token)
    }

    /// Turns a token into an access key of its user. The token is gone before the key is made: a failure in between
    /// costs a new token, never a second key.
    ///
    /// # Errors
    /// [`BootstrapRefused`].
    pub async fn redeem(&self, token: &str) -> Result<(TenantId, Box<str>, NewAccessKey), BootstrapRefused> {
        let digest = digest_of(token);
        let (tenant, bootstrap) = {
            let _one = self.changing.lock().await;
            let found = self.look(|maps| maps.bootstraps.get(digest.as_str()).cloned());
            let (tenant, bootstrap) = found.ok_or(BootstrapRefused::Unknown)?;
            let row = store::removal(tenant, &self.keys(tenant).await?, Kind::Bootstrap, &digest);
            self.metadata.put_sealed(vec![row]).await.map_err(CredentialError::from)?;
            self.change(|maps| drop(maps.bootstraps.remove(digest.as_str())));
            (tenant, bootstrap)
        };
        if self.clock.now_ms() >= bootstrap.expires_ms {
            return Err(BootstrapRefused::Expired);
        }
        let key = self.create_access_key(tenant, &bootstrap.user).await?;
        Ok((tenant, bootstrap.user, key))
    }
}
