//! Certificates that are restricted to some projects: what works, and what is said where it does not.

use std::path::{Path, PathBuf};

use serde_json::json;
use stapes_testing::{IncusServer, pair};

use crate::lab::{Lab, binary, how, run};
use crate::rig::{assert_says, causes, next_second, use_credentials};

/// A client of a lab's own that both servers trust for these projects only.
fn restricted_client(lab: &Lab, on_source: &[&str], on_target: &[&str]) -> PathBuf {
    let dir = lab.dir().join("client");
    onboard(lab, &dir, on_source, on_target);
    dir
}

fn onboard(lab: &Lab, dir: &Path, on_source: &[&str], on_target: &[&str]) {
    let mut command = binary(lab.dir());
    command.arg("onboard").arg("--cred-dir").arg(dir);
    command.arg("--out-config").arg(lab.dir().join("first.yaml"));
    let roles: [(&str, &IncusServer, &[&str]); 2] =
        [("source", &pair().source, on_source), ("target", &pair().target, on_target)];
    for (role, server, projects) in roles {
        command.arg(format!("--{role}-url")).arg(server.https_url());
        let token = server.trust_token(lab.name(), Some(projects)).unwrap();
        command.arg(format!("--{role}-token")).arg(token);
    }
    run(&mut command).complete();
}

#[test]
fn a_restricted_certificate_is_enough_in_its_project() {
    let lab = Lab::new();
    let source = lab.source();
    source.launch("c1").unwrap();
    source.volume("local", "data").unwrap();
    source.attach("local", "data", "c1", "/data").unwrap();
    let client = restricted_client(&lab, &[lab.name()], &[lab.name()]);
    lab.configure(&lab.job().set("consistency: stop"));
    use_credentials(&lab, &client);
    for expected in ["full copy", "refresh"] {
        let ran = lab.replicate(&[]).complete();
        assert_eq!(how(&ran.item("instance", "c1")), expected);
        lab.assert_same_container("c1", &ran.snapshot("instance", "c1"));
        lab.assert_same_volume("data", &ran.snapshot("volume", "data"));
        next_second();
    }
}

#[test]
fn a_project_that_the_certificate_does_not_reach_is_named_on_either_side() {
    let lab = Lab::new();
    let other = Lab::new();
    lab.source().create("c1").unwrap();
    let client = restricted_client(&lab, &[lab.name()], &[other.name()]);
    lab.configure(&lab.job());
    use_credentials(&lab, &client);
    let ran = lab.replicate(&[]).expect_code(1);
    let project = format!("target has no project {}", lab.name());
    assert_says(&causes(&ran, "c1"), &[&project, "or our certificate may not see it"]);

    lab.configure(&lab.job().projects(other.name()));
    use_credentials(&lab, &client);
    let ran = lab.replicate(&[]).expect_code(1);
    let label = format!("project {}", other.name());
    assert_says(&causes(&ran, &label), &["source", "certificate"]);
}

#[test]
fn history_that_the_certificate_may_not_keep_stops_the_copy_and_says_what_to_do() {
    let lab = Lab::new();
    let (source, target) = (lab.source(), lab.target());
    source.create("c1").unwrap();
    let client = restricted_client(&lab, &[lab.name()], &[lab.name()]);
    lab.configure(&lab.job().set("keep: \"1\"").to("keep: \"9\""));
    use_credentials(&lab, &client);
    for _ in 0..2 {
        lab.replicate(&[]).complete();
        next_second();
    }
    let before = target.snapshots("c1").unwrap();
    let ran = lab.replicate(&[]).expect_code(1);
    let project = format!("project {}", lab.history().project());
    let said = [&project, "cannot be made", "features.images=false", "--ios-fix", "nothing was"];
    assert_says(&causes(&ran, "c1"), &said);
    assert_eq!(target.snapshots("c1").unwrap(), before);

    // As the help says.
    let create = ["project", "create", lab.history().project(), "-c", "features.images=false"];
    target.server().incus(&create).unwrap();
    let certificates = target.server().api("GET", "/1.0/certificates?recursion=1", None).unwrap();
    let ours = certificates.as_array().unwrap().iter().find(|one| one["name"] == lab.name());
    let path = format!("/1.0/certificates/{}", ours.unwrap()["fingerprint"].as_str().unwrap());
    let access = json!({ "projects": [lab.name(), lab.history().project()] });
    target.server().api("PATCH", &path, Some(&access)).unwrap();
    next_second();
    let ran = lab.replicate(&[]).complete();
    assert_eq!(ran.item("instance", "c1")["preserved"], 1);
    assert_eq!(lab.history().instances().unwrap().len(), 1);
}
