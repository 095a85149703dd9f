//! Puts an organisation together from its files.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use casbin::{DefaultRoleManager, RoleManager};

use super::authentication::{self, Authentication};
use super::break_glass::{self, BreakGlass};
use super::people::{CertificateRule, Shows};
use super::tables::{Table, TomlFile};
use super::{Identity, MANAGED, Organisation, POLICY_NODE, SharedTopic, Tenant, TenantKms};
use crate::arn::{AccountId, ClusterArn};
use crate::finding::{Finding, Findings, Problem, Severity};
use crate::json::Position;
use crate::lint;
use crate::policy::{Attached, DocumentKind, Library};

/// Everything on the way.
struct Loading<'a> {
    files: &'a BTreeMap<String, String>,
    library: &'a mut Library,
    findings: Vec<Finding>,
    graph: DefaultRoleManager,
    hosts: HashMap<Box<str>, AccountId>,
    client_cas: HashMap<[u8; 32], AccountId>,
}

pub(super) fn load(files: &BTreeMap<String, String>, library: &mut Library) -> Result<Organisation, Vec<Finding>> {
    let mut loading = Loading {
        files,
        library,
        findings: Vec::new(),
        graph: DefaultRoleManager::new(ROLE_DEPTH_MAX),
        hosts: HashMap::new(),
        client_cas: HashMap::new(),
    };
    loading.refuse_strays();
    let guardrails = loading.policies("guardrails/", DocumentKind::Guardrail);
    let controls = loading.policies("resource-controls/", DocumentKind::ResourceControl);
    let (id, guardrails, resource_controls) = loading.organisation(&guardrails, &controls);
    let mut tenants: BTreeMap<AccountId, Tenant> = BTreeMap::new();
    for alias in loading.aliases() {
        let file = format!("tenants/{alias}/tenant.toml");
        if let Some(tenant) = loading.tenant(alias) {
            if let Some(other) = tenants.get(&tenant.account) {
                let (name, other) = (tenant.account.to_string().into(), other.alias.clone());
                let problem = Problem::Duplicate { kind: "account", name, other };
                loading.findings.push(Finding { file: file.into(), at: Position::START, problem });
            }
            tenants.insert(tenant.account, tenant);
        }
    }
    if tenants.is_empty() && loading.findings.is_empty() {
        let problem = Problem::Missing { name: "tenants/<alias>/tenant.toml" };
        loading.findings.push(Finding { file: "tenants".into(), at: Position::START, problem });
    }
    let Loading { mut findings, graph, hosts, client_cas, library, .. } = loading;
    findings.sort_by(|a, b| (&a.file, a.at).cmp(&(&b.file, b.at)));
    if findings.iter().any(|f| f.severity() == Severity::Error) {
        return Err(findings);
    }
    library.sweep();
    Ok(Organisation { id, tenants, hosts, client_cas, guardrails, resource_controls, graph, warnings: findings })
}

impl<'a> Loading<'a> {
    /// Runs `read` with the findings of one file.
    fn in_file<T>(&mut self, file: &str, read: impl FnOnce(&mut Findings<'_>) -> T) -> T {
        read(&mut Findings { file: file.into(), list: &mut self.findings })
    }

    /// Reads a TOML file, which may be absent.
    fn toml<T>(&mut self, file: &str, read: impl FnOnce(&mut Table<'_, '_, '_>) -> T) -> Option<T> {
        let text = self.files.get(file)?;
        self.in_file(file, |findings| Some(read(&mut TomlFile::parse(text, findings)?.root(findings))))
    }

    /// A misspelt folder must not silently mean "no policies".
    fn refuse_strays(&mut self) {
        for path in self.files.keys() {
            let parts: Vec<&str> = path.split('/').collect();
            let fits = match parts.as_slice() {
                ["organisation.toml"] | ["tenants", _, "tenant.toml" | "certificates.toml" | "mounts.toml"] => true,
                ["guardrails" | "resource-controls", file] => file.ends_with(".json"),
                ["tenants", _, "users" | "roles" | "groups" | "issuers" | "break-glass", file] => {
                    file.ends_with(".toml")
                }
                ["tenants", _, "policies" | "trust" | "cluster-policies", file] => file.ends_with(".json"),
                _ => !path.ends_with(".toml") && !path.ends_with(".json"),
            };
            if !fits {
                let problem = Problem::Unknown { name: path.as_str().into() };
                self.findings.push(Finding { file: path.as_str().into(), at: Position::START, problem });
            }
        }
    }

    fn aliases(&self) -> Vec<&'a str> {
        let mut aliases: Vec<&str> =
            self.files.keys().filter_map(|p| Some(p.strip_prefix("tenants/")?.split_once('/')?.0)).collect();
        aliases.dedup();
        aliases
    }

    /// Names and texts of the files right in a folder.
    fn folder(&self, folder: &str, ending: &str) -> Vec<(&'a str, &'a str, &'a str)> {
        let files = self.files.iter().filter_map(|(path, text)| {
            let name = path.strip_prefix(folder)?.strip_suffix(ending)?;
            (!name.contains('/')).then_some((name, path.as_str(), text.as_str()))
        });
        files.collect()
    }

    fn policies(&mut self, folder: &str, kind: DocumentKind) -> BTreeMap<Box<str>, Attached> {
        let mut policies = BTreeMap::new();
        for (name, path, text) in self.folder(folder, ".json") {
            let file: Arc<str> = path.into();
            if let Some(document) = self.library.compile(kind, &file, text, &mut self.findings) {
                lint::document(&document, kind, &mut Findings { file, list: &mut self.findings });
                policies.insert(name.into(), Attached { name: name.into(), document });
            }
        }
        self.put_shadows(folder, &mut policies);
        policies
    }

    /// `<name>.shadow.json` is a version of `<name>.json` to be judged beside it; it is never attached by itself.
    fn put_shadows(&mut self, folder: &str, policies: &mut BTreeMap<Box<str>, Attached>) {
        let names: Vec<Box<str>> = policies.keys().filter(|name| name.ends_with(SHADOW)).cloned().collect();
        for name in names {
            let Some(shadow) = policies.remove(&name) else { continue };
            let base = name.strip_suffix(SHADOW).unwrap_or(&name);
            match policies.get_mut(base) {
                Some(policy) => policy.document = Arc::new(policy.document.with_shadow(shadow.document)),
                None => {
                    let file = format!("{folder}{name}.json");
                    let problem = Problem::Dangling { kind: "policy", name: base.into() };
                    self.in_file(&file, |f| f.add(Position::START, problem));
                }
            }
        }
    }

    #[allow(clippy::type_complexity)]
    fn organisation(
        &mut self,
        guardrails: &BTreeMap<Box<str>, Attached>,
        controls: &BTreeMap<Box<str>, Attached>,
    ) -> (Option<Box<str>>, Vec<Vec<Attached>>, Vec<Vec<Attached>>) {
        let full_access = self.managed(DocumentKind::Guardrail, "full-access");
        let files = self.files;
        let exists = |folder: &str, name: &str| files.contains_key(&format!("{folder}/{name}.json"));
        self.toml("organisation.toml", |table| {
            table.only(&["id", "guardrails", "resource_controls"]);
            let id = table.text("id").map(|(_, id)| id.into());
            let mut levels = |key: &str, folder: &str, kind: &'static str, policies: &BTreeMap<Box<str>, Attached>| {
                let mut levels = Vec::new();
                for names in table.lists(key) {
                    let mut level = Vec::new();
                    for (at, name) in names {
                        match policies.get(name) {
                            Some(policy) => level.push(policy.clone()),
                            None if name == "managed/full-access" => level.extend(full_access.clone()),
                            None if exists(folder, name) => {}
                            None => table.findings.add(at, Problem::Dangling { kind, name: name.into() }),
                        }
                    }
                    levels.push(level);
                }
                levels
            };
            let guardrails = levels("guardrails", "guardrails", "guardrail", guardrails);
            (id, guardrails, levels("resource_controls", "resource-controls", "resource control policy", controls))
        })
        .unwrap_or_default()
    }

    fn managed(&mut self, kind: DocumentKind, wanted: &str) -> Option<Attached> {
        let (_, text) = MANAGED.iter().find(|(name, _)| *name == wanted)?;
        let name: Arc<str> = format!("managed/{wanted}").into();
        let document = self.library.compile(kind, &name, text, &mut self.findings)?;
        Some(Attached { name, document })
    }

    fn tenant(&mut self, alias: &str) -> Option<Tenant> {
        let folder = format!("tenants/{alias}/");
        let file = format!("{folder}tenant.toml");
        if !self.files.contains_key(&file) {
            self.in_file(&file, |f| f.add(Position::START, Problem::Missing { name: "tenant.toml" }));
            return None;
        }
        let mut policies = self.policies(&format!("{folder}policies/"), DocumentKind::Identity);
        for (name, _) in MANAGED {
            if let Some(policy) = self.managed(DocumentKind::Identity, name) {
                policies.insert(policy.name.as_ref().into(), policy);
            }
        }
        let trust = self.policies(&format!("{folder}trust/"), DocumentKind::Trust);
        let cluster_policies = self.policies(&format!("{folder}cluster-policies/"), DocumentKind::Resource);
        let about = self.toml(&file, |table| read_tenant(table, alias))?;
        let (account, cluster, hosts, kms, client_ca, fingerprints) = about?;
        for (at, host) in &hosts {
            if let Some(other) = self.hosts.insert(host.clone(), account) {
                let problem =
                    Problem::Duplicate { kind: "host name", name: host.clone(), other: other.to_string().into() };
                self.in_file(&file, |f| f.add(*at, problem));
            }
        }
        for (at, fingerprint) in fingerprints {
            if let Some(other) = self.client_cas.insert(fingerprint, account) {
                let problem =
                    Problem::Duplicate { kind: "client CA", name: alias.into(), other: other.to_string().into() };
                self.in_file(&file, |f| f.add(at, problem));
            }
        }
        let groups = self.folder(&format!("{folder}groups/"), ".toml");
        for (name, path, _) in &groups {
            self.member(path, account, &format!("group:{name}"), &["policies"], &folder, &policies);
        }
        let group_names: Vec<&str> = groups.iter().map(|(name, _, _)| *name).collect();
        let users = self.people(&folder, "user", account, &policies, &group_names, &trust);
        let mut roles = self.people(&folder, "role", account, &policies, &group_names, &trust);
        let break_glass = self.break_glass(&folder, account, &mut policies, &mut roles);
        let certificates = self.certificates(&folder, &users, &roles);
        let mounts = Arc::new(self.mounts(&folder, account));
        let access = self.toml(&file, read_access).unwrap_or_default();
        let kafka_users = self.toml(&file, |table| read_kafka_users(table, &users)).unwrap_or_default();
        let issuers = self.folder(&format!("{folder}issuers/"), ".toml");
        let issuers = issuers
            .into_iter()
            .filter_map(|(name, path, _)| self.toml(path, |table| authentication::read_issuer(table, name, &roles))?)
            .collect();
        let hosts = hosts.into_iter().map(|(_, host)| host).collect();
        let cluster_policies = cluster_policies.into_values().collect();
        let alias = alias.into();
        Some(Tenant {
            account,
            alias,
            cluster,
            hosts,
            kms,
            client_ca,
            users,
            roles,
            policies,
            cluster_policies,
            certificates,
            mounts,
            break_glass,
            kafka_users,
            suspended: access.0,
            authentication: access.1,
            issuers,
        })
    }

    fn people(
        &mut self,
        folder: &str,
        word: &'static str,
        account: AccountId,
        policies: &BTreeMap<Box<str>, Attached>,
        groups: &[&str],
        trusts: &BTreeMap<Box<str>, Attached>,
    ) -> BTreeMap<Box<str>, Identity> {
        let known: &[&str] = if word == "user" {
            &["groups", "policies", "boundary", "tags"]
        } else {
            &["policies", "boundary", "trust", "tags", "max_session_duration"]
        };
        let mut people = BTreeMap::new();
        for (name, path, _) in self.folder(&format!("{folder}{word}s/"), ".toml") {
            let node = format!("{word}:{name}");
            let domain = account.to_string();
            if !is_name(name) || name.starts_with(break_glass::ROLE_PREFIX) {
                let problem = Problem::BadValue {
                    value: name.into(),
                    expected: "name (letters, digits and `+=,.@_-`, at most 64)",
                };
                self.in_file(path, |f| f.add(Position::START, problem));
            }
            self.member(path, account, &node, known, folder, policies);
            let files = self.files;
            let mut links = Vec::new();
            let identity = self.toml(path, |table| {
                for (at, group) in table.texts("groups") {
                    if groups.contains(&group) {
                        links.push(format!("group:{group}"));
                    } else {
                        table.findings.add(at, Problem::Dangling { kind: "group", name: group.into() });
                    }
                }
                let trust = table.text("trust").and_then(|(at, name)| {
                    let found = trusts.get(name).cloned();
                    if found.is_none() && !files.contains_key(&format!("{folder}trust/{name}.json")) {
                        table.findings.add(at, Problem::Dangling { kind: "trust policy", name: name.into() });
                    }
                    found
                });
                let expected = "seconds from 3600 to 43200";
                let session_max = table.whole_number("max_session_duration", SESSION_SECONDS, expected);
                let boundary = table.text("boundary").and_then(|(at, name)| {
                    let found = policies.get(name).cloned();
                    if found.is_none() && !files.contains_key(&format!("{folder}policies/{name}.json")) {
                        table.findings.add(at, Problem::Dangling { kind: "policy", name: name.into() });
                    }
                    found
                });
                let tags = table.table("tags", false, |tags| Some(tags.pairs())).unwrap_or_default();
                let session_seconds_max = session_max.unwrap_or(*SESSION_SECONDS.start());
                Identity { boundary, tags, trust, session_seconds_max }
            });
            for link in links {
                self.graph.add_link(&node, &link, Some(&domain));
            }
            people.insert(name.into(), identity.unwrap_or_default());
        }
        people
    }

    /// Links a user, role or group to its policies.
    fn member(
        &mut self,
        path: &str,
        account: AccountId,
        node: &str,
        known: &[&str],
        folder: &str,
        policies: &BTreeMap<Box<str>, Attached>,
    ) {
        let domain = account.to_string();
        // Everybody has one link, so that every tenant and principal is in the graph.
        self.graph.add_link(node, "everybody", Some(&domain));
        let files = self.files;
        let mut links = Vec::new();
        self.toml(path, |table| {
            table.only(known);
            let attached = table.texts("policies");
            if attached.len() > ATTACHED_MAX {
                let problem = Problem::TooManyPolicies { count: attached.len(), max: ATTACHED_MAX };
                table.findings.add(table.at(), problem);
            }
            for (at, name) in attached {
                if policies.contains_key(name) {
                    links.push(format!("{POLICY_NODE}{name}"));
                } else if !files.contains_key(&format!("{folder}policies/{name}.json")) {
                    table.findings.add(at, Problem::Dangling { kind: "policy", name: name.into() });
                }
            }
        });
        for link in links {
            self.graph.add_link(node, &link, Some(&domain));
        }
    }

    /// Each grant as a role with its policies and one that boxes it in time.
    fn break_glass(
        &mut self,
        folder: &str,
        account: AccountId,
        policies: &mut BTreeMap<Box<str>, Attached>,
        roles: &mut BTreeMap<Box<str>, Identity>,
    ) -> Vec<BreakGlass> {
        let mut grants = Vec::new();
        for (id, path, _) in self.folder(&format!("{folder}break-glass/"), ".toml") {
            let known = ["operator", "reason", "from", "until", "policies"];
            let Some(read) = self.toml(path, |table| break_glass::read(table, id)).flatten() else { continue };
            let role = read.grant.role();
            if !is_name(&role) || roles.contains_key(&*role) {
                let problem = Problem::BadValue { value: id.into(), expected: "name of a grant of its own" };
                self.in_file(path, |f| f.add(Position::START, problem));
                continue;
            }
            self.member(path, account, &format!("role:{role}"), &known, folder, policies);
            let name: Arc<str> = format!("break-glass/{id}").into();
            let text = break_glass::time_box(&read.from, &read.until);
            let Some(document) = self.library.compile(DocumentKind::Identity, &name, &text, &mut self.findings) else {
                continue;
            };
            policies.insert(name.as_ref().into(), Attached { name: Arc::clone(&name), document });
            self.graph.add_link(&format!("role:{role}"), &format!("{POLICY_NODE}{name}"), Some(&account.to_string()));
            roles.insert(role.into(), Identity::default());
            grants.push(read.grant);
        }
        grants
    }

    /// Topics of other tenants under names of this one's.
    fn mounts(&mut self, folder: &str, account: AccountId) -> BTreeMap<Box<str>, SharedTopic> {
        let mut mounts = BTreeMap::new();
        self.toml(&format!("{folder}mounts.toml"), |root| {
            root.only(&["mount"]);
            root.tables("mount", |table| {
                table.only(&["name", "topic"]);
                let (Some((at, name)), Some((topic_at, topic))) = (table.required("name"), table.required("topic"))
                else {
                    return;
                };
                if !is_topic(name) {
                    let expected = "topic name (letters, digits, `.`, `_`, `-`, at most 249)";
                    table.findings.add(at, Problem::BadValue { value: name.into(), expected });
                }
                match SharedTopic::parse(topic).filter(|shared| shared.owner != account) {
                    Some(shared) if !mounts.contains_key(name) => drop(mounts.insert(name.into(), shared)),
                    Some(_) => table.findings.add(at, Problem::Repeated { name: name.into() }),
                    None => {
                        let expected = "ARN of another tenant's topic";
                        table.findings.add(topic_at, Problem::BadValue { value: topic.into(), expected });
                    }
                }
            });
        });
        mounts
    }

    fn certificates(
        &mut self,
        folder: &str,
        users: &BTreeMap<Box<str>, Identity>,
        roles: &BTreeMap<Box<str>, Identity>,
    ) -> Vec<CertificateRule> {
        let mut rules: Vec<CertificateRule> = Vec::new();
        self.toml(&format!("{folder}certificates.toml"), |root| {
            root.only(&["certificate"]);
            root.tables("certificate", |table| {
                table.only(&["common_name", "subject", "uri", "dns", "email", "user", "role", "kafka_user"]);
                let mut exists = |kind: &'static str, people: &BTreeMap<Box<str>, Identity>| -> Option<Box<str>> {
                    let (at, name) = table.text(kind)?;
                    if !people.contains_key(name) {
                        table.findings.add(at, Problem::Dangling { kind, name: name.into() });
                    }
                    Some(name.into())
                };
                let (user, role) = (exists("user", users), exists("role", roles));
                let kafka_user = table.text("kafka_user").map(|(_, name)| name.into());
                let at = table.at();
                match ["user", "role", "kafka_user"].iter().filter(|key| table.has(key)).count() {
                    0 => table.findings.add(at, Problem::Neither { first: "user", second: "role, kafka_user" }),
                    1 => {}
                    _ => table.findings.add(at, Problem::Both { first: "user", second: "role, kafka_user" }),
                }
                let forms: [(&str, Form); 5] = [
                    ("common_name", Shows::CommonName),
                    ("subject", Shows::Subject),
                    ("uri", Shows::Uri),
                    ("dns", Shows::Dns),
                    ("email", Shows::Email),
                ];
                let mut shown: Vec<Shows> =
                    forms.iter().filter_map(|(key, form)| table.text(key).map(|(_, text)| form(text.into()))).collect();
                match (shown.pop(), shown.is_empty()) {
                    (None, _) => {
                        table.findings.add(at, Problem::Missing { name: "common_name, subject, uri, dns or email" })
                    }
                    (Some(_), false) => {
                        table
                            .findings
                            .add(at, Problem::Both { first: "common_name", second: "subject, uri, dns, email" });
                    }
                    (Some(shows), true) => {
                        if rules.iter().any(|rule| rule.shows == shows) {
                            table.findings.add(at, Problem::Repeated { name: "certificate".into() });
                        }
                        rules.push(CertificateRule { shows, user, role, kafka_user });
                    }
                }
            });
        });
        rules
    }
}

type AboutTenant =
    (AccountId, ClusterArn, Vec<(Position, Box<str>)>, TenantKms, Option<Box<str>>, Vec<(Position, [u8; 32])>);

/// Ten minutes more than the longest grace a broker may have.
const GRACE_SECONDS_MAX: i64 = 86_400;

fn read_kms(table: &mut Table<'_, '_, '_>) -> Option<TenantKms> {
    let key = table.required("kms_key").map(|(_, key)| key.into());
    let keys = table.texts("kms_keys").into_iter().map(|(_, key)| key.into()).collect();
    let outage_grace_seconds = table.whole("kms_outage_grace_seconds", 0, GRACE_SECONDS_MAX);
    let role = table.text("kms_role").map(|(_, role)| role.into());
    let external_id = table.text("kms_external_id").map(|(_, id)| id.into());
    Some(TenantKms { key: key?, keys, outage_grace_seconds, role, external_id })
}

fn read_tenant(table: &mut Table<'_, '_, '_>, alias: &str) -> Option<AboutTenant> {
    table.only(&[
        "account",
        "alias",
        "hosts",
        "kms_key",
        "kms_keys",
        "kms_outage_grace_seconds",
        "kms_role",
        "kms_external_id",
        "client_ca",
        "client_ca_sha256",
        "kafka_users",
        "cluster",
        "suspended",
        "authentication",
    ]);
    if let Some((at, name)) = table.text("alias").filter(|(_, name)| *name != alias) {
        table.findings.add(at, Problem::BadValue { value: name.into(), expected: "alias equal to the folder's name" });
    }
    let account = table.required("account").and_then(|(at, text)| {
        let account = text.parse::<AccountId>();
        if account.is_err() {
            table.findings.add(at, Problem::BadValue { value: text.into(), expected: "account of 12 digits" });
        }
        account.ok()
    });
    let mut hosts = Vec::new();
    for (at, host) in table.texts("hosts") {
        if is_host(host) {
            hosts.push((at, host.to_ascii_lowercase().into_boxed_str()));
        } else {
            table.findings.add(at, Problem::BadValue { value: host.into(), expected: "host name" });
        }
    }
    let kms = read_kms(table);
    let client_ca = table.text("client_ca").map(|(_, file)| file.into());
    let mut fingerprints = Vec::new();
    for (at, text) in table.texts("client_ca_sha256") {
        match fingerprint(text) {
            Some(fingerprint) => fingerprints.push((at, fingerprint)),
            None => table
                .findings
                .add(at, Problem::BadValue { value: text.into(), expected: "SHA-256 in 64 hexadecimal digits" }),
        }
    }
    let cluster = table.table("cluster", true, |table| {
        table.only(&["name", "uuid", "region", "partition"]);
        let mut word = |key: &'static str, default: Option<&'static str>| -> Option<Box<str>> {
            let found = if default.is_some() && !table.has(key) { None } else { table.required(key) };
            let (at, text) = match (found, default) {
                (Some(found), _) => found,
                (None, default) => return default.map(Into::into),
            };
            if text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
                Some(text.into())
            } else {
                table
                    .findings
                    .add(at, Problem::BadValue { value: text.into(), expected: "word of letters, digits and `-`" });
                None
            }
        };
        Some((word("name", None), word("uuid", None), word("region", None), word("partition", Some("aws"))))
    });
    let account = account?;
    let (name, uuid, region, partition) = cluster?;
    let cluster = ClusterArn { partition: partition?, region: region?, account, name: name?, uuid: uuid? };
    Some((account, cluster, hosts, kms?, client_ca, fingerprints))
}

/// Whether the tenant is suspended, and how its connections may log in.
fn read_access(table: &mut Table<'_, '_, '_>) -> (bool, Authentication) {
    let authentication = table.table("authentication", false, |table| Some(authentication::read(table)));
    (table.truth("suspended", false), authentication.unwrap_or_default())
}

/// Names with SCRAM passwords that are Kafka's own principals; an IAM user cannot be one as well.
fn read_kafka_users(table: &mut Table<'_, '_, '_>, users: &BTreeMap<Box<str>, Identity>) -> BTreeSet<Box<str>> {
    let mut names = BTreeSet::new();
    for (at, name) in table.texts("kafka_users") {
        if users.contains_key(name) {
            let problem = Problem::Duplicate { kind: "user", name: name.into(), other: "users/".into() };
            table.findings.add(at, problem);
        } else if !names.insert(name.into()) {
            table.findings.add(at, Problem::Repeated { name: name.into() });
        }
    }
    names
}

type Form = fn(Box<str>) -> Shows;

fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b))
}

fn is_topic(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=249).contains(&name.len()) && name.bytes().all(fits) && name != "." && name != ".."
}

fn is_host(host: &str) -> bool {
    let label = |l: &str| (1..=63).contains(&l.len()) && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    host.len() <= 253 && host.split('.').all(label)
}

fn fingerprint(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| *c != ':')
        .map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks(2).filter_map(|pair| Some((pair.first()? << 4) | pair.get(1)?)).collect();
    bytes.try_into().ok().filter(|_| digits.len() == 64)
}

/// AWS's bounds of a role's `MaxSessionDuration`; the least is the default.
const SESSION_SECONDS: std::ops::RangeInclusive<i64> = 3_600..=43_200;
/// AWS's highest quota of managed policies on one principal.
const ATTACHED_MAX: usize = 20;
/// The end of a shadow version's name.
const SHADOW: &str = ".shadow";
/// User, group, policy: three steps. casbin wants a bound.
const ROLE_DEPTH_MAX: usize = 10;
