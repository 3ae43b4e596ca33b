//! Healthchecks and Gotify: what they are told, and that a run never waits long or fails for them.

use std::time::{Duration, Instant};

use serde_json::Value;
use stapes_testing::sinks::{HttpSink, Reply};

use crate::lab::{Lab, Ran};
use crate::rig::assert_says;

const PATIENCE: Duration = Duration::from_secs(5);
const CHECK: &str = "/ping/0192f0c1-7b6e-7c4a-9f00-abcdef012345";
const TOKEN: &str = "AhushHushHush42";

/// A job that tells these services; the token comes from the environment.
fn configure(lab: &Lab, healthchecks: Option<&str>, gotify: Option<&str>, settings: &str) {
    let mut services = Vec::new();
    if let Some(url) = healthchecks {
        services.push(format!("healthchecks: {{ url: '{url}{CHECK}'{settings} }}"));
    }
    if let Some(url) = gotify {
        services.push(format!(
            "gotify: {{ url: '{url}', token: {{ env: GOTIFY_TOKEN }}, on: always{settings} }}"
        ));
    }
    let line = format!("notifications: {{ {} }}", services.join(", "));
    lab.configure(&lab.job().set(&line));
}

fn replicate(lab: &Lab) -> Ran {
    let mut command = lab.command(&["replicate", "--output", "json"]);
    let ran = crate::lab::run(command.env("GOTIFY_TOKEN", TOKEN));
    assert!(!ran.stdout.contains(TOKEN) && !ran.stderr.contains(TOKEN), "{ran:?}");
    ran
}

/// The services that could not be told, and why.
fn failures(ran: &Ran) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let failed = ran.events().into_iter().filter(|event| event["event"] == "notification-failed");
    failed.map(|event| (text(&event["service"]), text(&event["cause"]))).collect()
}

#[test]
fn both_services_hear_of_success_and_of_failure_with_the_summary() {
    let lab = Lab::new();
    lab.source().create("c1").unwrap();
    let (checks, gotify) = (HttpSink::start().unwrap(), HttpSink::start().unwrap());
    configure(&lab, Some(&checks.url()), Some(&gotify.url()), "");
    replicate(&lab).complete();
    let pings = checks.wait_for(2, PATIENCE);
    let paths: Vec<&str> = pings.iter().map(|ping| ping.path.as_str()).collect();
    assert_eq!(paths, [format!("{CHECK}/start").as_str(), CHECK]);
    let body = String::from_utf8(pings[1].body.clone()).unwrap();
    assert_says(&body, &["job      nightly", "outcome  complete", ":c1"]);
    let message = gotify.wait_for(1, PATIENCE).remove(0);
    assert_eq!((message.method.as_str(), message.path.as_str()), ("POST", "/message"));
    assert_eq!(message.header("x-gotify-key"), Some(TOKEN));
    assert_eq!(message.json()["title"], "stapes: nightly complete");
    assert_eq!(message.json()["message"], body);

    lab.target().create("c2").unwrap();
    lab.source().create("c2").unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    replicate(&lab).expect_code(1);
    let failed = checks.wait_for(4, PATIENCE).pop().unwrap();
    assert_eq!(failed.path, format!("{CHECK}/fail"));
    let body = String::from_utf8(failed.body).unwrap();
    assert_says(&body, &["outcome  failed", "1 complete, 1 failed", "cause: ", "not a replica"]);
    assert_eq!(gotify.requests().len(), 2);
    assert_eq!(gotify.requests()[1].json()["title"], "stapes: nightly failed (1 of 2 items)");
}

#[test]
fn a_run_that_does_not_get_to_its_items_is_a_failure_too() {
    let lab = Lab::new();
    let checks = HttpSink::start().unwrap();
    let servers = [("source", "url: unix:///nonexistent"), ("target", "url: unix:///nonexistent")];
    let line = format!("notifications: {{ healthchecks: {{ url: '{}{CHECK}' }} }}", checks.url());
    lab.configure_with(&servers, &[("nightly", &lab.job().set(&line))]);
    lab.replicate(&[]).expect_code(1);
    let ping = checks.wait_for(2, PATIENCE).pop().unwrap();
    assert_eq!(ping.path, format!("{CHECK}/fail"));
    let body = String::from_utf8(ping.body).unwrap();
    assert_says(&body, &["outcome  failed", "cause    ", "/nonexistent"]);
}

#[test]
fn a_service_that_is_dead_hangs_or_refuses_delays_no_run_and_is_reported() {
    let lab = Lab::new();
    lab.source().create("c1").unwrap();
    let (checks, gotify) = (HttpSink::start().unwrap(), HttpSink::start().unwrap());
    configure(&lab, Some(&checks.url()), Some(&gotify.url()), ", timeout: 1s");
    let usual = Instant::now();
    replicate(&lab).complete();
    let usual = usual.elapsed();
    for _ in 0..2 {
        checks.reply(Reply::silence());
    }
    gotify.reply(Reply::error(401, "you need to provide a valid access token"));
    std::thread::sleep(Duration::from_millis(1100));
    let began = Instant::now();
    let ran = replicate(&lab).complete();
    // Two pings of a second each; the rest is what other tests take from this machine.
    assert!(began.elapsed() < usual * 3 + Duration::from_secs(8), "{:?}", began.elapsed());
    let failures = failures(&ran);
    let services: Vec<&str> = failures.iter().map(|(service, _)| service.as_str()).collect();
    assert_eq!(services, ["healthchecks", "healthchecks", "gotify"]);
    assert_says(&failures[2].1, &["401"]);

    drop((checks, gotify));
    std::thread::sleep(Duration::from_millis(1100));
    let ran = replicate(&lab).complete();
    assert_eq!(self::failures(&ran).len(), 3);
    // For people it is a warning, and with -q still said.
    std::thread::sleep(Duration::from_millis(1100));
    let mut quiet = lab.command(&["replicate", "-q"]);
    let ran = crate::lab::run(quiet.env("GOTIFY_TOKEN", TOKEN)).complete();
    assert_says(&ran.stderr, &["warning: healthchecks was not told: ", "warning: gotify was not"]);
}

#[test]
fn a_secret_that_cannot_be_read_is_reported_and_the_run_goes_on() {
    let lab = Lab::new();
    lab.source().create("c1").unwrap();
    let gotify = HttpSink::start().unwrap();
    configure(&lab, None, Some(&gotify.url()), "");
    let ran = lab.replicate(&[]).complete();
    let failures = failures(&ran);
    assert_eq!(failures.len(), 1);
    assert_says(&failures[0].1, &["GOTIFY_TOKEN"]);
    assert_eq!(gotify.requests(), []);
}
