//! A start without the key service: nothing is served, everybody is told, and it goes on by itself.
//!
//! The audit log's key is the first that is needed, and without an audit log nothing may be done. Until the cluster's KMS key answers,
//! `/livez` is 200, everything else on the admin listener 503 with the reason, and Kafka connections are closed.

use std::sync::Arc;
use std::time::Duration;

use schloss_audit::{AuditConfig, AuditError, AuditLog};
use schloss_certs::ReloadingTls;
use schloss_core::Clock;
use schloss_crypto::KeyError;
use schloss_kms::Vault;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::broker::Listeners;

const TRY_EVERY: Duration = Duration::from_secs(2);
/// One asker of the admin listener, from its handshake to the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// A request for health fits; more is not read.
const REQUEST_BYTES: usize = 1024;

/// Opens the audit log as soon as the cluster's KMS key can be reached. A refusal is no outage: it is returned at once.
pub async fn open_audit(
    config: AuditConfig,
    vault: &Vault,
    clock: &Arc<dyn Clock>,
    listeners: &Listeners,
    tls: &Arc<ReloadingTls>,
) -> Result<Arc<AuditLog>, AuditError> {
    let mut told = false;
    loop {
        match AuditLog::open(config.clone(), vault, Arc::clone(clock)).await {
            Err(AuditError::Key(error @ KeyError::Unreachable { .. })) => {
                if !told {
                    tracing::error!(%error, "the key service gives no answer: nothing is served until it does");
                    eprintln!("schloss waits for the key service and serves nothing yet: {error}");
                    told = true;
                }
                let reason = format!("waiting for the key service: {error}\n");
                tokio::select! {
                    () = tokio::time::sleep(TRY_EVERY) => {}
                    () = tell(&listeners.admin, tls, &reason) => {}
                    _ = futures::future::join_all(listeners.kafka.iter().map(turn_away)) => {}
                }
            }
            other => return other,
        }
    }
}

/// Answers health while the broker waits.
async fn tell(admin: &TcpListener, tls: &Arc<ReloadingTls>, reason: &str) {
    loop {
        let Ok((tcp, _)) = admin.accept().await else { continue };
        let acceptor = TlsAcceptor::from(tls.admin_config());
        let reason = reason.to_owned();
        tokio::spawn(tokio::time::timeout(PATIENCE, async move {
            let mut stream = acceptor.accept(tcp).await.ok()?;
            let mut request = [0; REQUEST_BYTES];
            let read = stream.read(&mut request).await.ok()?;
            let alive = request.get(..read)?.starts_with(b"GET /livez ");
            let (status, body) = if alive { ("200 OK", "ok\n") } else { ("503 Service Unavailable", reason.as_str()) };
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            stream.write_all(head.as_bytes()).await.ok()?;
            stream.write_all(body.as_bytes()).await.ok()?;
            stream.shutdown().await.ok()
        }));
    }
}

/// Kafka clients find a closed connection and try again, as they do with a broker that is not there.
async fn turn_away(kafka: &TcpListener) {
    loop {
        if let Ok((tcp, _)) = kafka.accept().await {
            drop(tcp);
        }
    }
}
