//! The imported configuration against its source: golden text, errors, and the same meaning for
//! random configurations, with IAB's precedence written down a second time.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::config::{Config, Consistency, InstanceRule, Job, VolumeSelection};
use crate::item::ItemId;
use crate::retention::Policy;

const FIXTURE: &str = include_str!("../../../../../testdata/iab/config.json");

fn said(findings: &[Finding]) -> String {
    findings.iter().map(|finding| format!("{finding}\n")).collect()
}

/// The smallest configuration that works, for tests to change.
fn small() -> Value {
    json!({
        "iab": { "iabCredDir": "/creds" },
        "hosts": [
            { "name": "a", "role": "source", "url": "https://10.0.0.1:8443" },
            { "name": "b", "role": "target", "url": "https://10.0.0.2:8443" },
        ],
        "projects": [{ "name": "default", "instances": [{ "name": "web", "storage": "local" }] }],
    })
}

fn changed(pointer: &str, value: Value) -> String {
    let mut config = small();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    match config.pointer_mut(parent).unwrap() {
        Value::Array(items) => items[key.parse::<usize>().unwrap()] = value,
        parent => parent[key] = value,
    }
    config.to_string()
}

fn config_of(text: &str) -> Config {
    Config::parse(&import(text).unwrap().yaml).unwrap().config
}

#[test]
fn the_example_becomes_a_configuration_that_people_can_read() {
    let imported = import(FIXTURE).unwrap();
    assert!(!format!("{imported:?}").contains("Aexample"));
    insta::assert_snapshot!(imported.yaml, @r##"
    # Made from a configuration of incusAutobackup.
    incus:
      source:
        url: "https://[fd00:7::10]:8443"
        certificate: /root/.config/incusAutobackup/servers/fd00_7__10.pem
        client-certificate: /root/.config/incusAutobackup/iab_client.crt
        client-key: /root/.config/incusAutobackup/iab_client.key
      attic:
        url: https://attic.example.org:443
        certificate: /root/.config/incusAutobackup/servers/Attic.example.org.pem
        client-certificate: /root/.config/incusAutobackup/iab_client.crt
        client-key: /root/.config/incusAutobackup/iab_client.key
    notifications:
      healthchecks:
        url: https://checks.example.org/ping/0a1b2c3d
      gotify:
        url: "https://push.example.org/message?token=Aexample"
        on: failure
    jobs:
      # What the family uses: mail, photos # and more
      default:
        from:
          incus: source
          projects: default
          instances:
            - name: mail
              pool: slow
            - name: photos
            - name: desktop-vm
              pool: slow
              exclude-devices:
                - gpu
                - "usb: stick"
          volumes:
            - tank/albums
            - slow/yes
        to:
          - replica: attic
            mode: push
            keep:
              projects:
                default:
                  default: "4,1d1m,1w1y"
        keep:
          default: "8,1h1d,1d2w"
          projects:
            default:
              instances:
                names:
                  mail: "48,1h3d,1d1m"
              volumes:
                default: "1d1w"
                names:
                  "yes": "keep all"
        consistency: stop
        snapshot-prefix: IAB_
      lab:
        from:
          incus: source
          projects: lab
          instances:
            - name: "1.0"
              pool: slow
          volumes: none
        to:
          - replica: attic
            mode: pull
            keep: "keep all"
        keep: "8,1h1d,1d2w"
        consistency: stop
        snapshot-prefix: IAB_
    "##);
    insta::assert_snapshot!(said(&imported.remarks), @r##"
    iab.uuid: left out; the client certificate alone identifies us
    iab.healthchecksUrl: is a secret and now stands in stapes.yaml; `url: { file: … }` keeps it out
    iab.gotifyUrl: is a secret and now stands in stapes.yaml; `url: { file: … }` keeps it out
    hosts[0].url: names no port; IAB took 443, which now stands there
    projects[1].comment: unknown key, left out
    retention.hosts.target.projects.gone: `projects` does not list this project; left out
    retention.hosts.third: there are only source and target; left out
    projects[2]: lists neither instances nor volumes; left out
    Snapshots named IAB_… stay managed: they are thinned by the time at which Incus made them. Their names hold IAB's local time, those of new ones UTC.
    retention.hosts.target: IAB used the source's policies on the target too, unless started with --iOSfix=false. stapes obeys the target's own, by means of a history project; `--ios-fix` brings the old behaviour back. Items without a policy there, now kept without limit: 1.
    iab.iabCredDir: Client certificate, key and pinned server certificates are used where they are; keep that directory.
    iab.healthchecksUrl: Every project is now a job, and every job pings this check: the success of one can hide the failure of another. Give each job a check of its own under its `notifications`.
    "##);
}

#[test]
fn mistakes_are_all_told_with_their_paths() {
    let text = json!({
        "iab": { "iabCredDir": " ", "stopInstance": "no", "uuid": 7 },
        "hosts": [
            { "name": "a/b", "role": "source", "url": "https://10.0.0.1:8443/path" },
            { "name": "c", "role": "source", "url": "http://10.0.0.2:8443" },
            { "role": "Target", "url": "" },
            "d",
        ],
        "projects": [
            { "name": "", "mode": "carry", "instances": {}, "volumes": [{ "name": "v" }] },
            { "name": "p", "instances": [{ "name": "a\nb", "storage": 1 }, { "excludeDevices": [2] }] },
        ],
        "retention": { "hosts": { "source": {
            "default": "3,5",
            "projects": { "p.q": { "volumes": { "byName": { "v": "1x1d", "w": true } } } },
        } } },
    });
    insta::assert_snapshot!(said(&import(&text.to_string()).unwrap_err()), @r##"
    iab.iabCredDir: must name the directory of the credentials
    iab.uuid: expected a text, found a number
    iab.stopInstance: expected true or false, found a text
    hosts[0].name: the name of a server «a/b» holds '/', which is not allowed there
    hosts[0].url: `https://10.0.0.1:8443/path` is not the address of an Incus server: only host and port may follow https://
    hosts[1].url: must begin with https://
    hosts[2].role: `Target` is no role; there are source and target
    hosts[3]: expected an object, found a text
    hosts: there must be one host with the role source, here are 2
    hosts: there must be one host with the role target, here are 0
    projects[0].name: the name of a project must not be empty
    projects[0].mode: `carry` is no mode; there are push and pull
    projects[0].instances: expected a list, found an object
    projects[0].volumes[0].storage: the name of a storage pool must not be empty
    projects[1].instances[0].name: the name of an instance «a
    b» holds '\n', which is not allowed there
    projects[1].instances[0].storage: expected a text, found a number
    projects[1].instances[1].name: the name of an instance must not be empty
    projects[1].instances[1].excludeDevices[0]: expected a text, found a number
    retention.hosts.source.default: the plain number `5` may only stand once, at the beginning (write first how many points to keep always, then rules such as `1d2w`)
    retention.hosts.source.projects["p.q"].volumes.byName.v: `x` is not a unit of time (units are s, min, h, d, w, m (30 days) and y (365 days))
    retention.hosts.source.projects["p.q"].volumes.byName.w: expected a text, found true or false
    "##);
    assert_eq!(said(&import("[]").unwrap_err()), "expected an object, found a list\n");
    assert!(said(&import("{").unwrap_err()).starts_with("this is not valid JSON: "));
    insta::assert_snapshot!(said(&import("{}").unwrap_err()), @r##"
    iab: is missing
    hosts: there must be one host with the role source, here are 0
    hosts: there must be one host with the role target, here are 0
    "##);
}

#[test]
fn credentials_are_found_where_iab_put_them() {
    let files = |url: &str| {
        let config = config_of(&changed("/hosts/0/url", json!(url)));
        let server = &config.incus[&"a".parse().unwrap()];
        let paths = [&server.certificate, &server.client_certificate, &server.client_key];
        let paths = paths.map(|path| path.as_ref().unwrap().display().to_string());
        assert_eq!(paths[1..], ["/creds/iab_client.crt", "/creds/iab_client.key"]);
        (server.url.to_string(), paths[0].clone())
    };
    for (url, address, certificate) in [
        ("https://10.0.0.9:8443", "https://10.0.0.9:8443", "10.0.0.9"),
        ("https://Main.lan:9443/", "https://main.lan:9443", "Main.lan"),
        ("https://main.lan", "https://main.lan:443", "main.lan"),
        ("https://[fd00::1]:8443", "https://[fd00::1]:8443", "fd00__1"),
        ("https://[fd00::1]", "https://[fd00::1]:443", "fd00__1"),
    ] {
        let expected = (address.to_owned(), format!("/creds/servers/{certificate}.pem"));
        assert_eq!(files(url), expected);
    }
}

#[test]
fn hosts_without_good_names_get_some() {
    let names = |source: &str, target: &str| -> Vec<String> {
        let mut config = small();
        config["hosts"][0]["name"] = json!(source);
        config["hosts"][1]["name"] = json!(target);
        config_of(&config.to_string()).incus.keys().map(ToString::to_string).collect()
    };
    assert_eq!(names("", ""), ["source", "target"]);
    assert_eq!(names("incus", "incus"), ["incus", "incus-target"]);
    assert_eq!(names("target", ""), ["target", "target-target"]);
}

#[test]
fn a_target_without_policies_keeps_everything_and_does_not_follow_the_source() {
    let config = changed("/retention", json!({ "hosts": { "source": { "default": "3" } } }));
    let imported = import(&config).unwrap();
    assert!(said(&imported.remarks).contains("now kept without limit: 1."));
    let config = Config::parse(&imported.yaml).unwrap().config;
    let job = config.jobs.values().next().unwrap();
    let web = instance("default", "web");
    assert_eq!(job.keep.policy(&web).0, "3".parse().unwrap());
    assert_eq!(job.keep_on(&job.to[0]).policy(&web).0, Policy::keep_all());
}

#[test]
fn projects_that_stand_twice_become_two_jobs() {
    let project = |mode: &str, name: &str| json!({ "name": "p", "mode": mode, "instances": [{ "name": name, "storage": "s" }] });
    let mut text = small();
    text["projects"] = json!([project("push", "x"), project("pull", "y"), project("relay", "z")]);
    let config = config_of(&text.to_string());
    let jobs: Vec<(String, TransferMode)> =
        config.jobs.values().map(|job| (job.name.to_string(), job.to[0].mode)).collect();
    let expected =
        [("p", TransferMode::Push), ("p-2", TransferMode::Pull), ("p-3", TransferMode::Relay)];
    assert_eq!(jobs, expected.map(|(name, mode)| (name.to_owned(), mode)));
}

#[test]
fn without_projects_there_is_no_job() {
    let imported = import(&changed("/projects", Value::Null)).unwrap();
    assert!(Config::parse(&imported.yaml).unwrap().config.jobs.is_empty());
    assert!(said(&imported.remarks).contains("projects: lists nothing to replicate"));
}

fn instance(project: &str, name: &str) -> ItemId {
    ItemId::Instance { project: project.parse().unwrap(), name: name.parse().unwrap() }
}

fn volume(project: &str, pool: &str, name: &str) -> ItemId {
    let (project, pool) = (project.parse().unwrap(), pool.parse().unwrap());
    ItemId::Volume { project, pool, name: name.parse().unwrap() }
}

/// The policy that IAB applies, walked from the least specific rule to the most specific one.
fn iab_policy(config: &Value, role: &str, project: &str, kind: &str, name: &str) -> Policy {
    let side = &config["retention"]["hosts"][role];
    let rules = &side["projects"][project];
    let mut found = "";
    let steps = [
        &side["default"],
        &rules["default"],
        &rules[kind]["default"],
        &rules[kind]["byName"][name],
    ];
    for step in steps {
        match step.as_str() {
            None | Some("") => {}
            Some(policy) => found = policy,
        }
    }
    found.trim().to_lowercase().parse().unwrap()
}

const ODD_NAMES: [&str; 24] = [
    "web",
    "db-1",
    "yes",
    "No",
    "null",
    "~",
    "1.0",
    "007",
    "1e3",
    "a: b",
    "a #b",
    "- a",
    "[x]",
    "{a,b}",
    "*",
    "wh?t",
    "back\\slash",
    "qu\"ote's",
    " space ",
    "ü-日本-🦴",
    "default",
    "daily",
    "names",
    "0x1F",
];

fn name() -> impl Strategy<Value = String> {
    let any = any::<String>().prop_map(|text| {
        let text: String = text.chars().filter(|c| *c != '/' && !c.is_control()).collect();
        if text.is_empty() { "x".to_owned() } else { text }
    });
    prop_oneof![4 => prop::sample::select(ODD_NAMES.to_vec()).prop_map(str::to_owned), 1 => any]
}

fn policy() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!(""),
        Value::Null,
        json!(" "),
        json!("7"),
        json!("6,1h2d,1d2w,1w3m"),
        json!("1D2W"),
        json!("0,1d1y"),
        json!(" 3 , 1min1h "),
        json!("1h1d"),
        json!("10,30d1y"),
    ])
}

fn kind_rules() -> impl Strategy<Value = Value> {
    let names = prop::collection::btree_map(name(), policy(), 0..3);
    (policy(), names).prop_map(|(default, names)| json!({ "default": default, "byName": names }))
}

fn side_rules() -> impl Strategy<Value = Value> {
    let project = (policy(), kind_rules(), kind_rules())
        .prop_map(|(d, i, v)| json!({ "default": d, "instances": i, "volumes": v }));
    let projects = prop::collection::btree_map(name(), project, 0..3);
    (policy(), projects).prop_map(|(d, projects)| json!({ "default": d, "projects": projects }))
}

fn project() -> impl Strategy<Value = Value> {
    let pool = || prop::option::of(name());
    let devices = prop::collection::vec(name(), 0..3);
    let instances = prop::collection::btree_map(name(), (pool(), devices), 0..4);
    let volumes = prop::collection::btree_set((name(), name()), 0..4);
    let mode = prop::sample::select(vec!["", "push", "pull"]);
    (instances, volumes, mode, any::<String>()).prop_map(|(instances, volumes, mode, text)| {
        let instance = |(name, (pool, devices))| {
            json!({ "name": name, "storage": pool, "excludeDevices": devices })
        };
        let volume = |(pool, name)| json!({ "name": name, "storage": pool });
        json!({
            "description": text,
            "mode": mode,
            "instances": instances.into_iter().map(instance).collect::<Vec<Value>>(),
            "volumes": volumes.into_iter().map(volume).collect::<Vec<Value>>(),
        })
    })
}

prop_compose! {
    fn configuration()(
        projects in prop::collection::btree_map(name(), project(), 0..4),
        source in side_rules(),
        target in side_rules(),
        directory in "(/[ -~ü]{0,6}){1,3}",
        stop in any::<bool>(),
        secret in prop::option::of("https://[ -~]{1,20}"),
    ) -> Value {
        let projects: Vec<Value> = projects
            .into_iter()
            .map(|(name, mut project)| { project["name"] = json!(name); project })
            .collect();
        let mut config = small();
        config["iab"] = json!({
            "iabCredDir": directory, "stopInstance": stop,
            "healthchecksUrl": secret, "gotifyUrl": secret,
        });
        config["projects"] = json!(projects);
        config["retention"] = json!({ "hosts": { "source": source, "target": target } });
        config
    }
}

fn items<'v>(project: &'v Value, kind: &str) -> Vec<(&'v str, Option<&'v str>, &'v Value)> {
    let items = project[kind].as_array().unwrap();
    items
        .iter()
        .map(|item| (item["name"].as_str().unwrap(), item["storage"].as_str(), item))
        .collect()
}

/// The first rule that fits, as the selection applies it.
fn rule<'j>(job: &'j Job, name: &str) -> &'j InstanceRule {
    job.from.instances.iter().find(|rule| rule.name.matches(name)).unwrap()
}

fn assert_same_items(job: &Job, project: &Value) {
    for (name, storage, item) in items(project, "instances") {
        let rule = rule(job, name);
        assert_eq!(rule.pool.as_ref().map(|pool| pool.as_str()), storage);
        assert_eq!(json!(rule.exclude_devices), item["excludeDevices"]);
    }
    let VolumeSelection::Listed(rules) = &job.from.volumes else { panic!("volumes by instance") };
    for (name, storage, _) in items(project, "volumes") {
        let path = format!("{}/{name}", storage.unwrap());
        assert_eq!(rules.iter().filter(|rule| rule.name.matches(&path)).count(), 1);
        assert!(!rules.iter().any(|rule| rule.name.matches(name)));
    }
    assert_eq!(job.from.instances.len(), items(project, "instances").len());
    assert_eq!(rules.len(), items(project, "volumes").len());
    for other in ODD_NAMES {
        let is_listed = items(project, "instances").iter().any(|(name, ..)| *name == other);
        let fits = job.from.instances.iter().any(|rule| rule.name.matches(other));
        assert_eq!(fits, is_listed, "{other}");
    }
}

fn assert_same_policies(job: &Job, config: &Value, project: &str) {
    let mut names: Vec<String> = ODD_NAMES.map(str::to_owned).to_vec();
    for role in ["source", "target"] {
        for kind in ["instances", "volumes"] {
            let rules = &config["retention"]["hosts"][role]["projects"][project][kind]["byName"];
            names.extend(rules.as_object().into_iter().flat_map(|map| map.keys().cloned()));
        }
    }
    for name in &names {
        let sides = [("source", &job.keep), ("target", job.keep_on(&job.to[0]))];
        for (role, rules) in sides {
            let kinds = [
                ("instances", instance(project, name)),
                ("volumes", volume(project, "pool", name)),
            ];
            for (kind, item) in kinds {
                let expected = iab_policy(config, role, project, kind, name);
                assert_eq!(rules.policy(&item).0, expected, "{role} {project} {kind} {name}");
            }
        }
    }
}

proptest! {
    #![proptest_config(crate::testing::cases(96))]

    #[test]
    fn every_configuration_keeps_its_meaning(config in configuration()) {
        let imported = import(&config.to_string()).unwrap_or_else(|e| panic!("{}", said(&e)));
        let parsed = Config::parse(&imported.yaml)
            .unwrap_or_else(|problems| panic!("{problems:?}\n{}", imported.yaml))
            .config;
        let projects: BTreeMap<&str, &Value> = config["projects"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|p| !(items(p, "instances").is_empty() && items(p, "volumes").is_empty()))
            .map(|project| (project["name"].as_str().unwrap(), project))
            .collect();
        let names: Vec<&str> = parsed.jobs.keys().map(|name| name.as_str()).collect();
        prop_assert_eq!(names, projects.keys().copied().collect::<Vec<_>>());
        for (job, (name, project)) in parsed.jobs.values().zip(&projects) {
            prop_assert!(job.from.projects.len() == 1 && job.from.projects[0].matches(name));
            prop_assert_eq!(
                job.consistency == Consistency::Stop,
                config["iab"]["stopInstance"] == true
            );
            prop_assert_eq!(job.to[0].mode == TransferMode::Pull, project["mode"] == "pull");
            assert_same_items(job, project);
            assert_same_policies(job, &config, name);
        }
        let secret = config["iab"]["gotifyUrl"].as_str();
        prop_assert_eq!(parsed.notifications.gotify.is_some(), secret.is_some());
        prop_assert_eq!(parsed.notifications.healthchecks.is_some(), secret.is_some());
    }
}
