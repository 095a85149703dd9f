//! `schloss demo`: a newcomer's walk through a running quickstart, with real requests.
//!
//! Each step says what it does, does it, and checks what it claims: a step that turns out otherwise ends the demo with
//! an error.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use clap::Args;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreateTopicsRequest};
use kafka_protocol::messages::delete_topics_request::{DeleteTopicState, DeleteTopicsRequest};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
use kafka_protocol::messages::metadata_request::{MetadataRequest, MetadataRequestTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use kafka_protocol::protocol::StrBytes;
use schloss_core::ErrorCode;

use super::client::{self, Client};
use super::layout::Layout;
use super::{Failure, Number, audit};

/// Walk through a running quickstart.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  schloss quickstart &
  schloss demo")]
pub struct Demo {
    /// Folder of the quickstart (default: the current folder's).
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Port of the quickstart.
    #[arg(long, default_value_t = 9094)]
    port: u16,
}

impl Demo {
    pub fn run(self) -> Result<ExitCode, Failure> {
        let layout = Layout::new(self.dir.as_deref())
            .map_err(|error| Failure::new(Number::File, error, "change to a folder that exists"))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(Number::Broker, error, "report this"))?;
        runtime.block_on(Walk { layout, port: self.port, topic: format!("demo-{}", now_ms()) }.all())?;
        Ok(ExitCode::SUCCESS)
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(0))
}

fn otherwise(what: &str) -> Failure {
    Failure::new(
        Number::Broker,
        format!("the demo expected otherwise: {what}"),
        "was the quickstart's organisation changed? start one with a fresh --dir",
    )
}

fn text(words: &str) -> StrBytes {
    StrBytes::from_string(words.to_owned())
}

struct Walk {
    layout: Layout,
    port: u16,
    topic: String,
}

/// What is produced; looked for on the disk afterwards.
const SECRET: &str = "meet me at the drawbridge at midnight";

impl Walk {
    async fn all(&self) -> Result<(), Failure> {
        let id = self.produce_and_consume().await?;
        self.other_tenant_sees_nothing().await?;
        self.denied_with_reason().await?;
        self.ciphertext(id)?;
        self.audit_log()?;
        println!("\nThat was it. The manual is in broker/manual/README.md.");
        Ok(())
    }

    async fn client(&self, tenant: &str, principal: &str) -> Result<Client, Failure> {
        Client::connect(&self.layout.client(tenant, principal), self.port).await
    }

    async fn produce_and_consume(&self) -> Result<uuid::Uuid, Failure> {
        println!("1. acme's administrator creates the topic {}, its producer writes, its consumer reads.", self.topic);
        let mut topic = CreatableTopic::default();
        topic.name = text(&self.topic).into();
        topic.num_partitions = 1;
        topic.replication_factor = 1;
        let mut create = CreateTopicsRequest::default();
        create.topics = vec![topic];
        create.timeout_ms = 5_000;
        let created = self.client("acme", "admin").await?.ask(7, &create).await?;
        let id = created
            .topics
            .first()
            .filter(|topic| topic.error_code == 0)
            .map(|topic| topic.topic_id)
            .ok_or_else(|| otherwise("acme's administrator may create a topic"))?;

        let mut partition = PartitionProduceData::default();
        partition.records = Some(client::batch(&[SECRET, "bring the key"], now_ms())?);
        let mut data = TopicProduceData::default();
        data.name = text(&self.topic).into();
        data.partition_data = vec![partition];
        let mut produce = ProduceRequest::default();
        produce.acks = -1;
        produce.timeout_ms = 5_000;
        produce.topic_data = vec![data];
        let produced = self.client("acme", "producer").await?.ask(9, &produce).await?;
        let partition = produced
            .responses
            .first()
            .and_then(|topic| topic.partition_responses.first())
            .ok_or_else(|| otherwise("a produce is answered"))?;
        if partition.error_code != 0 {
            let why = partition.error_message.as_deref().unwrap_or_default();
            return Err(otherwise(&format!(
                "acme's producer may produce; it got error {} {why}",
                partition.error_code
            )));
        }
        println!(
            "   produced 2 records at offset {}; they were on disk, sealed, before this answer",
            partition.base_offset
        );

        let mut partition = FetchPartition::default();
        partition.partition_max_bytes = 1_048_576;
        let mut wanted = FetchTopic::default();
        wanted.topic = text(&self.topic).into();
        wanted.partitions = vec![partition];
        let mut fetch = FetchRequest::default();
        fetch.max_wait_ms = 1_000;
        fetch.min_bytes = 1;
        fetch.max_bytes = 1_048_576;
        fetch.topics = vec![wanted];
        let fetched = self.client("acme", "consumer").await?.ask(12, &fetch).await?;
        let records: Option<Bytes> = fetched
            .responses
            .into_iter()
            .next()
            .and_then(|topic| topic.partitions.into_iter().next())
            .and_then(|partition| partition.records);
        let values = client::values(records)?;
        if values.first().map(String::as_str) != Some(SECRET) {
            return Err(otherwise("acme's consumer reads what was produced"));
        }
        println!("   consumed {values:?}");
        Ok(id)
    }

    async fn other_tenant_sees_nothing(&self) -> Result<(), Failure> {
        println!("\n2. globex's administrator, who may do everything in globex, asks for the same topic.");
        let mut client = self.client("globex", "admin").await?;
        let mut listing = MetadataRequest::default();
        listing.topics = None;
        let all = client.ask(12, &listing).await?;
        let seen = all.topics.iter().any(|topic| topic.name.as_ref().is_some_and(|name| name.as_str() == self.topic));
        let mut named = MetadataRequest::default();
        let mut asked = MetadataRequestTopic::default();
        asked.name = Some(text(&self.topic).into());
        named.topics = Some(vec![asked]);
        named.allow_auto_topic_creation = false;
        let one = client.ask(12, &named).await?;
        let code = one.topics.first().map_or(0, |topic| topic.error_code);
        if seen || code != ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.code() {
            return Err(otherwise("globex cannot see acme's topic"));
        }
        println!(
            "   its listing has {} topic(s), not this one; by name it is UNKNOWN_TOPIC_OR_PARTITION, like any name that never was",
            all.topics.len()
        );
        Ok(())
    }

    async fn denied_with_reason(&self) -> Result<(), Failure> {
        println!("\n3. acme's auditor, who may only look, tries to delete it.");
        let mut state = DeleteTopicState::default();
        state.name = Some(text(&self.topic).into());
        let mut delete = DeleteTopicsRequest::default();
        delete.topics = vec![state];
        delete.timeout_ms = 5_000;
        let answer = self.client("acme", "auditor").await?.ask(6, &delete).await?;
        let code = answer.responses.first().map_or(0, |topic| topic.error_code);
        if code != ErrorCode::TOPIC_AUTHORIZATION_FAILED.code() {
            return Err(otherwise("acme's auditor may not delete"));
        }
        println!("   the client is told TOPIC_AUTHORIZATION_FAILED; the audit log tells the reviewer why:");
        let denied = audit::newest_denial(&self.layout, &self.topic)
            .await?
            .ok_or_else(|| otherwise("the denial is in the audit log"))?;
        println!("     {denied}");
        Ok(())
    }

    fn ciphertext(&self, id: uuid::Uuid) -> Result<(), Failure> {
        println!("\n4. What a thief of the disk finds (topic id {id}):");
        let mut files = Vec::new();
        walk(&self.layout.data, &mut files)
            .map_err(|error| Failure::new(Number::File, error, "name the quickstart's folder with --dir"))?;
        let mut bytes = 0_usize;
        for path in &files {
            let content = std::fs::read(path).map_err(|error| {
                Failure::new(
                    Number::File,
                    format!("`{}`: {error}", path.display()),
                    "run the demo as the broker's user",
                )
            })?;
            bytes = bytes.saturating_add(content.len());
            for needle in [SECRET.as_bytes(), self.topic.as_bytes()] {
                if content.windows(needle.len()).any(|window| window == needle) {
                    return Err(otherwise(&format!("no plaintext in `{}`", path.display())));
                }
            }
        }
        println!(
            "   searched {} files, {bytes} bytes, for the record and the topic's name: found in none",
            files.len()
        );
        let sealed =
            files.iter().filter(|path| path.components().any(|part| part.as_os_str() == "wal")).find_map(|path| {
                // Behind the opening and the entry's header: the inside of a section.
                let content = std::fs::read(path).ok()?;
                content.get(512..544).filter(|bytes| bytes.iter().any(|byte| *byte != 0)).map(<[u8]>::to_vec)
            });
        if let Some(bytes) = sealed {
            println!(
                "   32 bytes of the write-ahead log: {}",
                bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
            );
        }
        Ok(())
    }

    fn audit_log(&self) -> Result<(), Failure> {
        println!("\n5. The audit log, verified with nothing but its public key, on a copy:");
        let copy = std::env::temp_dir().join(format!("schloss-demo-{}", now_ms()));
        let outcome = self.flip_and_verify(&copy);
        let removed = std::fs::remove_dir_all(&copy);
        drop(removed);
        outcome
    }

    fn flip_and_verify(&self, copy: &Path) -> Result<(), Failure> {
        let files = audit::copy_log(&self.layout, copy)?;
        let whole = audit::verify_folder(copy)?;
        if !whole.is_good() {
            return Err(otherwise("the untouched audit log verifies"));
        }
        let events: u64 = whole.streams.iter().map(|stream| stream.events).sum();
        println!("   {events} events in {} streams: whole, in order, signed", whole.streams.len());
        let victim = files
            .iter()
            .max_by_key(|path| std::fs::metadata(path).map_or(0, |meta| meta.len()))
            .ok_or_else(|| otherwise("there is an audit log"))?;
        let mut content = std::fs::read(victim).map_err(|error| Failure::new(Number::File, error, "report this"))?;
        let middle = content.len() / 2;
        if let Some(byte) = content.get_mut(middle) {
            *byte ^= 0x01;
        }
        std::fs::write(victim, content).map_err(|error| Failure::new(Number::File, error, "report this"))?;
        let broken = audit::verify_folder(copy)?;
        let fault = broken.first_fault().ok_or_else(|| otherwise("a flipped byte is found"))?;
        println!("   one bit of byte {middle} flipped, verified again: {fault}");
        Ok(())
    }
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
