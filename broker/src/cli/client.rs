//! A small Kafka client for the demo: real requests over mutual TLS, one at a time.

use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::RequestHeader;
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use kafka_protocol::records::{
    Compression, Record, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

use super::{Failure, Number};

const PATIENCE: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A connection of one principal.
pub struct Client {
    stream: TlsStream<TcpStream>,
    correlation: i32,
}

impl Client {
    /// Connects with the files of `clients/<tenant>/<principal>`.
    pub async fn connect(folder: &Path, port: u16) -> Result<Self, Failure> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).map_err(|error| {
                Failure::new(
                    Number::File,
                    format!("`{}`: {error}", path.display()),
                    "start `schloss quickstart` first, or name its folder with --dir",
                )
            })
        };
        let tls =
            schloss_certs::client_config(&read("ca.pem")?, &read("cert.pem")?, &read("key.pem")?).map_err(|error| {
                Failure::new(
                    Number::Certificate,
                    error,
                    "remove the clients folder and start `schloss quickstart` again",
                )
            })?;
        let unreachable = |error: &dyn std::fmt::Display| {
            Failure::new(
                Number::Broker,
                format!("localhost:{port} cannot be reached: {error}"),
                "start `schloss quickstart` in another terminal; the port is chosen with --port",
            )
        };
        let connecting = async {
            let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
            let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
            TlsConnector::from(tls).connect(name, tcp).await
        };
        let stream = tokio::time::timeout(PATIENCE, connecting)
            .await
            .map_err(|error| unreachable(&error))?
            .map_err(|error| unreachable(&error))?;
        Ok(Self { stream, correlation: 0 })
    }

    /// Sends a request and waits for its answer.
    pub async fn ask<R: Request>(&mut self, version: i16, request: &R) -> Result<R::Response, Failure> {
        let exchange = self.exchange(version, request);
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(Number::Broker, format!("no answer from the broker: {error}"), "look at its log")
        };
        tokio::time::timeout(PATIENCE, exchange).await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
    }

    async fn exchange<R: Request>(&mut self, version: i16, request: &R) -> Result<R::Response, std::io::Error> {
        self.correlation = self.correlation.wrapping_add(1);
        let mut header = RequestHeader::default();
        header.request_api_key = R::KEY;
        header.request_api_version = version;
        header.correlation_id = self.correlation;
        header.client_id = Some(StrBytes::from_static_str("schloss-demo"));
        let mut body = BytesMut::new();
        header.encode(&mut body, R::header_version(version)).map_err(std::io::Error::other)?;
        request.encode(&mut body, version).map_err(std::io::Error::other)?;
        let length = u32::try_from(body.len()).map_err(std::io::Error::other)?;
        self.stream.write_all(&length.to_be_bytes()).await?;
        self.stream.write_all(&body).await?;
        self.stream.flush().await?;
        let length = usize::try_from(self.stream.read_u32().await?).map_err(std::io::Error::other)?;
        if length > ANSWER_BYTES_MAX {
            return Err(std::io::Error::other("the answer is too large"));
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer).await?;
        let mut answer = Bytes::from(answer);
        kafka_protocol::messages::ResponseHeader::decode(&mut answer, R::Response::header_version(version))
            .map_err(std::io::Error::other)?;
        R::Response::decode(&mut answer, version).map_err(std::io::Error::other)
    }
}

/// One uncompressed record batch with the given values.
pub fn batch(values: &[&str], now_ms: i64) -> Result<Bytes, Failure> {
    let records: Vec<Record> = values
        .iter()
        .enumerate()
        .map(|(n, value)| Record {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: -1,
            producer_id: -1,
            producer_epoch: -1,
            timestamp_type: TimestampType::Creation,
            offset: i64::try_from(n).unwrap_or(0),
            // The encoder keeps records in one batch only while sequence and offset run side by side; -1 begins a batch without a producer.
            sequence: i32::try_from(n).unwrap_or(0).saturating_sub(1),
            timestamp: now_ms,
            key: None,
            value: Some(Bytes::copy_from_slice(value.as_bytes())),
            headers: Default::default(),
        })
        .collect();
    let mut buffer = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut buffer, records.iter(), &options)
        .map_err(|error| Failure::new(Number::Broker, error, "report this"))?;
    Ok(buffer.freeze())
}

/// The values in fetched batches.
pub fn values(records: Option<Bytes>) -> Result<Vec<String>, Failure> {
    let Some(mut records) = records.filter(|records| !records.is_empty()) else { return Ok(Vec::new()) };
    let sets = RecordBatchDecoder::decode_all(&mut records)
        .map_err(|error| Failure::new(Number::Broker, error, "report this"))?;
    let values = sets.into_iter().flat_map(|set| set.records).filter_map(|record| record.value);
    Ok(values.map(|value| String::from_utf8_lossy(&value).into_owned()).collect())
}
