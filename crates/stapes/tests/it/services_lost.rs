//! What would lose data that exists nowhere else, and must not: each was possible once.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use crate::restic_lab::{largest_pack, packs};
use crate::rig::{assert_says, noise};
use crate::services_lab::Place;

#[test]
fn a_repository_is_not_removed_with_the_directory_that_it_is_in_whatever_way_leads_to_it() {
    let mut place = Place::local();
    fs::create_dir(place.path("app")).unwrap();
    fs::write(place.path("app/data"), "precious").unwrap();
    fs::rename(place.path("repo"), place.path("app/vault")).unwrap();
    symlink(place.path("app"), place.path("link")).unwrap();
    let odd = place.path("other/../app/vault").display().to_string();
    fs::create_dir(place.path("other")).unwrap();
    for way in [place.path("link/vault").display().to_string(), odd] {
        place.by(way);
        place.backup("app", "app", &["--exclude", "/vault"]).complete();
        let ran = place.stapes(&["restore", "service", "app", "--replace", "-y"]).expect_code(1);
        assert_says(&ran.stderr, &["is in it and would be removed"]);
        assert!(place.path("app/vault/config").exists());
    }
}

#[test]
fn a_directory_that_is_empty_all_of_a_sudden_does_not_displace_what_it_had() {
    let place = Place::local();
    fs::create_dir(place.path("disk")).unwrap();
    fs::write(place.path("disk/data"), "precious").unwrap();
    place.backup("disk", "disk", &[]).complete();
    fs::remove_file(place.path("disk/data")).unwrap();
    let ran = place.backup("disk", "disk", &[]).expect_code(3);
    assert_says(&ran.stdout, &["is it mounted?"]);
    // A version is a second.
    std::thread::sleep(Duration::from_millis(1100));
    place.stapes(&["prune", "services", "--keep", "1", "-y"]);
    place.stapes(&["restore", "service", "disk", "--to", "back", "-y"]).complete();
    assert_eq!(fs::read(place.path("back/data")).unwrap(), b"precious");
}

#[test]
fn the_last_backup_that_can_be_read_is_not_thinned_for_one_that_cannot() {
    let place = Place::local();
    fs::create_dir(place.path("app")).unwrap();
    fs::write(place.path("app/data"), "first").unwrap();
    place.backup("app", "app", &[]).complete();
    let packs = || packs(&place.path("repo"));
    let before = packs();
    std::thread::sleep(Duration::from_millis(1100));
    fs::write(place.path("app/data"), "second").unwrap();
    place.backup("app", "app", &[]).complete();
    for pack in packs().iter().filter(|pack| !before.contains(pack)) {
        fs::remove_file(pack).unwrap();
    }
    for more in [&[][..], &["--keep-data"]] {
        let prune = ["prune", "services", "--keep", "1", "-y"];
        let ran = place.stapes(&[&prune[..], more].concat()).expect_code(3);
        assert_says(&(ran.stderr + &ran.stdout), &["no backup was removed"]);
    }
    let listed = place.stapes(&["list", "services", "--output", "json"]).complete().json();
    let versions: Vec<&str> = listed["backups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|b| b["version"].as_str().unwrap())
        .collect();
    assert_eq!(versions.len(), 2, "{listed:#}");
    let oldest = versions.iter().min().unwrap();
    let restore = ["restore", "service", "app", "--version", oldest, "--to", "back", "-y"];
    place.stapes(&restore).complete();
    assert_eq!(fs::read(place.path("back/data")).unwrap(), b"first");
}

#[test]
fn a_file_is_replaced_in_place_only_by_a_whole_one() {
    let place = Place::local();
    fs::create_dir(place.path("app")).unwrap();
    fs::write(place.path("app/big"), noise(1, 60 << 20)).unwrap();
    place.backup("app", "app", &[]).complete();
    fs::write(place.path("app/big"), "newer").unwrap();
    fs::write(place.path("app/other"), "stays").unwrap();
    let pack = largest_pack(&place.path("repo"));
    let mut bytes = fs::read(&pack).unwrap();
    let place_of_damage = bytes.len() / 2;
    bytes[place_of_damage] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let restore = ["restore", "service", "app", "--in-place", "-y"];
    let ran = place.stapes(&restore).expect_code(3);
    assert_says(&(ran.stdout + &ran.stderr), &["big", "damaged"]);
    assert_eq!(fs::read(place.path("app/big")).unwrap(), b"newer");
    let mut names: Vec<_> =
        fs::read_dir(place.path("app")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["big", "other"]);
}
