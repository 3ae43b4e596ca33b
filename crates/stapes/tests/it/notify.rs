//! Healthchecks and Gotify: what they are told, and that a run never waits long or fails for them.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;
use stapes_testing::sinks::{HttpSink, Reply};

use crate::lab::{Lab, Ran, binary};
use crate::rig::{assert_says, next_second};

const PATIENCE: Duration = Duration::from_secs(5);
const CHECK: &str = "/ping/0192f0c1-7b6e-7c4a-9f00-abcdef012345";
const TOKEN: &str = "AhushHushHush42";
/// How many seconds a service may take unless the configuration says otherwise.
const DEFAULT_TIMEOUT: f64 = 10.0;

/// A job that tells these services; the token comes from the environment.
fn configure(lab: &Lab, healthchecks: Option<&str>, gotify: Option<&str>, healthchecks_more: &str) {
    let mut services = Vec::new();
    if let Some(url) = healthchecks {
        services.push(format!("healthchecks: {{ url: '{url}{CHECK}'{healthchecks_more} }}"));
    }
    if let Some(url) = gotify {
        services.push(format!(
            "gotify: {{ url: '{url}', token: {{ env: GOTIFY_TOKEN }}, on: always }}"
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

/// The time from the end of the run until every service was told, or was given up.
fn seconds_of_the_last_notifications(ran: &Ran) -> f64 {
    let at = |event: &Value| event["at"].as_str().unwrap().parse::<Timestamp>().unwrap();
    let events = ran.events();
    let ended = events.iter().find(|event| event["event"] == "run-finished").unwrap();
    at(events.last().unwrap()).duration_since(at(ended)).as_secs_f64()
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
    next_second();
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
    for _ in 0..2 {
        checks.reply(Reply::silence());
    }
    gotify.reply(Reply::error(401, "you need to provide a valid access token"));
    configure(&lab, Some(&checks.url()), Some(&gotify.url()), ", timeout: 1s");
    let ran = replicate(&lab).complete();
    let failures = failures(&ran);
    let services: Vec<&str> = failures.iter().map(|(service, _)| service.as_str()).collect();
    assert_eq!(services, ["healthchecks", "healthchecks", "gotify"]);
    assert_says(&failures[0].1, &["did not answer within 1 s"]);
    assert_says(&failures[1].1, &["did not answer within 1 s"]);
    assert_says(&failures[2].1, &["401"]);
    // Only what the services took, and not the run, which takes as long as this machine is busy.
    let took = seconds_of_the_last_notifications(&ran);
    assert!(took < DEFAULT_TIMEOUT, "{took} s");

    // Nobody listens there.
    let dead = Some("http://127.0.0.1:1");
    configure(&lab, dead, dead, "");
    next_second();
    let ran = replicate(&lab).complete();
    assert_eq!(self::failures(&ran).len(), 3);
    // For people it is a warning, and with -q still said.
    next_second();
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

/// The system's resolver cannot be interrupted: what it is at must not hold up the end of the program.
#[test]
fn a_name_server_that_does_not_answer_costs_no_more_than_the_timeout() {
    // As long as the resolver can be told to wait: five times thirty seconds.
    const LOOK_UP: Duration = Duration::from_secs(150);
    let home = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(home.path().join(name), text).unwrap();
    write("resolv.conf", "nameserver 192.0.2.1\noptions timeout:30 attempts:5\n");
    write("nsswitch.conf", "hosts: dns\n");
    write(
        "stapes.yaml",
        "incus:\n  a: { url: unix:///nonexistent }\n  b: { url: unix:///nonexistent }\n\
         jobs:\n  nightly:\n    from: { incus: a }\n    to: [{ replica: b }]\n    \
         notifications: { healthchecks: { url: 'http://hc.invalid/ping/x', timeout: 1s } }\n",
    );
    let mut stapes = binary(home.path());
    stapes.args(["--state-dir", "state", "replicate", "--output", "json"]);
    let mut command = in_a_network_that_loses_all(&stapes);
    let began = Instant::now();
    let ran = crate::lab::run(&mut command).expect_code(1);
    assert!(began.elapsed() < LOOK_UP / 2, "{:?}", began.elapsed());
    let failures = failures(&ran);
    assert_eq!(failures.len(), 2);
    assert_says(&failures[0].1, &["did not answer within 1 s"]);
}

/// The same command in namespaces of its own: with the resolver's files of its directory, and with a
/// network in which everything that is sent to 192.0.2.0/24 is lost.
fn in_a_network_that_loses_all(command: &Command) -> Command {
    const PREPARE: &str = "ip link set lo up && ip route add 192.0.2.0/24 dev lo && \
                           mount --bind resolv.conf /etc/resolv.conf && \
                           mount --bind nsswitch.conf /etc/nsswitch.conf && exec \"$0\" \"$@\"";
    let mut inside = Command::new("unshare");
    inside.args(["--mount", "--net", "sh", "-c", PREPARE]);
    inside.arg(command.get_program()).args(command.get_args());
    inside.env_clear().envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    inside.current_dir(command.get_current_dir().unwrap()).stdin(Stdio::null());
    inside
}
