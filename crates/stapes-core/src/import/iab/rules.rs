//! The `retention` object of IAB: policies by side, project, kind and name.
//!
//! An empty policy means «not set» there, so that the next less specific one counts; nothing but
//! white space means «keep everything».

use std::collections::BTreeMap;

use super::super::json::{self, Fields, Findings, Json};
use crate::retention::Policy;

/// How `keep` writes a policy that keeps everything on purpose.
pub(super) const KEEP_ALL: &str = "keep all";

/// The policies of one side, as texts that our parser takes.
#[derive(Debug, Default)]
pub(super) struct SideRules {
    pub(super) default: Option<String>,
    pub(super) projects: BTreeMap<String, ProjectRules>,
}

/// The policies of one project.
#[derive(Debug, Default)]
pub(super) struct ProjectRules {
    pub(super) default: Option<String>,
    pub(super) instances: KindRules,
    pub(super) volumes: KindRules,
}

/// The policies of one kind of items in a project.
#[derive(Debug, Default)]
pub(super) struct KindRules {
    pub(super) default: Option<String>,
    pub(super) names: BTreeMap<String, String>,
}

impl SideRules {
    /// Whether no policy is set for anything in this project.
    pub(super) fn is_unset(&self, project: &str) -> bool {
        self.default.is_none() && self.projects.get(project).is_none_or(ProjectRules::is_empty)
    }

    /// Whether any policy applies to an item; `kind` picks the rules of its kind.
    pub(super) fn has_policy(
        &self,
        project: &str,
        kind: fn(&ProjectRules) -> &KindRules,
        name: &str,
    ) -> bool {
        let of_project = self.projects.get(project).is_some_and(|rules| {
            let of_kind = kind(rules);
            rules.default.is_some() || of_kind.default.is_some() || of_kind.names.contains_key(name)
        });
        self.default.is_some() || of_project
    }
}

impl ProjectRules {
    /// Whether nothing is set.
    pub(super) fn is_empty(&self) -> bool {
        self.default.is_none() && self.instances.is_empty() && self.volumes.is_empty()
    }
}

impl KindRules {
    /// Whether nothing is set.
    pub(super) fn is_empty(&self) -> bool {
        self.default.is_none() && self.names.is_empty()
    }
}

/// Reads the policies of source and target. `projects` are those that IAB replicates.
pub(super) fn read(
    retention: Option<&Json>,
    projects: &[&str],
    findings: &mut Findings,
) -> (SideRules, SideRules) {
    let (mut source, mut target) = (SideRules::default(), SideRules::default());
    let fields = retention.and_then(|json| Fields::of(json, "retention", findings));
    let Some(mut fields) = fields else { return (source, target) };
    for (path, role, json) in fields.named("hosts", findings) {
        let side = match role.as_str() {
            "source" => &mut source,
            "target" => &mut target,
            _ => {
                findings.remark(&path, "there are only source and target; left out");
                continue;
            }
        };
        if let Some(rules) = read_side(&path, json, projects, findings) {
            *side = rules;
        }
    }
    fields.finish(findings);
    (source, target)
}

fn read_side(
    path: &str,
    json: &Json,
    listed: &[&str],
    findings: &mut Findings,
) -> Option<SideRules> {
    let mut fields = Fields::of(json, path, findings)?;
    let default = read_default(&mut fields, findings);
    let mut projects = BTreeMap::new();
    for (path, name, json) in fields.named("projects", findings) {
        if !listed.contains(&name.as_str()) {
            findings.remark(&path, "`projects` does not list this project; left out");
        }
        if let Some(rules) = read_project(&path, json, findings) {
            projects.insert(name, rules);
        }
    }
    fields.finish(findings);
    Some(SideRules { default, projects })
}

fn read_project(path: &str, json: &Json, findings: &mut Findings) -> Option<ProjectRules> {
    let mut fields = Fields::of(json, path, findings)?;
    let default = read_default(&mut fields, findings);
    let instances = read_kind(&mut fields, "instances", findings);
    let volumes = read_kind(&mut fields, "volumes", findings);
    fields.finish(findings);
    Some(ProjectRules { default, instances, volumes })
}

fn read_kind(fields: &mut Fields<'_>, key: &'static str, findings: &mut Findings) -> KindRules {
    let path = fields.path(key);
    let json = fields.take(key, findings);
    let inner = json.and_then(|json| Fields::of(json, &path, findings));
    let Some(mut fields) = inner else { return KindRules::default() };
    let default = read_default(&mut fields, findings);
    let mut names = BTreeMap::new();
    for (path, name, json) in fields.named("byName", findings) {
        if let Some(policy) = json::text(json, &path, findings)
            .and_then(|policy| checked_policy(&policy, &path, findings))
        {
            names.insert(name, policy);
        }
    }
    fields.finish(findings);
    KindRules { default, names }
}

fn read_default(fields: &mut Fields<'_>, findings: &mut Findings) -> Option<String> {
    let policy = fields.text("default", findings)?;
    checked_policy(&policy, &fields.path("default"), findings)
}

/// A policy in our spelling, none if it is not set or wrong.
fn checked_policy(policy: &str, path: &str, findings: &mut Findings) -> Option<String> {
    if policy.is_empty() {
        return None;
    }
    // IAB takes `1H2D`, and any white space around elements.
    let parts: Vec<&str> = policy.split(',').map(str::trim).collect();
    let policy = parts.join(",").to_lowercase();
    if policy.is_empty() {
        return Some(KEEP_ALL.to_owned());
    }
    match policy.parse::<Policy>() {
        Ok(_) => Some(policy),
        Err(error) => {
            let help = error.help.map_or(String::new(), |help| format!(" ({help})"));
            findings.error(path, format!("{}{help}", error.message));
            None
        }
    }
}
