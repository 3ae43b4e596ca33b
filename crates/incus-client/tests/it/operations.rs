//! Operations of real servers: by events, by polls, cancelled, and on servers that die.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use incus_client::instances::{ImageSource, InstanceSource, StateChange};
use incus_client::snapshots::NewSnapshot;
use incus_client::transfer::{Flags, Subject};
use incus_client::{Client, ErrorKind, Method, OperationClass, OperationStatus, WaitOptions};
use stapes_testing::{IncusServer, TcpProxy, TestProject, pair};
use tokio_util::sync::CancellationToken;
use tracing::field::Field;
use tracing::{Metadata, span};

use crate::support::{chain, clients, container, patient, through, unix};

/// Creates a container of the image and removes it again.
pub(crate) async fn create_and_delete(client: &Client, name: &str) {
    let image = ImageSource { alias: Some("busybox".to_owned()), ..ImageSource::default() };
    let new = container(name, "local", InstanceSource::Image(image));
    let mut created = client.create_instance(&new).await.unwrap();
    assert_eq!(created.info().class, OperationClass::Task);
    let info = created.wait(&patient()).await.unwrap();
    assert_eq!(info.status(), OperationStatus::Success);
    assert_eq!(info.id, created.id());
    assert!(client.instance(name).await.unwrap().etag.is_some());
    client.delete_instance(name).await.unwrap().wait(&patient()).await.unwrap();
    assert!(client.instance(name).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn operations_end_with_their_event_and_without_a_poll() {
    let project = TestProject::new(pair()).unwrap();
    let (client, _) = clients(&project);
    create_and_delete(&client, "warm").await;
    let before = requests_so_far().len();
    let started = Instant::now();
    for number in 0..5 {
        create_and_delete(&client, &format!("c{number}")).await;
    }
    println!("ten operations by events: {:?}", started.elapsed());
    // The second look at an operation comes after more than two seconds.
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    let paths = requests_so_far().split_off(before);
    assert!(paths.iter().filter(|path| path.contains("/1.0/instances")).count() >= 10, "{paths:?}");
    assert!(!paths.iter().any(|path| path.contains("/wait")), "{paths:?}");
}

/// The paths that clients asked for on this thread, since the first call of this function.
///
/// One subscriber for the whole process: with one for a thread, other threads that reach a place of
/// tracing first have it switched off for all.
fn requests_so_far() -> Vec<String> {
    static REQUESTS: OnceLock<Requests> = OnceLock::new();
    let requests = REQUESTS.get_or_init(|| {
        let requests = Requests::default();
        tracing::subscriber::set_global_default(requests.clone()).unwrap();
        requests
    });
    let paths = requests.paths.lock().unwrap();
    paths.get(&std::thread::current().id()).cloned().unwrap_or_default()
}

/// Records the requests that clients trace, by thread.
#[derive(Clone, Default)]
struct Requests {
    paths: Arc<Mutex<HashMap<ThreadId, Vec<String>>>>,
}

impl tracing::Subscriber for Requests {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target() == "incus_client::request"
    }

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut |field: &Field, value: &dyn std::fmt::Debug| {
            if field.name() == "path" {
                let mut paths = self.paths.lock().unwrap();
                paths.entry(std::thread::current().id()).or_default().push(format!("{value:?}"));
            }
        });
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[tokio::test]
async fn many_operations_share_one_event_stream() {
    let project = TestProject::new(pair()).unwrap();
    let (client, _) = clients(&project);
    let tasks: Vec<_> = (0..8)
        .map(|number| {
            let client = client.clone();
            tokio::spawn(async move { create_and_delete(&client, &format!("c{number}")).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn a_failed_operation_tells_the_servers_words() {
    let project = TestProject::new(pair()).unwrap();
    let (client, _) = clients(&project);
    project.source().create("c").unwrap();
    let snapshot = NewSnapshot::lasting("s");
    client.create_instance_snapshot("c", &snapshot).await.unwrap().wait(&patient()).await.unwrap();
    let error = match client.create_instance_snapshot("c", &snapshot).await {
        Ok(mut operation) => operation.wait(&patient()).await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.detail_kind(), ErrorKind::Exists, "{}", chain(&error));
    assert!(error.to_string().starts_with("take snapshot \"s\" of instance \"c\": "), "{error}");

    let stop = StateChange::Stop { timeout_seconds: Some(5) };
    let mut stop = client.set_instance_state("c", stop).await.unwrap();
    let error = stop.wait(&patient()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OperationFailed);
    assert!(error.message().unwrap().contains("already stopped"), "{error}");
}

#[tokio::test]
async fn a_source_operation_can_be_cancelled_and_times_out_of_its_wait() {
    let project = TestProject::new(pair()).unwrap();
    let (client, _) = clients(&project);
    project.source().create("c").unwrap();
    let subject = Subject::instance("c");
    let mut offered = client.migrate_source(&subject, &Flags::default(), None).await.unwrap();
    assert_eq!(offered.info().class, OperationClass::Websocket);
    let secrets = offered.info().secrets();
    assert_eq!(secrets.names().collect::<Vec<_>>(), ["control", "fs"]);
    assert!(!format!("{offered:?}").contains(secrets.get("fs").unwrap()));

    let short = WaitOptions::default().deadline(Duration::from_millis(300));
    let error = offered.wait(&short).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.still_running());

    let cancel = CancellationToken::new();
    let options = WaitOptions::cancelled_by(cancel.clone());
    let started = Instant::now();
    let (result, ()) = tokio::join!(offered.wait(&options), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        cancel.cancel();
    });
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{}", chain(&error));
    assert!(!error.still_running());
    // Uncancelled it ends by itself after thirty seconds.
    assert!(started.elapsed() < Duration::from_secs(25), "{:?}", started.elapsed());
}

#[tokio::test]
async fn what_the_server_cannot_cancel_is_said_to_go_on() {
    let project = TestProject::new(pair()).unwrap();
    let (client, _) = clients(&project);
    project.source().launch("c").unwrap();
    // PID 1 of the image ignores nothing, so hold it: a graceful stop then takes its whole time.
    project.source().state("c", "freeze", false).unwrap();
    let stop = StateChange::Stop { timeout_seconds: Some(3) };
    let mut stop = client.set_instance_state("c", stop).await.unwrap();
    let cancel = CancellationToken::new();
    cancel.cancel();
    let error = stop.wait(&WaitOptions::cancelled_by(cancel)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{}", chain(&error));
    assert!(error.still_running(), "{}", chain(&error));
    // It did go on: to the end of its time.
    let error = stop.wait(&patient()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OperationFailed, "{}", chain(&error));
    println!("{}", chain(&error));
    project.source().state("c", "stop", true).unwrap();
}

#[tokio::test]
async fn polls_take_over_where_the_event_stream_is_cut() {
    let project = TestProject::new(pair()).unwrap();
    let server = &pair().source;
    let admin = unix(server, "default");
    let proxy = TcpProxy::start(server.https_address()).unwrap();
    let client = through(&proxy, server, project.name()).await;
    create_and_delete(&client, "before").await;

    project.source().create("c").unwrap();
    let subject = Subject::instance("c");
    let mut offered = client.migrate_source(&subject, &Flags::default(), None).await.unwrap();
    proxy.cut();
    tokio::time::sleep(Duration::from_millis(300)).await;
    proxy.pass();
    let id = offered.id().to_owned();
    let path = format!("/1.0/operations/{id}");
    let cancelled = async {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        admin.raw(Method::DELETE, &path, None).await
    };
    let options = patient();
    let (result, cancelled) = tokio::join!(offered.wait(&options), cancelled);
    cancelled.unwrap();
    let error = result.unwrap_err();
    let expected = [ErrorKind::Cancelled, ErrorKind::OperationFailed];
    assert!(expected.contains(&error.kind()), "{}", chain(&error));
    create_and_delete(&client, "after").await;
}

#[tokio::test]
async fn a_server_that_is_killed_ends_the_wait() {
    let server = IncusServer::start().unwrap();
    let client = unix(&server, "default");
    server.incus(&["create", "busybox", "c"]).unwrap();
    let subject = Subject::instance("c");
    let mut offered = client.migrate_source(&subject, &Flags::default(), None).await.unwrap();
    let options = WaitOptions { unreachable_for: Duration::from_secs(2), ..WaitOptions::default() };
    let started = Instant::now();
    let (result, ()) = tokio::join!(offered.wait(&options), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.kill_daemon().unwrap();
    });
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{}", chain(&error));
    // The default is thirty seconds.
    assert!(started.elapsed() < Duration::from_secs(25), "{:?}", started.elapsed());

    // Operations live in the daemon's memory: the restarted one knows nothing of ours.
    server.restart_daemon().unwrap();
    let error = offered.wait(&options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OperationLost, "{}", chain(&error));
    assert!(client.instance("c").await.is_ok());
}

#[tokio::test]
async fn a_server_that_is_stopped_in_its_tracks_ends_the_wait() {
    let server = IncusServer::start().unwrap();
    let client = unix(&server, "default");
    server.incus(&["create", "busybox", "c"]).unwrap();
    let subject = Subject::instance("c");
    let mut offered = client.migrate_source(&subject, &Flags::default(), None).await.unwrap();
    server.pause().unwrap();
    let options = WaitOptions { unreachable_for: Duration::from_secs(1), ..WaitOptions::default() };
    let started = Instant::now();
    let error = offered.wait(&options).await.unwrap_err();
    server.resume().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{}", chain(&error));
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}
