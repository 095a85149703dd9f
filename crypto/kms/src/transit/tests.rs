//! The transit provider against a double of the engine: real HTTP, real AEAD, Vault's answers.

use std::collections::HashMap;
use std::sync::Mutex;

use hyper::service::service_fn;
use schloss_crypto::value::{open_value, seal_value};
use tokio::net::TcpListener;

use super::*;

const TOKEN: &str = "s.test";

/// What the double knows; tests change it while it runs.
#[derive(Default)]
struct State {
    keys: HashMap<String, DataKey>,
    forbidden: bool,
    token_expired: bool,
    broken: bool,
}

struct Double {
    state: Arc<Mutex<State>>,
    folder: tempfile::TempDir,
    port: u16,
}

impl Double {
    async fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        for name in ["first", "second"] {
            state.lock().unwrap().keys.insert(name.to_owned(), DataKey::generate());
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let state = Arc::clone(&shared);
                let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                    let state = Arc::clone(&state);
                    async move {
                        let (parts, body) = request.into_parts();
                        let body = body.collect().await.unwrap().to_bytes();
                        let token = parts.headers.get("x-vault-token").and_then(|token| token.to_str().ok());
                        let (status, text) =
                            answer(&state.lock().unwrap(), token.unwrap_or_default(), parts.uri.path(), &body);
                        let response = hyper::Response::builder().status(status).body(Full::new(Bytes::from(text)));
                        Ok::<_, hyper::Error>(response.unwrap())
                    }
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tcp), service));
            }
        });
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), format!("{TOKEN}\n")).unwrap();
        Self { state, folder, port }
    }

    fn transit(&self) -> Transit {
        Transit::new(TransitConfig {
            address: format!("http://127.0.0.1:{}", self.port),
            mount: "transit".into(),
            namespace: None,
            token_file: self.folder.path().join("token"),
            ca_file: None,
        })
        .unwrap()
    }
}

fn answer(state: &State, token: &str, path: &str, body: &[u8]) -> (u16, String) {
    let errors = |status, text: &str| (status, json!({ "errors": [text] }).to_string());
    if state.broken {
        return errors(503, "Vault is sealed");
    }
    if token != TOKEN || state.token_expired {
        return errors(403, "permission denied");
    }
    if path == "/v1/auth/token/lookup-self" {
        return (200, "{}".to_owned());
    }
    if state.forbidden {
        return errors(403, "1 error occurred: permission denied");
    }
    let (verb, name) = path.strip_prefix("/v1/transit/").and_then(|rest| rest.split_once('/')).unwrap();
    let asked: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let field = |name: &str| BASE64.decode(asked[name].as_str().unwrap_or_default()).unwrap_or_default();
    let Some(key) = state.keys.get(name) else {
        return if verb == "keys" { errors(404, "") } else { errors(400, "encryption key not found") };
    };
    match verb {
        "encrypt" => {
            let sealed = seal_value(key, &field("associated_data"), &field("plaintext"));
            (200, json!({ "data": { "ciphertext": format!("vault:v1:{}", BASE64.encode(sealed)) } }).to_string())
        }
        "decrypt" => {
            let text = asked["ciphertext"].as_str().and_then(|text| text.strip_prefix("vault:v1:"));
            let sealed = text.and_then(|text| BASE64.decode(text).ok());
            match sealed.and_then(|sealed| open_value(key, &field("associated_data"), &sealed).ok()) {
                Some(plain) => (200, json!({ "data": { "plaintext": BASE64.encode(plain) } }).to_string()),
                None => errors(400, "cipher: message authentication failed"),
            }
        }
        _ => (200, json!({ "data": { "type": "aes256-gcm96" } }).to_string()),
    }
}

#[tokio::test]
async fn transit_keeps_every_promise() {
    let double = Double::start().await;
    crate::promises::tests::all_kept(&double.transit()).await;
}

#[tokio::test]
async fn forbidden_key_is_a_denial_and_a_bad_token_of_ours_is_an_outage() {
    let double = Double::start().await;
    let transit = double.transit();
    double.state.lock().unwrap().forbidden = true;
    let refused = transit.describe("first").await.unwrap_err();
    assert!(matches!(refused, KeyError::Denied { why: Denial::AccessDenied, .. }), "{refused}");
    double.state.lock().unwrap().token_expired = true;
    let refused = transit.describe("first").await.unwrap_err();
    assert!(matches!(refused, KeyError::Unreachable { .. }), "{refused}");
}

#[tokio::test]
async fn sealed_server_and_no_server_are_outages() {
    let double = Double::start().await;
    double.state.lock().unwrap().broken = true;
    let refused = double.transit().describe("first").await.unwrap_err();
    assert!(matches!(refused, KeyError::Unreachable { why: Outage::Failing, .. }), "{refused}");
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let transit =
        Transit::new(TransitConfig { address: format!("http://127.0.0.1:{nobody}"), ..double.transit().config });
    let refused = transit.unwrap().describe("first").await.unwrap_err();
    assert!(matches!(refused, KeyError::Unreachable { why: Outage::NoAnswer, .. }), "{refused}");
}

#[tokio::test]
async fn key_name_that_would_lead_to_another_path_is_never_sent() {
    let double = Double::start().await;
    for name in ["../sys/seal", "a/b", "", "a?b", "a#b", "%2e%2e"] {
        let refused = double.transit().describe(name).await.unwrap_err();
        assert!(matches!(refused, KeyError::Denied { why: Denial::NotFound, .. }), "{name}: {refused}");
    }
}

#[test]
fn address_without_tls_is_for_this_machine_only() {
    let config = |address: &str| TransitConfig {
        address: address.into(),
        mount: "transit".into(),
        namespace: None,
        token_file: PathBuf::new(),
        ca_file: None,
    };
    assert!(Transit::new(config("http://127.0.0.1:8200")).is_ok());
    assert!(Transit::new(config("http://[::1]:8200")).is_ok());
    assert!(matches!(Transit::new(config("http://vault.example:8200")), Err(TransitError::Address(_))));
    assert!(matches!(Transit::new(config("https://vault.example:8200")), Err(TransitError::NoCa)));
    assert!(matches!(Transit::new(config("vault.example")), Err(TransitError::Address(_))));
}
