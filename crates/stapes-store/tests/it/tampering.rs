//! What others have changed is found, named, and leads nowhere.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use stapes_core::outcome::Outcome;
use stapes_store::ErrorKind;
use stapes_store::Filter;
use stapes_store::dir::Repository;

use crate::lab;

const DATA: &[u8] = b"the data of a backup, which is longer than a sum";

fn sound() -> (tempfile::TempDir, Repository) {
    let (dir, repository) = lab::repository();
    lab::write(&repository, &lab::instance("web"), lab::version(), &[("export.tar", DATA)]);
    (dir, repository)
}

/// What a verification says, or why there can be none.
fn verified(repository: &Repository) -> Result<Vec<String>, String> {
    let backup = repository.backup(&lab::instance("web"), lab::version());
    let backup = backup.map_err(|error| error.to_string())?;
    Ok(backup.verify_checksums(&|_| {}, &|| false).unwrap())
}

fn edit(path: &Path, edit: impl FnOnce(String) -> String) {
    let text = fs::read_to_string(path).unwrap();
    let edited = edit(text.clone());
    assert_ne!(text, edited, "the edit does nothing");
    fs::write(path, edited).unwrap();
}

/// The one backup of the repository, which must be failed, and its first cause.
fn listed_as_failed(repository: &Repository) -> String {
    let listing = repository.list(&Filter::default()).unwrap();
    assert_eq!(listing.backups.len(), 1);
    let info = &listing.backups[0];
    assert_eq!(info.outcome, Outcome::Failed, "{info:?}");
    info.causes[0].clone()
}

#[test]
fn every_flipped_bit_of_every_file_is_found() {
    let (_dir, repository) = sound();
    assert_eq!(verified(&repository), Ok(Vec::new()));
    for name in ["export.tar", "checksums.txt", "manifest.json"] {
        let path = lab::folder(&repository).join(name);
        let content = fs::read(&path).unwrap();
        // The manifest is long; every byte of its beginning and some of the rest will do.
        for position in (0..content.len()).filter(|p| *p < 600 || p % 97 == 0) {
            let mut changed = content.clone();
            changed[position] ^= 1 << (position % 8);
            if name == "checksums.txt" && changed.eq_ignore_ascii_case(&content) {
                continue;
            }
            fs::write(&path, &changed).unwrap();
            let found = verified(&repository);
            assert_ne!(found, Ok(Vec::new()), "{name}, byte {position}");
        }
        fs::write(&path, &content).unwrap();
    }
    assert_eq!(verified(&repository), Ok(Vec::new()));
}

#[test]
fn a_file_that_is_cut_or_gone_is_seen_by_the_listing_already() {
    let (_dir, repository) = sound();
    let path = lab::folder(&repository).join("export.tar");
    fs::write(&path, &DATA[..10]).unwrap();
    assert_eq!(listed_as_failed(&repository), "its file export.tar has 10 bytes instead of 48");
    assert_eq!(verified(&repository).unwrap(), ["export.tar has 10 bytes instead of 48"]);
    fs::remove_file(&path).unwrap();
    assert_eq!(listed_as_failed(&repository), "its file export.tar is missing");
    assert!(verified(&repository).unwrap()[0].contains("its file export.tar is missing"));
    fs::create_dir(&path).unwrap();
    assert_eq!(listed_as_failed(&repository), "its file export.tar is no regular file");
    assert!(verified(&repository).unwrap()[0].contains("it is a folder"));
}

#[test]
fn a_link_in_place_of_a_file_is_not_followed() {
    let (dir, repository) = sound();
    for name in ["export.tar", "manifest.json", "checksums.txt"] {
        let path = lab::folder(&repository).join(name);
        let outside = dir.path().join(name);
        fs::rename(&path, &outside).unwrap();
        symlink(&outside, &path).unwrap();
        listed_as_failed(&repository);
        assert_ne!(verified(&repository), Ok(Vec::new()), "{name}");
        fs::rename(&outside, &path).unwrap();
    }
    assert_eq!(verified(&repository), Ok(Vec::new()));
    let folder = lab::folder(&repository);
    let outside = dir.path().join("outside");
    fs::rename(&folder, &outside).unwrap();
    symlink(&outside, &folder).unwrap();
    let listing = repository.list(&Filter::default()).unwrap();
    assert!(listing.backups.is_empty() && listing.problems.len() == 1, "{listing:?}");
    assert_eq!(
        verified(&repository).unwrap_err(),
        "the backup 20261121T023000Z of instance web does not exist in the repository"
    );
}

#[test]
fn a_pipe_in_place_of_a_manifest_keeps_nobody_waiting() {
    let (_dir, repository) = sound();
    let path = lab::folder(&repository).join("manifest.json");
    fs::remove_file(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    assert!(listed_as_failed(&repository).contains("it is no regular file"));
}

#[test]
fn what_the_manifest_says_must_be_what_the_folder_says() {
    let edits: [(&str, &str, &str); 9] = [
        (r#""name": "web""#, r#""name": "db""#, "of instance «default/db», not of instance web"),
        (r#""name": "web""#, r#""name": "../../etc""#, "of instance «default/../../etc», not of"),
        (r#""name": "web""#, r#""name": "web\nfake line""#, "«default/web\\nfake line»"),
        (r#""project": "default""#, r#""project": "lab""#, "of instance «lab/web», not of"),
        (r#""type": "instance""#, r#""type": "volume""#, "of volume «default/web», not of"),
        (
            "2026-11-21T02:30:00.5Z",
            "2026-11-22T02:30:00.5Z",
            "it was made at 2026-11-22T02:30:00.5Z",
        ),
        (r#""schema": 1"#, r#""schema": 2"#, "a newer version of stapes wrote it"),
        (r#""outcome": "complete""#, r#""outcome": "fine""#, "whether it is complete"),
        (r#""type": "instance""#, r#""type": "instance", "type": "instance""#, "duplicate field"),
    ];
    for (from, to, expected) in edits {
        let (_dir, repository) = sound();
        // The sums are made to agree, as somebody would who knows the format.
        edit(&lab::folder(&repository).join("manifest.json"), |text| text.replacen(from, to, 1));
        let cause = listed_as_failed(&repository);
        assert!(cause.contains(expected), "{cause}");
        assert!(!cause.contains('\n'));
        if to != r#""outcome": "fine""# {
            let error = repository.backup(&lab::instance("web"), lab::version()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Damaged);
        }
    }
}

#[test]
fn names_of_files_that_lead_elsewhere_damage_the_backup() {
    for name in [
        "../../../metadata.json",
        "/etc/passwd",
        "",
        ".",
        "..",
        "a\\nb",
        ".x",
        "a/b",
        "manifest.json",
    ] {
        let (_dir, repository) = sound();
        let manifest = lab::folder(&repository).join("manifest.json");
        edit(&manifest, |text| text.replace("export.tar", name));
        let cause = listed_as_failed(&repository);
        assert!(cause.contains("which no file of a backup is called"), "{cause}");
        assert!(verified(&repository).is_err());
        let (_dir, repository) = sound();
        edit(&lab::folder(&repository).join("checksums.txt"), |text| {
            text.replace("export.tar", name)
        });
        assert_ne!(verified(&repository), Ok(Vec::new()));
    }
    let (_dir, repository) = sound();
    let backup = repository.backup(&lab::instance("web"), lab::version()).unwrap();
    for name in ["../20261121T023000Z/export.tar", "manifest.json", "/etc/passwd", "export.tar\n"] {
        assert_eq!(backup.open_file(name).unwrap_err().kind(), ErrorKind::NotFound, "{name}");
    }
}

#[test]
fn lists_that_disagree_and_files_that_do_not_belong_are_named() {
    let (_dir, repository) = sound();
    let folder = lab::folder(&repository);
    fs::write(folder.join("extra\nfile"), "x").unwrap();
    edit(&folder.join("checksums.txt"), |text| format!("{text}{}  more\n", "0".repeat(64)));
    assert_eq!(
        verified(&repository).unwrap(),
        [
            "checksums.txt names more, which manifest.json does not",
            "extra\\nfile does not belong to it",
        ]
    );
    fs::write(folder.join("checksums.txt"), "").unwrap();
    let problems = verified(&repository).unwrap();
    assert_eq!(problems[0], "checksums.txt has no sum for manifest.json");
    assert_eq!(problems[1], "checksums.txt has no sum for export.tar");
    fs::remove_file(folder.join("checksums.txt")).unwrap();
    assert_eq!(verified(&repository).unwrap()[0], "it has no checksums.txt");
    listed_as_failed(&repository);
}

#[test]
fn a_huge_manifest_is_refused_without_being_read() {
    let (_dir, repository) = sound();
    let path = lab::folder(&repository).join("manifest.json");
    fs::File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
    assert!(listed_as_failed(&repository).contains("larger than 16 MiB"));
    // Few bytes each, and far more than their size once they are read.
    edit_in_place(&path, |text| {
        text.replace("\"missing\": []", &format!("\"missing\": [{}\"\"]", "\"\",".repeat(1 << 20)))
    });
    assert!(listed_as_failed(&repository).contains("at most 20000 entries"));
}

fn edit_in_place(path: &Path, edit: impl FnOnce(String) -> String) {
    let content = fs::File::open(path).unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut std::io::Read::take(content, 1 << 20), &mut text).unwrap();
    fs::write(path, edit(text.trim_end_matches('\0').to_owned())).unwrap();
}

#[test]
fn one_damaged_backup_does_not_hide_the_others() {
    let (_dir, repository) = sound();
    lab::write(&repository, &lab::instance("db"), lab::version(), &[("export.tar", b"x")]);
    fs::write(lab::folder(&repository).join("manifest.json"), "{").unwrap();
    fs::create_dir_all(repository.root().join("instances/default/web/latest")).unwrap();
    fs::create_dir_all(repository.root().join("instances/default/%2/20261121T023000Z")).unwrap();
    fs::create_dir_all(repository.root().join("instances/default/a%0Ab/20261121T023000Z")).unwrap();
    fs::create_dir_all(repository.root().join("instances/@eaDir/x/y")).unwrap();
    fs::write(repository.root().join("volumes"), "").unwrap();
    let listing = repository.list(&Filter::default()).unwrap();
    let seen: Vec<(String, Outcome)> =
        listing.backups.iter().map(|info| (info.item.to_string(), info.outcome)).collect();
    assert_eq!(
        seen,
        [
            ("instance %2".to_owned(), Outcome::Failed),
            ("instance db".to_owned(), Outcome::Complete),
            ("instance web".to_owned(), Outcome::Failed),
        ]
    );
    let ends =
        ["volumes cannot be read", "web/latest is no backup", "names nothing that there can be"];
    assert_eq!(listing.problems.len(), ends.len(), "{:?}", listing.problems);
    for end in ends {
        assert!(listing.problems.iter().any(|problem| problem.contains(end)), "{end}");
    }
}
