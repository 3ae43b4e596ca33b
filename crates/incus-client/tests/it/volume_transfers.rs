//! Moving custom volumes between two real servers, and copying them on one.

use incus_client::snapshots::NewSnapshot;
use incus_client::transfer::{Flags, Reach, Side, Sink, Subject, Transfer, TransferOptions, pull};
use incus_client::volumes::{NewVolume, VolumeContent, VolumeCopySource, VolumeSource};
use incus_client::{Client, Error, ErrorKind};
use stapes_testing::{TestProject, pair, tree};

use crate::support::{chain, clients, eventually, patient};
use crate::transfers::{OWN_TIMEOUT, WAYS, Way, cancelled_midway, noise, run};

fn sink(name: &str, pool: &str, content: VolumeContent) -> Sink {
    let mut volume = NewVolume::from_source(name, VolumeSource::Empty);
    volume.content_type = Some(content);
    Sink::volume(pool, volume)
}

async fn snapshot(client: &Client, volume: &str, name: &str) {
    let new = NewSnapshot::lasting(name);
    let mut taken = client.create_volume_snapshot("local", volume, &new).await.unwrap();
    taken.wait(&patient()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_copied_and_refreshed_in_all_three_ways() {
    for way in WAYS {
        for pool in ["local", "plain"] {
            let project = TestProject::new(pair()).unwrap();
            let (from, to) = clients(&project);
            let (source, target) = (project.source(), project.target());
            source.volume("local", "data").unwrap();
            source.write_volume("local", "data", "a/first", &vec![7; 3 << 20]).unwrap();
            snapshot(&from, "data", "s1").await;

            let subject = Subject::volume("local", "data");
            let sink = sink("data", pool, VolumeContent::Filesystem);
            let flags = Flags::default();
            let transfer = Transfer { from: &from, subject: &subject, to: &to, sink: &sink, flags };
            let full = run(way, &transfer, &TransferOptions::default()).await.unwrap();
            assert_eq!(target.volume_snapshots(pool, "data").unwrap(), ["s1"], "{way:?}");

            source.write_volume("local", "data", "a/second", b"two").unwrap();
            snapshot(&from, "data", "s2").await;
            let flags = Flags { refresh: true, ..Flags::default() };
            let refresh = Transfer { flags, ..transfer };
            let again = run(way, &refresh, &TransferOptions::default()).await.unwrap();
            println!("{way:?} local -> {pool}: full {full:?}, refresh {again:?}");
            assert_eq!(target.volume_snapshots(pool, "data").unwrap(), ["s1", "s2"], "{way:?}");
            let mut left = tree::snapshot(source.volume_path("local", "data")).unwrap();
            let mut right = tree::snapshot(target.volume_path(pool, "data")).unwrap();
            // The time of the volume's own directory is the server's business.
            for tree in [&mut left, &mut right] {
                tree.retain(|path, _| path.as_os_str() != ".");
            }
            tree::assert_same(&left, &right);
            let copied = to.volume(pool, "data").await.unwrap().value;
            let names: Vec<_> = copied.snapshots.iter().map(|s| s.name.as_str()).collect();
            assert_eq!(names, ["s1", "s2"]);
            assert!(copied.snapshots.iter().all(|s| s.expires_at.is_none()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_volume_is_copied_in_all_three_ways() {
    let project = TestProject::new(pair()).unwrap();
    let (from, to) = clients(&project);
    project.source().block_volume("local", "disk", 16 << 20).unwrap();
    let image = project.source().volume_path("local", "disk").join("root.img");
    let mut content = std::fs::read(&image).unwrap();
    content[5 << 20..][..8].copy_from_slice(b"in here!");
    std::fs::write(&image, &content).unwrap();
    let subject = Subject::volume("local", "disk");
    for way in WAYS {
        let name = format!("disk-{way:?}").to_lowercase();
        let Sink::Volume { pool, mut volume } = sink(&name, "local", VolumeContent::Block) else {
            unreachable!()
        };
        volume.config.insert("size".to_owned(), (16 << 20).to_string());
        let sink = Sink::Volume { pool, volume };
        let flags = Flags::default();
        let transfer = Transfer { from: &from, subject: &subject, to: &to, sink: &sink, flags };
        run(way, &transfer, &TransferOptions::default()).await.unwrap();
        let copy = project.target().volume_path("local", &name).join("root.img");
        assert!(std::fs::read(copy).unwrap() == content, "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_becomes_a_volume_of_its_own_on_the_other_server() {
    let project = TestProject::new(pair()).unwrap();
    let (from, to) = clients(&project);
    project.source().volume("local", "data").unwrap();
    project.source().write_volume("local", "data", "then", b"then").unwrap();
    snapshot(&from, "data", "s1").await;
    project.source().write_volume("local", "data", "now", b"now").unwrap();
    let subject = Subject::Volume {
        pool: "local".to_owned(),
        name: "data".to_owned(),
        snapshot: Some("s1".to_owned()),
    };
    for way in WAYS {
        let name = format!("from-{way:?}").to_lowercase();
        let sink = sink(&name, "local", VolumeContent::Filesystem);
        let flags = Flags::default();
        let transfer = Transfer { from: &from, subject: &subject, to: &to, sink: &sink, flags };
        run(way, &transfer, &TransferOptions::default()).await.unwrap();
        let path = project.target().volume_path("local", &name);
        assert!(path.join("then").exists() && !path.join("now").exists(), "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_on_one_server_takes_a_snapshot_into_another_project_and_pool() {
    let (here, there) = (TestProject::new(pair()).unwrap(), TestProject::new(pair()).unwrap());
    let (from, _) = clients(&here);
    let (to, _) = clients(&there);
    here.source().volume("local", "data").unwrap();
    here.source().write_volume("local", "data", "then", b"then").unwrap();
    snapshot(&from, "data", "s1").await;
    here.source().write_volume("local", "data", "now", b"now").unwrap();
    for pool in ["local", "plain"] {
        let source = VolumeCopySource {
            pool: "local".to_owned(),
            name: "data/s1".to_owned(),
            project: Some(from.project().to_owned()),
            volume_only: true,
            ..VolumeCopySource::default()
        };
        let new = NewVolume::from_source("clone", VolumeSource::Copy(source));
        to.create_volume(pool, &new).await.unwrap().wait(&patient()).await.unwrap();
        let path = there.source().volume_path(pool, "clone");
        assert!(path.join("then").exists() && !path.join("now").exists(), "{pool}");
        let clone = to.volume(pool, "clone").await.unwrap().value;
        assert_eq!(clone.content_type, VolumeContent::Filesystem);
        assert!(clone.snapshots.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_exists_or_is_missing_fails_on_the_right_side_and_at_once() {
    let project = TestProject::new(pair()).unwrap();
    let (from, to) = clients(&project);
    project.source().volume("local", "data").unwrap();
    project.target().volume("local", "data").unwrap();
    for (name, target, side, kind) in [
        ("data", "data", Side::Target, ErrorKind::Exists),
        ("nothing", "other", Side::Source, ErrorKind::NotFound),
    ] {
        let subject = Subject::volume("local", name);
        let sink = sink(target, "local", VolumeContent::Filesystem);
        let flags = Flags::default();
        let transfer = Transfer { from: &from, subject: &subject, to: &to, sink: &sink, flags };
        for way in WAYS {
            let started = std::time::Instant::now();
            let error = run(way, &transfer, &TransferOptions::default()).await.unwrap_err();
            assert_eq!(error.side(), side, "{way:?}: {}", chain(&error));
            assert_eq!(error.kind(), kind, "{way:?}: {}", chain(&error));
            assert!(started.elapsed() < OWN_TIMEOUT, "{way:?} {:?}", started.elapsed());
        }
    }
}

/// On Incus 6.0 neither side can be cancelled, but the data pass through our sockets.
#[tokio::test(flavor = "multi_thread")]
async fn a_relayed_volume_is_cancelled_and_leaves_nothing() {
    let project = TestProject::new(pair()).unwrap();
    let (from, to) = clients(&project);
    project.source().volume("local", "data").unwrap();
    project.source().write_volume("local", "data", "noise", &noise(80)).unwrap();
    let subject = Subject::volume("local", "data");
    let sink = sink("data", "local", VolumeContent::Filesystem);
    let flags = Flags::default();
    let transfer = Transfer { from: &from, subject: &subject, to: &to, sink: &sink, flags };
    let (error, _network) = cancelled_midway(Way::Relay, &project, &transfer).await;
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{}", chain(&error));
    assert!(!error.still_running(), "{}", chain(&error));
    // Both operations had ended before we were told.
    for side in [Side::Source, Side::Target] {
        let end = error.of_side(side).map(Error::kind);
        let ends = [Some(ErrorKind::Cancelled), Some(ErrorKind::OperationFailed)];
        assert!(ends.contains(&end), "{side} {end:?}: {}", chain(&error));
    }
    eventually("the target removes what it had begun", async || {
        Ok(to.volume("local", "data").await.is_err_and(|error| error.is_not_found()))
    })
    .await;
    run(Way::Relay, &transfer, &TransferOptions::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_address_nothing_is_begun() {
    let project = TestProject::new(pair()).unwrap();
    let (from, to) = clients(&project);
    let subject = Subject::volume("local", "data");
    let sink = sink("data", "local", VolumeContent::Filesystem);
    let flags = Flags::default();
    let transfer = Transfer { from: &from, subject: &subject, to: &to, sink: &sink, flags };
    let reach = Reach { urls: Vec::new(), certificate: String::new() };
    let error = pull(&transfer, &reach, &TransferOptions::default()).await.unwrap_err();
    assert!(chain(&error).contains("no address at which the source"), "{}", chain(&error));
}
