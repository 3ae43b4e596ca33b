//! The `config.json` of incusAutobackup (IAB), turned into a `stapes.yaml` of the same meaning.
//!
//! Reads the JSON here and checks it; `iab/emit.rs` writes the YAML, `iab/rules.rs` reads retention.
//! One job is made for each project, because IAB lists instances by project, while the names in a
//! job of ours select in all projects of the job.
//! It does not look at credential files and does not ask servers.

mod emit;
mod rules;

use super::json::{self, Fields, Findings, Json};
use super::{Finding, Imported};
use crate::config::problem::Severity;
use crate::config::{Config, ServerUrl, TransferMode};
use crate::id::{InstanceName, PoolName, ProjectName, ServerName, VolumeName};
use rules::SideRules;

/// What IAB's configuration says.
struct Iab {
    credentials_dir: String,
    stop: bool,
    healthchecks: Option<String>,
    gotify: Option<String>,
    source: Host,
    target: Host,
    projects: Vec<Project>,
    keep_on_source: SideRules,
    keep_on_target: SideRules,
}

struct Host {
    name: String,
    /// `https://host:port`.
    url: String,
    /// The name of its pinned certificate's file.
    certificate: String,
}

struct Project {
    path: String,
    name: String,
    description: String,
    mode: TransferMode,
    instances: Vec<Instance>,
    volumes: Vec<Volume>,
}

struct Instance {
    name: String,
    pool: Option<String>,
    exclude_devices: Vec<String>,
}

struct Volume {
    name: String,
    /// On both sides, unlike the pool of an instance.
    pool: String,
}

/// Turns the text of IAB's `config.json` into the text of a `stapes.yaml`.
///
/// # Errors
/// Everything in the text that IAB or stapes could not work with.
pub fn import(text: &str) -> Result<Imported, Vec<Finding>> {
    let json = json::parse(text).map_err(|finding| vec![finding])?;
    let mut findings = Findings::default();
    let iab = read(&json, &mut findings);
    let (Some(iab), []) = (iab, findings.errors.as_slice()) else { return Err(findings.errors) };
    let yaml = emit::yaml(&iab, &mut findings);
    emit::general_remarks(&iab, &mut findings);
    // What we write must be usable; if it is not, the person sees why rather than a broken file.
    if let Err(problems) = Config::parse(&yaml) {
        let errors = problems.into_iter().filter(|problem| problem.severity == Severity::Error);
        return Err(errors.map(|p| Finding::new("stapes.yaml", p.message)).collect());
    }
    Ok(Imported { yaml, remarks: findings.remarks })
}

fn read(json: &Json, findings: &mut Findings) -> Option<Iab> {
    let mut fields = Fields::of(json, "", findings)?;
    let iab = fields.take("iab", findings);
    if iab.is_none() {
        findings.error("iab", "is missing");
    }
    let settings = iab.and_then(|iab| read_settings(iab, findings));
    let hosts = fields.list("hosts", findings);
    let (source, target) = read_hosts(hosts, findings);
    let projects = read_projects(fields.list("projects", findings), findings);
    let names: Vec<&str> = projects.iter().map(|project| project.name.as_str()).collect();
    let retention = fields.take("retention", findings);
    let (keep_on_source, keep_on_target) = rules::read(retention, &names, findings);
    fields.finish(findings);
    let (settings, source, target) = (settings?, source?, target?);
    Some(Iab {
        credentials_dir: settings.credentials_dir,
        stop: settings.stop,
        healthchecks: settings.healthchecks,
        gotify: settings.gotify,
        source,
        target,
        projects,
        keep_on_source,
        keep_on_target,
    })
}

struct Settings {
    credentials_dir: String,
    stop: bool,
    healthchecks: Option<String>,
    gotify: Option<String>,
}

fn read_settings(json: &Json, findings: &mut Findings) -> Option<Settings> {
    let mut fields = Fields::of(json, "iab", findings)?;
    let credentials_dir = fields.text("iabCredDir", findings).unwrap_or_default();
    if credentials_dir.trim().is_empty() {
        findings.error("iab.iabCredDir", "must name the directory of the credentials");
    } else if !credentials_dir.starts_with('/') {
        findings.remark(
            "iab.iabCredDir",
            "is a relative path; it now counts from the directory of stapes.yaml, \
             where IAB took the directory that it was started in",
        );
    }
    if fields.text("uuid", findings).is_some_and(|uuid| !uuid.is_empty()) {
        findings.remark("iab.uuid", "left out; the client certificate alone identifies us");
    }
    let stop = fields.flag("stopInstance", findings);
    let mut secret = |key: &'static str, findings: &mut Findings| {
        let text = fields.text(key, findings)?.trim().to_owned();
        (!text.is_empty()).then_some(text)
    };
    let healthchecks = secret("healthchecksUrl", findings);
    let gotify = secret("gotifyUrl", findings);
    for (key, secret) in [("healthchecksUrl", &healthchecks), ("gotifyUrl", &gotify)] {
        if secret.is_some() {
            findings.remark(
                &fields.path(key),
                "is a secret and now stands in stapes.yaml; `url: { file: … }` keeps it out",
            );
        }
    }
    fields.finish(findings);
    Some(Settings { credentials_dir, stop, healthchecks, gotify })
}

fn read_hosts(
    hosts: Vec<(String, &Json)>,
    findings: &mut Findings,
) -> (Option<Host>, Option<Host>) {
    let (mut sources, mut targets) = (Vec::new(), Vec::new());
    for (path, json) in hosts {
        let Some(mut fields) = Fields::of(json, &path, findings) else { continue };
        let name = fields.text("name", findings).unwrap_or_default();
        let role = fields.text("role", findings).unwrap_or_default();
        let url = fields.text("url", findings).unwrap_or_default();
        let role_path = fields.path("role");
        fields.finish(findings);
        let list = match role.as_str() {
            "source" => &mut sources,
            "target" => &mut targets,
            _ => {
                let text = format!("`{role}` is no role; there are source and target");
                findings.error(&role_path, text);
                continue;
            }
        };
        let name = if name.is_empty() { &role } else { &name };
        list.push(read_host(name, &url, &path, findings));
    }
    for (role, list) in [("source", &sources), ("target", &targets)] {
        if list.len() != 1 {
            let count = list.len();
            let text = format!("there must be one host with the role {role}, here are {count}");
            findings.error("hosts", text);
        }
    }
    let (source, mut target) = (sources.pop().flatten(), targets.pop().flatten());
    if let (Some(source), Some(target)) = (&source, &mut target)
        && source.name == target.name
    {
        target.name.push_str("-target");
        let text = format!("both have the name {}; the target is now {}", source.name, target.name);
        findings.remark("hosts", text);
    }
    (source, target)
}

fn read_host(name: &str, url: &str, path: &str, findings: &mut Findings) -> Option<Host> {
    let name = checked::<ServerName>(name, &json::member(path, "name"), findings);
    let url_path = json::member(path, "url");
    let Some(authority) = url.strip_prefix("https://").map(|rest| rest.trim_end_matches('/'))
    else {
        findings.error(&url_path, "must begin with https://");
        return None;
    };
    let (host, has_port) = match authority.strip_prefix('[') {
        Some(rest) => (rest.split(']').next().unwrap_or_default(), rest.contains("]:")),
        None => match authority.split_once(':') {
            Some((host, _)) => (host, true),
            None => (authority, false),
        },
    };
    // Without a port IAB asks at 443, and stapes at the port of Incus.
    let whole =
        if has_port { format!("https://{authority}") } else { format!("https://{authority}:443") };
    if !has_port {
        findings.remark(&url_path, "names no port; IAB took 443, which now stands there");
    }
    match whole.parse::<ServerUrl>() {
        Ok(url) => Some(Host {
            name: name?,
            url: url.to_string(),
            certificate: format!("{}.pem", host.replace([':', '/'], "_")),
        }),
        Err(error) => {
            findings.error(&url_path, error.to_string());
            None
        }
    }
}

fn read_projects(list: Vec<(String, &Json)>, findings: &mut Findings) -> Vec<Project> {
    list.into_iter().filter_map(|(path, json)| read_project(&path, json, findings)).collect()
}

fn read_project(path: &str, json: &Json, findings: &mut Findings) -> Option<Project> {
    let mut fields = Fields::of(json, path, findings)?;
    let name = fields.text("name", findings).unwrap_or_default();
    let name = checked::<ProjectName>(&name, &fields.path("name"), findings);
    let description = fields.text("description", findings).unwrap_or_default();
    let mode = fields.text("mode", findings).unwrap_or_default();
    let mode = match mode.as_str() {
        "" | "push" => TransferMode::Push,
        "pull" => TransferMode::Pull,
        // Not in IAB's documentation, but what it hands on to Incus works.
        "relay" => TransferMode::Relay,
        _ => {
            let text = format!("`{mode}` is no mode; there are push and pull");
            findings.error(&fields.path("mode"), text);
            TransferMode::Push
        }
    };
    let instances = fields
        .list("instances", findings)
        .into_iter()
        .filter_map(|(path, json)| read_instance(&path, json, findings))
        .collect();
    let volumes = fields
        .list("volumes", findings)
        .into_iter()
        .filter_map(|(path, json)| read_volume(&path, json, findings))
        .collect();
    fields.finish(findings);
    Some(Project { path: path.to_owned(), name: name?, description, mode, instances, volumes })
}

fn read_instance(path: &str, json: &Json, findings: &mut Findings) -> Option<Instance> {
    let mut fields = Fields::of(json, path, findings)?;
    let name = fields.text("name", findings).unwrap_or_default();
    let name = checked::<InstanceName>(&name, &fields.path("name"), findings);
    let storage = fields.text("storage", findings).filter(|storage| !storage.is_empty());
    let pool = match storage {
        None => None,
        Some(storage) => checked::<PoolName>(&storage, &fields.path("storage"), findings),
    };
    let devices = fields.list("excludeDevices", findings);
    let exclude_devices = devices
        .into_iter()
        .filter_map(|(path, json)| json::text(json, &path, findings))
        .filter(|device| !device.is_empty())
        .collect();
    fields.finish(findings);
    Some(Instance { name: name?, pool, exclude_devices })
}

fn read_volume(path: &str, json: &Json, findings: &mut Findings) -> Option<Volume> {
    let mut fields = Fields::of(json, path, findings)?;
    let name = fields.text("name", findings).unwrap_or_default();
    let name = checked::<VolumeName>(&name, &fields.path("name"), findings);
    let pool = fields.text("storage", findings).unwrap_or_default();
    let pool = checked::<PoolName>(&pool, &fields.path("storage"), findings);
    fields.finish(findings);
    Some(Volume { name: name?, pool: pool? })
}

/// The text, if it can be a name of this type.
fn checked<N>(text: &str, path: &str, findings: &mut Findings) -> Option<String>
where
    N: std::str::FromStr,
    N::Err: std::fmt::Display,
{
    match text.parse::<N>() {
        Ok(_) => Some(text.to_owned()),
        Err(error) => {
            findings.error(path, error.to_string());
            None
        }
    }
}

#[cfg(test)]
mod tests;
