//! `keep:`: a policy, or policies by project, kind and name; the most specific one counts.

use std::collections::BTreeMap;
use std::fmt;

use super::node::{Node, Value};
use super::problem::Problem;
use super::reader::{self, Block, Problems};
use crate::item::{ItemId, ItemKind};
use crate::retention::Policy;

/// The retention of one side: a default, and what overrides it.
#[derive(Clone, Debug, Default)]
pub struct KeepRules {
    default: Option<Policy>,
    projects: BTreeMap<String, ProjectRules>,
}

#[derive(Clone, Debug, Default)]
struct ProjectRules {
    default: Option<Policy>,
    instances: KindRules,
    volumes: KindRules,
}

#[derive(Clone, Debug, Default)]
struct KindRules {
    default: Option<Policy>,
    names: BTreeMap<String, Policy>,
}

/// Which line of the configuration decided the policy of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleOrigin {
    /// The item's own name.
    Name,
    /// Its kind in its project.
    Kind,
    /// Its project.
    Project,
    /// The default of the side (source or target).
    Side,
    /// Nothing: no policy is set, so everything is kept.
    Unset,
}

impl fmt::Display for RuleOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "by name",
            Self::Kind => "by kind",
            Self::Project => "by project",
            Self::Side => "default",
            Self::Unset => "no policy",
        })
    }
}

impl KeepRules {
    /// One policy for everything.
    pub fn all(policy: Policy) -> Self {
        Self { default: Some(policy), projects: BTreeMap::new() }
    }

    /// The policy of an item and the line that decided it. Without any line everything is kept.
    pub fn policy(&self, item: &ItemId) -> (Policy, RuleOrigin) {
        let project = self.projects.get(item.project().as_str());
        let kind = project.map(|rules| match item.kind() {
            ItemKind::Instance => &rules.instances,
            ItemKind::Volume => &rules.volumes,
        });
        let by_name = kind.and_then(|rules| rules.names.get(item.name()));
        let candidates = [
            (by_name, RuleOrigin::Name),
            (kind.and_then(|rules| rules.default.as_ref()), RuleOrigin::Kind),
            (project.and_then(|rules| rules.default.as_ref()), RuleOrigin::Project),
            (self.default.as_ref(), RuleOrigin::Side),
        ];
        candidates
            .into_iter()
            .find_map(|(policy, origin)| policy.map(|policy| (policy.clone(), origin)))
            .unwrap_or_else(|| (Policy::default(), RuleOrigin::Unset))
    }
}

/// The keys of a calendar policy written as a block.
const CALENDAR_KEYS: [&str; 6] = ["last", "hourly", "daily", "weekly", "monthly", "yearly"];

pub(super) fn read(node: &Node, problems: &mut Problems) -> Option<KeepRules> {
    let Value::Map(entries) = &node.value else {
        return read_policy(node, problems).map(KeepRules::all);
    };
    if entries.iter().any(|entry| CALENDAR_KEYS.contains(&entry.key.as_str())) {
        return read_policy(node, problems).map(KeepRules::all);
    }
    let mut block = Block::of(node, "keep", problems)?;
    let default = block.take("default").and_then(|n| read_policy(n, problems));
    let mut projects = BTreeMap::new();
    if let Some(node) = block.take("projects") {
        let inner = Block::of(node, "keep.projects", problems)?;
        for entry in inner.entries() {
            if let Some(help) = reader::cut_off_by_comma(entry) {
                let message = format!("keep: project {} has no policy", entry.key);
                problems.error_with_help(&entry.key_span, message, help);
                continue;
            }
            if let Some(rules) = read_project(&entry.node, &entry.key, problems) {
                projects.insert(entry.key.clone(), rules);
            }
        }
    }
    // Named for the suggestion: someone who mistypes `daily` should be led to it.
    for key in CALENDAR_KEYS {
        let _absent = block.take(key);
    }
    block.finish(problems);
    Some(KeepRules { default, projects })
}

fn read_project(node: &Node, name: &str, problems: &mut Problems) -> Option<ProjectRules> {
    if !matches!(node.value, Value::Map(_)) {
        let default = read_policy(node, problems);
        return Some(ProjectRules { default, ..ProjectRules::default() });
    }
    let mut block = Block::of(node, &format!("keep.projects.{name}"), problems)?;
    let default = block.take("default").and_then(|n| read_policy(n, problems));
    let instances = block.take("instances").map(|n| read_kind(n, "instances", problems));
    let volumes = block.take("volumes").map(|n| read_kind(n, "volumes", problems));
    block.finish(problems);
    Some(ProjectRules {
        default,
        instances: instances.unwrap_or_default(),
        volumes: volumes.unwrap_or_default(),
    })
}

fn read_kind(node: &Node, kind: &str, problems: &mut Problems) -> KindRules {
    if !matches!(node.value, Value::Map(_)) {
        return KindRules { default: read_policy(node, problems), names: BTreeMap::new() };
    }
    let mut rules = KindRules::default();
    let Some(mut block) = Block::of(node, kind, problems) else { return rules };
    rules.default = block.take("default").and_then(|n| read_policy(n, problems));
    if let Some(node) = block.take("names")
        && let Some(names) = Block::of(node, "names", problems)
    {
        for entry in names.entries() {
            if let Some(policy) = read_policy(&entry.node, problems) {
                rules.names.insert(entry.key.clone(), policy);
            }
        }
    }
    block.finish(problems);
    rules
}

/// A policy in any spelling: a text, a bare number, or a block of calendar keys.
pub(super) fn read_policy(node: &Node, problems: &mut Problems) -> Option<Policy> {
    let (text, literal) = match &node.value {
        Value::Map(_) => (calendar_text(node, problems)?, false),
        _ => (reader::text(node, "keep", problems)?, true),
    };
    match text.parse::<Policy>() {
        Ok(policy) => Some(policy),
        Err(error) => {
            let span = if literal { node.part(&text, &error.span) } else { node.span.clone() };
            let mut problem = Problem::error(span, format!("keep: {}", error.message));
            problem.help = error.help;
            problems.0.push(problem);
            None
        }
    }
}

/// `{ daily: 7, weekly: 4 }` as `daily=7,weekly=4`.
fn calendar_text(node: &Node, problems: &mut Problems) -> Option<String> {
    let mut block = Block::of(node, "keep", problems)?;
    let mut parts = Vec::new();
    let before = problems.0.len();
    for key in CALENDAR_KEYS {
        if let Some(node) = block.take(key)
            && let Some(count) = reader::count(node, key, 1, u32::MAX, problems)
        {
            parts.push(format!("{key}={count}"));
        }
    }
    block.finish(problems);
    (problems.0.len() == before).then(|| parts.join(","))
}
