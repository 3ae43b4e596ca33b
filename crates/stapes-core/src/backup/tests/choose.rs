//! Which backups a restore or a verification takes.

use super::{backup, version};
use crate::backup::choose::{Choice, Which, choose};
use crate::backup::{BackupInfo, BackupItem, BackupKind, NameProblemKind, Projects, Wanted};
use crate::replicate::testing::{instance, volume};

fn take(listing: &[BackupInfo], names: &[&str], which: Which) -> Choice {
    choose(listing, &[BackupKind::Instance], &Wanted::names(names.iter().copied()), which)
}

fn taken(choice: &Choice) -> Vec<String> {
    let text = |info: &BackupInfo| format!("{} {}", info.item, info.version);
    choice.chosen.iter().map(|chosen| text(&chosen.info)).collect()
}

fn web(version: &str) -> BackupInfo {
    backup(instance("web").id(), version)
}

#[test]
fn the_newest_complete_and_sound_backup_is_taken_and_newer_ones_are_named() {
    let listing = [
        web("10"),
        web("14").verified(&["export.tar.zst: checksum differs"]),
        web("13").incomplete("no snapshots"),
        web("12").verified(&[]),
        web("11"),
    ];
    let choice = take(&listing, &["web"], Which::Newest);
    assert_eq!(taken(&choice), ["instance web 20261112T000000Z"]);
    assert_eq!(
        choice.chosen[0].remarks,
        [
            "a newer one is passed over: 20261114T000000Z is damaged (export.tar.zst: checksum differs)",
            "a newer one is passed over: 20261113T000000Z is incomplete (no snapshots)"
        ]
    );
    assert!(choice.problems.is_empty());
}

#[test]
fn a_version_is_taken_also_if_incomplete_but_not_if_damaged() {
    let listing = [
        web("10"),
        web("11").incomplete("no snapshots"),
        web("12").failed("manifest.json cannot be read"),
        web("13").verified(&["cut off"]),
    ];
    let choice = take(&listing, &["web"], Which::Version(version("11")));
    assert_eq!(taken(&choice), ["instance web 20261111T000000Z"]);
    assert_eq!(choice.chosen[0].remarks, ["20261111T000000Z is incomplete (no snapshots)"]);
    for damaged in ["12", "13"] {
        let choice = take(&listing, &["web"], Which::Version(version(damaged)));
        assert!(choice.chosen.is_empty());
        assert_eq!(choice.problems[0].kind, NameProblemKind::Unsound);
        assert!(choice.problems[0].cause.contains("is damaged ("), "{}", choice.problems[0]);
    }
}

#[test]
fn a_version_that_is_not_there_is_answered_with_the_nearest() {
    let listing = [web("10"), web("20"), web("12"), web("18")];
    let cause = |wanted: &str| {
        let choice = take(&listing, &["web"], Which::Version(version(wanted)));
        assert!(choice.chosen.is_empty());
        choice.problems[0].cause.clone()
    };
    assert_eq!(
        cause("15"),
        "instance web has no backup of version 20261115T000000Z; the nearest: 20261112T000000Z and 20261118T000000Z"
    );
    assert!(cause("30").ends_with("the nearest: 20261120T000000Z"));
    assert!(cause("01").ends_with("the nearest: 20261110T000000Z"));
}

#[test]
fn an_item_without_a_complete_backup_is_a_problem_that_says_which_could_do() {
    let mut listing: Vec<BackupInfo> =
        (10..14).map(|day| web(&day.to_string()).incomplete("stopped")).collect();
    listing.push(web("20").failed("empty"));
    listing.push(backup(instance("db").id(), "10"));
    let choice = take(&listing, &[], Which::Newest);
    assert_eq!(taken(&choice), ["instance db 20261110T000000Z"], "the others are not held up");
    assert_eq!(choice.problems[0].kind, NameProblemKind::Unsound);
    assert_eq!(
        choice.problems[0].cause,
        "instance web has no complete backup: 20261120T000000Z is damaged (empty); \
         20261113T000000Z is incomplete (stopped); 20261112T000000Z is incomplete (stopped); and 2 more; \
         --version 20261113T000000Z takes an incomplete one"
    );
    let hopeless = take(&[web("20").failed("empty")], &["web"], Which::Newest);
    assert!(!hopeless.problems[0].cause.contains("--version"));
}

#[test]
fn a_verification_takes_every_backup_in_whatever_state() {
    let listing = [web("10"), web("12").failed("empty"), web("11").incomplete("no snapshots")];
    let choice = take(&listing, &["web"], Which::Every);
    let versions: Vec<_> = choice.chosen.iter().map(|chosen| chosen.info.version).collect();
    assert_eq!(versions, ["12", "11", "10"].map(version));
}

#[test]
fn names_mean_what_the_repository_has() {
    let lab = instance("web").in_project("lab").id();
    let listing = [web("10"), backup(lab, "10"), backup(instance("db").id(), "10")];
    let cause = |name: &str| {
        let choice = take(&listing, &[name], Which::Newest);
        assert!(choice.chosen.is_empty());
        (choice.problems[0].kind, choice.problems[0].cause.clone())
    };
    assert_eq!(cause("web").0, NameProblemKind::Ambiguous);
    let (kind, text) = cause("bd");
    assert_eq!(kind, NameProblemKind::NotFound);
    assert_eq!(text, "the repository has no backup of instance bd; did you mean db?");
    assert_eq!(taken(&take(&listing, &["lab:web"], Which::Newest)).len(), 1);
    let attic =
        Wanted { projects: Projects::Named(vec!["attic".parse().unwrap()]), names: Vec::new() };
    let choice = choose(&listing, &BackupKind::ALL, &attic, Which::Newest);
    assert_eq!(choice.problems.len(), 1, "once, not for each kind: {:?}", choice.problems);
}

#[test]
fn everything_comes_in_the_order_in_which_it_is_restored() {
    let image = BackupItem::Image("ab".repeat(32).parse().unwrap());
    let listing = [
        web("10"),
        backup(volume("data").id(), "11"),
        backup(image, "10"),
        backup(BackupItem::Config, "10"),
        service("gitea"),
    ];
    let choice = choose(&listing, &BackupKind::ALL, &Wanted::all(), Which::Newest);
    let kinds: Vec<BackupKind> = choice.chosen.iter().map(|c| c.info.item.kind()).collect();
    assert_eq!(kinds, BackupKind::ALL);
    let named = choose(&listing, &[BackupKind::Config], &Wanted::names(["x"]), Which::Newest);
    assert_eq!(named.problems[0].kind, NameProblemKind::Malformed);
    let by_digits = choose(&listing, &[BackupKind::Image], &Wanted::names(["abab"]), Which::Newest);
    assert_eq!(by_digits.chosen.len(), 1);
}

fn service(name: &str) -> BackupInfo {
    backup(BackupItem::Service(name.parse().unwrap()), "10")
}

#[test]
fn services_are_chosen_by_name_and_pattern_whatever_the_project() {
    let listing = [service("gitea"), service("gitlab"), service("Mein Wiki"), web("10")];
    let take = |projects: Projects, names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        choose(&listing, &[BackupKind::Service], &Wanted { projects, names }, Which::Newest)
    };
    let paths = |choice: &Choice| -> Vec<String> {
        choice.chosen.iter().map(|chosen| chosen.info.item.path()).collect()
    };
    let lab = || Projects::Named(vec!["lab".parse().unwrap()]);
    assert_eq!(paths(&take(lab(), &[])), ["Mein Wiki", "gitea", "gitlab"]);
    assert_eq!(paths(&take(lab(), &["git*", "gitea"])), ["gitea", "gitlab"]);
    assert_eq!(paths(&take(Projects::All, &["Mein Wiki"])), ["Mein Wiki"]);
    let none = take(Projects::All, &["x*"]);
    assert_eq!(none.remarks, ["the repository has no backup of service that fits `x*`"]);
    let wrong = take(Projects::All, &["gitee", "[", "web"]);
    assert!(wrong.chosen.is_empty());
    let told: Vec<(NameProblemKind, &str)> =
        wrong.problems.iter().map(|problem| (problem.kind, problem.cause.as_str())).collect();
    assert_eq!(told[0].0, NameProblemKind::NotFound);
    assert_eq!(told[0].1, "the repository has no backup of service gitee; did you mean gitea?");
    assert_eq!(told[1].0, NameProblemKind::Malformed);
    assert_eq!(told[2].1, "the repository has no backup of service web");
}
