//! What is listed, and how fast.

use std::fs;
use std::time::Instant;

use stapes_core::backup::{BackupItem, BackupKind, Version};
use stapes_core::outcome::Outcome;
use stapes_store::Filter;
use stapes_store::dir::Repository;

use crate::lab;

fn titles(repository: &Repository, filter: &Filter) -> Vec<String> {
    let listing = repository.list(filter).unwrap();
    assert!(listing.problems.is_empty());
    listing.backups.iter().map(|info| format!("{} {}", info.item, info.version)).collect()
}

#[test]
fn items_come_as_they_are_restored_and_the_newest_backup_first() {
    let (_dir, repository) = lab::repository();
    let services = [lab::service("gitea"), lab::service("a wiki")];
    let items = [lab::instance("web"), lab::volume("data"), lab::image(), BackupItem::Config];
    for item in services.into_iter().chain(items) {
        for _ in 0..2 {
            lab::write(&repository, &item, lab::version(), &[("data", b"x")]);
        }
    }
    assert_eq!(
        titles(&repository, &Filter::default()),
        [
            "server configuration 20261121T023001Z",
            "server configuration 20261121T023000Z",
            "image abababababab 20261121T023001Z",
            "image abababababab 20261121T023000Z",
            "volume lab:tank/data 20261121T023001Z",
            "volume lab:tank/data 20261121T023000Z",
            "instance web 20261121T023001Z",
            "instance web 20261121T023000Z",
            "service a wiki 20261121T023001Z",
            "service a wiki 20261121T023000Z",
            "service gitea 20261121T023001Z",
            "service gitea 20261121T023000Z",
        ]
    );
    let only = |filter: Filter| titles(&repository, &filter).len();
    let filter = Filter::default;
    assert_eq!(only(Filter { kinds: vec![BackupKind::Volume], ..filter() }), 2);
    assert_eq!(only(Filter { projects: vec!["lab".parse().unwrap()], ..filter() }), 10);
    assert_eq!(only(Filter { names: vec!["web".to_owned()], ..filter() }), 4);
    assert_eq!(
        only(Filter {
            kinds: vec![BackupKind::Instance],
            names: vec!["no".to_owned()],
            ..filter()
        }),
        0
    );
    let gitea = Filter {
        kinds: vec![BackupKind::Service],
        projects: vec!["lab".parse().unwrap()],
        names: vec!["gitea".to_owned()],
    };
    assert_eq!(
        titles(&repository, &gitea),
        ["service gitea 20261121T023001Z", "service gitea 20261121T023000Z"]
    );
}

#[test]
fn an_incomplete_backup_says_what_is_missing() {
    let (_dir, repository) = lab::repository();
    let new = repository.begin(&lab::instance("web"), lab::version(), &lab::run()).unwrap();
    let mut manifest = lab::manifest();
    manifest.outcome = "incomplete".to_owned();
    manifest.missing = vec!["the snapshot snap0".to_owned(), "x".repeat(10_000)];
    manifest.options.optimized = Some("btrfs".to_owned());
    let info = new.publish(manifest).unwrap();
    assert_eq!(info.outcome, Outcome::Incomplete);
    assert_eq!(info.causes[0], "the snapshot snap0");
    // A listing of many must not hold them whole.
    assert!(info.causes[1].len() < 400);
    assert_eq!(info.driver.as_deref(), Some("btrfs"));
    assert_eq!(info.content_bytes, Some(5_000));
    assert!(!info.is_sound());
}

/// Ten thousand backups with manifests of 10 KB: `cargo test --release -p stapes-store --test it --
/// --ignored --nocapture` prints how long a listing takes.
#[test]
#[ignore = "a measurement"]
fn ten_thousand_backups_are_listed_in_less_than_a_second() {
    let (_dir, repository) = lab::repository();
    lab::write(&repository, &lab::instance("web0"), lab::version(), &[("export.tar.zst", b"x")]);
    let first = repository.root().join("instances/default/web0").join(lab::version().to_string());
    let manifest = fs::read_to_string(first.join("manifest.json")).unwrap();
    assert!((10_000..20_000).contains(&manifest.len()), "{}", manifest.len());
    for number in 0..100 {
        for second in 0..100 {
            let version =
                Version::at(jiff::Timestamp::from_second(1_795_000_000 + second).unwrap());
            let name = format!("instances/default/web{number}/{version}");
            let folder = repository.root().join(name);
            fs::create_dir_all(&folder).unwrap();
            let text = manifest
                .replace(r#""name": "web0""#, &format!(r#""name": "web{number}""#))
                .replace(&lab::now().to_string(), &version.timestamp().to_string());
            fs::write(folder.join("manifest.json"), text).unwrap();
            fs::write(folder.join("export.tar.zst"), "x").unwrap();
            fs::write(folder.join("checksums.txt"), "").unwrap();
            fs::write(folder.join("verified.json"), r#"{"at": "2026-11-21T02:30:00Z"}"#).unwrap();
        }
    }
    for _ in 0..5 {
        let begun = Instant::now();
        let listing = repository.list(&Filter::default()).unwrap();
        let took = begun.elapsed();
        println!("{} backups in {} ms", listing.backups.len(), took.as_millis());
        assert_eq!(listing.backups.len(), 10_001);
        assert!(listing.backups.iter().all(|info| info.outcome == Outcome::Complete));
    }
}
