//! Moving instances between two real servers, in all three ways, and what happens when it fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use incus_client::instances::{CopySource, InstanceSource, NewInstance};
use incus_client::snapshots::NewSnapshot;
use incus_client::transfer::{
    Flags, Reach, Side, Sink, Subject, Transfer, TransferError, TransferOptions, Transferred, pull,
    push, relayed,
};
use incus_client::{Client, ErrorKind, Method};
use serde_json::json;
use stapes_testing::{Direction, Scope, TcpProxy, TestProject, pair, tree};
use tokio_util::sync::CancellationToken;

use crate::support::{chain, clients, container, eventually, patient, through};

/// The three ways.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    Pull,
    Push,
    Relay,
}

/// Less than what a server waits for connections before it gives a transfer up by itself.
pub(crate) const OWN_TIMEOUT: Duration = Duration::from_secs(25);

pub(crate) const WAYS: [Way; 3] = [Way::Pull, Way::Push, Way::Relay];

pub(crate) async fn run(
    way: Way,
    transfer: &Transfer<'_>,
    options: &TransferOptions,
) -> Result<Transferred, TransferError> {
    match way {
        Way::Pull => {
            let source = Reach::of(&transfer.from.server().await.unwrap());
            pull(transfer, &source, options).await
        }
        Way::Push => {
            let target = Reach::of(&transfer.to.server().await.unwrap());
            push(transfer, &target, options).await
        }
        Way::Relay => relayed(transfer, options).await,
    }
}

/// What a copy of instance `name` shall look like: the original without its volatile keys.
async fn sink_of(from: &Client, name: &str, pool: &str) -> Sink {
    let original = from.instance(name).await.unwrap().value;
    let keep = |key: &String| !key.starts_with("volatile.") || key == "volatile.base_image";
    let config = original.config.iter().filter(|(key, _)| keep(key));
    let config = config.map(|(key, value)| (key.clone(), value.clone())).collect();
    let plain = container(name, pool, InstanceSource::None);
    Sink::instance(NewInstance { config, architecture: original.architecture, ..plain })
}

async fn snapshot(client: &Client, instance: &str, name: &str) {
    let new = NewSnapshot::lasting(name);
    let mut taken = client.create_instance_snapshot(instance, &new).await.unwrap();
    taken.wait(&patient()).await.unwrap();
}

pub(crate) fn noise(megabytes: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(megabytes << 20);
    while bytes.len() < megabytes << 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

fn snapshots(scope: &Scope<'_>, instance: &str) -> Vec<String> {
    scope.snapshots(instance).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_copied_and_refreshed_in_all_three_ways() {
    for way in WAYS {
        for pool in ["local", "plain"] {
            let project = TestProject::new(pair()).unwrap();
            let (from, to) = clients(&project);
            let (source, target) = (project.source(), project.target());
            source.create("web").unwrap();
            source.write("local", "web", "data/first", &noise(3)).unwrap();
            snapshot(&from, "web", "s1").await;

            let subject = Subject::instance("web");
            let sink = sink_of(&from, "web", pool).await;
            let flags = Flags::default();
            let transfer = Transfer { from: &from, subject: &subject, to: &to, sink: &sink, flags };
            let full = run(way, &transfer, &TransferOptions::default()).await.unwrap();
            assert_eq!(snapshots(&target, "web"), ["s1"], "{way:?}");
            let same = |left: &Scope<'_>, right: &Scope<'_>| {
                let left = tree::snapshot(left.rootfs("local", "web")).unwrap();
                let right = tree::snapshot(right.rootfs(pool, "web")).unwrap();
                tree::assert_same(&left, &right);
            };
            same(&source, &target);

            source.write("local", "web", "data/second", b"two").unwrap();
            snapshot(&from, "web", "s2").await;
            let flags = Flags { refresh: true, ..Flags::default() };
            let refresh = Transfer { flags, ..transfer };
            let again = run(way, &refresh, &TransferOptions::default()).await.unwrap();
            assert_eq!(snapshots(&target, "web"), ["s1", "s2"], "{way:?}");
            same(&source, &target);
            println!("{way:?} local -> {pool}: full {full:?}, refresh {again:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_counts_what_passes() {
    let project = TestProject::new(pair()).unwrap();
    let (from, to) = clients(&project);
    project.source().create("web").unwrap();
    let payload = noise(40);
    project.source().write("local", "web", "data", &payload).unwrap();
    let (subject, sink) = (Subject::instance("web"), sink_of(&from, "web", "local").await);
    let flags = Flags::default();
    let transfer = Transfer { from: &from, subject: &subject, to: &to, sink: &sink, flags };
    let told = Arc::new(AtomicU64::new(0));
    let sink = Arc::clone(&told);
    let options =
        TransferOptions::default().on_bytes(move |bytes| sink.store(bytes, Ordering::Relaxed));
    let started = Instant::now();
    let bytes = relayed(&transfer, &options).await.unwrap().bytes.unwrap();
    println!("relayed {bytes} bytes in {:?}", started.elapsed());
    let size = u64::try_from(payload.len()).unwrap();
    assert!(bytes > size && bytes < size + size / 4, "{bytes} of {size}");
    assert_eq!(told.load(Ordering::Relaxed), bytes);
    let copied = std::fs::read(project.target().rootfs("local", "web").join("data")).unwrap();
    assert!(copied == payload);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_pull_tells_how_far_it_is() {
    let project = TestProject::new(pair()).unwrap();
    let (from, to) = clients(&project);
    project.source().create("web").unwrap();
    project.source().write("local", "web", "data", &noise(30)).unwrap();
    let (subject, sink) = (Subject::instance("web"), sink_of(&from, "web", "local").await);
    let flags = Flags::default();
    let transfer = Transfer { from: &from, subject: &subject, to: &to, sink: &sink, flags };
    let proxy = TcpProxy::start(pair().source.https_address()).unwrap();
    proxy.delay(Duration::from_millis(4));
    let reach = reach_through(&proxy, &from).await;
    let told = Arc::new(AtomicU64::new(0));
    let sink = Arc::clone(&told);
    let options =
        TransferOptions::default().on_bytes(move |bytes| sink.store(bytes, Ordering::Relaxed));
    let done = pull(&transfer, &reach, &options).await.unwrap();
    println!("{done:?}");
    let bytes = done.bytes.unwrap();
    assert!(bytes > 1 << 20 && bytes < 60 << 20, "{bytes}");
    assert_eq!(told.load(Ordering::Relaxed), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_becomes_an_instance_of_its_own_on_the_other_server() {
    let project = TestProject::new(pair()).unwrap();
    let (from, to) = clients(&project);
    project.source().create("web").unwrap();
    project.source().write("local", "web", "then", b"then").unwrap();
    snapshot(&from, "web", "s1").await;
    project.source().write("local", "web", "now", b"now").unwrap();
    let snapshot = Some("s1".to_owned());
    let subject = Subject::Instance { name: "web".to_owned(), snapshot };
    for way in WAYS {
        let name = format!("from-{way:?}").to_lowercase();
        let sink = Sink::instance(container(&name, "local", InstanceSource::None));
        let flags = Flags::default();
        let transfer = Transfer { from: &from, subject: &subject, to: &to, sink: &sink, flags };
        run(way, &transfer, &TransferOptions::default()).await.unwrap();
        let rootfs = project.target().rootfs("local", &name);
        assert!(rootfs.join("then").exists() && !rootfs.join("now").exists(), "{way:?}");
        assert!(snapshots(&project.target(), &name).is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_on_one_server_takes_a_snapshot_into_another_project() {
    let (here, there) = (TestProject::new(pair()).unwrap(), TestProject::new(pair()).unwrap());
    let (from, _) = clients(&here);
    let (to, _) = clients(&there);
    here.source().create("web").unwrap();
    here.source().write("local", "web", "then", b"then").unwrap();
    snapshot(&from, "web", "s1").await;
    here.source().write("local", "web", "now", b"now").unwrap();
    let source = CopySource {
        source: "web/s1".to_owned(),
        project: Some(from.project().to_owned()),
        instance_only: true,
        ..CopySource::default()
    };
    let new = container("clone", "local", InstanceSource::Copy(source));
    to.create_instance(&new).await.unwrap().wait(&patient()).await.unwrap();
    let rootfs = there.source().rootfs("local", "clone");
    assert!(rootfs.join("then").exists() && !rootfs.join("now").exists());
    let clone = to.instance("clone").await.unwrap().value;
    assert_eq!(clone.root_pool(), Some("local"));
    assert!(clone.profiles.is_empty() && clone.snapshots.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_on_the_target_is_reported_with_its_words_and_frees_the_source() {
    let project = TestProject::new(pair()).unwrap();
    let (from, to) = clients(&project);
    project.source().create("web").unwrap();
    project.target().create("web").unwrap();
    let (subject, sink) = (Subject::instance("web"), sink_of(&from, "web", "local").await);
    let flags = Flags::default();
    let transfer = Transfer { from: &from, subject: &subject, to: &to, sink: &sink, flags };
    for way in WAYS {
        let started = Instant::now();
        let error = run(way, &transfer, &TransferOptions::default()).await.unwrap_err();
        println!("{way:?} {:?}: {}", started.elapsed(), chain(&error));
        assert_eq!(error.side(), Side::Target, "{way:?}: {}", chain(&error));
        assert_eq!(error.kind(), ErrorKind::Exists, "{way:?}: {}", chain(&error));
        assert!(started.elapsed() < OWN_TIMEOUT, "{way:?} {:?}", started.elapsed());
        no_operation_is_left(&from).await;
    }
    let missing = Subject::instance("nobody");
    let other = Sink::instance(container("other", "local", InstanceSource::None));
    let transfer = Transfer { subject: &missing, sink: &other, ..transfer };
    for way in WAYS {
        let started = Instant::now();
        let error = run(way, &transfer, &TransferOptions::default()).await.unwrap_err();
        println!("{way:?} {:?}: {}", started.elapsed(), chain(&error));
        assert_eq!(error.side(), Side::Source, "{way:?}: {}", chain(&error));
        assert_eq!(error.kind(), ErrorKind::NotFound, "{way:?}: {}", chain(&error));
        assert!(started.elapsed() < OWN_TIMEOUT, "{way:?} {:?}", started.elapsed());
        no_operation_is_left(&to).await;
        is_gone(&to, "other").await;
    }
}

/// What a target has begun is removed a moment after its operation has ended.
async fn is_gone(target: &Client, name: &str) {
    eventually("the target removes what it had begun", async || {
        Ok(target.instance(name).await.is_err_and(|error| error.is_not_found()))
    })
    .await;
}

/// Only tokens and events of other tests may be under way.
pub(crate) async fn no_operation_is_left(client: &Client) {
    eventually("the operation ends", async || {
        let path = format!("/1.0/operations?recursion=1&project={}", client.project());
        let operations = client.raw(Method::GET, &path, None).await?;
        let running = operations["running"].as_array().cloned().unwrap_or_default();
        Ok(!running.iter().any(|operation| operation["class"] == "websocket"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_are_tried_in_turn_until_one_answers() {
    let project = TestProject::new(pair()).unwrap();
    let (from, to) = clients(&project);
    project.source().create("web").unwrap();
    let subject = Subject::instance("web");
    for (way, name) in [(Way::Pull, "pulled"), (Way::Push, "pushed")] {
        let other = if matches!(way, Way::Pull) { &from } else { &to };
        let mut reach = Reach::of(&other.server().await.unwrap());
        let works = reach.urls[0].clone();
        reach.urls.insert(0, "https://127.0.0.1:9".to_owned());
        let sink = Sink::instance(container(name, "local", InstanceSource::None));
        let flags = Flags::default();
        let transfer = Transfer { from: &from, subject: &subject, to: &to, sink: &sink, flags };
        let options = TransferOptions::default();
        let done = match way {
            Way::Pull => pull(&transfer, &reach, &options).await.unwrap(),
            _ => push(&transfer, &reach, &options).await.unwrap(),
        };
        assert_eq!(done.url.as_deref(), Some(works.as_str()));
        reach.urls.truncate(1);
        let sink = Sink::instance(container("never", "local", InstanceSource::None));
        let transfer = Transfer { sink: &sink, ..transfer };
        let error = match way {
            Way::Pull => pull(&transfer, &reach, &options).await.unwrap_err(),
            _ => push(&transfer, &reach, &options).await.unwrap_err(),
        };
        println!("{}", chain(&error));
        assert!(error.is_connection_failure(), "{}", chain(&error));
        is_gone(&to, "never").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_transfer_is_cancelled_in_all_three_ways_and_leaves_nothing() {
    for way in WAYS {
        let project = TestProject::new(pair()).unwrap();
        let (from, to) = clients(&project);
        project.source().create("web").unwrap();
        project.source().write("local", "web", "data", &noise(80)).unwrap();
        let (subject, sink) = (Subject::instance("web"), sink_of(&from, "web", "local").await);
        let flags = Flags::default();
        let transfer = Transfer { from: &from, subject: &subject, to: &to, sink: &sink, flags };
        let (error, _network) = cancelled_midway(way, &project, &transfer).await;
        println!("{way:?}: {}", chain(&error));
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{}", chain(&error));
        // A push goes on; then that must be said.
        let goes_on = matches!(way, Way::Push);
        assert_eq!(error.still_running(), goes_on, "{way:?}: {}", chain(&error));
        no_operation_is_left(&from).await;
        no_operation_is_left(&to).await;
        if goes_on {
            eventually("the push ends by itself", async || Ok(to.instance("web").await.is_ok()))
                .await;
            continue;
        }
        is_gone(&to, "web").await;
        run_again(way, &transfer).await;
    }
}

/// Runs a transfer that was interrupted.
///
/// A server calls the cancelled operation ended a little before it lets the instance go. What comes
/// in that moment is refused by Incus 7.0; on Incus 6.0 its connections were closed, it seems by the
/// source (`docs/incus-facts.md`, section 23).
async fn run_again(way: Way, transfer: &Transfer<'_>) {
    eventually("the source lets the instance go", async || {
        let Err(error) = run(way, transfer, &TransferOptions::default()).await else {
            return Ok(true);
        };
        let text = chain(&error);
        println!("{way:?} again: {text}");
        let signs = ["already being migrated", "use of closed network connection"];
        assert!(signs.iter().any(|sign| text.contains(sign)), "{text}");
        Ok(false)
    })
    .await;
}

/// Runs the transfer until twenty megabytes have passed, holds the rest back, and cancels.
///
/// Also returns the network between the servers: dropped, it would cut what goes on.
pub(crate) async fn cancelled_midway(
    way: Way,
    project: &TestProject<'_>,
    transfer: &Transfer<'_>,
) -> (TransferError, TcpProxy) {
    const PASS: u64 = 20 << 20;
    // A pull fetches from the source; a push, and here our relay too, sends to the target.
    let (server, direction) = match way {
        Way::Pull => (project.source().server(), Direction::Down),
        Way::Push | Way::Relay => (project.target().server(), Direction::Up),
    };
    let proxy = TcpProxy::start(server.https_address()).unwrap();
    let cancel = CancellationToken::new();
    let options = TransferOptions::cancelled_by(cancel.clone());
    proxy.stall_after(direction, PASS);
    let transferred = async {
        match way {
            Way::Relay => {
                let to = through(&proxy, server, project.name()).await;
                relayed(&Transfer { to: &to, ..*transfer }, &options).await
            }
            Way::Pull => {
                pull(transfer, &reach_through(&proxy, transfer.from).await, &options).await
            }
            Way::Push => push(transfer, &reach_through(&proxy, transfer.to).await, &options).await,
        }
    };
    let interruption = async {
        eventually("the transfer is midway", async || Ok(proxy.passed_bytes(direction) >= PASS))
            .await;
        cancel.cancel();
        if !matches!(way, Way::Push) {
            // The data are held back until then, so it was the cancellation that ended the source;
            // but the network must carry the end of the connection to the target.
            no_operation_is_left(transfer.from).await;
            proxy.pass();
        }
    };
    let (result, ()) = tokio::join!(transferred, interruption);
    proxy.pass();
    (result.unwrap_err(), proxy)
}

async fn reach_through(proxy: &TcpProxy, server: &Client) -> Reach {
    let urls = vec![proxy.https_url()];
    Reach { urls, ..Reach::of(&server.server().await.unwrap()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_runs_full_is_the_side_to_blame() {
    let project = TestProject::new(pair()).unwrap();
    let (from, to) = clients(&project);
    project.source().create("web").unwrap();
    project.source().write("local", "web", "data", &noise(150)).unwrap();
    let body = json!({ "name": "tiny", "driver": "btrfs", "config": { "size": "120MiB" } });
    project.target().server().api("POST", "/1.0/storage-pools", Some(&body)).unwrap();
    let (subject, sink) = (Subject::instance("web"), sink_of(&from, "web", "tiny").await);
    let flags = Flags::default();
    let transfer = Transfer { from: &from, subject: &subject, to: &to, sink: &sink, flags };
    for way in WAYS {
        let error = run(way, &transfer, &TransferOptions::default()).await.unwrap_err();
        println!("{way:?}: {}", chain(&error));
        assert_eq!(error.side(), Side::Target, "{way:?}: {}", chain(&error));
        no_operation_is_left(&from).await;
        no_operation_is_left(&to).await;
        is_gone(&to, "web").await;
    }
    project.target().server().api("DELETE", "/1.0/storage-pools/tiny", None).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_between_the_servers_fails_both_sides_and_a_second_try_succeeds() {
    let project = TestProject::new(pair()).unwrap();
    let (from, to) = clients(&project);
    project.source().create("web").unwrap();
    project.source().write("local", "web", "data", &noise(60)).unwrap();
    let (subject, sink) = (Subject::instance("web"), sink_of(&from, "web", "local").await);
    let flags = Flags::default();
    let transfer = Transfer { from: &from, subject: &subject, to: &to, sink: &sink, flags };
    let proxy = TcpProxy::start(pair().source.https_address()).unwrap();
    let reach = reach_through(&proxy, &from).await;
    proxy.cut_after(Direction::Down, 20 << 20);
    let error = pull(&transfer, &reach, &TransferOptions::default()).await.unwrap_err();
    println!("{}", chain(&error));
    assert!(error.of_side(Side::Source).is_some() || error.of_side(Side::Target).is_some());
    assert!(!error.is_connection_failure());
    no_operation_is_left(&from).await;
    is_gone(&to, "web").await;
    run_again(Way::Pull, &transfer).await;
}
