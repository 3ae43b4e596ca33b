//! Writes what IAB's configuration says as a `stapes.yaml`, and what cannot be said as remarks.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};

use super::super::json::Findings;
use super::super::yaml::{comment, scalar};
use super::rules::{KEEP_ALL, KindRules, ProjectRules, SideRules};
use super::{Host, Iab, Instance, Project};
use crate::config::TransferMode;
use crate::select::NamePattern;

/// The whole file.
pub(super) fn yaml(iab: &Iab, findings: &mut Findings) -> String {
    let mut text = Text::default();
    text.line(0, "# Made from a configuration of incusAutobackup.");
    text.line(0, "incus:");
    for host in [&iab.source, &iab.target] {
        server(&mut text, host, &iab.credentials_dir);
    }
    notifications(&mut text, iab);
    let mut used = BTreeSet::new();
    if !iab.projects.iter().any(Project::has_items) {
        findings.remark("projects", "lists nothing to replicate, so there is no job");
        return text.0;
    }
    text.line(0, "jobs:");
    for project in &iab.projects {
        if !project.has_items() {
            findings.remark(&project.path, "lists neither instances nor volumes; left out");
            continue;
        }
        let job_name = unused_name(project, &mut used, findings);
        job(&mut text, &job_name, project, iab);
        project_remarks(project, findings);
    }
    text.0
}

/// What is worth knowing about every imported configuration.
pub(super) fn general_remarks(iab: &Iab, findings: &mut Findings) {
    findings.remark(
        "",
        "Snapshots named IAB_… stay managed: they are thinned by the time at which Incus made \
         them. Their names hold IAB's local time, those of new ones UTC.",
    );
    let unset = match items_without_policy(&iab.keep_on_target, &iab.projects) {
        0 => String::new(),
        count => format!(" Items without a policy there, now kept without limit: {count}."),
    };
    findings.remark(
        "retention.hosts.target",
        format!(
            "IAB used the source's policies on the target too, unless started with \
             --iOSfix=false. stapes obeys the target's own, by means of a history project; \
             `--ios-fix` brings the old behaviour back.{unset}"
        ),
    );
    findings.remark(
        "iab.iabCredDir",
        "Client certificate, key and pinned server certificates are used where they are; keep \
         that directory.",
    );
    let jobs = iab.projects.iter().filter(|project| project.has_items()).count();
    if iab.healthchecks.is_some() && jobs > 1 {
        findings.remark(
            "iab.healthchecksUrl",
            "Every project is now a job, and every job pings this check: the success of one can \
             hide the failure of another. Give each job a check of its own under its \
             `notifications`.",
        );
    }
}

fn items_without_policy(side: &SideRules, projects: &[Project]) -> usize {
    let without = |project: &Project| {
        let instances = project.instances.iter().map(|instance| &instance.name);
        let volumes = project.volumes.iter().map(|volume| &volume.name);
        instances.filter(|name| !side.has_policy(&project.name, |r| &r.instances, name)).count()
            + volumes.filter(|name| !side.has_policy(&project.name, |r| &r.volumes, name)).count()
    };
    projects.iter().map(without).sum()
}

impl Project {
    fn has_items(&self) -> bool {
        !self.instances.is_empty() || !self.volumes.is_empty()
    }
}

/// Lines with an indentation of two spaces for each level.
#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, level: usize, line: impl fmt::Display) {
        // Writing to a String cannot fail.
        let _written = writeln!(self.0, "{:indent$}{line}", "", indent = 2 * level);
    }

    fn setting(&mut self, level: usize, key: &str, value: &str) {
        self.line(level, format_args!("{}: {}", scalar(key), scalar(value)));
    }

    fn block(&mut self, level: usize, key: &str) {
        self.line(level, format_args!("{}:", scalar(key)));
    }
}

fn server(text: &mut Text, host: &Host, credentials_dir: &str) {
    let file = |name: &str| format!("{}/{name}", credentials_dir.trim_end_matches('/'));
    text.block(1, &host.name);
    text.setting(2, "url", &host.url);
    text.setting(2, "certificate", &file(&format!("servers/{}", host.certificate)));
    text.setting(2, "client-certificate", &file("iab_client.crt"));
    text.setting(2, "client-key", &file("iab_client.key"));
}

fn notifications(text: &mut Text, iab: &Iab) {
    if iab.healthchecks.is_none() && iab.gotify.is_none() {
        return;
    }
    text.block(0, "notifications");
    if let Some(url) = &iab.healthchecks {
        text.block(1, "healthchecks");
        text.setting(2, "url", url);
    }
    if let Some(url) = &iab.gotify {
        text.block(1, "gotify");
        text.setting(2, "url", url);
        text.line(2, "on: failure");
    }
}

/// The project's name, with a number if a job has it already.
fn unused_name(project: &Project, used: &mut BTreeSet<String>, findings: &mut Findings) -> String {
    let mut name = project.name.clone();
    let mut number = 1_u32;
    while !used.insert(name.clone()) {
        number += 1;
        name = format!("{}-{number}", project.name);
    }
    if number > 1 {
        let text = format!("another job is called {} already; this one is {name}", project.name);
        findings.remark(&project.path, text);
    }
    name
}

fn job(text: &mut Text, name: &str, project: &Project, iab: &Iab) {
    let description = comment(&project.description);
    if !description.is_empty() {
        text.line(1, format_args!("# {description}"));
    }
    text.block(1, name);
    text.block(2, "from");
    text.setting(3, "incus", &iab.source.name);
    text.setting(3, "projects", &NamePattern::text_for(&project.name));
    items(text, project);
    text.block(2, "to");
    text.line(3, format_args!("- replica: {}", scalar(&iab.target.name)));
    text.setting(4, "mode", mode(project.mode));
    // Without rules of its own a target would follow the source.
    keep(text, 4, &iab.keep_on_target, &project.name);
    if !iab.keep_on_source.is_unset(&project.name) {
        keep(text, 2, &iab.keep_on_source, &project.name);
    }
    text.setting(2, "consistency", if iab.stop { "stop" } else { "snapshot" });
    text.setting(2, "snapshot-prefix", "IAB_");
}

fn items(text: &mut Text, project: &Project) {
    if project.instances.is_empty() {
        text.line(3, "instances: []");
    } else {
        text.block(3, "instances");
    }
    for instance in &project.instances {
        instance_rule(text, instance);
    }
    if project.volumes.is_empty() {
        text.line(3, "volumes: none");
    } else {
        text.block(3, "volumes");
    }
    for volume in &project.volumes {
        // The pool is the same on both sides there, which is also what stapes does by itself.
        let name = format!(
            "{}/{}",
            NamePattern::text_for(&volume.pool),
            NamePattern::text_for(&volume.name)
        );
        text.line(4, format_args!("- {}", scalar(&name)));
    }
}

fn instance_rule(text: &mut Text, instance: &Instance) {
    text.line(4, format_args!("- name: {}", scalar(&NamePattern::text_for(&instance.name))));
    if let Some(pool) = &instance.pool {
        text.setting(5, "pool", pool);
    }
    if !instance.exclude_devices.is_empty() {
        text.block(5, "exclude-devices");
        for device in &instance.exclude_devices {
            text.line(6, format_args!("- {}", scalar(device)));
        }
    }
}

fn mode(mode: TransferMode) -> &'static str {
    match mode {
        TransferMode::Push => "push",
        TransferMode::Pull => "pull",
        TransferMode::Relay => "relay",
    }
}

fn keep(text: &mut Text, level: usize, side: &SideRules, project: &str) {
    let rules = side.projects.get(project).filter(|rules| !rules.is_empty());
    let Some(rules) = rules else {
        return text.setting(level, "keep", side.default.as_deref().unwrap_or(KEEP_ALL));
    };
    text.block(level, "keep");
    optional(text, level + 1, side.default.as_deref());
    text.block(level + 1, "projects");
    project_rules(text, level + 2, project, rules);
}

fn project_rules(text: &mut Text, level: usize, project: &str, rules: &ProjectRules) {
    text.block(level, project);
    optional(text, level + 1, rules.default.as_deref());
    kind_rules(text, level + 1, "instances", &rules.instances);
    kind_rules(text, level + 1, "volumes", &rules.volumes);
}

fn kind_rules(text: &mut Text, level: usize, kind: &str, rules: &KindRules) {
    if rules.is_empty() {
        return;
    }
    text.block(level, kind);
    optional(text, level + 1, rules.default.as_deref());
    if !rules.names.is_empty() {
        text.block(level + 1, "names");
        for (name, policy) in &rules.names {
            text.setting(level + 2, name, policy);
        }
    }
}

fn optional(text: &mut Text, level: usize, default: Option<&str>) {
    if let Some(policy) = default {
        text.setting(level, "default", policy);
    }
}

fn project_remarks(project: &Project, findings: &mut Findings) {
    let mut seen = BTreeSet::new();
    for instance in &project.instances {
        if !seen.insert(&instance.name) {
            let text = format!("lists instance {} twice; the first entry counts", instance.name);
            findings.remark(&project.path, text);
        }
    }
    if project.name != "default" && !project.volumes.is_empty() {
        findings.remark(
            &project.path,
            "If this project keeps its volumes in the project default \
             (features.storage.volumes=false), list them in a job of the project default.",
        );
    }
}
