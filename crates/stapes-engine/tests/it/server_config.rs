//! The declarative configuration of real servers: read, compared, and built again on a new one.
//!
//! Bridges are interfaces of the host, so each test has names and addresses of its own, and an old
//! server is gone before a new one gets its networks.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests: what is missing fails the test"
)]

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use incus_client::{Client, HttpsOptions, Identity};
use serde_json::{Value, json};
use stapes_core::server_config::{
    ConfigKind, ConfigPlan, ObjectKind, PlanError, PlanOptions, Secrets, ServerConfig, plan, render,
};
use stapes_engine::server_config::{ApplyResult, Gathered, apply, gather};
use stapes_testing::IncusServer;
use tokio_util::sync::CancellationToken;

/// Secrets of a filled server; none may show where secrets are left out.
const SECRETS: [&str; 3] = ["joe:hidden", "c2VjcmV0LXRzaWc=", "TOKEN=dns-hidden"];

fn client(server: &IncusServer) -> Client {
    Client::unix(server.socket()).unwrap()
}

async fn read(server: &IncusServer, secrets: Secrets) -> Gathered {
    let gathered = gather(&client(server), secrets).await.unwrap();
    assert_eq!(gathered.missing, Vec::<String>::new());
    gathered
}

async fn now(server: &IncusServer) -> ServerConfig {
    read(server, Secrets::Include).await.config
}

/// What is written to a repository and read from it again.
fn through_files(config: &ServerConfig) -> ServerConfig {
    let files: Vec<(String, String)> = config.files().collect();
    let parsed =
        ServerConfig::parse(files.iter().map(|(name, text)| (name.as_str(), text.as_bytes())));
    let parsed = parsed.unwrap();
    assert_eq!(files, parsed.files().collect::<Vec<_>>());
    parsed
}

/// Applies a plan and fails unless all of its work is done.
///
/// Making a bridge, Incus looks at every interface of the host, and fails if one goes away under
/// it, as those of other tests' containers do; so that is tried again, by a new plan.
async fn apply_all(server: &IncusServer, backup: &ServerConfig, options: &PlanOptions) {
    for attempt in 1.. {
        let planned = plan(backup, &now(server).await, options).unwrap();
        let mut heard = Vec::new();
        let cancel = CancellationToken::new();
        let client = client(server);
        let applied = apply(&client, &planned, &cancel, |number, total, change| {
            heard.push((number, total, change.id.to_string()));
        });
        let applied = applied.await;
        let failed: Vec<String> = applied
            .iter()
            .filter(|applied| applied.change.is_work() && applied.result != ApplyResult::Done)
            .map(|applied| format!("{}: {:?}", applied.change.id, applied.result))
            .collect();
        if failed.is_empty() {
            let total = planned.work().count();
            assert_eq!(heard.len(), total);
            assert!(heard.iter().enumerate().all(|(at, one)| (one.0, one.1) == (at + 1, total)));
            return;
        }
        let race = failed.iter().any(|reason| reason.contains("does not exist"));
        assert!(race && attempt < 10, "{}\n{failed:#?}", render(&planned));
    }
}

fn work(planned: &ConfigPlan) -> Vec<String> {
    planned.work().map(|change| change.id.to_string()).collect()
}

fn certificate() -> (Identity, String) {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let made = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
    let identity = Identity::from_pem(&made.pem(), &key.serialize_pem()).unwrap();
    (identity, STANDARD.encode(made.der()))
}

/// Makes an object; again where a bridge failed because of somebody else's interface.
fn post(server: &IncusServer, path: &str, body: &Value) {
    for attempt in 1.. {
        match server.api("POST", path, Some(body)) {
            Ok(_) => return,
            Err(error) if attempt < 10 && error.to_string().contains("does not exist") => {}
            Err(error) => panic!("{path} {body}: {error}"),
        }
    }
}

/// Puts something of every kind on a server; the bridge and its addresses are the test's own.
/// Load balancers, peers and networks in projects need OVN, which is not in the lab.
fn fill(server: &IncusServer, bridge: &str, net: &str) -> Identity {
    let post = |path: &str, body: Value| post(server, path, &body);
    let features = |on: &str| {
        json!({
            "features.images": on, "features.profiles": on, "features.networks": "false",
            "features.storage.volumes": on, "features.storage.buckets": on, "user.note": "ä\n\"b\"",
        })
    };
    post(
        "/1.0/projects",
        json!({"name": "lab", "description": "own things", "config": features("true")}),
    );
    post("/1.0/projects", json!({"name": "bare", "config": features("false")}));
    post(
        "/1.0/storage-pools",
        json!({"name": "fast", "driver": "btrfs", "config": {"size": "256MiB"}}),
    );
    post("/1.0/storage-pools", json!({"name": "bulk", "driver": "dir", "description": "slow"}));
    fill_networks(server, bridge, net);
    post(
        "/1.0/profiles",
        json!({"name": "web", "devices": {
        "eth0": {"type": "nic", "network": bridge},
        "root": {"type": "disk", "path": "/", "pool": "fast"},
    }, "config": {"cloud-init.user-data": "#cloud-config\nruncmd:\n- ls\n", "limits.memory": "64MiB"}}),
    );
    post("/1.0/profiles?project=lab", json!({"name": "small", "config": {"limits.cpu": "1"}}));
    let lab_default = json!({"description": "ours", "config": {}, "devices": {
        "root": {"type": "disk", "path": "/", "pool": "bulk"},
    }});
    server.api("PUT", "/1.0/profiles/default?project=lab", Some(&lab_default)).unwrap();
    let settings = json!({"config": {
        "images.auto_update_interval": "12", "core.proxy_https": format!("http://{}@127.0.0.1:9", SECRETS[0]),
        "acme.provider.environment": SECRETS[2], "user.site": "attic",
    }});
    server.api("PATCH", "/1.0", Some(&settings)).unwrap();
    server.incus(&["init", "busybox", "one", "--profile", "web"]).unwrap();
    server.incus(&["storage", "volume", "create", "bulk", "data", "user.x=1"]).unwrap();
    server.incus(&["storage", "volume", "snapshot", "create", "bulk", "data", "s1"]).unwrap();
    fill_trust(server)
}

fn fill_networks(server: &IncusServer, bridge: &str, net: &str) {
    let post = |path: &str, body: Value| post(server, path, &body);
    post(
        "/1.0/network-zones",
        json!({"name": format!("{bridge}.test"), "config": {
            "peers.ns1.address": "127.0.0.9", "peers.ns1.key": SECRETS[1],
        }}),
    );
    post(
        &format!("/1.0/network-zones/{bridge}.test/records"),
        json!({
            "name": "www", "entries": [{"type": "A", "ttl": 600, "value": format!("{net}.7")}],
        }),
    );
    let rule = |source: &str| json!({"action": "allow", "source": source, "state": "enabled"});
    post(
        "/1.0/network-acls",
        json!({"name": "web", "egress": [rule(""), ], "ingress": [rule("10.9.0.0/16")]}),
    );
    post("/1.0/network-acls", json!({"name": "ring-b"}));
    post("/1.0/network-acls", json!({"name": "ring-a", "ingress": [rule("ring-b")]}));
    let ring =
        json!({"ingress": [rule("ring-a,ring-b")], "egress": [], "config": {}, "description": ""});
    server.api("PUT", "/1.0/network-acls/ring-b", Some(&ring)).unwrap();
    if has(server, "network_address_set") {
        post("/1.0/network-address-sets", json!({"name": "lan", "addresses": ["10.9.1.0/24"]}));
        post("/1.0/network-acls", json!({"name": "by-set", "ingress": [rule("$lan")]}));
    }
    post(
        "/1.0/networks",
        json!({"name": bridge, "type": "bridge", "description": "office", "config": {
            "ipv4.address": format!("{net}.1/24"), "ipv4.nat": "true", "ipv6.address": "none",
            "security.acls": "web", "dns.zone.forward": format!("{bridge}.test"), "ipv4.dhcp": "false",
        }}),
    );
    post(
        &format!("/1.0/networks/{bridge}/forwards"),
        json!({
            "listen_address": "192.0.2.77", "description": "web",
            "ports": [{"protocol": "tcp", "listen_port": "80,443", "target_address": format!("{net}.7")}],
        }),
    );
}

/// Trusts two clients; returns the restricted one.
fn fill_trust(server: &IncusServer) -> Identity {
    let post = |path: &str, body: Value| post(server, path, &body);
    let (restricted, der) = certificate();
    post(
        "/1.0/certificates",
        json!({
            "name": "guest", "type": "client", "restricted": true, "projects": ["lab"], "certificate": der,
            "description": "comes and goes",
        }),
    );
    let admin = json!({"name": "admin", "type": "client", "certificate": certificate().1});
    post("/1.0/certificates", admin);
    restricted
}

fn has(server: &IncusServer, extension: &str) -> bool {
    let answer = server.api("GET", "/1.0", None).unwrap();
    answer["api_extensions"].as_array().unwrap().iter().any(|one| one == extension)
}

fn names(config: &ServerConfig, kind: ConfigKind) -> Vec<String> {
    let name = |member: &str, object: &serde_json::Map<String, Value>| {
        Some(object.get(member)?.as_str()?.to_owned())
    };
    let name_of = |object| name("name", object).or_else(|| name("listen_address", object));
    config.objects(kind).iter().filter_map(name_of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_server_becomes_what_the_documents_say() {
    let (bridge, net) = ("stcfgold0", "10.231.41");
    let old = IncusServer::start().unwrap();
    drop(fill(&old, bridge, net));
    let first = read(&old, Secrets::Include).await;
    assert_eq!(first.left_out, []);
    let texts: Vec<_> = first.config.files().collect();
    assert_eq!(texts, now(&old).await.files().collect::<Vec<_>>(), "two of an unchanged server");
    assert_eq!(names(&first.config, ConfigKind::NetworkForwards), ["192.0.2.77"]);
    assert_eq!(names(&first.config, ConfigKind::Instances), ["one"]);
    assert_eq!(names(&first.config, ConfigKind::Volumes), ["data"]);
    let backup = through_files(&first.config);
    drop(old);

    let new = IncusServer::start().unwrap();
    let options = PlanOptions::default();
    let planned = plan(&backup, &now(&new).await, &options).unwrap();
    let ids = work(&planned);
    let at = |what: &str| {
        ids.iter().position(|id| id == what).unwrap_or_else(|| panic!("no {what}: {ids:#?}"))
    };
    assert!(at("project lab") < at("storage pool fast"));
    assert!(at("storage pool fast") < at(&format!("network {bridge}")));
    assert!(at("network ACL web") < at(&format!("network {bridge}")));
    assert!(at(&format!("network {bridge}")) < at(&format!("network forward {bridge}/192.0.2.77")));
    assert!(at(&format!("network {bridge}")) < at("profile web"));
    assert!(at("profile web") < at("server settings images"));
    assert_eq!(at("address of the server"), ids.len() - 1);

    apply_all(&new, &backup, &options).await;
    let after = now(&new).await;
    let again = plan(&backup, &after, &options).unwrap();
    assert!(again.is_empty(), "{}", render(&again));
    for kind in ConfigKind::ALL.into_iter().filter(|kind| !kind.is_evidence()) {
        let (was, is) = (backup.text(kind), after.text(kind));
        if kind == ConfigKind::StoragePools {
            // The pools' own files lie in another directory.
            let sources = |text: Option<String>| -> Vec<String> {
                let lines = text.unwrap();
                let lines = lines.lines().filter(|line| !line.contains("\"source\": \"/tmp/"));
                lines.map(str::to_owned).collect()
            };
            assert_eq!(sources(was), sources(is));
        } else {
            assert_eq!(was, is, "{kind}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn differences_are_shown_and_dangerous_ones_need_force() {
    let (bridge, net) = ("stcfgown0", "10.231.42");
    let server = IncusServer::start().unwrap();
    drop(fill(&server, bridge, net));
    let backup = through_files(&now(&server).await);
    let plain = PlanOptions::default();
    let forced = PlanOptions { force: true, ..PlanOptions::default() };

    let change = |path: &str, member: &str, value: Value| {
        let mut object = server.api("GET", path, None).unwrap();
        object[member] = value;
        server.api("PUT", path, Some(&object)).unwrap();
    };
    change("/1.0/profiles/small?project=lab", "config", json!({"limits.cpu": "2"}));
    change("/1.0/storage-pools/fast", "description", json!("not so fast"));
    change(&format!("/1.0/networks/{bridge}"), "description", json!("cellar"));
    let acl = json!({"name": "later", "ingress": []});
    server.api("POST", "/1.0/network-acls", Some(&acl)).unwrap();
    server.api("PATCH", "/1.0", Some(&json!({"config": {"user.later": "1"}}))).unwrap();

    let planned = plan(&backup, &now(&server).await, &plain).unwrap();
    let text = render(&planned);
    assert_eq!(work(&planned), ["profile lab:small"], "{text}");
    assert!(text.contains("  ~ lab:small\n    limits.cpu: 2 -> 1\n"), "{text}");
    for line in [
        format!("  ? {bridge} would be changed, with --force: it carries instance one"),
        "  ? fast would be changed, with --force: it carries instance one".to_owned(),
        "  ? later would be removed, with --force: the backup does not have it".to_owned(),
        "    user.later: 1 -> (nothing)".to_owned(),
    ] {
        assert!(text.contains(&line), "no {line:?} in\n{text}");
    }
    apply_all(&server, &backup, &plain).await;
    let rest = plan(&backup, &now(&server).await, &plain).unwrap();
    assert_eq!(work(&rest), Vec::<String>::new());
    assert_eq!(rest.changes.len(), 4, "{}", render(&rest));

    apply_all(&server, &backup, &forced).await;
    let done = plan(&backup, &now(&server).await, &forced).unwrap();
    assert!(done.is_empty(), "{}", render(&done));
    assert_eq!(backup.files().collect::<Vec<_>>(), now(&server).await.files().collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_stay_on_the_server_and_a_restricted_client_is_told_what_it_misses() {
    let (bridge, net) = ("stcfgsec0", "10.231.43");
    let server = IncusServer::start().unwrap();
    let guest = fill(&server, bridge, net);
    let gathered = read(&server, Secrets::LeaveOut).await;
    let keys: Vec<&str> = gathered.left_out.iter().map(|one| one.key.as_str()).collect();
    assert_eq!(keys, ["acme.provider.environment", "core.proxy_https", "peers.ns1.key"]);
    for (name, text) in gathered.config.files() {
        assert!(!SECRETS.iter().any(|secret| text.contains(secret)), "{name}\n{text}");
    }
    let planned = plan(&gathered.config, &now(&server).await, &PlanOptions::default()).unwrap();
    assert!(planned.is_empty(), "{}", render(&planned));

    // Without their secrets a setting and a zone are left as they are, or made without.
    server.incus(&["config", "unset", "acme.provider.environment"]).unwrap();
    let planned = plan(&gathered.config, &now(&server).await, &PlanOptions::default()).unwrap();
    assert!(planned.is_empty());
    assert_eq!(
        planned.notes,
        [
            "server settings acme: the secret «acme.provider.environment» is not in the backup; set it by hand"
        ]
    );

    let url = server.https_url();
    let pin = incus_client::fetch_certificate(&url, Duration::from_secs(10)).await.unwrap().pin();
    let options = HttpsOptions::new(url, pin).identity(guest);
    let seen = gather(&Client::https(&options).unwrap(), Secrets::LeaveOut).await.unwrap();
    assert!(seen.missing[0].starts_with("our certificate is restricted"), "{:?}", seen.missing);
    assert!(seen.config.is_partial());
    assert_eq!(names(&seen.config, ConfigKind::Projects), ["lab"]);
    let refused = plan(&gathered.config, &seen.config, &PlanOptions::default()).unwrap_err();
    assert!(matches!(refused, PlanError::Unread(_)), "{refused}");
    // What it sees of pools and networks may be without configuration, and must not be applied.
    for hidden in [ConfigKind::StoragePools, ConfigKind::Networks, ConfigKind::Certificates] {
        assert!(!seen.config.knows(hidden), "{hidden}");
    }
    let forced = PlanOptions { force: true, ..PlanOptions::default() };
    let partial = through_files(&seen.config);
    assert_eq!(plan(&partial, &now(&server).await, &forced), Err(PlanError::Partial));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_change_keeps_only_those_back_that_need_it() {
    let server = IncusServer::start().unwrap();
    let mut backup = now(&server).await;
    // A size that no driver accepts, and a profile on that pool; another profile needs nothing.
    let mut pools: Value =
        serde_json::from_str(&backup.text(ConfigKind::StoragePools).unwrap()).unwrap();
    let bad =
        json!({"name": "bad", "driver": "btrfs", "config": {"size": "much"}, "description": ""});
    pools.as_array_mut().unwrap().push(bad);
    backup.insert(ConfigKind::StoragePools, pools).unwrap();
    let mut profiles: Value =
        serde_json::from_str(&backup.text(ConfigKind::Profiles).unwrap()).unwrap();
    let on_bad = json!({"root": {"type": "disk", "path": "/", "pool": "bad"}});
    profiles.as_array_mut().unwrap().extend([
        json!({"name": "a-needs", "project": "default", "devices": on_bad, "config": {}}),
        json!({"name": "b-free", "project": "default", "devices": {}, "config": {}}),
    ]);
    backup.insert(ConfigKind::Profiles, profiles).unwrap();

    let planned = plan(&backup, &now(&server).await, &PlanOptions::default()).unwrap();
    let cancel = CancellationToken::new();
    let applied = apply(&client(&server), &planned, &cancel, |_, _, _| {}).await;
    let results: Vec<_> =
        applied.iter().map(|one| (one.change.id.name.as_str(), &one.result)).collect();
    assert!(matches!(results[0], ("bad", ApplyResult::Failed { .. })), "{results:?}");
    let needs = "it needs storage pool bad, which could not be made".to_owned();
    assert_eq!(results[1], ("a-needs", &ApplyResult::Skipped { reason: needs }));
    assert_eq!(results[2], ("b-free", &ApplyResult::Done));

    cancel.cancel();
    let applied = apply(&client(&server), &planned, &cancel, |_, _, _| panic!("begun")).await;
    assert!(
        applied
            .iter()
            .all(|one| one.result == ApplyResult::Skipped { reason: "interrupted".into() })
    );
    assert_eq!(planned.changes[0].id.kind, ObjectKind::StoragePool);
}
