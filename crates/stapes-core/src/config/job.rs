//! The `jobs:` block: what is brought where, how, and how long it is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::keep::{self, KeepRules};
use super::node::{Entry, Node, Value};
use super::notifications::{self, Notifications};
use super::problem::{Problem, suggest};
use super::reader::{self, Block, Problems};
use crate::id::{JobName, PoolName, ProjectName, ServerName};
use crate::select::{NamePattern, Selector};
use crate::snapshot_name::SnapshotPrefix;

/// One job: items of one server, and where they go.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its name in the configuration.
    pub name: JobName,
    /// What it takes.
    pub from: Source,
    /// The servers that get replicas.
    pub to: Vec<ReplicaTarget>,
    /// Retention of our snapshots on the source.
    pub keep: KeepRules,
    /// What happens to a running instance while its snapshot is made.
    pub consistency: Consistency,
    /// How long an instance may take to stop before it counts as failed.
    pub stop_timeout: Duration,
    /// What the names of our snapshots begin with.
    pub snapshot_prefix: SnapshotPrefix,
    /// Who is told about this job, over the global settings.
    pub notifications: Notifications,
}

/// What a job takes from its source.
#[derive(Clone, Debug)]
pub struct Source {
    /// The server.
    pub incus: ServerName,
    /// The projects.
    pub projects: Vec<NamePattern>,
    /// The instances, in the order of the text; the first fitting rule gives an item its options.
    pub instances: Vec<InstanceRule>,
    /// The custom volumes.
    pub volumes: VolumeSelection,
    /// Conditions on `user.*` keys that must all hold.
    pub conditions: Vec<Selector>,
    /// Instances that are left out.
    pub exclude_instances: Vec<NamePattern>,
    /// Volumes (`NAME` or `POOL/NAME`) that are left out.
    pub exclude_volumes: Vec<NamePattern>,
}

/// Which instances, and what is special about them.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceRule {
    /// Their names.
    pub name: NamePattern,
    /// The pool of their root disks on the target.
    pub pool: Option<PoolName>,
    /// Devices that their replicas do not get.
    pub exclude_devices: Vec<String>,
}

/// Which volumes a job takes.
#[derive(Clone, Debug, PartialEq)]
pub enum VolumeSelection {
    /// Those that are attached to the selected instances.
    Attached,
    /// Those that fit a rule.
    Listed(Vec<VolumeRule>),
}

/// Which volumes, and what is special about them.
#[derive(Clone, Debug, PartialEq)]
pub struct VolumeRule {
    /// `NAME` or `POOL/NAME`.
    pub name: NamePattern,
    /// Their pool on the target.
    pub pool: Option<PoolName>,
}

/// A server that gets replicas.
#[derive(Clone, Debug)]
pub struct ReplicaTarget {
    /// The server.
    pub server: ServerName,
    /// Who connects to whom.
    pub mode: TransferMode,
    /// The pool of everything that has no better rule; the source's pool name if absent.
    pub pool: Option<PoolName>,
    /// Pools by the source's pool name.
    pub pools: BTreeMap<PoolName, PoolName>,
    /// Devices that no replica gets.
    pub exclude_devices: Vec<String>,
    /// Retention there; the source's if absent.
    pub keep: Option<KeepRules>,
    /// The project that holds what the target keeps longer than the source.
    pub history_project: ProjectName,
}

/// Who connects to whom in a copy between two servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferMode {
    /// The source connects to the target.
    Push,
    /// The target connects to the source.
    Pull,
    /// Both stay put and stapes carries the data.
    Relay,
}

/// What happens to a running instance while its snapshot is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Nothing: the snapshot is crash-consistent.
    Snapshot,
    /// It is stopped, and started again.
    Stop,
    /// It is frozen, and thawed again.
    Freeze,
}

impl Job {
    /// The retention of a target: its own, else the source's.
    pub fn keep_on<'a>(&'a self, target: &'a ReplicaTarget) -> &'a KeepRules {
        target.keep.as_ref().unwrap_or(&self.keep)
    }
}

impl Job {
    /// Every pool of a target that the job names.
    pub fn named_pools(&self) -> BTreeSet<PoolName> {
        let on_targets = self.to.iter().flat_map(|to| to.pool.iter().chain(to.pools.values()));
        let of_instances = self.from.instances.iter().filter_map(|rule| rule.pool.as_ref());
        let of_volumes = match &self.from.volumes {
            VolumeSelection::Attached => [].iter(),
            VolumeSelection::Listed(rules) => rules.iter(),
        };
        let of_volumes = of_volumes.filter_map(|rule| rule.pool.as_ref());
        on_targets.chain(of_instances).chain(of_volumes).cloned().collect()
    }
}

/// The project on the target that holds longer histories, unless the configuration names another.
const HISTORY_PROJECT: &str = "stapes-history";

/// As long as the official tools wait for a service to shut down.
const STOP_TIMEOUT: Duration = Duration::from_secs(300);

pub(super) fn read_jobs(
    node: &Node,
    servers: &BTreeSet<ServerName>,
    problems: &mut Problems,
) -> BTreeMap<JobName, Job> {
    let mut jobs = BTreeMap::new();
    let Some(block) = Block::of(node, "jobs", problems) else { return jobs };
    for entry in block.entries() {
        if let Some(job) = read_job(entry, servers, problems) {
            warn_of_shared_snapshots(&job, jobs.values(), entry, problems);
            jobs.insert(job.name.clone(), job);
        }
    }
    jobs
}

/// Each of two jobs thins the snapshots of its prefix on the source, also those that only the target
/// of the other still needs.
fn warn_of_shared_snapshots<'j>(
    job: &Job,
    others: impl Iterator<Item = &'j Job>,
    entry: &Entry,
    problems: &mut Problems,
) {
    let servers = |job: &Job| -> BTreeSet<ServerName> {
        job.to.iter().map(|target| target.server.clone()).collect()
    };
    let meets = |other: &&Job| {
        other.from.incus == job.from.incus
            && other.snapshot_prefix == job.snapshot_prefix
            && servers(other) != servers(job)
            && may_overlap(&other.from, &job.from)
    };
    for other in others.filter(meets) {
        let message = format!(
            "job {} takes from the same projects as job {} under the same snapshot-prefix, to other servers: each may thin what the other's target needs, and its next copy is then a full one",
            job.name, other.name
        );
        let help = "give one of them another `snapshot-prefix`, or make them one job with both destinations";
        problems.0.push(Problem::warning(entry.key_span.clone(), message).with_help(help));
    }
}

/// Whether two sources can take the same item, as far as names of projects tell.
fn may_overlap(one: &Source, other: &Source) -> bool {
    one.projects.iter().any(|a| {
        other.projects.iter().any(|b| {
            a.matches(b.as_str()) || b.matches(a.as_str()) || !(a.is_exact() || b.is_exact())
        })
    })
}

fn read_job(entry: &Entry, servers: &BTreeSet<ServerName>, problems: &mut Problems) -> Option<Job> {
    let name = match entry.key.parse::<JobName>() {
        Ok(name) => Some(name),
        Err(error) => {
            problems.0.push(Problem::error(entry.key_span.clone(), error.to_string()));
            None
        }
    };
    let mut block = Block::of(&entry.node, &format!("job {}", entry.key), problems)?;
    let from = block.require("from", problems).and_then(|n| read_source(n, servers, problems));
    let source = from.as_ref().map(|from| &from.incus);
    let to = block.require("to", problems).map(|n| read_targets(n, source, servers, problems));
    let keep = block.take("keep").and_then(|n| keep::read(n, problems)).unwrap_or_default();
    let consistency = block.take("consistency").and_then(|n| read_consistency(n, problems));
    let stop_timeout = block.take("stop-timeout").and_then(|n| read_stop_timeout(n, problems));
    let prefix = block
        .take("snapshot-prefix")
        .and_then(|n| reader::parsed::<SnapshotPrefix>(n, "snapshot-prefix", problems));
    let notifications = block.take("notifications").map(|n| notifications::read(n, problems));
    block.finish(problems);
    let (from, to) = (from?, to?);
    Some(Job {
        name: name?,
        from,
        to,
        keep,
        consistency: consistency.unwrap_or(Consistency::Snapshot),
        stop_timeout: stop_timeout.unwrap_or(STOP_TIMEOUT),
        snapshot_prefix: prefix.unwrap_or_default(),
        notifications: notifications.unwrap_or_default(),
    })
}

/// For the server, no time at all means to kill at once.
fn read_stop_timeout(node: &Node, problems: &mut Problems) -> Option<Duration> {
    let timeout = reader::duration(node, "stop-timeout", problems)?;
    if timeout.is_zero() {
        problems.error(&node.span, "stop-timeout: an instance needs at least 1s to stop");
        return None;
    }
    Some(timeout)
}

fn read_consistency(node: &Node, problems: &mut Problems) -> Option<Consistency> {
    let choices = [
        ("snapshot", Consistency::Snapshot),
        ("stop", Consistency::Stop),
        ("freeze", Consistency::Freeze),
    ];
    reader::choice(node, "consistency", &choices, problems)
}

/// A server name that must be one of the `incus:` block.
fn read_server_name(
    node: &Node,
    key: &str,
    servers: &BTreeSet<ServerName>,
    problems: &mut Problems,
) -> Option<ServerName> {
    let name = reader::parsed::<ServerName>(node, key, problems)?;
    if servers.contains(&name) {
        return Some(name);
    }
    let known = servers.iter().map(ServerName::as_str);
    let help = suggest(name.as_str(), known)
        .map_or("servers are listed under `incus:`".to_owned(), |n| format!("did you mean `{n}`?"));
    problems.error_with_help(&node.span, format!("{key}: there is no server `{name}`"), help);
    None
}

fn read_source(
    node: &Node,
    servers: &BTreeSet<ServerName>,
    problems: &mut Problems,
) -> Option<Source> {
    let mut block = Block::of_or_help(node, "from", "write { incus: SERVER }", problems)?;
    let incus = block
        .require("incus", problems)
        .and_then(|n| read_server_name(n, "incus", servers, problems));
    let projects = match block.take("projects") {
        Some(node) => read_patterns(node, "projects", problems),
        None => patterns("default"),
    };
    let instances = match block.take("instances") {
        Some(node) => read_instances(node, problems),
        None => patterns("*").into_iter().map(InstanceRule::plain).collect(),
    };
    let volumes = block.take("volumes").map(|n| read_volumes(n, problems));
    let conditions = block.take("where").map_or_else(Vec::new, |node| {
        reader::list(node).iter().filter_map(|n| reader::parsed(n, "where", problems)).collect()
    });
    let mut excluded = |key: &'static str, problems: &mut Problems| {
        block.take(key).map_or_else(Vec::new, |n| read_patterns(n, key, problems))
    };
    let exclude_instances = excluded("exclude-instances", problems);
    let exclude_volumes = excluded("exclude-volumes", problems);
    block.finish(problems);
    Some(Source {
        incus: incus?,
        projects,
        instances,
        volumes: volumes.unwrap_or(VolumeSelection::Attached),
        conditions,
        exclude_instances,
        exclude_volumes,
    })
}

impl InstanceRule {
    fn plain(name: NamePattern) -> Self {
        Self { name, pool: None, exclude_devices: Vec::new() }
    }
}

fn patterns(text: &str) -> Vec<NamePattern> {
    text.parse().into_iter().collect()
}

fn read_patterns(node: &Node, key: &str, problems: &mut Problems) -> Vec<NamePattern> {
    reader::list(node).iter().filter_map(|n| reader::parsed(n, key, problems)).collect()
}

fn read_texts(node: &Node, key: &str, problems: &mut Problems) -> Vec<String> {
    reader::list(node).iter().filter_map(|n| reader::text(n, key, problems)).collect()
}

fn read_instances(node: &Node, problems: &mut Problems) -> Vec<InstanceRule> {
    let mut rules = Vec::new();
    for item in reader::list(node) {
        if !matches!(item.value, Value::Map(_)) {
            rules.extend(reader::parsed(item, "instances", problems).map(InstanceRule::plain));
            continue;
        }
        let Some(mut block) = Block::of(item, "an instance", problems) else { continue };
        let name =
            block.require("name", problems).and_then(|n| reader::parsed(n, "name", problems));
        let pool = block.take("pool").and_then(|n| reader::parsed(n, "pool", problems));
        let exclude_devices = block
            .take("exclude-devices")
            .map_or_else(Vec::new, |n| read_texts(n, "exclude-devices", problems));
        block.finish(problems);
        rules.extend(name.map(|name| InstanceRule { name, pool, exclude_devices }));
    }
    rules
}

fn read_volumes(node: &Node, problems: &mut Problems) -> VolumeSelection {
    match &node.value {
        Value::Text(word) if word == "attached" => return VolumeSelection::Attached,
        Value::Text(word) if word == "none" => return VolumeSelection::Listed(Vec::new()),
        _ => {}
    }
    let mut rules = Vec::new();
    for item in reader::list(node) {
        if !matches!(item.value, Value::Map(_)) {
            let name = reader::parsed(item, "volumes", problems);
            rules.extend(name.map(|name| VolumeRule { name, pool: None }));
            continue;
        }
        let Some(mut block) = Block::of(item, "a volume", problems) else { continue };
        let name =
            block.require("name", problems).and_then(|n| reader::parsed(n, "name", problems));
        let pool = block.take("pool").and_then(|n| reader::parsed(n, "pool", problems));
        block.finish(problems);
        rules.extend(name.map(|name| VolumeRule { name, pool }));
    }
    VolumeSelection::Listed(rules)
}

fn read_targets(
    node: &Node,
    source: Option<&ServerName>,
    servers: &BTreeSet<ServerName>,
    problems: &mut Problems,
) -> Vec<ReplicaTarget> {
    let mut targets: Vec<ReplicaTarget> = Vec::new();
    for item in reader::list(node) {
        let Some(target) = read_target(item, servers, problems) else { continue };
        if targets.iter().any(|other| other.server == target.server) {
            problems.error(&item.span, format!("to: {} stands there twice", target.server));
        }
        if source == Some(&target.server) {
            let message = format!("to: a job cannot replicate {} onto itself", target.server);
            problems.error_with_help(&item.span, message, "name another server behind `replica:`");
        }
        targets.push(target);
    }
    if reader::list(node).is_empty() {
        problems.error(&node.span, "to: the job has no destination");
    }
    targets
}

fn read_target(
    node: &Node,
    servers: &BTreeSet<ServerName>,
    problems: &mut Problems,
) -> Option<ReplicaTarget> {
    let mut block =
        Block::of_or_help(node, "a destination", "write { replica: SERVER }", problems)?;
    let server = block
        .require("replica", problems)
        .and_then(|n| read_server_name(n, "replica", servers, problems));
    let modes = [
        ("push", TransferMode::Push),
        ("pull", TransferMode::Pull),
        ("relay", TransferMode::Relay),
    ];
    let mode = block.take("mode").and_then(|n| reader::choice(n, "mode", &modes, problems));
    let pool = block.take("pool").and_then(|n| reader::parsed(n, "pool", problems));
    let pools = block.take("pools").map(|n| read_pools(n, problems)).unwrap_or_default();
    let exclude_devices = block
        .take("exclude-devices")
        .map_or_else(Vec::new, |n| read_texts(n, "exclude-devices", problems));
    let keep = block.take("keep").and_then(|n| keep::read(n, problems));
    let history = match block.take("history-project") {
        Some(node) => reader::parsed(node, "history-project", problems),
        None => HISTORY_PROJECT.parse().ok(),
    };
    block.finish(problems);
    Some(ReplicaTarget {
        server: server?,
        mode: mode.unwrap_or(TransferMode::Push),
        pool,
        pools,
        exclude_devices,
        keep,
        history_project: history?,
    })
}

fn read_pools(node: &Node, problems: &mut Problems) -> BTreeMap<PoolName, PoolName> {
    let mut pools = BTreeMap::new();
    let Some(block) = Block::of(node, "pools", problems) else { return pools };
    for entry in block.entries() {
        let to = reader::parsed(&entry.node, &entry.key, problems);
        match entry.key.parse::<PoolName>() {
            Ok(from) => pools.extend(to.map(|to| (from, to))),
            Err(error) => {
                problems.0.push(Problem::error(entry.key_span.clone(), error.to_string()));
            }
        }
    }
    pools
}
