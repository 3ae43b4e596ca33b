//! From incusAutobackup to stapes: its configuration, its key, its snapshots and its replicas.

use std::path::Path;
use std::process::Command;

use serde_json::json;
use stapes_testing::{Direction, TcpProxy, pair};

use crate::lab::{Lab, how};

/// The client certificate that incusAutobackup makes, trusted by both servers under a name.
fn iab_credentials(dir: &Path, name: &str) {
    let (key, certificate) = (dir.join("iab_client.key"), dir.join("iab_client.crt"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-sha256", "-days", "365"])
        .args(["-subj", "/CN=incusAutobackup", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    std::fs::create_dir(dir.join("servers")).unwrap();
    for server in [&pair().source, &pair().target] {
        let path = certificate.to_str().unwrap();
        server.incus(&["config", "trust", "add-certificate", path, "--name", name]).unwrap();
        let host = server.https_address().ip().to_string();
        std::fs::copy(server.dir().join("server.crt"), dir.join("servers").join(host + ".pem"))
            .unwrap();
    }
}

/// Snapshots and a copy, as incusAutobackup makes them with the `incus` program.
fn replicate_as_iab_does(lab: &Lab, stamp: &str) {
    let (source, remote) = (lab.source(), format!("{}-iab", lab.name()));
    let snapshot = format!("IAB_{stamp}");
    source.incus(&["snapshot", "create", "app", &snapshot]).unwrap();
    source.incus(&["storage", "volume", "snapshot", "create", "local", "data", &snapshot]).unwrap();
    let there = [format!("{remote}:app"), format!("{remote}:local/data")];
    let to = ["--refresh", "--target-project", lab.name()];
    source
        .incus(&[&["storage", "volume", "copy", "local/data", &there[1]], &to[..]].concat())
        .unwrap();
    let copy = ["copy", "app", &there[0], "--stateless", "--storage", "local", "--mode", "push"];
    source.incus(&[&copy, &to[..]].concat()).unwrap();
}

#[test]
fn the_first_run_after_incus_autobackup_refreshes_and_thins_what_that_made() {
    let lab = Lab::new();
    let (source, target) = (lab.source(), lab.target());
    let credentials = lab.dir().join("incusAutobackup");
    std::fs::create_dir(&credentials).unwrap();
    iab_credentials(&credentials, &format!("{}-iab", lab.name()));
    let token = target.server().trust_token(&format!("{}-cli", lab.name()), None).unwrap();
    source.server().incus(&["remote", "add", &format!("{}-iab", lab.name()), &token]).unwrap();
    source.launch("app").unwrap();
    source.volume("local", "data").unwrap();
    let big: Vec<u8> =
        (0..8_u32 << 18).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    source.write_volume("local", "data", "big", &big).unwrap();
    for stamp in ["20260101-030000", "20260102-030000", "20260103-030000"] {
        source.write("local", "app", "root/night", stamp.as_bytes()).unwrap();
        source.write_volume("local", "data", "night", stamp.as_bytes()).unwrap();
        replicate_as_iab_does(&lab, stamp);
    }
    assert_eq!(target.snapshots("app").unwrap().len(), 3);

    let config = json!({
        "iab": { "iabCredDir": credentials, "uuid": "5f0c6a3e-1c1d-4f0a-9a55-0d6f3b0f7a21",
                 "stopInstance": false },
        "hosts": [
            { "name": "here", "role": "source", "url": source.server().https_url() },
            { "name": "there", "role": "target", "url": target.server().https_url() },
        ],
        "projects": [{ "name": lab.name(), "instances": [{ "name": "app", "storage": "local" }],
                       "volumes": [{ "name": "data", "storage": "local" }] }],
        "retention": { "hosts": { "source": { "default": "2" }, "target": { "default": "2" } } },
    });
    let file = lab.dir().join("config.json");
    std::fs::write(&file, config.to_string()).unwrap();
    let ran = lab.stapes(&["import", "iab", file.to_str().unwrap()]).complete();
    assert!(ran.stdout.starts_with("wrote "), "{ran:?}");
    lab.stapes(&["config", "check"]).complete();
    the_delta_is_small(&lab);
    for scope in [source, target] {
        let snapshots = scope.snapshots("app").unwrap();
        assert_eq!(snapshots.len(), 2, "{snapshots:?}");
        assert_eq!(snapshots[0], "IAB_20260103-030000");
        let snapshots = scope.volume_snapshots("local", "data").unwrap();
        assert_eq!(snapshots[0], "IAB_20260103-030000");
        assert_eq!(snapshots.len(), 2, "{snapshots:?}");
    }
    let replica = target.api("GET", "/1.0/instances/app", None).unwrap();
    let item = format!("instance/{}/app", lab.name());
    assert_eq!(replica["config"]["user.stapes.source-item"], item);
    // A second import asks first.
    let again = lab.stapes(&["import", "iab", file.to_str().unwrap()]).expect_code(2);
    assert!(again.stderr.contains("exists and would be replaced"), "{again:?}");
}

/// The imported configuration runs as it is, except that the wire is watched.
fn the_delta_is_small(lab: &Lab) {
    let wire = TcpProxy::start(pair().target.https_address()).unwrap();
    let text = std::fs::read_to_string(lab.config_file()).unwrap();
    let there = pair().target.https_url();
    assert_eq!(text.matches(&there).count(), 1, "{text}");
    lab.write_config(&text.replace(&there, &wire.https_url()));
    lab.source().write_volume("local", "data", "night", b"the first of stapes").unwrap();
    let ran = lab.replicate(&[]).complete();
    assert_eq!(how(&ran.item("instance", "app")), "refresh");
    assert_eq!(how(&ran.item("volume", "data")), "refresh");
    let passed = wire.passed_bytes(Direction::Up);
    assert!(passed < 1 << 20, "{passed} bytes were on the wire");
    lab.assert_same_container("app", &ran.snapshot("instance", "app"));
    lab.assert_same_volume("data", &ran.snapshot("volume", "data"));
    lab.write_config(&text);
}
