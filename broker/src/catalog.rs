//! A tenant's topics: names to ids, settings, partitions. The only room that turns a permitted name into a partition.
//!
//! In: [`Permit`]s and ids. Out: [`Topic`]s. Names rest sealed in the metadata store under the tenant's metadata key and
//! are found there by their HMAC; in memory they live in this tenant's own map.
//!
//! Invariants
//! - A tenant's catalog holds that tenant's topics and no other's: another tenant's name is simply not in it.
//! - A topic is in the map only after its row is durable; its row is gone before it leaves the map.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use schloss_authz::Permit;
use schloss_authz::{Ability, can};
use schloss_core::{Clock, ErrorCode, PartitionId, TenantId, TopicId, TopicName};
use schloss_kms::Vault;
use schloss_metadata::{Metadata, TopicRow};
use schloss_storage::Engine;

use crate::topic_config::{self, BatchLimits, Overrides, TopicDefaults};

/// A topic as it stands; a change makes a new one.
#[derive(Clone, Debug)]
pub struct Topic {
    /// Stable for the topic's life.
    pub id: TopicId,
    /// Its name in its tenant.
    pub name: TopicName,
    /// Number of partitions.
    pub partitions: i32,
    /// Its own settings.
    pub overrides: Overrides,
    /// What its batches are checked against.
    pub limits: BatchLimits,
}

impl Topic {
    /// Whether the partition exists.
    #[must_use]
    pub fn has(&self, index: i32) -> bool {
        (0..self.partitions).contains(&index)
    }

    /// The id of a partition.
    #[must_use]
    pub fn partition(&self, index: i32) -> PartitionId {
        PartitionId { topic: self.id, index }
    }

    /// What a creation would make, for `validate_only`; its id is zero.
    #[must_use]
    pub fn imagined(wish: CreateTopic, defaults: &TopicDefaults) -> Self {
        let limits = topic_config::batch_limits(&wish.overrides, defaults);
        Self {
            id: TopicId::from_bytes([0; 16]),
            name: wish.name,
            partitions: wish.partitions,
            overrides: wish.overrides,
            limits,
        }
    }
}

/// A topic to be.
#[derive(Clone, Debug)]
pub struct CreateTopic {
    /// Name.
    pub name: TopicName,
    /// Partitions, already checked.
    pub partitions: i32,
    /// Settings, already checked.
    pub overrides: Overrides,
}

/// Why a change was refused.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The name is taken.
    #[error("Topic already exists.")]
    Exists,
    /// The name collides with another where `.` and `_` are the same, as they are in metric names.
    #[error("Topic collides with an existing topic: `.` and `_` count as the same.")]
    Collides,
    /// No such topic.
    #[error("This server does not host this topic-partition.")]
    Absent,
    /// The tenant's limit of topics or partitions.
    #[error("The tenant's limit of {what} ({max}) is reached; delete some or ask the operator for more.")]
    Quota {
        /// `topics` or `partitions`.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// The metadata store.
    #[error("The metadata store did not take the change.")]
    Metadata(#[from] schloss_metadata::MetadataError),
    /// The log engine.
    #[error("The log did not take the change.")]
    Log(#[from] schloss_storage::LogError),
    /// The tenant's keys cannot be had now.
    #[error("The tenant's key cannot be used now.")]
    Key(#[from] schloss_storage::KeyTrouble),
    /// `schloss.kms.key` names a key that is not the tenant's.
    #[error("`schloss.kms.key` must be one of the tenant's own KMS keys; ask the operator which.")]
    ForeignKey,
    /// A stored name or setting could not be opened.
    #[error("A stored topic could not be opened: the metadata was altered or its key is wrong.")]
    Sealed,
}

impl CatalogError {
    /// Kafka's code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Exists => ErrorCode::TOPIC_ALREADY_EXISTS,
            Self::Collides => ErrorCode::INVALID_TOPIC_EXCEPTION,
            Self::Absent => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
            Self::Quota { .. } => ErrorCode::POLICY_VIOLATION,
            Self::ForeignKey => ErrorCode::INVALID_CONFIG,
            Self::Metadata(_) | Self::Log(_) | Self::Key(_) | Self::Sealed => ErrorCode::KAFKA_STORAGE_ERROR,
        }
    }
}

/// Bounds of one tenant.
#[derive(Clone, Copy, Debug)]
pub struct CatalogLimits {
    /// `max.topics.per.tenant`.
    pub topics_max: usize,
    /// `max.partitions.per.tenant`.
    pub partitions_max: usize,
}

#[derive(Default)]
struct Maps {
    by_name: BTreeMap<TopicName, Arc<Topic>>,
    by_id: HashMap<TopicId, Arc<Topic>>,
    /// Names with `.` turned into `_`.
    squashed: HashMap<String, TopicName>,
    partitions: usize,
}

impl Maps {
    fn put(&mut self, topic: Arc<Topic>) {
        self.take(topic.id);
        self.partitions = self.partitions.saturating_add(usize::try_from(topic.partitions).unwrap_or(0));
        self.squashed.insert(topic.name.as_str().replace('.', "_"), topic.name.clone());
        self.by_name.insert(topic.name.clone(), Arc::clone(&topic));
        self.by_id.insert(topic.id, topic);
    }

    fn take(&mut self, id: TopicId) {
        if let Some(old) = self.by_id.remove(&id) {
            self.by_name.remove(&old.name);
            self.squashed.remove(&old.name.as_str().replace('.', "_"));
            self.partitions = self.partitions.saturating_sub(usize::try_from(old.partitions).unwrap_or(0));
        }
    }
}

/// One tenant's topics.
pub struct Catalog {
    tenant: TenantId,
    engine: Arc<Engine>,
    clock: Arc<dyn Clock>,
    defaults: TopicDefaults,
    limits: CatalogLimits,
    vault: Arc<Vault>,
    maps: RwLock<Maps>,
    /// One change at a time.
    changing: tokio::sync::Mutex<()>,
}

/// The sealed part of a topic's row.
#[derive(serde::Serialize, serde::Deserialize)]
struct SealedTopic {
    name: String,
    configs: Overrides,
}

impl Catalog {
    /// Opens the tenant's rows.
    ///
    /// # Errors
    /// [`CatalogError`] when a row cannot be read or opened.
    pub async fn open(
        tenant: TenantId,
        metadata: &dyn Metadata,
        engine: Arc<Engine>,
        clock: Arc<dyn Clock>,
        defaults: TopicDefaults,
        limits: CatalogLimits,
        vault: Arc<Vault>,
    ) -> Result<Self, CatalogError> {
        let mut maps = Maps::default();
        let keys = engine.tenant_keys(tenant).await?;
        for row in metadata.topics(tenant).await? {
            let plain = schloss_crypto::open_value(&keys.metadata, &binding(tenant, row.topic_id), &row.sealed)
                .map_err(|_| CatalogError::Sealed)?;
            let sealed: SealedTopic = serde_json::from_slice(&plain).map_err(|_| CatalogError::Sealed)?;
            let name = TopicName::new(&sealed.name).map_err(|_| CatalogError::Sealed)?;
            let limits = topic_config::batch_limits(&sealed.configs, &defaults);
            engine.set_log_config(row.topic_id, row.partitions, topic_config::log_config(&sealed.configs, &defaults));
            engine.set_key_ref(row.topic_id, row.partitions, topic_config::kms_key(&sealed.configs));
            maps.put(Arc::new(Topic {
                id: row.topic_id,
                name,
                partitions: row.partitions,
                overrides: sealed.configs,
                limits,
            }));
        }
        let changing = tokio::sync::Mutex::new(());
        Ok(Self { tenant, engine, clock, defaults, limits, vault, maps: RwLock::new(maps), changing })
    }

    /// The topic a permit speaks of, if it exists.
    #[must_use]
    pub fn permitted<A: Ability>(&self, permit: &Permit<A>) -> Option<Arc<Topic>> {
        self.by_name(permit.name())
    }

    /// By name. The caller has judged, or judges before it tells.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<Arc<Topic>> {
        self.maps().by_name.get(name).cloned()
    }

    /// By id. The caller judges by the name before it tells.
    #[must_use]
    pub fn by_id(&self, id: TopicId) -> Option<Arc<Topic>> {
        self.maps().by_id.get(&id).cloned()
    }

    /// All, in order of name. The caller judges each before it tells.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Topic>> {
        self.maps().by_name.values().cloned().collect()
    }

    /// What [`Catalog::create`] would check.
    ///
    /// # Errors
    /// [`CatalogError::Exists`], [`CatalogError::Collides`], [`CatalogError::Quota`].
    pub fn check(&self, wish: &CreateTopic) -> Result<(), CatalogError> {
        self.check_key(&wish.overrides)?;
        let maps = self.maps();
        if maps.by_name.contains_key(&wish.name) {
            return Err(CatalogError::Exists);
        }
        if maps.squashed.contains_key(&wish.name.as_str().replace('.', "_")) {
            return Err(CatalogError::Collides);
        }
        if maps.by_name.len() >= self.limits.topics_max {
            return Err(CatalogError::Quota { what: "topics", max: self.limits.topics_max });
        }
        self.check_partitions(&maps, wish.partitions)
    }

    /// Whether a topic's own KMS key is one of the tenant's.
    ///
    /// # Errors
    /// [`CatalogError::ForeignKey`].
    pub fn check_key(&self, overrides: &Overrides) -> Result<(), CatalogError> {
        match topic_config::kms_key(overrides) {
            Some(key) if !self.vault.is_key_of(self.tenant.to_bytes(), &key) => Err(CatalogError::ForeignKey),
            _ => Ok(()),
        }
    }

    fn check_partitions(&self, maps: &Maps, added: i32) -> Result<(), CatalogError> {
        let wanted = maps.partitions.saturating_add(usize::try_from(added).unwrap_or(usize::MAX));
        if wanted > self.limits.partitions_max {
            return Err(CatalogError::Quota { what: "partitions", max: self.limits.partitions_max });
        }
        Ok(())
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub async fn create(
        &self,
        permit: &Permit<can::CreateTopic>,
        wish: CreateTopic,
    ) -> Result<Arc<Topic>, CatalogError> {
        debug_assert_eq!(permit.name(), wish.name.as_str());
        let _changing = self.changing.lock().await;
        self.check(&wish)?;
        let mut topic = Topic::imagined(wish, &self.defaults);
        topic.id = TopicId::random();
        let log = topic_config::log_config(&topic.overrides, &self.defaults);
        self.engine.create_topic(self.row(&topic).await?, log).await?;
        self.engine.set_key_ref(topic.id, topic.partitions, topic_config::kms_key(&topic.overrides));
        let topic = Arc::new(topic);
        self.maps_mut().put(Arc::clone(&topic));
        Ok(topic)
    }

    /// Deletes the topic the permit speaks of.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub async fn delete(&self, permit: &Permit<can::DeleteTopic>) -> Result<TopicId, CatalogError> {
        let _changing = self.changing.lock().await;
        let topic = self.permitted(permit).ok_or(CatalogError::Absent)?;
        self.engine.delete_topic(topic.id, topic.partitions).await?;
        self.maps_mut().take(topic.id);
        Ok(topic.id)
    }

    /// Takes a topic out of the catalog whose rows are about to be destroyed.
    pub fn hide(&self, topic: TopicId) {
        self.maps_mut().take(topic);
    }

    /// Grows the topic the permit speaks of to `partitions`.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub async fn grow(&self, permit: &Permit<can::AlterTopic>, partitions: i32) -> Result<Arc<Topic>, CatalogError> {
        let _changing = self.changing.lock().await;
        let old = self.permitted(permit).ok_or(CatalogError::Absent)?;
        self.check_partitions(&self.maps(), partitions.saturating_sub(old.partitions))?;
        let topic = Topic { partitions, ..Topic::clone(&old) };
        let log = topic_config::log_config(&topic.overrides, &self.defaults);
        self.engine.update_topic(self.row(&topic).await?, old.partitions..partitions, log).await?;
        self.engine.set_key_ref(topic.id, topic.partitions, topic_config::kms_key(&topic.overrides));
        Ok(self.replace(topic))
    }

    /// Replaces the settings of the topic the permit speaks of.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub async fn configure(
        &self,
        permit: &Permit<can::AlterTopicDynamicConfiguration>,
        overrides: Overrides,
    ) -> Result<Arc<Topic>, CatalogError> {
        let _changing = self.changing.lock().await;
        let old = self.permitted(permit).ok_or(CatalogError::Absent)?;
        self.check_key(&overrides)?;
        let limits = topic_config::batch_limits(&overrides, &self.defaults);
        let topic = Topic { overrides, limits, ..Topic::clone(&old) };
        let log = topic_config::log_config(&topic.overrides, &self.defaults);
        self.engine.update_topic(self.row(&topic).await?, 0..0, log).await?;
        self.engine.set_key_ref(topic.id, topic.partitions, topic_config::kms_key(&topic.overrides));
        Ok(self.replace(topic))
    }

    fn replace(&self, topic: Topic) -> Arc<Topic> {
        let topic = Arc::new(topic);
        self.maps_mut().put(Arc::clone(&topic));
        topic
    }

    async fn row(&self, topic: &Topic) -> Result<TopicRow, CatalogError> {
        // Asked for each time: keys are wiped when the KMS refuses, and must not live on here.
        let keys = self.engine.tenant_keys(self.tenant).await?;
        let sealed = SealedTopic { name: topic.name.as_str().to_owned(), configs: topic.overrides.clone() };
        let plain = serde_json::to_vec(&sealed).map_err(|_| CatalogError::Sealed)?;
        Ok(TopicRow {
            tenant: self.tenant,
            topic_id: topic.id,
            name_index: keys.index.name_index(NAME_KIND_TOPIC, topic.name.as_str()),
            sealed: schloss_crypto::seal_value(&keys.metadata, &binding(self.tenant, topic.id), &plain),
            partitions: topic.partitions,
            created_ms: self.clock.now_ms(),
        })
    }

    fn maps(&self) -> std::sync::RwLockReadGuard<'_, Maps> {
        self.maps.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn maps_mut(&self) -> std::sync::RwLockWriteGuard<'_, Maps> {
        self.maps.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Kind byte of topic names in the name index.
const NAME_KIND_TOPIC: u8 = 1;

/// What a topic's sealed value is bound to: moved to another row or tenant it does not open.
fn binding(tenant: TenantId, topic: TopicId) -> Vec<u8> {
    [b"topic".as_slice(), &tenant.to_bytes(), &topic.to_bytes()].concat()
}
