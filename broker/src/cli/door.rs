//! The command line's end of the operator door: sends a command to the running broker, draws its progress, returns its result.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use clap::Args;
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use indicatif::{ProgressBar, ProgressStyle};
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::layout::Layout;
use super::{Failure, Number, serve};

const CONNECT: Duration = Duration::from_secs(10);
/// A line of an answer; the longest is a list of all tenants.
const LINE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Which broker a command goes to, and who sends it.
#[derive(Clone, Debug, Args)]
pub struct DoorPlace {
    #[command(flatten)]
    place: super::Place,
    /// Folder with the operator's `ca.pem`, `cert.pem` and `key.pem` (a quickstart has one).
    #[arg(long, value_name = "DIR", env = "SCHLOSS_OPERATOR")]
    operator: Option<PathBuf>,
}

/// Sends one command and waits for its result.
///
/// # Errors
/// [`Number::Broker`] when the broker cannot be reached or refuses; its own words are in the failure.
pub fn call(place: &DoorPlace, noun: &str, verb: &str, body: &Value) -> Result<Value, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Number::Broker, error, "check the limits of open files"))?;
    runtime.block_on(Door::find(place)?.call(noun, verb, body))
}

/// Posts JSON to the admin listener of `host:port` without showing a certificate: for what whoever holds a secret may ask.
///
/// # Errors
/// [`Number::Broker`], and [`Number::Refused`] with the broker's words.
pub fn post_unsigned(admin: &str, ca: &[u8], path: &str, body: &Value) -> Result<Value, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Number::Broker, error, "check the limits of open files"))?;
    runtime.block_on(post(admin, ca, path, body))
}

async fn post(admin: &str, ca: &[u8], path: &str, body: &Value) -> Result<Value, Failure> {
    let unreachable = |error: &dyn std::fmt::Display| {
        Failure::new(
            Number::Broker,
            format!("{admin} cannot be reached: {error}"),
            "name the admin listener and its CA",
        )
    };
    let host = admin.rsplit_once(':').map_or(admin, |(host, _)| host).trim_matches(['[', ']']).to_owned();
    let tls = schloss_certs::server_trust_config(ca)
        .map_err(|error| Failure::new(Number::Certificate, error, "name a PEM file with the server's CA"))?;
    let name = ServerName::try_from(host.clone()).map_err(|error| unreachable(&error))?;
    let connecting = async {
        let tcp = TcpStream::connect(admin).await?;
        TlsConnector::from(tls).connect(name, tcp).await
    };
    let stream = tokio::time::timeout(CONNECT, connecting).await.map_err(|error| unreachable(&error))?;
    let stream = stream.map_err(|error| unreachable(&error))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(&error))?;
    tokio::spawn(connection);
    let request = Request::post(path)
        .header("host", host)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.to_string())))
        .map_err(|error| Failure::new(Number::Usage, error, "report this"))?;
    let answer = sender.send_request(request).await.map_err(|error| unreachable(&error))?;
    let refused = !answer.status().is_success();
    let body = http_body_util::Limited::new(answer.into_body(), LINE_BYTES_MAX).collect().await;
    let body = body.map_err(|error| unreachable(&error))?.to_bytes();
    let value: Value = serde_json::from_slice(&body).map_err(|error| unreachable(&error))?;
    if refused { last(&ProgressBar::hidden(), value) } else { Ok(value) }
}

struct Door {
    host: IpAddr,
    port: u16,
    operator: PathBuf,
}

impl Door {
    fn find(place: &DoorPlace) -> Result<Self, Failure> {
        let no_folder = |error: std::io::Error| Failure::new(Number::File, error, "change to a folder that exists");
        let layout = Layout::new(place.place.dir.as_deref()).map_err(no_folder)?;
        let config = serve::read(place.place.config.as_deref().unwrap_or(&layout.config))?;
        let operator = match (&place.operator, &place.place.config) {
            (Some(folder), _) => folder.clone(),
            (None, None) => layout.operator,
            (None, Some(_)) => {
                return Err(Failure::new(
                    Number::Usage,
                    "commands for the running broker need an operator's certificate",
                    "name its folder with --operator or SCHLOSS_OPERATOR",
                ));
            }
        };
        let address = config.admin_listener;
        let host = if address.ip().is_unspecified() { IpAddr::from([127, 0, 0, 1]) } else { address.ip() };
        Ok(Self { host, port: address.port(), operator })
    }

    async fn call(&self, noun: &str, verb: &str, body: &Value) -> Result<Value, Failure> {
        let unreachable = |error: &dyn std::fmt::Display| {
            Failure::new(
                Number::Broker,
                format!("the broker at {}:{} cannot be reached: {error}", self.host, self.port),
                "start it, or name the right one with --dir or --config",
            )
        };
        let connecting = tokio::time::timeout(CONNECT, self.connect());
        let stream = connecting.await.map_err(|error| unreachable(&error))??;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(&error))?;
        tokio::spawn(connection);
        let request = Request::post(format!("/operator/v1/{noun}/{verb}"))
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_string())))
            .map_err(|error| Failure::new(Number::Usage, error, "report this"))?;
        let answer = sender.send_request(request).await.map_err(|error| unreachable(&error))?;
        let status = answer.status();
        read_answer(status, answer.into_body()).await
    }

    async fn connect(&self) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(
                Number::Broker,
                format!("the broker at {}:{} cannot be reached: {error}", self.host, self.port),
                "start it, or name the right one with --dir or --config",
            )
        };
        let tls = schloss_certs::client_config(&self.read("ca.pem")?, &self.read("cert.pem")?, &self.read("key.pem")?)
            .map_err(|error| Failure::new(Number::Certificate, error, "renew the operator's certificate"))?;
        let name = if self.host.is_loopback() {
            ServerName::try_from("localhost").map_err(|error| failed(&error))?
        } else {
            ServerName::IpAddress(self.host.into())
        };
        let tcp = TcpStream::connect((self.host, self.port)).await.map_err(|error| failed(&error))?;
        TlsConnector::from(tls).connect(name, tcp).await.map_err(|error| failed(&error))
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, Failure> {
        let path = self.operator.join(name);
        std::fs::read(&path).map_err(|error| {
            Failure::new(
                Number::File,
                format!("`{}`: {error}", path.display()),
                "name the folder of the operator's certificate with --operator; a quickstart has one",
            )
        })
    }
}

/// Reads lines until the last: progress is drawn to standard error when that is a terminal.
async fn read_answer(status: StatusCode, mut body: hyper::body::Incoming) -> Result<Value, Failure> {
    let broken = |what: &dyn std::fmt::Display| {
        Failure::new(
            Number::Broker,
            format!("the broker's answer broke off: {what}"),
            "look at its log, then ask again",
        )
    };
    let bar = ProgressBar::new(0).with_style(
        ProgressStyle::with_template("{wide_bar} {pos}/{len} {eta}").unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let mut buffer = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| broken(&error))?;
        let Ok(data) = frame.into_data() else { continue };
        if buffer.len().saturating_add(data.len()) > LINE_BYTES_MAX {
            return Err(broken(&"a line is too long"));
        }
        buffer.extend_from_slice(&data);
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line = buffer.split_to(end);
            buffer.advance(1);
            let value: Value = serde_json::from_slice(&line).map_err(|error| broken(&error))?;
            match value.get("progress") {
                Some(progress) => draw(&bar, progress),
                None => return last(&bar, value),
            }
        }
    }
    if !status.is_success()
        && let Ok(value) = serde_json::from_slice(&buffer)
    {
        return last(&bar, value);
    }
    Err(broken(&"it has no last line"))
}

fn draw(bar: &ProgressBar, progress: &Value) {
    let number = |key: &str| progress.get(key).and_then(Value::as_u64).unwrap_or(0);
    bar.set_length(number("of"));
    bar.set_position(number("done"));
}

fn last(bar: &ProgressBar, mut value: Value) -> Result<Value, Failure> {
    bar.finish_and_clear();
    if let Some(result) = value.get_mut("result") {
        return Ok(result.take());
    }
    let word = |key: &str| value.pointer(&format!("/error/{key}")).and_then(Value::as_str).unwrap_or_default();
    let next = if word("next").is_empty() { "see the manual, chapter operations" } else { word("next") };
    Err(Failure::new(Number::Refused, format!("{} ({})", word("message"), word("code")), next))
}

/// Folder and port given apart, for tests.
#[cfg(test)]
impl Door {
    fn at(operator: &std::path::Path) -> Self {
        Self { host: IpAddr::from([127, 0, 0, 1]), port: 9, operator: operator.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn refusal_tells_the_brokers_words_and_what_to_do() {
        let answer = serde_json::json!({"error": {"code": "NoSuchTenant", "message": "there is no tenant `x`", "next": "list them"}});
        let failure = last(&ProgressBar::hidden(), answer).unwrap_err().to_string();
        assert!(
            failure.contains("there is no tenant `x` (NoSuchTenant)") && failure.contains("list them"),
            "{failure}"
        );
    }

    #[tokio::test]
    async fn absent_certificate_is_named_with_its_path() {
        let folder = Path::new("/nonexistent/operator");
        let failure = Door::at(folder).call("broker", "show", &Value::Null).await.unwrap_err().to_string();
        assert!(failure.contains("/nonexistent/operator/ca.pem"), "{failure}");
    }
}
