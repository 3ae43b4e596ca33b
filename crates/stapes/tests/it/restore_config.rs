//! `stapes restore config`: a preview unless told otherwise, applied once, and the address that a server
//! listens on stays.

use serde_json::json;
use stapes_testing::{IncusServer, ServerOptions};

use crate::lab::run;
use crate::restore_lab::Keep;
use crate::rig::assert_says;

#[test]
fn the_configuration_is_shown_applied_once_and_leaves_the_address_alone() {
    let keep = Keep::new();
    let server = IncusServer::start_with(&ServerOptions::lane()).unwrap();
    let stapes = |arguments: &[&str]| run(&mut keep.command_on(&server.socket(), arguments));
    let api = |method: &str, path: &str, body: serde_json::Value| {
        server.api(method, path, Some(&body)).unwrap();
    };
    api("POST", "/1.0/profiles", json!({ "name": "small", "config": { "limits.memory": "1GiB" } }));
    api("PATCH", "/1.0", json!({ "config": { "user.where": "here" } }));
    stapes(&["backup", "config", "--output", "json"]).complete();
    let same = stapes(&["restore", "config"]).complete();
    assert_says(&same.stdout, &["no difference"]);

    let old = server.https_address();
    let other = std::net::TcpListener::bind((*old.ip(), 0)).unwrap().local_addr().unwrap();
    let address =
        json!({ "config": { "core.https_address": other.to_string(), "user.where": "there" } });
    api("PATCH", "/1.0", address);
    server.api("DELETE", "/1.0/profiles/small", None).unwrap();
    let shown = stapes(&["restore", "config"]).complete();
    let goes_on =
        format!("goes on listening on {other}; the backup has {old}, which --force would set");
    assert_says(&shown.stdout, &["+ small", "user.where: there -> here", &goes_on]);
    let settings = || server.api("GET", "/1.0", None).unwrap()["config"].clone();
    assert_eq!(settings()["user.where"], "there");

    let refused = stapes(&["restore", "config", "--apply"]).expect_code(2);
    assert_says(&refused.stderr, &["changes", "user.where", "nobody to ask"]);
    assert_eq!(settings()["user.where"], "there");
    let apply = ["restore", "config", "--apply", "-y", "--output", "json"];
    let ran = stapes(&apply).complete();
    let steps: Vec<String> = ran
        .events()
        .iter()
        .filter(|event| event["event"] == "step-finished")
        .map(|event| event["step"].to_string())
        .collect();
    assert_eq!(steps, [r#"{"do":"check"}"#, r#"{"do":"apply"}"#]);
    assert_eq!(ran.report()["items"][0]["result"], "applied");
    assert_eq!(
        (&settings()["user.where"], &settings()["core.https_address"]),
        (&json!("here"), &json!(other.to_string()))
    );
    let small = server.api("GET", "/1.0/profiles/small", None).unwrap();
    assert_eq!(small["config"]["limits.memory"], "1GiB");
    let again = stapes(&apply).complete();
    assert_eq!(again.report()["items"][0]["result"], "unchanged");

    let mut forced = apply.to_vec();
    forced.push("--force");
    stapes(&forced).complete();
    assert_eq!(settings()["core.https_address"], json!(old.to_string()));
}

#[test]
fn a_configuration_of_incus_backup_is_compared_in_our_words() {
    let keep = Keep::new();
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/incus-backup/config");
    let ran = std::process::Command::new("cp").args(["-r", sample]).arg(keep.repository()).status();
    assert!(ran.unwrap().success());
    let server = &stapes_testing::pair().source;
    let command = &mut keep.command_on(&server.socket(), &["restore", "config"]);
    let shown = run(command.args(["--pool-map", "default=local"])).complete();
    assert_says(&shown.stdout, &["+ incusbr0", "type: bridge", "the backup has no"]);
}
