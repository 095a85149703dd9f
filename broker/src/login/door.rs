//! What a connection shows before it says a word: its listener, the name it dialled, its certificate.

use std::net::SocketAddr;

use schloss_certs::ClientIdentity;
use schloss_core::TenantId;
use tokio_rustls::rustls::ServerConnection;

use super::{Failed, Refused, Told, request_name};
use crate::broker::Broker;
use crate::config::{Advertised, ClientAuth, Listener};
use crate::tenancy::tenant_id;

/// The facts, fixed for the connection's life.
pub struct Door {
    /// Where the client connects from.
    pub source: SocketAddr,
    /// The listener it came to.
    pub listener: Listener,
    /// The tenant whose own host name was dialled (SNI).
    pub host_tenant: Option<TenantId>,
    /// The certificate, when one was shown; some tenant's CA vouches for it.
    pub certificate: Option<ClientIdentity>,
    /// The tenant whose CA that is.
    pub certificate_tenant: Option<TenantId>,
    /// Host and port told to this client: the name it dialled when that is its tenant's own.
    pub advertised: Advertised,
    /// `1.3` or `1.2`.
    pub tls_version: &'static str,
}

impl Door {
    /// The tenant that host name or certificate speak for.
    #[must_use]
    pub fn tenant_named(&self) -> Option<TenantId> {
        self.certificate_tenant.or(self.host_tenant)
    }

    /// Whether the certificate by itself may be a login here.
    #[must_use]
    pub fn takes_certificates(&self) -> bool {
        self.certificate.is_some() && self.listener.client_auth != ClientAuth::None
    }
}

impl Broker {
    /// Reads what a fresh TLS connection shows.
    ///
    /// # Errors
    /// [`Refused`] when certificate and dialled name are of two tenants, or the certificate is nobody's any more.
    pub async fn door(&self, tls: &ServerConnection, source: SocketAddr, listener: &Listener) -> Result<Door, Refused> {
        let organisation = self.tenancy.policies().organisation();
        let named = tls.server_name().and_then(|name| Some((name, organisation.tenant_by_host(name)?)));
        let advertised = match named {
            Some((name, _)) => Advertised { host: name.to_owned(), port: listener.advertised.port },
            None => listener.advertised.clone(),
        };
        let mut door = Door {
            source,
            listener: listener.clone(),
            host_tenant: named.and_then(|(_, tenant)| tenant_id(tenant)),
            certificate: None,
            certificate_tenant: None,
            advertised,
            tls_version: match tls.protocol_version() {
                Some(tokio_rustls::rustls::ProtocolVersion::TLSv1_2) => "1.2",
                _ => "1.3",
            },
        };
        if tls.peer_certificates().is_none_or(<[_]>::is_empty) {
            return Ok(door);
        }
        let refused = |why: &dyn std::fmt::Display| Failed::at("certificate", why, Told::AccessDenied);
        let identity = match self.tls.client_identity(tls) {
            Ok(identity) => identity,
            Err(error) => return Err(self.refuse(&door, &request_name(), refused(&error)).await),
        };
        let tenant = organisation.tenants().find(|tenant| tenant.alias() == identity.tenant).and_then(tenant_id);
        door.certificate = Some(identity);
        door.certificate_tenant = tenant;
        let failed = match (tenant, door.host_tenant) {
            (None, _) => Some(refused(&"the certificate's CA belongs to no tenant")),
            (Some(own), Some(dialled)) if own != dialled => {
                Some(refused(&"the certificate is of another tenant than the host name dialled").of(own))
            }
            _ => None,
        };
        match failed {
            Some(failed) => Err(self.refuse(&door, &request_name(), failed).await),
            None => Ok(door),
        }
    }
}
