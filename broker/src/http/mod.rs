//! The HTTPS admin listener: liveness, readiness, Prometheus metrics, the digest of the organisation in force, and the
//! operators' door.
//!
//! In: HTTP/1.1 over TLS. Out: figures without tenants' names, for anyone; commands, for operators only ([`operator`]);
//! temporary credentials, for whoever signs ([`crate::sts`]).

pub mod operator;
mod sts;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Extension, Json, Router};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::broker::Broker;

use operator::Peer;

/// Where an admin connection comes from.
#[derive(Clone, Copy, Debug)]
struct Source(SocketAddr);

/// Connections at once: probes, scrapers and operators need few, clients of the STS one each for a moment.
const CONNECTIONS_MAX: usize = 1_024;
const HANDSHAKE: Duration = Duration::from_secs(5);
const HEADER_READ: Duration = Duration::from_secs(10);
const CONNECTION: Duration = Duration::from_secs(300);
/// An operator may watch a long command.
const OPERATOR_CONNECTION: Duration = Duration::from_secs(24 * 3600);

/// Serves until the listener fails or the task is dropped.
pub async fn serve(listener: TcpListener, broker: Arc<Broker>) {
    let router = router(Arc::clone(&broker));
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let (tcp, source): (_, SocketAddr) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "admin listener could not accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let acceptor = TlsAcceptor::from(broker.tls.admin_config());
        let (router, tls) = (router.clone(), Arc::clone(&broker.tls));
        tokio::spawn(async move {
            let _slot = slot;
            let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(tcp)).await else { return };
            let peer = Peer(tls.operator(stream.get_ref().1).map(Into::into));
            let patience = if peer.0.is_some() { OPERATOR_CONNECTION } else { CONNECTION };
            let service = TowerToHyperService::new(router.layer(Extension(peer)).layer(Extension(Source(source))));
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEADER_READ);
            let served = tokio::time::timeout(patience, builder.serve_connection(TokioIo::new(stream), service)).await;
            if let Ok(Err(error)) = served {
                tracing::debug!(%error, "admin connection ended");
            }
        });
    }
}

fn router(broker: Arc<Broker>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/v1/organisation", get(organisation))
        .merge(operator::routes())
        .merge(sts::routes())
        .with_state(broker)
}

async fn ready(State(broker): State<Arc<Broker>>) -> impl IntoResponse {
    match broker.readiness() {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn metrics(State(broker): State<Arc<Broker>>) -> impl IntoResponse {
    broker.read_figures();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], broker.metrics.text())
}

async fn organisation(State(broker): State<Arc<Broker>>) -> impl IntoResponse {
    let (digest, epoch) = broker.tenancy.version();
    Json(serde_json::json!({ "sha256": digest, "epoch": epoch }))
}
