//! HashiCorp Vault's and OpenBao's transit secrets engine behind the [`Kms`] verbs, over their HTTP API.
//!
//! Data keys are made here and wrapped there: `encrypt` binds them to the encryption context as `associated_data`, which the engine's
//! own `datakey` does not take. A key of type `aes256-gcm96` is needed (`vault write -f transit/keys/NAME`).
//! See <https://developer.hashicorp.com/vault/api-docs/secret/transit>.
//!
//! Invariants
//! - TLS, against the CA file of the config; without TLS only to the same machine.
//! - 403 is the key's no only when our own token is still good; else it is an outage, which must not wipe keys.
//!
//! Needs of the token: `update` on `transit/encrypt/NAME` and `transit/decrypt/NAME`, `read` on `transit/keys/NAME`. Not `create`: it would
//! make keys that were deleted.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use schloss_crypto::{DataKey, Denial, EncryptionContext, KeyError, Outage};
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::provider::{KeyState, Kms};

/// Longer answers are none of the transit engine's.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Where the server is.
#[derive(Clone, Debug)]
pub struct TransitConfig {
    /// `https://host:port`; `http://` for a loopback address only.
    pub address: String,
    /// Where the engine is mounted, for example `transit`.
    pub mount: String,
    /// Vault Enterprise's and OpenBao's namespace.
    pub namespace: Option<String>,
    /// A file with the token; read at each call, so that an agent may renew it.
    pub token_file: PathBuf,
    /// The CA of the server, PEM.
    pub ca_file: Option<PathBuf>,
}

/// Why the config cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TransitError {
    /// Not `https://host:port`.
    #[error("`{0}` is no address of the form `https://host:port` (`http://` is for this machine only)")]
    Address(String),
    /// The CA file.
    #[error("`{}` holds no CA certificates in PEM", .0.display())]
    Ca(PathBuf),
    /// TLS without a CA.
    #[error("`https` needs the CA file of the server")]
    NoCa,
}

/// The transit engine.
pub struct Transit {
    config: TransitConfig,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// What of an answer is read.
#[derive(Default, Deserialize)]
struct Answer {
    #[serde(default)]
    data: Data,
    #[serde(default)]
    errors: Vec<String>,
}

#[derive(Default, Deserialize)]
struct Data {
    #[serde(default)]
    ciphertext: Option<String>,
    #[serde(default)]
    plaintext: Option<Secret>,
}

/// A text that is wiped on drop.
struct Secret(Zeroizing<String>);

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

impl Transit {
    /// Checks the config. Calls nothing.
    ///
    /// # Errors
    /// [`TransitError`].
    pub fn new(config: TransitConfig) -> Result<Self, TransitError> {
        let bad = || TransitError::Address(config.address.clone());
        let (scheme, rest) = config.address.split_once("://").ok_or_else(bad)?;
        let (host, port) = rest.trim_end_matches('/').rsplit_once(':').ok_or_else(bad)?;
        let port = port.parse().map_err(|_| bad())?;
        let host = host.trim_matches(['[', ']']).to_owned();
        let tls = match scheme {
            "https" => Some(connector(&config, &host)?),
            "http" if host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()) => None,
            _ => return Err(bad()),
        };
        Ok(Self { host, port, tls, config })
    }

    async fn call(&self, method: Method, path: &str, body: serde_json::Value) -> Result<(StatusCode, Answer), Outage> {
        let token = tokio::fs::read_to_string(&self.config.token_file).await.map(Zeroizing::new);
        let token = token.map_err(|_| Outage::Failing)?;
        let text = Zeroizing::new(if body.is_null() { String::new() } else { body.to_string() });
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/v1/{path}"))
            .header("host", format!("{}:{}", self.host, self.port))
            .header("x-vault-token", token.trim())
            .header("x-vault-request", "true")
            .header("content-type", "application/json");
        if let Some(namespace) = &self.config.namespace {
            request = request.header("x-vault-namespace", namespace);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(text.as_bytes()))).map_err(|_| Outage::Failing)?;
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|_| Outage::NoAnswer)?;
        let response = match &self.tls {
            Some((connector, name)) => {
                let tls = connector.connect(name.clone(), tcp).await.map_err(|_| Outage::NoAnswer)?;
                exchange(TokioIo::new(tls), request).await
            }
            None => exchange(TokioIo::new(tcp), request).await,
        };
        let (status, bytes) = response.ok_or(Outage::NoAnswer)?;
        Ok((status, serde_json::from_slice(&bytes).unwrap_or_default()))
    }

    /// Calls and turns every answer but 200 into the verdict it is.
    async fn ask(&self, key_ref: &str, method: Method, verb: &str, body: serde_json::Value) -> Result<Data, KeyError> {
        let unreachable = |why| KeyError::Unreachable { key_ref: key_ref.to_owned(), why };
        let denied = |why| KeyError::Denied { key_ref: key_ref.to_owned(), why };
        if !is_key_name(key_ref) {
            return Err(denied(Denial::NotFound));
        }
        let path = format!("{}/{verb}/{key_ref}", self.config.mount);
        let (status, answer) = self.call(method, &path, body).await.map_err(unreachable)?;
        let says = |words: &[&str]| answer.errors.iter().any(|error| words.iter().any(|word| error.contains(word)));
        match status {
            StatusCode::OK => Ok(answer.data),
            StatusCode::NOT_FOUND => Err(denied(Denial::NotFound)),
            StatusCode::FORBIDDEN => {
                let own = self.call(Method::GET, "auth/token/lookup-self", serde_json::Value::Null).await;
                let good = matches!(own, Ok((StatusCode::OK, _)));
                Err(if good { denied(Denial::AccessDenied) } else { unreachable(Outage::Failing) })
            }
            StatusCode::BAD_REQUEST if says(&["key not found", "no existing key"]) => Err(denied(Denial::NotFound)),
            StatusCode::BAD_REQUEST if says(&["ciphertext", "decrypt", "authentication failed", "too old"]) => {
                Err(KeyError::ContextMismatch)
            }
            StatusCode::TOO_MANY_REQUESTS => Err(unreachable(Outage::Throttled)),
            _ => Err(unreachable(Outage::Failing)),
        }
    }

    async fn wrap(&self, key_ref: &str, key: &DataKey, context: &EncryptionContext) -> Result<Vec<u8>, KeyError> {
        let plaintext = Zeroizing::new(BASE64.encode(*key.expose()));
        let body = json!({ "plaintext": *plaintext, "associated_data": BASE64.encode(context.to_bytes()) });
        let data = self.ask(key_ref, Method::POST, "encrypt", body).await?;
        data.ciphertext.map(String::into_bytes).ok_or_else(|| failing(key_ref))
    }
}

/// SECURITY: a name becomes part of a path; nothing in it may lead elsewhere.
fn is_key_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

fn failing(key_ref: &str) -> KeyError {
    KeyError::Unreachable { key_ref: key_ref.to_owned(), why: Outage::Failing }
}

fn connector(config: &TransitConfig, host: &str) -> Result<(TlsConnector, ServerName<'static>), TransitError> {
    let file = config.ca_file.clone().ok_or(TransitError::NoCa)?;
    let mut roots = rustls::RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(&file).map_err(|_| TransitError::Ca(file.clone()))?;
    for certificate in certificates {
        let added = certificate.ok().and_then(|certificate| roots.add(certificate).ok());
        added.ok_or_else(|| TransitError::Ca(file.clone()))?;
    }
    if roots.is_empty() {
        return Err(TransitError::Ca(file));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| TransitError::Ca(file))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(|_| TransitError::Address(config.address.clone()))?;
    Ok((TlsConnector::from(Arc::new(tls)), name))
}

/// One request on a connection of its own: calls are few.
async fn exchange<S>(io: TokioIo<S>, request: Request<Full<Bytes>>) -> Option<(StatusCode, Bytes)>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.ok()?;
    let driver = tokio::spawn(connection);
    let answer = async {
        let response = sender.send_request(request).await.ok()?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.ok()?;
        Some((status, body.to_bytes()))
    };
    let answer = answer.await;
    driver.abort();
    answer
}

#[async_trait::async_trait]
impl Kms for Transit {
    fn provider(&self) -> &'static str {
        "vault"
    }

    async fn generate_data_key(
        &self,
        key_ref: &str,
        context: &EncryptionContext,
    ) -> Result<(DataKey, Vec<u8>), KeyError> {
        let key = DataKey::generate();
        let blob = self.wrap(key_ref, &key, context).await?;
        Ok((key, blob))
    }

    async fn decrypt(&self, key_ref: &str, blob: &[u8], context: &EncryptionContext) -> Result<DataKey, KeyError> {
        let corrupt = || KeyError::Corrupt { key_ref: key_ref.to_owned() };
        let ciphertext = std::str::from_utf8(blob).map_err(|_| corrupt())?;
        let body = json!({ "ciphertext": ciphertext, "associated_data": BASE64.encode(context.to_bytes()) });
        let data = self.ask(key_ref, Method::POST, "decrypt", body).await?;
        let plaintext = data.plaintext.ok_or_else(|| failing(key_ref))?;
        let mut bytes = BASE64.decode(plaintext.0.as_bytes()).map_err(|_| corrupt())?;
        DataKey::take_slice(&mut bytes).ok_or_else(corrupt)
    }

    /// The engine re-wraps only within a key, so the data key passes through this process.
    async fn re_encrypt(
        &self,
        from: &str,
        blob: &[u8],
        to: &str,
        context: &EncryptionContext,
    ) -> Result<Vec<u8>, KeyError> {
        let key = self.decrypt(from, blob, context).await?;
        self.wrap(to, &key, context).await
    }

    async fn describe(&self, key_ref: &str) -> Result<KeyState, KeyError> {
        self.ask(key_ref, Method::GET, "keys", serde_json::Value::Null).await.map(|_| KeyState::Enabled)
    }
}

impl std::fmt::Debug for Transit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transit").field("config", &self.config).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
