//! What people see on standard output of backups and restores, word for word.
//!
//! Sizes, times and versions differ from run to run and are written as words; columns are two blanks
//! apart. What `list` and `prune` print is beside their other tests.

use std::process::Command;

use stapes_testing::{IncusServer, Scope, ServerOptions};

use crate::lab::{binary, run};
use crate::restore_lab::{Keep, newest};

fn plain_line(line: &str) -> String {
    let columns = line.trim_end().split("  ").filter(|column| !column.is_empty());
    let columns: Vec<String> = columns.map(|column| plain_words(column.trim())).collect();
    columns.join("  ")
}

fn plain_words(text: &str) -> String {
    let words: Vec<&str> = text.split(' ').collect();
    let mut plain: Vec<String> = Vec::new();
    let mut at = 0;
    while let Some(word) = words.get(at) {
        let unit = words.get(at + 1).map(|unit| unit.trim_end_matches([',', ';', ')']));
        let is_number = word.parse::<f64>().is_ok();
        let kind = match unit {
            Some("B" | "KiB" | "MiB" | "GiB") if is_number => Some("SIZE"),
            Some("s" | "ms" | "min") if is_number => Some("TIME"),
            _ => None,
        };
        if let Some(kind) = kind {
            let rest = words[at + 1].trim_start_matches(|c: char| c.is_ascii_alphabetic());
            plain.push(format!("{kind}{rest}"));
            at += 2;
            continue;
        }
        let version = word.trim_end_matches(':');
        let is_version = version.len() == 16 && version.ends_with('Z') && version.starts_with("20");
        plain.push(if is_version { word.replace(version, "VERSION") } else { (*word).to_owned() });
        at += 1;
    }
    plain.join(" ")
}

/// A server with an instance that runs, one that does not, and a volume on each kind of pool.
///
/// Its own, because columns are as wide as the names of projects.
fn furnished() -> IncusServer {
    let server = IncusServer::start_with(&ServerOptions::lane()).unwrap();
    let scope = Scope::new(&server, "default");
    scope.launch("web").unwrap();
    scope.snapshot("web", "s1").unwrap();
    scope.create("cold").unwrap();
    scope.volume("local", "data").unwrap();
    scope.volume("plain", "old").unwrap();
    server
}

/// What a command prints that ends with this code, with words for what differs from run to run.
#[track_caller]
fn printed(command: &mut Command, code: i32) -> String {
    let ran = run(command).expect_code(code);
    ran.stdout.lines().map(plain_line).collect::<Vec<_>>().join("\n")
}

#[test]
fn what_people_see_of_backups_and_restores() {
    let server = furnished();
    let keep = Keep::new();
    let stapes =
        |arguments: &[&str], code| printed(&mut keep.command_on(&server.socket(), arguments), code);

    let dry = stapes(&["backup", "all", "--images", "none", "--dry-run"], 0);
    insta::assert_snapshot!(dry, @r"
    backup of local: plan of a dry run, nothing is changed

    ITEM  READ FROM  HOLDS
    server configuration  -  -
    volume local/data  clone  -
    volume plain/old  stopped  -
    instance cold  clone  -
    instance web  clone  freezes web for a moment

    5 items to back up
    ");
    let volumes = stapes(&["backup", "volumes", "local/data", "local/gone"], 1);
    insta::assert_snapshot!(volumes, @r"
    ITEM  OUTCOME  RESULT  VERSION  READ  STORED  TIME
    volume local/gone  failed  -  -  -  -  TIME
    volume local/data  complete  stored  VERSION  SIZE  SIZE  TIME

    failed: volume local/gone: server local has no volume local/gone in project default
    backup: failed in TIME (1 complete, 1 failed)
    ");
    let instances = stapes(&["backup", "instances", "--parallel", "1"], 0);
    insta::assert_snapshot!(instances, @r"
    ITEM  OUTCOME  RESULT  VERSION  READ  STORED  TIME
    instance cold  complete  stored  VERSION  SIZE  SIZE  TIME
    instance web  complete  stored  VERSION  SIZE  SIZE  TIME

    backup: complete in TIME (2 complete)
    ");

    let scope = Scope::new(&server, "default");
    scope.api("DELETE", "/1.0/instances/cold", None).unwrap();
    scope.snapshot("web", "s2").unwrap();
    let dry = stapes(&["restore", "instances", "--replace", "--dry-run"], 0);
    insta::assert_snapshot!(dry, @r"
    restore to local

    BACKUP  VERSION  SIZE  ACTION  TARGET  STOPS
    instance cold  VERSION  SIZE  create  instance cold on local  -
    instance web  VERSION  SIZE  replace  instance web on local  web

    2 backups: 1 to create, 1 to replace
    ");
    let conflict = stapes(&["restore", "instances", "--dry-run"], 1);
    insta::assert_snapshot!(conflict, @r"
    restore to local

    BACKUP  VERSION  SIZE  ACTION  TARGET  STOPS
    instance cold  VERSION  SIZE  create  instance cold on local  -
    instance web  VERSION  SIZE  conflict  instance web on local  -

    conflict: instance web: instance web exists; --replace replaces it, --skip-existing leaves it, --target-name restores beside it
    note: instance web: it ran when it was backed up, and stays stopped without --start
    2 backups: 1 to create, 1 in conflict
    ");
    let restored = stapes(&["restore", "-y", "instances", "--replace"], 0);
    insta::assert_snapshot!(restored, @r"
    ITEM  OUTCOME  RESULT  VERSION  READ  STORED  TIME
    instance cold  complete  created  VERSION  SIZE  SIZE  TIME
    instance web  complete  replaced  VERSION  SIZE  SIZE  TIME

    restore: complete in TIME (2 complete)
    ");

    damaged(&keep);
}

/// What a verification prints of the same repository, before and after a file has gone.
fn damaged(keep: &Keep) {
    let verify = |code| {
        let mut command = binary(keep.dir());
        command.args(["verify", "all"]).arg("--state-dir").arg(keep.dir().join("state"));
        let target = format!("dir:{}", keep.repository().display());
        printed(command.arg("--target").arg(target), code)
    };
    insta::assert_snapshot!(verify(0), @r"
    ITEM  OUTCOME  RESULT  VERSION  READ  STORED  TIME
    volume local/data  complete  sound  VERSION  SIZE  SIZE  TIME
    instance cold  complete  sound  VERSION  SIZE  SIZE  TIME
    instance web  complete  sound  VERSION  SIZE  SIZE  TIME

    verify: complete in TIME (3 complete)
    ");
    let cold = newest(&keep.repository().join("instances/default/cold"));
    std::fs::remove_file(cold.join("checksums.txt")).unwrap();
    insta::assert_snapshot!(verify(3), @r"
    ITEM  OUTCOME  RESULT  VERSION  READ  STORED  TIME
    volume local/data  complete  sound  VERSION  SIZE  SIZE  TIME
    instance cold  incomplete  damaged  VERSION  SIZE  SIZE  TIME
    instance web  complete  sound  VERSION  SIZE  SIZE  TIME

    incomplete: instance cold: backup VERSION: it has no checksums.txt
    verify: incomplete in TIME (2 complete, 1 incomplete)
    ");
}
