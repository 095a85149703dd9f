//! Key sets of identity providers: fetched, kept, renewed.
//!
//! In: an https URL of an issuer's file. Out: its [`KeySet`], or why there is none.
//!
//! Invariants
//! - Only hosts of `sasl.oauthbearer.jwks.allowed.hosts` are asked, by https, at addresses that are public unless the host
//!   is also in `…private.hosts`; link-local addresses (where clouds keep their metadata services) never. The address
//!   that was judged is the one connected to.
//! - Redirects are not followed, answers are bounded in size and time.
//! - Keys that were had stay in use for `…max.stale.ms` while new ones cannot be had.
//! - A stranger's unknown key id causes a fetch at most every [`ASK_AGAIN`].

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use schloss_authn::oauth::jwt::{KeySet, KeySetError};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::config::JwksConfig;

/// Between two fetches of one URL that strangers can cause.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// One fetch, with everything in it.
const FETCH: Duration = Duration::from_secs(5);
/// A set of 64 RSA-4096 keys with certificates fits.
const ANSWER_BYTES_MAX: usize = 512 * 1024;
/// URLs kept. More issuers than this, and the cache starts over.
const SETS_MAX: usize = 10_000;
/// Where systems keep their authorities.
const SYSTEM_AUTHORITIES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Why there are no keys.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JwksError {
    /// Not in the list.
    #[error("the key set's host is not in sasl.oauthbearer.jwks.allowed.hosts")]
    HostNotAllowed,
    /// Not an https URL with a host.
    #[error("the key set's address is no https URL")]
    Url,
    /// Every address of the host is one that must not be asked.
    #[error("the key set's host has no address that may be asked")]
    Address,
    /// No connection, or no TLS.
    #[error("the key set's host cannot be reached: {0}")]
    Unreachable(String),
    /// Other than 200.
    #[error("the key set's host answered {0}")]
    Status(u16),
    /// Longer or slower than allowed.
    #[error("the answer was too long or too slow")]
    TooMuch,
    /// Not a key set.
    #[error(transparent)]
    KeySet(#[from] KeySetError),
    /// Failed a moment ago.
    #[error("the last fetch failed a moment ago: {0}")]
    Lately(Box<JwksError>),
}

/// The room's cache and its means.
pub struct Jwks {
    config: JwksConfig,
    tls: Option<Arc<ClientConfig>>,
    sets: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Kept>>>>,
}

#[derive(Default)]
struct Kept {
    keys: Option<(Arc<KeySet>, Instant)>,
    failed: Option<(JwksError, Instant)>,
}

impl Jwks {
    /// Nothing fetched yet.
    ///
    /// # Errors
    /// When the file of authorities cannot be used.
    pub fn new(config: &JwksConfig) -> Result<Self, String> {
        let tls = if config.allowed_hosts.is_empty() { None } else { Some(trust(config.ca_file.as_deref())?) };
        Ok(Self { config: config.clone(), tls, sets: Mutex::default() })
    }

    /// The keys of a URL; fetched when there are none, when they are old, or when none of them has this id.
    ///
    /// # Errors
    /// [`JwksError`].
    pub async fn keys(&self, url: &str, key_id: Option<&str>) -> Result<Arc<KeySet>, JwksError> {
        let slot = {
            let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
            if sets.len() >= SETS_MAX && !sets.contains_key(url) {
                sets.clear();
            }
            Arc::clone(sets.entry(url.to_owned()).or_default())
        };
        // One fetch of a URL at a time; the others wait for it.
        let mut kept = slot.lock().await;
        if let Some((keys, fetched)) = &kept.keys {
            let young = fetched.elapsed() < self.config.refresh;
            if young && (keys.knows(key_id) || fetched.elapsed() < ASK_AGAIN) {
                return Ok(Arc::clone(keys));
            }
        }
        if let Some((error, at)) = &kept.failed
            && at.elapsed() < ASK_AGAIN
        {
            let error = error.clone();
            return self.old(&kept).ok_or_else(|| JwksError::Lately(Box::new(error)));
        }
        let fetched = match tokio::time::timeout(FETCH, self.fetch(url)).await {
            Ok(fetched) => fetched,
            Err(_elapsed) => Err(JwksError::TooMuch),
        };
        match fetched {
            Ok(keys) => {
                let keys = Arc::new(keys);
                *kept = Kept { keys: Some((Arc::clone(&keys), Instant::now())), failed: None };
                Ok(keys)
            }
            Err(error) => {
                tracing::warn!(%error, "a key set could not be fetched");
                kept.failed = Some((error.clone(), Instant::now()));
                self.old(&kept).ok_or(error)
            }
        }
    }

    fn old(&self, kept: &Kept) -> Option<Arc<KeySet>> {
        let (keys, fetched) = kept.keys.as_ref()?;
        (fetched.elapsed() < self.config.refresh.saturating_add(self.config.stale_max)).then(|| Arc::clone(keys))
    }

    async fn fetch(&self, url: &str) -> Result<KeySet, JwksError> {
        let (host, port, path) = split(url).ok_or(JwksError::Url)?;
        let listed = |list: &[String]| list.iter().any(|known| known.eq_ignore_ascii_case(host));
        let tls = self.tls.as_ref().filter(|_| listed(&self.config.allowed_hosts)).ok_or(JwksError::HostNotAllowed)?;
        let private = listed(&self.config.private_hosts);
        let unreachable = |error: &dyn std::fmt::Display| JwksError::Unreachable(error.to_string());
        let addresses: Vec<SocketAddr> =
            tokio::net::lookup_host((host, port)).await.map_err(|error| unreachable(&error))?.collect();
        let judged: Vec<SocketAddr> =
            addresses.into_iter().filter(|address| may_be_asked(address.ip(), private)).collect();
        if judged.is_empty() {
            return Err(JwksError::Address);
        }
        let tcp = TcpStream::connect(judged.as_slice()).await.map_err(|error| unreachable(&error))?;
        let name = ServerName::try_from(host.to_owned()).map_err(|_| JwksError::Url)?;
        let stream =
            TlsConnector::from(Arc::clone(tls)).connect(name, tcp).await.map_err(|error| unreachable(&error))?;
        get(stream, host, port, path).await
    }
}

async fn get<S>(stream: S, host: &str, port: u16, path: &str) -> Result<KeySet, JwksError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let unreachable = |error: &dyn std::fmt::Display| JwksError::Unreachable(error.to_string());
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(&error))?;
    let connection = AbortOnDrop(tokio::spawn(async move { drop(connection.await) }));
    let authority = if port == 443 { host.to_owned() } else { format!("{host}:{port}") };
    let request = Request::builder()
        .method(Method::GET)
        .uri(path)
        .header("host", authority)
        .header("accept", "application/json")
        .header("connection", "close")
        .body(Body::empty())
        .map_err(|_| JwksError::Url)?;
    let answer = sender.send_request(request).await.map_err(|error| unreachable(&error))?;
    if answer.status() != StatusCode::OK {
        return Err(JwksError::Status(answer.status().as_u16()));
    }
    let body = axum::body::to_bytes(Body::new(answer.into_body()), ANSWER_BYTES_MAX).await;
    drop(connection);
    Ok(KeySet::read(&body.map_err(|_| JwksError::TooMuch)?)?)
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn trust(file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let system = SYSTEM_AUTHORITIES.iter().map(Path::new).find(|path| path.exists());
    let path =
        file.or(system).ok_or("there is no file of authorities; name one with `sasl.oauthbearer.jwks.ca.file`")?;
    let pem = std::fs::read(path).map_err(|error| format!("`{}`: {error}", path.display()))?;
    schloss_certs::server_trust_config(&pem).map_err(|error| format!("`{}`: {error}", path.display()))
}

/// Host, port and path of an https URL.
fn split(url: &str) -> Option<(&str, u16, &str)> {
    let rest = url.strip_prefix("https://")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() { "/" } else { path };
    match authority.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') => Some((host, port.parse().ok()?, path)),
        Some(_) => None,
        None => Some((authority, 443, path)),
    }
    .filter(|(host, _, _)| !host.is_empty() && !host.contains('@'))
}

/// SECURITY: who may write a tenant's files must not reach the broker's own network by them.
fn may_be_asked(address: IpAddr, private_allowed: bool) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            let never =
                v4.is_link_local() || v4.is_multicast() || v4.is_broadcast() || v4.is_unspecified() || first == 0;
            let shared = first == 100 && (64..128).contains(&second);
            let private = v4.is_private() || v4.is_loopback() || shared || first >= 240;
            !never && (private_allowed || !private)
        }
        IpAddr::V6(v6) => {
            let never = v6.is_unicast_link_local() || v6.is_multicast() || v6.is_unspecified();
            let private = v6.is_loopback() || v6.is_unique_local();
            !never && (private_allowed || !private)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_addresses_are_never_asked_and_private_ones_only_when_configured() {
        let asked = |text: &str, private| may_be_asked(text.parse().unwrap(), private);
        for never in
            ["169.254.169.254", "fe80::1", "0.0.0.0", "224.0.0.1", "::", "::ffff:169.254.169.254", "255.255.255.255"]
        {
            assert!(!asked(never, true), "{never}");
        }
        for private in
            ["127.0.0.1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "100.64.0.1", "::1", "fd00::1", "::ffff:10.0.0.1"]
        {
            assert!(!asked(private, false) && asked(private, true), "{private}");
        }
        assert!(asked("93.184.216.34", false) && asked("2606:2800::1", false));
    }

    #[test]
    fn only_https_urls_with_a_host_are_split() {
        assert_eq!(split("https://a.example/keys?x=1"), Some(("a.example", 443, "/keys?x=1")));
        assert_eq!(split("https://a.example:8443"), Some(("a.example", 8443, "/")));
        for url in [
            "http://a.example/",
            "file:///etc/passwd",
            "https://",
            "https://user@a.example/",
            "https://a:b:c/",
            "https://a:x/",
        ] {
            assert_eq!(split(url), None, "{url}");
        }
    }

    #[tokio::test]
    async fn host_outside_the_list_is_not_asked() {
        let config = JwksConfig {
            allowed_hosts: Vec::new(),
            private_hosts: vec!["localhost".into()],
            ca_file: None,
            refresh: Duration::from_secs(1),
            stale_max: Duration::from_secs(1),
        };
        let jwks = Jwks::new(&config).unwrap();
        assert!(matches!(jwks.keys("https://localhost:1/", None).await, Err(JwksError::HostNotAllowed)));
    }
}
