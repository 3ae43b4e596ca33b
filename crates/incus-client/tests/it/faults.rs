//! What a healthy server does not do, by a fake: odd shapes, vanished operations, cut connections.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use incus_client::instances::InstanceSource;
use incus_client::transfer::{
    Flags, Reach, Sink, Subject, Transfer, TransferError, TransferOptions, push, relayed,
};
use incus_client::{Client, Error, ErrorKind, ListOptions, OperationStatus, WaitOptions};
use serde_json::{Value, json};
use stapes_testing::fake::{FakeIncus, Frame, Operation, Reply, Version};
use tokio_util::sync::CancellationToken;

use crate::support::{chain, container, eventually, fake_client, fake_client_within, patient};

const VERSIONS: [Version; 2] = [Version::Lts6, Version::Lts7];
const FIRST_ID: &str = "00000000-0000-4000-8000-000000000001";

/// A fake where deleting instance `x` is this operation.
fn fake_with(version: Version, operation: Operation) -> (FakeIncus, Client) {
    let fake = FakeIncus::start(version, &[]).unwrap();
    fake.on("DELETE", "/1.0/instances/x", [Reply::operation(operation)]);
    let client = fake_client(&fake);
    (fake, client)
}

fn refuse_events(fake: &FakeIncus) {
    fake.on("GET", "/1.0/events", [Reply::error(403, "Certificate is restricted")]);
}

fn count(fake: &FakeIncus, path: &str) -> usize {
    fake.requests().iter().filter(|request| request.path.starts_with(path)).count()
}

/// An event of the first operation.
fn event(status: u16, metadata: &Value) -> Frame {
    let operation = json!({ "id": FIRST_ID, "class": "task", "status_code": status,
                            "metadata": metadata, "err": "" });
    let event = json!({ "type": "operation", "project": "default", "metadata": operation });
    Frame::Text(event.to_string())
}

/// Keeps an event stream open for longer than any test takes.
const STAYS_OPEN: Frame = Frame::Pause(Duration::from_secs(300));

async fn delete(client: &Client) -> Result<OperationStatus, Error> {
    let mut operation = client.delete_instance("x").await?;
    operation.wait(&patient()).await.map(|info| info.status())
}

#[tokio::test]
async fn polls_learn_of_success_and_failure_from_both_versions() {
    for version in VERSIONS {
        // Longer than one poll, so that its own time-out is met too.
        let takes = Duration::from_millis(3500);
        let (fake, client) = fake_with(version, Operation::success().takes(takes));
        refuse_events(&fake);
        assert_eq!(delete(&client).await.unwrap(), OperationStatus::Success, "{version:?}");
        assert!(count(&fake, &format!("/1.0/operations/{FIRST_ID}/wait")) >= 2);

        let (fake, client) = fake_with(version, Operation::failure("no space left"));
        refuse_events(&fake);
        let error = delete(&client).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OperationFailed, "{version:?}: {}", chain(&error));
        assert_eq!(error.message(), Some("no space left"));
        let text = "delete instance \"x\": failed on the server: no space left";
        assert_eq!(error.to_string(), text);
    }
}

#[tokio::test]
async fn a_real_failure_that_sounds_like_a_poll_time_out_is_a_failure() {
    for version in VERSIONS {
        let words = "Failed shutting down instance: context deadline exceeded";
        let (fake, client) = fake_with(version, Operation::failure(words));
        refuse_events(&fake);
        let error = delete(&client).await.unwrap_err();
        assert_eq!(error.message(), Some(words), "{version:?}");
    }
}

#[tokio::test]
async fn a_failed_operation_that_is_gone_before_the_second_look_keeps_its_words() {
    let (fake, client) = fake_with(Version::Lts6, Operation::failure("the reason"));
    refuse_events(&fake);
    let gone = Reply::error(404, "Operation not found");
    fake.on("GET", &format!("/1.0/operations/{FIRST_ID}"), [gone]);
    let error = delete(&client).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OperationFailed, "{}", chain(&error));
    assert_eq!(error.message(), Some("the reason"));
}

#[tokio::test]
async fn a_vanished_operation_is_lost_and_neither_a_success_nor_a_failure() {
    for version in VERSIONS {
        for events in [true, false] {
            let operation = Operation::vanishes().takes(Duration::from_millis(300));
            let (fake, client) = fake_with(version, operation);
            if !events {
                refuse_events(&fake);
            }
            let error = delete(&client).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::OperationLost, "{version:?}: {}", chain(&error));
            assert!(error.to_string().contains("unknown"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_silent_event_stream_costs_no_result() {
    for (operation, expected) in [
        (Operation::success().takes(Duration::from_millis(400)), None),
        (Operation::failure("why").takes(Duration::from_millis(400)), Some("why")),
    ] {
        let (fake, client) = fake_with(Version::Lts6, operation);
        let started = Instant::now();
        match (delete(&client).await, expected) {
            (Ok(_), None) => {}
            (Err(error), Some(words)) => assert_eq!(error.message(), Some(words)),
            other => panic!("{other:?}"),
        }
        // Far from the deadline of the wait.
        assert!(started.elapsed() < Duration::from_secs(25));
        assert_eq!(count(&fake, &format!("/1.0/operations/{FIRST_ID}/wait")), 0);
    }
}

#[tokio::test]
async fn events_bring_progress_and_the_end_even_when_the_operation_is_gone_by_then() {
    let progress = json!({ "fs_progress": "x: 1.50MB (0.50MB/s)" });
    let (fake, client) = fake_with(Version::Lts6, Operation::never_ends());
    let frames = vec![
        Frame::Ping,
        Frame::Text("not JSON".to_owned()),
        Frame::Text(json!({ "type": "logging", "metadata": {} }).to_string()),
        Frame::Pause(Duration::from_millis(100)),
        event(103, &progress),
        event(103, &progress),
        event(200, &Value::Null),
        STAYS_OPEN,
    ];
    fake.on("GET", "/1.0/events", [Reply::websocket(frames)]);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let options = patient().on_progress(move |progress| {
        sink.lock().unwrap().push((progress.bytes, progress.bytes_per_second));
    });
    let mut operation = client.delete_instance("x").await.unwrap();
    operation.wait(&options).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), [(Some(1_500_000), Some(500_000))]);
}

#[tokio::test]
async fn one_event_stream_serves_all_operations_and_is_opened_again_after_a_cut() {
    let (fake, client) =
        fake_with(Version::Lts6, Operation::success().takes(Duration::from_millis(50)));
    let clone = client.clone();
    let (a, b) = tokio::join!(delete(&client), delete(&clone));
    a.unwrap();
    b.unwrap();
    assert_eq!(count(&fake, "/1.0/events"), 1);

    let cut = Reply::websocket(vec![Frame::Pause(Duration::from_millis(20))]).cut_at_end();
    let (fake, client) = fake_with(Version::Lts6, Operation::never_ends());
    let again = Reply::websocket(vec![event(200, &Value::Null), STAYS_OPEN]);
    fake.on("GET", "/1.0/events", [cut, again]);
    delete(&client).await.unwrap();
    assert_eq!(count(&fake, "/1.0/events"), 2);
    // No operation was asked for twice.
    assert_eq!(fake.changes(), ["DELETE /1.0/instances/x"]);
}

#[tokio::test]
async fn a_refused_event_stream_is_not_asked_for_again_and_again() {
    let (fake, client) = fake_with(Version::Lts6, Operation::success());
    refuse_events(&fake);
    for _ in 0..3 {
        delete(&client).await.unwrap();
    }
    assert_eq!(count(&fake, "/1.0/events"), 1);
}

#[tokio::test]
async fn an_operation_that_cannot_be_cancelled_is_left_running() {
    for (may_cancel, changes) in [(true, 2), (false, 1)] {
        let operation = Operation::never_ends().may_cancel(may_cancel);
        let (fake, client) = fake_with(Version::Lts6, operation);
        let cancel = CancellationToken::new();
        cancel.cancel();
        let mut operation = client.delete_instance("x").await.unwrap();
        let error = operation.wait(&WaitOptions::cancelled_by(cancel)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{}", chain(&error));
        assert_eq!(error.still_running(), !may_cancel);
        assert_eq!(fake.changes().len(), changes);
    }
}

#[tokio::test]
async fn an_operation_that_never_ends_runs_into_the_deadline() {
    let (_fake, client) = fake_with(Version::Lts7, Operation::never_ends());
    let mut operation = client.delete_instance("x").await.unwrap();
    let options = WaitOptions::default().deadline(Duration::from_millis(300));
    let error = operation.wait(&options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.still_running());
}

#[tokio::test]
async fn a_server_that_answers_at_once_needs_no_operation() {
    let fake = FakeIncus::start(Version::Lts7, &[]).unwrap();
    fake.on("DELETE", "/1.0/instances/x", [Reply::sync(Value::Null)]);
    assert_eq!(delete(&fake_client(&fake)).await.unwrap(), OperationStatus::Success);
}

#[tokio::test]
async fn every_kind_of_bad_answer_has_its_kind_of_error() {
    let list = json!([{ "name": "x".repeat(2000) }]);
    for (reply, kind) in [
        (Reply::error(404, "not found"), ErrorKind::NotFound),
        (Reply::error(403, "not authorized"), ErrorKind::Denied),
        (Reply::error(500, "Certificate is restricted"), ErrorKind::Denied),
        (Reply::error(500, "Storage pool not found: Storage pool not found"), ErrorKind::NotFound),
        (Reply::error(500, "UNIQUE constraint failed: x"), ErrorKind::Exists),
        (Reply::error(500, "disk on fire"), ErrorKind::Other),
        (Reply::error(400, "Invalid name"), ErrorKind::BadRequest),
        (Reply::error(412, "ETag doesn't match: A vs B"), ErrorKind::Conflict),
        (Reply::status(502, "<html>Bad gateway</html>"), ErrorKind::Unreachable),
        (Reply::status(403, "go away"), ErrorKind::Denied),
        (Reply::status(200, "hello"), ErrorKind::Protocol),
        (Reply::json(200, &json!({ "type": "novelty" })), ErrorKind::Protocol),
        (Reply::sync(json!({ "not": "a list" })), ErrorKind::Protocol),
        (Reply::sync(list.clone()).cut_after(700), ErrorKind::Unreachable),
        (Reply::nothing(), ErrorKind::Unreachable),
        (Reply::silence(), ErrorKind::Timeout),
        (Reply::sync(list).after(Duration::from_secs(60)), ErrorKind::Timeout),
    ] {
        let fake = FakeIncus::start(Version::Lts6, &[]).unwrap();
        fake.on("GET", "/1.0/instances", [reply.clone()]);
        let client = match kind {
            ErrorKind::Timeout => fake_client_within(&fake, Duration::from_millis(300)),
            _ => fake_client(&fake),
        };
        let error = client.instances(&ListOptions::default()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{reply:?}: {}", chain(&error));
        assert_eq!(error.call().unwrap().method, "GET");
        assert_eq!(error.call().unwrap().path, "/1.0/instances?project=default&recursion=2");
        assert!(error.to_string().starts_with("list the instances: "), "{error}");
    }
}

#[tokio::test]
async fn lists_may_be_null_and_objects_may_lack_and_have_anything() {
    let fake = FakeIncus::start(Version::Lts7, &[]).unwrap();
    let thin = json!([{ "name": "web", "config": null, "snapshots": null, "state": null,
                        "novelty": { "a": 1 }, "type": "unikernel", "created_at": "" }]);
    fake.on("GET", "/1.0/instances", [Reply::sync(Value::Null), Reply::sync(thin)]);
    let client = fake_client(&fake);
    let options = ListOptions::default();
    assert!(client.instances(&options).await.unwrap().is_empty());
    let listed = client.instances(&options).await.unwrap();
    assert_eq!((listed[0].name.as_str(), listed[0].kind.as_str()), ("web", "unikernel"));
    assert_eq!(listed[0].created_at, None);
    let put = serde_json::to_value(listed[0].to_put()).unwrap();
    assert_eq!(put["novelty"], json!({ "a": 1 }));
}

#[tokio::test]
async fn names_and_filters_are_escaped() {
    let fake = FakeIncus::start(Version::Lts6, &[]).unwrap();
    let client = fake_client(&fake).with_project("a b");
    drop(client.instance("../x?y#z%").await);
    drop(client.instances(&ListOptions::default().filter("name eq a&b=c+d")).await);
    let requests = fake.requests();
    assert_eq!(requests[0].path, "/1.0/instances/..%2Fx%3Fy%23z%25");
    assert_eq!(requests[0].query, "project=a%20b&recursion=1");
    let filtered = "project=a%20b&filter=name%20eq%20a%26b%3Dc%2Bd&recursion=2";
    assert_eq!(requests[1].query, filtered);
    assert_eq!(requests.len(), 2);
}

#[tokio::test]
async fn names_that_would_address_the_parent_are_not_sent() {
    let fake = FakeIncus::start(Version::Lts6, &[]).unwrap();
    let client = fake_client(&fake);
    for name in [".", ".."] {
        let error = client.delete_instance_snapshot("web", name).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadRequest, "{}", chain(&error));
        assert!(error.to_string().contains("cannot be names"), "{error}");
    }
    assert!(fake.changes().is_empty());
}

const VOLUMES: &str = "/1.0/storage-pools/local/volumes/custom";

/// A fake of Incus 6.0 with the volumes `data` and `other`; the snapshots of `data` are listed so.
fn fake_with_volumes(listings: Vec<Reply>) -> (FakeIncus, Client) {
    let fake = FakeIncus::start(Version::Lts6, &[]).unwrap();
    let rows = json!([{ "name": "data", "project": "default" }, { "name": "data/s1", "project": "default" },
                      { "name": "other", "project": "default" }]);
    fake.on("GET", VOLUMES, [Reply::sync(rows)]);
    fake.on("GET", &format!("{VOLUMES}/data"), [Reply::sync(json!({ "name": "data" }))]);
    fake.on("GET", &format!("{VOLUMES}/data/snapshots"), listings);
    let client = fake_client(&fake);
    (fake, client)
}

/// The volumes of the fake with the number of their snapshots.
async fn listed(client: &Client) -> Result<Vec<(String, usize)>, Error> {
    let volumes = client.volumes("local", &ListOptions::default()).await?;
    Ok(volumes.into_iter().map(|volume| (volume.name, volume.snapshots.len())).collect())
}

fn torn() -> Reply {
    Reply::error(404, "Storage volume not found")
}

#[tokio::test]
async fn a_volume_of_which_a_snapshot_is_deleted_meanwhile_is_still_there() {
    let whole = || Reply::sync(json!([{ "name": "data/s2" }]));
    let (_fake, client) = fake_with_volumes(vec![torn(), torn(), whole()]);
    let expected = [("data".to_owned(), 1), ("other".to_owned(), 0)];
    assert_eq!(listed(&client).await.unwrap(), expected);
    let (_fake, client) = fake_with_volumes(vec![torn(), whole()]);
    assert_eq!(client.volume("local", "data").await.unwrap().value.snapshots.len(), 1);
}

#[tokio::test]
async fn a_volume_that_is_deleted_meanwhile_is_left_out_of_the_list() {
    let (fake, client) = fake_with_volumes(vec![torn()]);
    fake.on("GET", &format!("{VOLUMES}/data"), [Reply::error(404, "Storage volume not found")]);
    assert_eq!(listed(&client).await.unwrap(), [("other".to_owned(), 0)]);
    let there = Reply::sync(json!({ "name": "data" }));
    let gone = Reply::error(404, "Storage volume not found");
    fake.on("GET", &format!("{VOLUMES}/data"), [there, gone]);
    let error = client.volume("local", "data").await.unwrap_err();
    assert!(error.is_not_found(), "{}", chain(&error));
}

#[tokio::test]
async fn a_volume_whose_snapshots_cannot_be_listed_is_never_taken_for_a_deleted_one() {
    let (fake, client) = fake_with_volumes(vec![torn()]);
    let error = listed(&client).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{}", chain(&error));
    assert_eq!(count(&fake, &format!("{VOLUMES}/data/snapshots")), 5);
    let error = client.volume("local", "data").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{}", chain(&error));
}

#[tokio::test]
async fn a_filtered_list_of_volumes_carries_their_snapshots_too() {
    let (fake, client) = fake_with_volumes(vec![Reply::sync(json!([{ "name": "data/s1" }]))]);
    // What matches the name of a volume does not match those of its snapshots.
    fake.on("GET", VOLUMES, [Reply::sync(json!([{ "name": "data", "project": "default" }]))]);
    let filter = ListOptions::default().filter("name eq data");
    let volumes = client.volumes("local", &filter).await.unwrap();
    assert_eq!(volumes[0].snapshots.len(), 1);
}

/// Pushes an instance between two fakes, and cancels when the source has been asked.
/// Returns the error and what was asked of the source.
async fn push_cancelled_while_asking(
    reply: Reply,
    grace: Duration,
) -> (TransferError, Vec<String>) {
    let (source, target) = (
        FakeIncus::start(Version::Lts6, &[]).unwrap(),
        FakeIncus::start(Version::Lts6, &[]).unwrap(),
    );
    let secrets = json!({ "control": "a", "fs": "b" });
    let waits = Operation::never_ends().may_cancel(false).class("websocket");
    target.on("POST", "/1.0/instances", [Reply::operation(waits.progress(vec![secrets]))]);
    source.on("POST", "/1.0/instances/web", [reply]);
    let (from, to) = (fake_client(&source), fake_client(&target));
    let subject = Subject::instance("web");
    let sink = Sink::instance(container("web", "local", InstanceSource::None));
    let flags = Flags::default();
    let transfer = Transfer { from: &from, subject: &subject, to: &to, sink: &sink, flags };
    let reach = Reach { urls: vec!["https://127.0.0.1:9".to_owned()], certificate: String::new() };
    let cancel = CancellationToken::new();
    let options = TransferOptions { grace, ..TransferOptions::cancelled_by(cancel.clone()) };
    let (result, ()) = tokio::join!(push(&transfer, &reach, &options), async {
        eventually("the source is asked", async || Ok(!source.changes().is_empty())).await;
        cancel.cancel();
    });
    (result.unwrap_err(), source.changes())
}

#[tokio::test]
async fn a_push_cancelled_while_the_source_is_asked_is_said_to_go_on() {
    let patience = TransferOptions::default().grace;
    let pushes = Reply::operation(Operation::never_ends().may_cancel(false));
    let late = pushes.after(Duration::from_secs(1));
    let (error, changes) = push_cancelled_while_asking(late, patience).await;
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{}", chain(&error));
    assert!(error.still_running(), "{}", chain(&error));
    let cancelled = format!("DELETE /1.0/operations/{FIRST_ID}");
    assert_eq!(changes, ["POST /1.0/instances/web", &cancelled]);

    let (error, _) =
        push_cancelled_while_asking(Reply::silence(), Duration::from_millis(300)).await;
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{}", chain(&error));
    assert!(error.still_running(), "{}", chain(&error));
    assert!(chain(&error).contains("no result from"), "{}", chain(&error));

    let refused = Reply::error(400, "no").after(Duration::from_secs(3));
    let (error, _) = push_cancelled_while_asking(refused, patience).await;
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{}", chain(&error));
    assert!(!error.still_running(), "{}", chain(&error));
}

#[tokio::test]
async fn a_transfer_that_is_cancelled_beforehand_asks_for_nothing() {
    let fake = FakeIncus::start(Version::Lts7, &[]).unwrap();
    let client = fake_client(&fake);
    let subject = Subject::instance("web");
    let sink = Sink::instance(container("copy", "local", InstanceSource::None));
    let flags = Flags::default();
    let transfer = Transfer { from: &client, subject: &subject, to: &client, sink: &sink, flags };
    let cancel = CancellationToken::new();
    cancel.cancel();
    let error = relayed(&transfer, &TransferOptions::cancelled_by(cancel)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{}", chain(&error));
    assert!(!error.still_running(), "{}", chain(&error));
    assert!(fake.requests().is_empty());
}
