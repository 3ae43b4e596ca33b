//! The samples under `testdata/config`, as a person would see them, and what a file leaves unsaid.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::config::problem::Severity;
use crate::item::ItemId;

fn samples(kind: &str) -> Vec<(String, String)> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/config");
    let mut samples: Vec<(String, String)> = fs::read_dir(directory.join(kind))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect();
    samples.sort();
    assert!(!samples.is_empty());
    samples
}

fn sample(kind: &str, name: &str) -> String {
    samples(kind).into_iter().find(|(other, _)| other == name).unwrap().1
}

/// Line, column, caret, message and help, much as the program shows them.
fn rendered(text: &str, problems: &[Problem]) -> String {
    let mut out = String::new();
    for problem in problems {
        let before = &text[..problem.span.start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.matches('\n').count() + 1;
        let column = text[line_start..problem.span.start].chars().count() + 1;
        let severity = match problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let source = text[line_start..].lines().next().unwrap_or_default();
        let marked = text[problem.span.clone()].lines().next().unwrap_or_default();
        let carets = "^".repeat(marked.chars().count().max(1));
        out += &format!("{line}:{column} {severity}: {}\n", problem.message);
        out += &format!("    {source}\n    {}{carets}\n", " ".repeat(column - 1));
        if let Some(help) = &problem.help {
            out += &format!("    help: {help}\n");
        }
    }
    out
}

fn parse(text: &str) -> Config {
    Config::parse(text).unwrap_or_else(|problems| panic!("{}", rendered(text, &problems))).config
}

#[test]
fn every_bad_sample_is_refused_with_all_its_mistakes_at_once() {
    for (name, text) in samples("invalid") {
        let problems = Config::parse(&text).unwrap_err();
        insta::with_settings!({
            snapshot_path => "../../../../testdata/config/invalid",
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, {
            insta::assert_snapshot!(name, rendered(&text, &problems));
        });
    }
}

#[test]
fn every_good_sample_is_taken_and_only_secrets_in_the_file_are_remarked_on() {
    for (name, text) in samples("valid") {
        let loaded = Config::parse(&text);
        let loaded = loaded.unwrap_or_else(|problems| panic!("{}", rendered(&text, &problems)));
        let expected = if name == "secrets-inline" { 5 } else { 0 };
        assert_eq!(loaded.warnings.len(), expected, "{name}");
    }
}

#[test]
fn what_a_file_leaves_out_has_the_documented_default() {
    let config = parse(&sample("valid", "minimal"));
    assert_eq!(config.timezone, TimeZone::UTC);
    assert_eq!((config.credentials_dir, config.state_dir), (None, None));
    assert!(config.notifications.healthchecks.is_none() && config.notifications.gotify.is_none());
    let spare = &config.incus[&"spare".parse().unwrap()];
    assert_eq!(spare.url.to_string(), "https://10.0.0.11:8443");
    assert_eq!((&spare.copy_url, &spare.certificate), (&None, &None));
    assert_eq!((&spare.client_certificate, &spare.client_key), (&None, &None));

    let job = &config.jobs[&"nightly".parse().unwrap()];
    assert_eq!(job.from.projects, ["default".parse().unwrap()]);
    assert_eq!(job.from.instances.len(), 1);
    assert_eq!(job.from.instances[0].name.as_str(), "*");
    assert_eq!(
        (&job.from.instances[0].pool, job.from.instances[0].exclude_devices.len()),
        (&None, 0)
    );
    assert_eq!(job.from.volumes, VolumeSelection::Attached);
    assert!(job.from.conditions.is_empty());
    assert!(job.from.exclude_instances.is_empty() && job.from.exclude_volumes.is_empty());
    assert_eq!(job.consistency, Consistency::Snapshot);
    assert_eq!(job.stop_timeout, Duration::from_secs(300));
    assert_eq!(job.snapshot_prefix.as_str(), "IAB_");
    let item = ItemId::Instance { project: "p".parse().unwrap(), name: "n".parse().unwrap() };
    let (policy, origin) = job.keep.policy(&item);
    assert!(policy.keeps_all());
    assert_eq!(origin, RuleOrigin::Unset);

    let target = &job.to[0];
    assert_eq!(target.mode, TransferMode::Push);
    assert_eq!((&target.pool, target.pools.len()), (&None, 0));
    assert!(target.exclude_devices.is_empty() && target.keep.is_none());
    assert_eq!(target.history_project.as_str(), "stapes-history");
}

#[test]
fn every_setting_arrives_where_it_belongs() {
    let mut config = parse(&sample("valid", "full"));
    config.resolve_paths(Path::new("/etc/stapes"));
    assert_eq!(config.timezone.iana_name(), Some("Europe/Berlin"));
    assert_eq!(config.credentials_dir.as_deref(), Some(Path::new("/etc/stapes/credentials")));
    assert_eq!(config.state_dir.as_deref(), Some(Path::new("/var/lib/stapes")));
    let local = &config.incus[&"local".parse().unwrap()];
    assert_eq!(local.url, ServerUrl::Unix("/var/lib/incus/unix.socket".into()));
    assert_eq!(local.copy_url.as_deref(), Some("https://10.0.0.10:8443"));
    let spare = &config.incus[&"spare".parse().unwrap()];
    assert_eq!(spare.url.to_string(), "https://spare.lan:9443");
    assert_eq!(spare.certificate.as_deref(), Some(Path::new("/etc/stapes/pins/spare.crt")));
    assert_eq!(spare.client_key.as_deref(), Some(Path::new("/etc/stapes/client.key")));

    let gotify = config.notifications.gotify.as_ref().unwrap();
    assert_eq!(gotify.url.to_string(), "environment variable GOTIFY_URL");
    assert_eq!(gotify.token.as_ref().unwrap().to_string(), "systemd credential gotify-token");
    assert_eq!((gotify.when, gotify.timeout), (GotifyWhen::Always, Duration::from_secs(120)));
    let job = &config.jobs[&"nightly".parse().unwrap()];
    let notifications = job.notifications.or(&config.notifications);
    assert_eq!(notifications.healthchecks.unwrap().url.to_string(), "a command");
    assert!(notifications.gotify.is_some(), "services that a job does not name stay");
    let global = config.notifications.healthchecks.as_ref().unwrap();
    assert_eq!(global.url.to_string(), "file /etc/stapes/hc-url");

    let names: Vec<&str> = job.from.instances.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["db-*", "web-[0-9]", "mail"]);
    assert_eq!(job.from.instances[0].pool.as_ref().unwrap().as_str(), "fast");
    assert_eq!(job.from.instances[0].exclude_devices, ["gpu", "usb"]);
    let VolumeSelection::Listed(volumes) = &job.from.volumes else { panic!() };
    assert_eq!(volumes[1].pool.as_ref().unwrap().as_str(), "slow");
    assert_eq!(job.from.conditions[1].to_string(), "user.tier=gold");
    assert_eq!(job.from.exclude_instances.len(), 2);
    assert_eq!(job.from.exclude_volumes[0].as_str(), "tank/cache");
    assert_eq!((job.consistency, job.stop_timeout), (Consistency::Stop, Duration::from_secs(600)));
    assert_eq!(job.snapshot_prefix.as_str(), "nightly-");
    assert_eq!(job.to[0].mode, TransferMode::Relay);
    assert_eq!(job.to[0].pools[&"tank".parse().unwrap()].as_str(), "big");
    assert_eq!(job.to[0].exclude_devices, ["eth1"]);
    assert_eq!(job.to[0].history_project.as_str(), "archive");
    assert_eq!(job.to[1].mode, TransferMode::Pull);
}

#[test]
fn repositories_know_what_opens_them_and_what_their_storage_needs() {
    let mut config = parse(&sample("valid", "repositories"));
    config.resolve_paths(Path::new("/etc/stapes"));
    let told: Vec<String> = config
        .repositories
        .values()
        .map(|one| {
            let password = one.password.as_ref().map(|source| format!(" opened by {source}"));
            let names: Vec<&str> = one.variables.keys().copied().collect();
            format!("{}{} {}", one.url, password.unwrap_or_default(), names.join(" "))
        })
        .collect();
    assert_eq!(
        told,
        [
            "restic:sftp:backup@nas:/volume1/restic ",
            "restic:/etc/stapes/attic opened by file /etc/stapes/attic.key ",
            "dir:/mnt/nas/incus ",
            "restic:rest:https://me@shelf.lan:8000/ opened by a command \
             RESTIC_CACERT RESTIC_REST_PASSWORD",
            "dir:/etc/stapes/backups ",
            "restic:s3:https://s3.example/bucket/stapes opened by systemd credential vault \
             AWS_ACCESS_KEY_ID AWS_REGION AWS_SECRET_ACCESS_KEY",
        ]
    );
}

#[test]
fn the_most_specific_retention_counts() {
    let config = parse(&sample("valid", "full"));
    let job = &config.jobs[&"nightly".parse().unwrap()];
    let project = |name: &str| name.parse().unwrap();
    let instance =
        |p: &str, n: &str| ItemId::Instance { project: project(p), name: n.parse().unwrap() };
    let volume = |p: &str, n: &str| ItemId::Volume {
        project: project(p),
        pool: "tank".parse().unwrap(),
        name: n.parse().unwrap(),
    };
    let on_target = |item: ItemId| {
        let (policy, origin) = job.keep_on(&job.to[0]).policy(&item);
        format!("{policy} ({origin})")
    };
    assert_eq!(on_target(instance("default", "mail")), "daily=30,monthly=12 (by name)");
    assert_eq!(on_target(instance("default", "web")), "daily=7 (by kind)");
    assert_eq!(on_target(volume("default", "mail")), "1d2w (by kind)");
    assert_eq!(on_target(volume("lab", "mail")), "keep 2 (by project)");
    assert_eq!(on_target(instance("other", "mail")), "6,1h2d (default)");
    let (policy, _) = job.keep_on(&job.to[1]).policy(&instance("lab", "x"));
    assert_eq!(policy.to_string(), "daily=7,weekly=4", "a target without `keep` has the source's");
}

#[test]
fn volumes_can_be_attached_none_or_named() {
    let volumes = |text: &str| {
        let text = sample("valid", "minimal")
            .replace("incus: local }", &format!("incus: local, volumes: {text} }}"));
        parse(&text).jobs.into_values().next().unwrap().from.volumes
    };
    assert_eq!(volumes("attached"), VolumeSelection::Attached);
    assert_eq!(volumes("none"), VolumeSelection::Listed(Vec::new()));
    assert_eq!(volumes("[]"), VolumeSelection::Listed(Vec::new()));
    let VolumeSelection::Listed(rules) = volumes("data") else { panic!() };
    assert_eq!(rules[0].name.as_str(), "data");
}

#[test]
fn names_that_yaml_takes_for_something_else_are_taken_as_written() {
    let text = sample("valid", "minimal")
        .replace("incus: local }", "incus: local, instances: [on, y, False, 1_000, 0x1f, 12] }");
    let rules = parse(&text).jobs.into_values().next().unwrap().from.instances;
    let names: Vec<&str> = rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["on", "y", "False", "1_000", "0x1f", "12"]);
}

#[test]
fn a_mistake_behind_an_alias_or_an_escape_is_placed_at_the_whole_value() {
    for (value, marked) in
        [("*äöü", "*äöü"), (r#""\x31x1d""#, r#""\x31x1d""#), ("'11x1d'", "x"), ("11x1d", "x")]
    {
        let text = format!("timezone: &äöü 11x1d\njobs: {{ a: {{ keep: {value} }} }}\n");
        let problems = Config::parse(&text).unwrap_err();
        let problem = problems.iter().find(|p| p.message.contains("`x` is not a unit")).unwrap();
        assert_eq!(text.get(problem.span.clone()), Some(marked), "{value}");
    }
}

#[test]
fn no_secret_is_ever_in_a_message_or_a_debug_text() {
    for kind in ["valid", "invalid"] {
        for (name, text) in samples(kind) {
            let shown = match Config::parse(&text) {
                Ok(loaded) => format!("{:?} {:?}", loaded.config, loaded.warnings),
                Err(problems) => format!("{problems:?}"),
            };
            assert!(!shown.contains("hunter"), "{kind}/{name}: {shown}");
        }
    }
}

/// What the reference says must stay true: its example parses, and every key that the code reads
/// is described there.
mod reference {
    use std::collections::BTreeSet;

    use super::super::Config;

    const DOCUMENT: &str = include_str!("../../../../docs/configuration.md");

    #[test]
    fn the_example_of_the_reference_is_a_configuration_without_a_warning() {
        let example = DOCUMENT.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
        let loaded = Config::parse(example).unwrap_or_else(|problems| panic!("{problems:#?}"));
        assert_eq!(loaded.warnings, []);
        assert_eq!(loaded.config.jobs.len(), 2);
    }

    #[test]
    fn every_variable_of_a_storage_is_named_in_the_reference() {
        for name in super::super::variable_names() {
            assert!(DOCUMENT.contains(&format!("`{name}`")), "{name}");
        }
    }

    #[test]
    fn every_key_that_is_read_is_described_in_the_reference() {
        let sources = [
            include_str!("incus.rs"),
            include_str!("job.rs"),
            include_str!("keep.rs"),
            include_str!("mod.rs"),
            include_str!("notifications.rs"),
            include_str!("repository.rs"),
        ];
        let mut keys = BTreeSet::new();
        for source in sources {
            for call in ["take(\"", "require(\""] {
                for rest in source.split(call).skip(1) {
                    keys.insert(rest.split('"').next().unwrap());
                }
            }
        }
        assert!(keys.len() > 20, "{keys:?}");
        let missing: Vec<&str> =
            keys.into_iter().filter(|key| !DOCUMENT.contains(&format!("`{key}`"))).collect();
        assert_eq!(missing, [] as [&str; 0]);
    }
}

#[test]
fn two_jobs_that_thin_the_same_snapshots_for_different_servers_are_warned_about() {
    let jobs = |b_from: &str, b_rest: &str| {
        let text = format!(
            "incus:\n  a: {{ url: \"https://a\" }}\n  b: {{ url: \"https://b\" }}\n  c: {{ url: \"https://c\" }}\n\
             jobs:\n  one: {{ from: {{ incus: a }}, to: {{ replica: b }} }}\n  \
             two: {{ from: {{ incus: a{b_from} }}, to: {{ replica: c }}{b_rest} }}\n"
        );
        Config::parse(&text).unwrap().warnings
    };
    let [warning] = <[Problem; 1]>::try_from(jobs("", "")).unwrap();
    assert!(warning.message.starts_with("job two takes from the same projects as job one"));
    assert_eq!(jobs(", projects: [\"*\"]", "").len(), 1);
    assert_eq!(jobs(", projects: [lab]", ""), []);
    assert_eq!(jobs("", ", snapshot-prefix: TWO_"), []);
}
