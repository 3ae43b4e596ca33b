//! What is printed where: events as JSON lines, plain lines for logs, progress on a terminal, silence
//! with `-q`; no secret anywhere, and no panic when nobody reads.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::lab::{Lab, run};
use crate::rig::{Background, assert_says, next_second, on_terminal};

#[test]
fn events_are_numbered_lines_of_a_documented_shape() {
    let lab = Lab::new();
    lab.source().create("c1").unwrap();
    lab.source().volume("local", "data").unwrap();
    lab.configure(&lab.job().from("volumes: ['*']").from("instances: [c1, absent]"));
    let ran = lab.replicate(&[]).expect_code(1);
    assert_eq!(ran.stderr, "");
    let events = ran.events();
    let run = events[0]["run"].as_str().unwrap();
    for (index, event) in events.iter().enumerate() {
        assert_eq!(event["number"], index + 1);
        assert_eq!(event["run"], run);
        assert!(event["at"].as_str().unwrap().ends_with('Z'));
    }
    let kinds: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!((kinds[0], *kinds.last().unwrap()), ("run-started", "run-finished"));
    let count = |kind: &str| kinds.iter().filter(|other| **other == kind).count();
    assert_eq!(count("phase-started"), 3);
    assert_eq!(count("step-started"), count("step-finished"));
    assert_eq!(count("item-finished"), 3);
    let documented = include_str!("../../../../docs/json.md");
    for kind in kinds {
        assert!(documented.contains(&format!("`{kind}`")), "{kind} is not in docs/json.md");
    }
    let keys =
        |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    let report = ran.report();
    for event in [&report, &report["items"][0]] {
        for key in keys(event) {
            assert!(documented.contains(&format!("`{key}`")), "{key} is not in docs/json.md");
        }
    }
}

#[test]
fn quiet_says_nothing_of_success_and_only_the_causes_of_failure() {
    let lab = Lab::new();
    lab.source().create("c1").unwrap();
    lab.configure(&lab.job());
    let ran = lab.stapes(&["replicate", "-q"]).complete();
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
    lab.target().state("c1", "start", false).unwrap();
    next_second();
    let ran = lab.stapes(&["replicate", "--quiet"]).expect_code(1);
    assert_eq!(ran.stdout, "");
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    assert_says(&ran.stderr, &["failed: ", "c1 is running on target"]);
}

#[test]
fn without_a_terminal_there_are_plain_lines_and_a_table() {
    let lab = Lab::new();
    lab.source().create("c1").unwrap();
    lab.configure(&lab.job());
    let ran = lab.stapes(&["replicate"]).complete();
    for text in [&ran.stdout, &ran.stderr] {
        assert!(!text.contains(['\u{1b}', '\r']), "{text:?}");
    }
    let name = lab.name();
    let lines = ["job nightly: 1 item", "phase 1 of 3: snapshots", &format!("{name}:c1: ")];
    assert_says(&ran.stderr, &lines);
    assert_says(&ran.stdout, &["ITEM", "OUTCOME", "full copy", "job nightly: complete in"]);
}

#[test]
fn on_a_terminal_there_is_progress_that_goes_away() {
    let lab = Lab::new();
    lab.source().create("c1").unwrap();
    lab.source().write("local", "c1", "root/data", &vec![7; 8 << 20]).unwrap();
    lab.configure(&lab.job());
    let ran = run(&mut on_terminal(&lab.command(&["replicate"]), "echo")).complete();
    assert_says(&ran.stdout, &["\u{1b}[", "phase 2 of 3: copies", "job nightly: complete in"]);
}

#[test]
fn nobody_who_reads_is_no_reason_to_panic_or_to_stop() {
    let lab = Lab::new();
    lab.source().create("c1").unwrap();
    lab.configure(&lab.job());
    for output in ["json", "table"] {
        let mut child = lab
            .command(&["replicate", "--output", output])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let ended = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(ended.stderr).unwrap();
        assert!(!stderr.contains("panicked"), "{stderr}");
        assert_eq!(ended.status.code(), Some(0), "{stderr}");
        next_second();
    }
    assert_eq!(lab.target().snapshots("c1").unwrap().len(), 2);
    // Neither standard output nor standard error.
    let mut command = lab.command(&["replicate"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_result_that_cannot_be_written_is_told_and_the_work_is_done() {
    let lab = Lab::new();
    lab.source().create("c1").unwrap();
    lab.configure(&lab.job());
    for output in ["json", "table"] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = lab.command(&["replicate", "--output", output]);
        let ended = command.stdout(full).output().unwrap();
        let stderr = String::from_utf8(ended.stderr).unwrap();
        assert_says(&stderr, &["could not be printed whole", "No space left"]);
        assert_eq!(ended.status.code(), Some(1), "{stderr}");
        next_second();
    }
    assert_eq!(lab.target().snapshots("c1").unwrap().len(), 2);
}

#[test]
fn no_secret_is_in_any_output_or_on_any_command_line() {
    let lab = Lab::new();
    lab.source().create("c1").unwrap();
    let secret = "hush-hush-0123456789";
    let file = lab.dir().join("token");
    std::fs::write(&file, format!("{secret}\n")).unwrap();
    let line = format!(
        "notifications: {{ gotify: {{ url: 'http://127.0.0.1:1/x{secret}', token: {{ file: '{}' }}, \
         on: always }}, healthchecks: {{ url: {{ command: 'echo http://127.0.0.1:1/{secret}' }} }} }}",
        file.display()
    );
    lab.configure(&lab.job().set(&line));
    let key = std::fs::read_to_string(crate::lab::credentials().join("client.key")).unwrap();
    let key = key.lines().nth(1).unwrap().to_owned();
    for arguments in [
        &["replicate", "--output", "json", "--log-level", "trace"] as &[&str],
        &["replicate", "--log-level", "trace"],
        &["replicate", "--dry-run", "--output", "json"],
        &["config", "check"],
    ] {
        let ran = lab.stapes(arguments);
        for (name, text) in [("stdout", &ran.stdout), ("stderr", &ran.stderr)] {
            // The drawing of a warning may show the line that the user wrote, and nothing else may.
            let told: String =
                text.lines().filter(|line| !line.contains("notifications:")).collect();
            assert!(!told.contains(secret), "{name} of {arguments:?}: {told}");
            assert!(!text.contains(&key), "{name} of {arguments:?}");
        }
        next_second();
    }
}

#[test]
fn the_tokens_of_an_onboarding_are_not_repeated() {
    let lab = Lab::new();
    let token = stapes_testing::pair().source.trust_token("someone", None).unwrap();
    let mut command: Command = crate::lab::binary(lab.dir());
    command.args(["onboard", "--log-level", "trace"]);
    command.args(["--source-url", "https://127.0.0.1:1", "--target-url", "https://127.0.0.1:1"]);
    command.env("STAPES_SOURCE_TOKEN", &token).env("STAPES_TARGET_TOKEN", &token);
    let ran = Background::start(&mut command).end();
    assert_ne!(ran.code, 0);
    assert!(!ran.stdout.contains(&token) && !ran.stderr.contains(&token), "{ran:?}");
    let help = crate::lab::run(
        crate::lab::binary(lab.dir())
            .args(["onboard", "--help"])
            .env("STAPES_SOURCE_TOKEN", &token),
    );
    assert!(!help.stdout.contains(&token));
}
