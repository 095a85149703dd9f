//! The composition root: builds every room from the config, joins them, and takes them down in order.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use schloss_audit::{AuditConfig, AuditError, AuditLog, Class, Event, Verdict};
use schloss_authz::Organisation;
use schloss_certs::{ReloadingTls, TlsFiles};
use schloss_core::{Clock, SystemClock, TenantId};
use schloss_crypto::{Denial, KeyError, random_array};
use schloss_kms::Vault;
use schloss_metadata::Metadata;
use schloss_storage::{Engine, EngineConfig, Foundation, LocalStore, OpenError, refuse_unproved_log, until_quiet};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::abroad::Met;
use crate::acls::Acls;
use crate::break_glass;
use crate::catalog::{Catalog, CatalogLimits};
use crate::cluster_id;
use crate::config::Config;
use crate::credentials::Credentials;
use crate::failure::{Failure, Number};
use crate::groups::Groups;
use crate::key_states::{self, Waiting};
use crate::keys::{self, KeyService, Recorder};
use crate::login::LoginRoom;
pub use crate::login::request_name;
use crate::manifest;
use crate::net::BUDGET_UNIT_BYTES;
use crate::producers::Producers;
use crate::starting;
use crate::sts::StsLimits;
use crate::telemetry::Metrics;
use crate::tenancy::{self, Tenancy, Tenant, tenant_id};

/// Tenants opened at once.
const OPENINGS_MAX: usize = 32;
/// A start, or a reload, goes on without tenants of which none was opened for this long: the rest follow in the background.
const OPENING_PATIENCE: Duration = Duration::from_secs(1);
/// How often the organisation's folder and the certificates are looked at for changes.
const RELOAD_EVERY: Duration = Duration::from_millis(300);

/// File of the data folder with the digest of the organisation in force.
const IN_FORCE: &str = "organisation-in-force";

/// Every room, joined.
pub struct Broker {
    /// The config it was started with.
    pub config: Config,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// TLS, reloaded in place.
    pub tls: Arc<ReloadingTls>,
    /// Tenants and policies.
    pub tenancy: Tenancy,
    /// Access keys, sessions, SCRAM verifiers, delegation tokens.
    pub credentials: Arc<Credentials>,
    /// How often the STS may be asked.
    pub sts_limits: StsLimits,
    /// Logins: limits, caches, compiled rules.
    pub login: LoginRoom,
    /// The log engine.
    pub engine: Arc<Engine>,
    /// The audit log.
    pub audit: Arc<AuditLog>,
    /// Metrics.
    pub metrics: Metrics,
    /// The slow facts.
    pub metadata: Arc<dyn Metadata>,
    /// The keys.
    pub vault: Arc<Vault>,
    key_service: KeyService,
    /// Tenants that are not open because their KMS key is away.
    pub waiting: Waiting,
    requests: AtomicU64,
    draining: AtomicBool,
    organisation_changed: watch::Sender<u64>,
    reload_failed: Mutex<Option<String>>,
}

/// The sockets, bound before anything is opened or changed.
pub struct Listeners {
    pub(crate) kafka: Vec<TcpListener>,
    pub(crate) admin: TcpListener,
}

impl Listeners {
    /// Binds all.
    ///
    /// # Errors
    /// [`Number::Listener`].
    pub async fn bind(config: &Config) -> Result<Self, Failure> {
        let mut kafka = Vec::new();
        for listener in &config.listeners {
            kafka.push(listen(listener.address, "listeners").await?);
        }
        let admin = listen(config.admin_listener, "admin.listener").await?;
        Ok(Self { kafka, admin })
    }
}

impl Broker {
    /// Builds every room and opens every tenant of the organisation.
    ///
    /// # Errors
    /// A numbered [`Failure`] that says what to do.
    pub async fn open(config: Config, listeners: &Listeners) -> Result<Arc<Self>, Failure> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let (organisation, digest) = tenancy::load(&config.organisation_dir).map_err(|error| {
            Failure::new(
                Number::Organisation,
                error,
                format!("mend the files under `{}`", config.organisation_dir.display()),
            )
        })?;
        let tls = open_tls(&config, &organisation)?;
        // Before the data folder: a keyring that cannot be opened changes nothing there.
        let key_service = keys::open(&config, &organisation).await?;
        // And before the manifest: an earlier release must still be able to open it, to make the backup.
        refuse_unproved_log(&config.data_dir.join("wal")).map_err(refused_log)?;
        let vault = Arc::clone(&key_service.vault);
        let (metadata, cluster) = manifest::open(&config.data_dir, &*vault, &clock).await?;
        cluster_id::write(&config.data_dir, cluster)?;
        let audit = AuditConfig::new(config.data_dir.join("audit"), cluster);
        let audit = starting::open_audit(audit, &vault, &clock, listeners, &tls).await.map_err(audit_log)?;
        vault.attach_sink(Arc::new(Recorder(Arc::clone(&audit))));
        let (integrity, doubts) = manifest::prove(&config.data_dir, &metadata, &*vault, cluster, &audit).await?;
        let metadata: Arc<dyn Metadata> = metadata;
        let foundation = Foundation {
            cluster,
            metadata: Arc::clone(&metadata),
            objects: open_objects(&config)?,
            vault: Arc::clone(&vault) as _,
            integrity,
            doubts,
            clock: Arc::clone(&clock),
        };
        let engine = open_engine(&config, foundation, &audit).await?;
        vault.attach_watch(Arc::new(key_states::Watch { engine: Arc::downgrade(&engine), audit: Arc::clone(&audit) }));
        engine.attach_integrity_sink(Arc::new(Recorder(Arc::clone(&audit))));
        let tenancy = Tenancy::new(organisation, digest).map_err(|error| {
            Failure::new(Number::Organisation, error, "report this: the policy engine did not start")
        })?;
        let credentials = Arc::new(Credentials::new(Arc::clone(&metadata), Arc::clone(&clock), engine.key_source()));
        let login = LoginRoom::new(&config.login).map_err(|why| {
            Failure::new(
                Number::Certificate,
                why,
                "name a PEM file of authorities with `sasl.oauthbearer.jwks.ca.file`",
            )
        })?;
        let broker = Arc::new(Self {
            tenancy,
            credentials,
            sts_limits: StsLimits::default(),
            login,
            config,
            clock,
            tls,
            engine,
            audit,
            metrics: Metrics::new(),
            metadata,
            vault,
            key_service,
            waiting: Waiting::default(),
            requests: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            organisation_changed: watch::Sender::new(0),
            reload_failed: Mutex::new(None),
        });
        broker.open_tenants().await?;
        broker.tell_organisation();
        let grants = break_glass::grants(&broker.tenancy.policies().organisation());
        break_glass::tell(&broker, &std::collections::BTreeSet::new(), &grants).await;
        Ok(broker)
    }

    /// Serves until `stop` turns true, then drains and closes everything in order.
    pub async fn serve(self: &Arc<Self>, listeners: Listeners, mut stop: watch::Receiver<bool>, ready: impl FnOnce()) {
        let Listeners { kafka, admin } = listeners;
        let admin = tokio::spawn(crate::http::serve(admin, Arc::clone(self)));
        let watcher = tokio::spawn(watch_files(Arc::clone(self)));
        let ticker = tokio::spawn(tick_groups(Arc::clone(self)));
        let prover = tokio::spawn(key_states::prove_keys(Arc::clone(self)));
        let keeper = tokio::spawn(Arc::clone(&self.credentials).tend());
        ready();
        let serving = tokio::spawn(crate::net::serve(kafka, Arc::clone(self), stop.clone()));
        let stopped = stop.wait_for(|stop| *stop).await.map(drop);
        drop(stopped);
        self.draining.store(true, Ordering::Release);
        for tenant in self.tenancy.tenants() {
            tenant.groups.close();
        }
        if serving.await.is_err() {
            tracing::error!("the listener's task failed");
        }
        watcher.abort();
        ticker.abort();
        prover.abort();
        keeper.abort();
        self.engine.close().await;
        if let Err(error) = self.audit.close().await {
            tracing::error!(%error, "the audit log could not be closed");
        }
        admin.abort();
    }

    /// Has every connection look at its tenant again.
    pub fn end_sessions(&self) {
        self.organisation_changed.send_modify(|_| {});
    }

    /// Tells of every change of the organisation or of certificates: connections look at their login again.
    #[must_use]
    pub fn organisation_changed(&self) -> watch::Receiver<u64> {
        self.organisation_changed.subscribe()
    }

    /// A number for the next request.
    pub fn next_request(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed)
    }

    /// A random id for a fetch session, above 0.
    #[must_use]
    pub fn fresh_session_id(&self) -> i32 {
        let bytes: [u8; 4] = random_array();
        (i32::from_be_bytes(bytes) & i32::MAX).max(1)
    }

    /// Whether this broker should get traffic, or why not.
    ///
    /// # Errors
    /// The reason, without a tenant's names.
    pub fn readiness(&self) -> Result<(), String> {
        if self.draining.load(Ordering::Acquire) {
            return Err("draining".to_owned());
        }
        if let Some(reason) = &*self.reload_failed.lock().unwrap_or_else(PoisonError::into_inner) {
            tracing::debug!(reason, "serving with the last good organisation");
        }
        self.engine.health().map_err(|error| error.to_string())
    }

    /// Copies the rooms' figures into the metrics.
    pub fn read_figures(&self) {
        let readings = &self.metrics.readings;
        let engine = self.engine.stats();
        let kms = self.vault.stats();
        readings.kms_calls.set(
            kms.generate_calls
                .saturating_add(kms.decrypt_calls)
                .saturating_add(kms.re_encrypt_calls)
                .saturating_add(kms.describe_calls)
                .saturating_add(kms.probe_calls),
        );
        readings.kms_failures.set(kms.denied.saturating_add(kms.unreachable));
        readings.kms_probes.set(kms.probe_calls);
        readings.kms_denied.set(kms.denied);
        readings.kms_unreachable.set(kms.unreachable);
        readings.kms_call_seconds.set(std::time::Duration::from_nanos(kms.call_nanos).as_secs_f64());
        readings.kms_cached_keys.set(kms.cached_keys);
        readings.tenants_waiting_for_key.set(self.waiting.count() as u64);
        readings.keys_rewrapped.set(engine.keys_rewrapped);
        readings.segments_rewritten.set(engine.segments_rewritten);
        readings.segments_scrubbed.set(engine.segments_scrubbed);
        readings.wal_entries.set(engine.wal_entries);
        readings.wal_bytes.set(engine.wal_bytes);
        readings.tail_bytes.set(engine.tail_bytes);
        readings.log_bytes_set_aside.set(engine.log_bytes_set_aside);
        readings.segments.set(engine.segments);
        readings.segment_bytes.set(engine.segment_bytes);
        readings.cache_hits.set(engine.cache_hits);
        readings.cache_misses.set(engine.cache_misses);
        readings.integrity_failures.set(engine.integrity_failures);
        readings.policy_epoch.set(self.tenancy.policies().epoch());
    }

    async fn open_tenants(self: &Arc<Self>) -> Result<(), Failure> {
        let organisation = self.tenancy.policies().organisation();
        let hosts = organisation.tenants().flat_map(|tenant| tenant.hosts()).map(ToString::to_string);
        self.tls.set_hosts(hosts.collect());
        self.key_service.set_organisation(&self.config, &organisation);
        let absent = organisation.tenants().filter_map(tenant_id).filter(|id| self.tenancy.tenant(*id).is_none());
        let locked: HashSet<TenantId> = self.engine.locked_tenants().into_iter().map(|(id, _)| id).collect();
        let (away, asked): (Vec<_>, Vec<_>) = absent.partition(|id| !self.waiting.expect(*id) || locked.contains(id));
        // Known to be away: nobody waits for these.
        tokio::spawn(Self::try_tenants(Arc::clone(self), away, OPENINGS_MAX));
        let openings = asked.into_iter().map(|id| {
            let broker = Arc::clone(self);
            async move { broker.try_tenant(id).await }
        });
        let mut failed = None;
        until_quiet(openings, OPENINGS_MAX, OPENING_PATIENCE, |opened| {
            if let Err(failure) = opened {
                failed.get_or_insert(failure);
            }
        })
        .await;
        failed.map_or(Ok(()), Err)
    }

    /// Opens tenants that wait; one whose key hangs holds no other.
    pub async fn try_tenants(broker: Arc<Self>, tenants: Vec<TenantId>, at_once: usize) {
        let tries = tenants.into_iter().map(|id| {
            let broker = Arc::clone(&broker);
            async move { drop(broker.try_tenant(id).await) }
        });
        until_quiet(tries, at_once, OPENING_PATIENCE, drop).await;
    }

    /// Opens a tenant that waits, quietly when its key is still away. A failure is told here, whoever still listens.
    async fn try_tenant(&self, id: TenantId) -> Result<(), Failure> {
        self.add_tenant(id).await.inspect_err(|failure| {
            tracing::error!(tenant = %id, %failure, "a tenant could not be opened");
            self.waiting.put(id, "it could not be opened: the broker's log tells why".to_owned());
        })
    }

    /// Opens a tenant, or notes that it waits for its KMS key.
    async fn add_tenant(&self, id: TenantId) -> Result<(), Failure> {
        // It is not tried again: who mends the rows does so with the broker stopped.
        if let Some(doubt) = self.engine.in_doubt(id) {
            tracing::error!(tenant = %id, why = %doubt, "a tenant is not served");
            self.waiting.take(id);
            return Ok(());
        }
        let Some(_opening) = self.waiting.begin(id) else { return Ok(()) };
        if self.tenancy.tenant(id).is_some() {
            self.waiting.take(id);
            return Ok(());
        }
        let organisation = self.tenancy.policies().organisation();
        let Some(entry) = organisation.tenants().find(|entry| tenant_id(entry) == Some(id)) else {
            self.waiting.take(id);
            return Ok(());
        };
        if let Some(why) = self.key_away(id).await? {
            if self.waiting.put(id, why.clone()) {
                tracing::error!(tenant = %id, why, "a tenant is not served: its KMS key cannot be used; it is tried again");
            }
            return Ok(());
        }
        let tenant = self.open_tenant(id, entry).await?;
        self.tenancy.add(Arc::new(tenant));
        self.waiting.take(id);
        tracing::info!(tenant = %id, "a tenant is open");
        Ok(())
    }

    /// Why a tenant's keys cannot be had now; opens what recovery had to leave sealed when they can.
    async fn key_away(&self, id: TenantId) -> Result<Option<String>, Failure> {
        let refused = |error: &dyn std::fmt::Display| {
            Failure::new(
                Number::Kms,
                format!("keys of tenant {id}: {error}"),
                "the manifest's wrapped keys were altered or are of another installation: restore the data folder",
            )
        };
        match self.engine.tenant_keys(id).await {
            Ok(_) => {}
            Err(error) if error.key_is_away() => return Ok(Some(error.to_string())),
            Err(error) => return Err(refused(&error)),
        }
        match self.engine.unlock(id).await {
            Ok(()) => Ok(None),
            Err(error) if error.is_one_tenants() => Ok(Some(error.to_string())),
            Err(error) => Err(refused(&error)),
        }
    }

    async fn open_tenant(&self, id: TenantId, entry: &schloss_authz::Tenant) -> Result<Tenant, Failure> {
        let limits = &self.config.limits;
        let stored = |error: &dyn std::fmt::Display| {
            Failure::new(
                Number::Storage,
                format!("tenant {id}: {error}"),
                "restore the data folder from a backup, or see the manual, chapter operations",
            )
        };
        let keys = self.engine.tenant_keys(id).await.map_err(|error| {
            Failure::new(
                Number::Kms,
                format!("keys of tenant {id}: {error}"),
                "check the tenant's KMS key and the key service, then start again; nothing was changed",
            )
        })?;
        let acls = Acls::open(
            id,
            entry.account(),
            Arc::clone(&self.metadata),
            self.engine.key_source(),
            self.tenancy.policies(),
        )
        .await;
        self.credentials.open_tenant(id, keys).await.map_err(|error| stored(&error))?;
        let catalog_limits = CatalogLimits {
            topics_max: limits.topics_per_tenant_max,
            partitions_max: limits.partitions_per_tenant_max,
        };
        let catalog = Catalog::open(
            id,
            &*self.metadata,
            Arc::clone(&self.engine),
            Arc::clone(&self.clock),
            self.config.topic_defaults.clone(),
            catalog_limits,
            Arc::clone(&self.vault),
        )
        .await;
        let state = self.engine.state(id);
        let groups = Groups::open(id, Arc::clone(&self.engine), Arc::clone(&self.clock), &self.config.groups, &state)
            .map_err(|error| stored(&error))?;
        let producers = Producers::open(id, Arc::clone(&self.engine), Arc::clone(&self.clock), &state)
            .map_err(|error| stored(&error))?;
        let units = (limits.queued_request_bytes_max / BUDGET_UNIT_BYTES).min(Semaphore::MAX_PERMITS);
        Ok(Tenant {
            id,
            cluster: entry.cluster().clone(),
            catalog: catalog.map_err(|error| stored(&error))?,
            groups: Arc::new(groups),
            producers,
            acls: acls.map_err(|error| stored(&error))?,
            met: Met::default(),
            request_memory: Arc::new(Semaphore::new(units)),
            vault: Arc::clone(&self.vault),
            active: AtomicBool::new(false),
        })
    }

    /// Loads the organisation's folder again; a wrong one is refused whole.
    async fn reload_organisation(self: &Arc<Self>, digest: String) {
        let folder = self.config.organisation_dir.clone();
        let loaded = tokio::task::spawn_blocking(move || tenancy::load(&folder)).await;
        let failed = match loaded {
            Ok(Ok((organisation, digest))) => {
                let before = break_glass::grants(&self.tenancy.policies().organisation());
                let after = break_glass::grants(&organisation);
                let epoch = self.tenancy.replace(organisation, digest);
                self.organisation_changed.send_replace(epoch);
                self.tell_organisation();
                tracing::info!(epoch, "a new organisation is in force");
                self.record_reload(Verdict::Allowed, format!("version {epoch}")).await;
                break_glass::tell(self, &before, &after).await;
                self.open_tenants().await.err().map(|failure| failure.to_string())
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        let told = self.reload_failed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(reason) = &failed
            && told.as_ref() != Some(reason)
        {
            // File names and lines are the operator's; they hold no tenant's data.
            tracing::error!(%reason, digest, "the organisation's files were refused; the old ones stay in force");
            self.metrics.organisation_refused.inc();
            self.record_reload(Verdict::Denied, "the files have mistakes".to_owned()).await;
        }
        *self.reload_failed.lock().unwrap_or_else(PoisonError::into_inner) = failed;
    }

    /// Says beside the manifest which files are in force, for `schloss iam apply`. A digest, no names.
    fn tell_organisation(&self) {
        match tenancy::digests_of_files(&self.config.organisation_dir) {
            Ok(files) => self.tenancy.remember_files(files),
            Err(error) => tracing::warn!(%error, "which files are in force could not be noted"),
        }
        if let Err(error) = std::fs::write(self.config.data_dir.join(IN_FORCE), self.tenancy.version().0) {
            tracing::warn!(%error, "which organisation is in force could not be written down");
        }
    }

    async fn record_reload(&self, verdict: Verdict, reason: String) {
        let mut event = Event::new(None, Class::Administration, verdict, "schloss:ReloadOrganisation");
        event.reason = Some(reason);
        event.request_id = Some(request_name());
        if let Err(error) = self.audit.record(event).await {
            tracing::error!(%error, "a reload could not be recorded");
        }
    }
}

/// Looks at the organisation's folder and the TLS files again and again.
async fn watch_files(broker: Arc<Broker>) {
    let mut refused = None;
    loop {
        tokio::time::sleep(RELOAD_EVERY).await;
        let folder = broker.config.organisation_dir.clone();
        let digest = tokio::task::spawn_blocking(move || tenancy::digest_of_folder(&folder)).await;
        if let Ok(Ok(digest)) = digest
            && digest != broker.tenancy.version().0
            && refused.as_ref() != Some(&digest)
        {
            broker.reload_organisation(digest.clone()).await;
            refused = (broker.tenancy.version().0 != digest).then_some(digest);
        }
        let tls = Arc::clone(&broker.tls);
        match tokio::task::spawn_blocking(move || tls.reload_if_changed()).await {
            Ok(Ok(true)) => {
                tracing::info!("certificates were reloaded");
                // Every connection looks at its own certificate again.
                broker.organisation_changed.send_modify(|_| {});
            }
            Ok(Ok(false)) => {}
            Ok(Err(error)) => tracing::error!(%error, "certificates could not be reloaded; the old ones stay in use"),
            Err(error) => tracing::error!(%error, "certificates could not be reloaded"),
        }
    }
}

/// Time passes for groups: session and rebalance time-outs, expiry of offsets.
async fn tick_groups(broker: Arc<Broker>) {
    let mut interval = tokio::time::interval(Duration::from_millis(50));
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        for tenant in broker.tenancy.tenants() {
            tenant.groups.tick();
        }
    }
}

async fn listen(address: SocketAddr, key: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure::new(
            Number::Listener,
            format!("`{address}` cannot be listened on: {error}"),
            format!("free the port or choose another with `{key}` (quickstart: --port)"),
        )
    })
}

fn open_tls(config: &Config, organisation: &Organisation) -> Result<Arc<ReloadingTls>, Failure> {
    let files = TlsFiles {
        certificate: config.tls_certificate.clone(),
        key: config.tls_key.clone(),
        client_ca_dir: config.client_ca_dir.clone(),
        operator_ca: config.operator_ca.clone(),
    };
    let hosts = organisation.tenants().flat_map(|tenant| tenant.hosts()).map(ToString::to_string).collect();
    ReloadingTls::open(files, hosts).map_err(|error| {
        Failure::new(Number::Certificate, error, "mend the file named above; see the manual, chapter operations")
    })
}

/// The digest the running broker wrote last.
#[must_use]
pub fn read_organisation_in_force(folder: &Path) -> Option<String> {
    std::fs::read_to_string(folder.join(IN_FORCE)).ok()
}

/// Why the audit log cannot be used.
pub fn audit_log(error: AuditError) -> Failure {
    if let AuditError::Key(KeyError::Denied { why: Denial::NoKeyConfigured, .. }) = error {
        return Failure::new(
            Number::Kms,
            format!("the audit log: {error}"),
            "`kms.cluster.key` is another one than before: name the former one in `kms.cluster.keys`, start, and run `schloss keys rewrap --cluster`",
        );
    }
    Failure::new(
        Number::AuditUnreadable,
        format!("the audit log: {error}"),
        "run `schloss audit verify`; the broker does not start without its audit log",
    )
}

fn open_objects(config: &Config) -> Result<Arc<LocalStore>, Failure> {
    LocalStore::open(&config.data_dir.join("objects"))
        .map(Arc::new)
        .map_err(|error| Failure::new(Number::DataFolder, error, "check the folder's rights and free space"))
}

async fn open_engine(config: &Config, foundation: Foundation, audit: &AuditLog) -> Result<Arc<Engine>, Failure> {
    let storage = &config.storage;
    let engine = EngineConfig {
        shards: storage.shards,
        tail_bytes_max: storage.tail_bytes_max,
        flush_bytes: storage.flush_bytes,
        flush_every: Duration::from_millis(storage.flush_ms),
        cache_bytes_max: storage.cache_bytes_max,
        retention_every: Duration::from_millis(storage.retention_check_ms),
        scrub_every: storage.scrub_every,
        topic_keys_folder: Some(config.topic_keys_dir.clone()),
        ..EngineConfig::in_folder(config.data_dir.join("wal"))
    };
    match Engine::open(engine, foundation).await {
        Ok(engine) => Ok(engine),
        Err(error) => {
            if let Some(object) = error.damaged() {
                keys::record_refused_start(audit, object, &error).await;
            }
            Err(refused_log(error))
        }
    }
}

fn refused_log(error: OpenError) -> Failure {
    match error {
        OpenError::Key(_) | OpenError::KeyTrouble(_) => Failure::new(
            Number::Kms,
            error,
            "check the tenants' KMS keys and the key service, then start again; nothing was changed",
        ),
        OpenError::UnprovedLog => Failure::new(
            Number::OlderFormat,
            error,
            "start the earlier release on this folder, run `schloss backup create`, stop it, and run `schloss backup restore` with this release into an empty folder; nothing was changed",
        ),
        OpenError::Io { .. } => {
            Failure::new(Number::DataFolder, error, "check rights and free space of the data folder")
        }
        _ => Failure::new(
            Number::Storage,
            error,
            "do not delete anything; restore the data folder from a backup, or ask for help with this message",
        ),
    }
}
