//! How a restic repository and its password are given on the command line: what is wrong with them is
//! told before anything is touched, what is typed is not shown, and no password is ever printed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lab::{Ran, binary, run};
use crate::rig::assert_says;

const TARGET: [&str; 4] = ["list", "all", "--target", "restic:/nowhere/restic"];

fn list(home: &Path) -> Command {
    let mut command = binary(home);
    command.args(TARGET);
    command
}

fn written(home: &Path, name: &str, mode: u32) -> PathBuf {
    let path = home.join(name);
    fs::write(&path, "hunter2\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

#[test]
fn without_a_password_and_a_terminal_it_is_said_how_to_give_one() {
    let home = tempfile::tempdir().unwrap();
    let ran = run(&mut list(home.path())).expect_code(2);
    assert_eq!(ran.stdout, "");
    insta::assert_snapshot!(ran.stderr, @r"
    error: restic:/nowhere/restic needs a password, none is given, and there is nobody to ask
      help: say --password-file FILE or --password-command COMMAND, set RESTIC_PASSWORD_FILE, RESTIC_PASSWORD_COMMAND or RESTIC_PASSWORD, or write `password:` in the configuration; nothing was changed
    ");
    let empty = run(list(home.path()).env("RESTIC_PASSWORD", "")).expect_code(2);
    assert_eq!(empty.stderr, ran.stderr);
    // The same for one that is to be made.
    let init = run(binary(home.path()).args(["init", "--target", "restic:new"])).expect_code(2);
    assert_says(&init.stderr, &["/new needs a password, none is given"]);
    assert!(!home.path().join("new").exists());
}

#[test]
fn two_ways_to_say_a_password_are_a_mistake_and_so_is_one_for_a_directory() {
    let home = tempfile::tempdir().unwrap();
    let ran = run(list(home.path())
        .env("RESTIC_PASSWORD_FILE", "/key")
        .env("RESTIC_PASSWORD_COMMAND", "pass")
        .env("RESTIC_PASSWORD", "hunter2"));
    insta::assert_snapshot!(ran.expect_code(2).stderr, @r"
    error: RESTIC_PASSWORD_FILE and RESTIC_PASSWORD_COMMAND are both set
      help: unset one of them; nothing was changed
    ");
    let options = ["--password-file", "/key", "--password-command", "pass"];
    let ran = run(list(home.path()).args(options)).expect_code(2);
    assert_says(&ran.stderr, &["--password-file", "cannot be used with", "--password-command"]);

    let arguments = ["list", "all", "--target", "dir:/nowhere", "--password-file", "/key"];
    let ran = run(binary(home.path()).args(arguments)).expect_code(2);
    insta::assert_snapshot!(ran.stderr, @r"
    error: --password-file: dir:/nowhere is a directory, which has no password
      help: directories are not encrypted yet; a restic repository is restic:LOCATION
    ");
}

#[test]
fn an_address_that_is_none_is_told_without_its_password() {
    let home = tempfile::tempdir().unwrap();
    let listed = |target: &str| {
        run(binary(home.path()).args(["list", "all", "--target", target])).expect_code(2).stderr
    };
    insta::assert_snapshot!(listed("restic:rclone:nas:restic"), @r"error: --target: `restic:rclone:nas:restic` is not the address of a repository: restic repositories work in a folder, over sftp:, s3: and rest:; a folder of this name is local:rclone:…");
    insta::assert_snapshot!(listed("restic:rst:https://me:hunter2@host/"), @"error: --target: `restic:rst:https://me@host/` is not the address of a repository: restic repositories work in a folder, over sftp:, s3: and rest:; did you mean rest:?");
    let help = run(binary(home.path())
        .args(["list", "--help"])
        .env("STAPES_TARGET", "restic:rest:https://me:hunter2@host/"));
    let help = help.complete().stdout;
    assert_says(&help, &["--password-file <FILE>", "--password-command <COMMAND>"]);
    assert!(!help.contains("hunter2"), "{help}");
}

#[test]
fn a_file_with_a_secret_that_others_may_read_is_warned_about() {
    let home = tempfile::tempdir().unwrap();
    let (open, closed) = (written(home.path(), "open", 0o644), written(home.path(), "own", 0o600));
    let warned = |ran: Ran| {
        assert!(!ran.stderr.contains("needs a password"), "{}", ran.stderr);
        let warnings = ran.stderr.lines().filter(|line| line.starts_with("warning: others"));
        warnings.map(|line| line.replace(&home.path().display().to_string(), "~")).collect()
    };
    let with = |path: &Path| {
        let mut command = list(home.path());
        command.arg("--password-file").arg(path);
        command
    };
    let found: Vec<String> = warned(run(&mut with(&open)));
    assert_eq!(found.len(), 1, "{found:?}");
    insta::assert_snapshot!(found[0], @r"warning: others on this machine may read or change ~/open, which holds the password of restic:/nowhere/restic; `chmod 600 ~/open` stops that");
    let from_environment = warned(run(list(home.path()).env("RESTIC_PASSWORD_FILE", &open)));
    assert_eq!(from_environment, found);
    let none: [String; 0] = [];
    assert_eq!(warned(run(&mut with(&closed))), none);
    assert_eq!(warned(run(with(&open).arg("-q"))), none);

    fs::write(
        home.path().join("stapes.yaml"),
        "repositories:\n  attic:\n    url: restic:attic\n    password: { file: own }\n    \
         variables: { RESTIC_REST_PASSWORD: { file: open } }\n",
    )
    .unwrap();
    let named = |option: &[&str]| {
        run(binary(home.path()).args(["list", "all", "--target", "attic"]).args(option))
    };
    let found: Vec<String> = warned(named(&[]));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_says(&found[0], &["~/open, which holds RESTIC_REST_PASSWORD of attic"]);
    let path = open.display().to_string();
    assert_eq!(warned(named(&["--password-file", &path])).len(), 2);
}

/// Runs the command on a terminal of its own, types each answer when its question has come, and prints
/// what was shown, the exit code, and whether the terminal echoes afterwards.
const TERMINAL: &str = r#"
import os, pty, select, sys, termios
answers = sys.argv[1].encode().decode("unicode_escape").encode("latin-1").split(b"|")
ours, theirs = pty.openpty()
child = os.fork()
if child == 0:
    os.setsid()
    for fd in (0, 1, 2):
        os.dup2(theirs, fd)
    os.execv(sys.argv[2], sys.argv[2:])
shown, asked, code = b"", 0, None
while code is None:
    while select.select([ours], [], [], 0.05)[0]:
        shown += os.read(ours, 4096)
        while answers and shown.count(b": ", asked) and shown.endswith(b": "):
            asked = len(shown)
            os.write(ours, answers.pop(0))
    ended, status = os.waitpid(child, os.WNOHANG)
    code = os.waitstatus_to_exitcode(status) if ended else None
while select.select([ours], [], [], 0)[0]:
    shown += os.read(ours, 4096)
modes = termios.tcgetattr(theirs)[3]
echo = bool(modes & termios.ECHO) and bool(modes & termios.ICANON) and bool(modes & termios.ISIG)
print(shown.decode().replace("\r\n", "\n"), f"code {code}, answers left {len(answers)}, echo {echo}", sep="")
"#;

fn on_terminal(home: &Path, answers: &str, arguments: &[&str]) -> String {
    let mut command = Command::new("timeout");
    command.args(["60", "python3", "-c", TERMINAL, answers, env!("CARGO_BIN_EXE_stapes")]);
    command.args(arguments).env_clear().env("HOME", home).env("PATH", "/usr/bin:/bin");
    // The blank behind each question.
    run(command.current_dir(home)).complete().stdout.replace(": \n", ":\n")
}

#[test]
fn a_terminal_is_asked_does_not_show_what_is_typed_and_is_left_as_it_was() {
    let home = tempfile::tempdir().unwrap();
    let shown = on_terminal(home.path(), r"hunter2\n", &TARGET);
    assert!(shown.starts_with("password of restic:/nowhere/restic:\n"), "{shown}");
    assert!(shown.contains("answers left 0, echo True") && !shown.contains("hunter"), "{shown}");
    assert!(!shown.contains("needs a password"), "{shown}");

    let init = ["init", "--target", "restic:/nowhere/restic"];
    insta::assert_snapshot!(on_terminal(home.path(), r"\x03", &TARGET), @r"
    password of restic:/nowhere/restic:
    error: interrupted
    code 130, answers left 0, echo True
    ");
    insta::assert_snapshot!(on_terminal(home.path(), r"\x04", &TARGET), @r"
    password of restic:/nowhere/restic:
    error: no password was typed; nothing was changed
    code 2, answers left 0, echo True
    ");
    insta::assert_snapshot!(on_terminal(home.path(), r"\n", &TARGET), @r"
    password of restic:/nowhere/restic:
    error: the password is empty; nothing was changed
    code 2, answers left 0, echo True
    ");
    insta::assert_snapshot!(on_terminal(home.path(), r"hunter2\n|hunter3\n", &init), @r"
    new password of restic:/nowhere/restic:
    once more:
    error: the two passwords differ; nothing was changed
    code 2, answers left 0, echo True
    ");
    let twice = on_terminal(home.path(), r"hunter2\n|hunter2\n", &init);
    assert_says(&twice, &["once more:\n", "answers left 0, echo True"]);
    assert!(!twice.contains("differ") && !twice.contains("hunter"), "{twice}");
}

#[test]
fn a_new_password_is_asked_for_twice_when_the_old_one_has_opened() {
    let home = tempfile::tempdir().unwrap();
    let with = |answers: &str, verb: &[&str]| {
        let shown =
            on_terminal(home.path(), answers, &[verb, &["--target", "restic:repo"]].concat());
        assert!(!shown.contains("hunter"), "{shown}");
        shown.replace(&home.path().display().to_string(), "~")
    };
    let made = with(r"hunter1\n|hunter1\n", &["init"]);
    assert_says(&made, &["~/repo is a repository now", "keep that, and this location", "code 0"]);
    // What does not open is told before anything else is asked.
    let wrong = with(r"hunter2\n", &["key", "passwd"]);
    assert_says(&wrong, &["it came from the terminal", "code 12, answers left 0"]);
    assert!(!wrong.contains("new password of"), "{wrong}");
    let differ = with(r"hunter1\n|hunter2\n|hunter3\n", &["key", "passwd"]);
    assert_says(&differ, &["the two passwords differ; nothing was changed", "code 2"]);
    let changed = with(r"hunter1\n|hunter2\n|hunter2\n", &["key", "passwd"]);
    let asked = "password of restic:~/repo:\nnew password of restic:~/repo:\nonce more:\nthe key ";
    assert!(changed.starts_with(asked), "{changed}");
    assert_says(&changed, &["is in the place of", "code 0, answers left 0, echo True"]);
    assert_says(&with(r"hunter1\n", &["key", "list"]), &["code 12"]);
    assert_says(&with(r"hunter2\n", &["key", "list"]), &["  yes\n", "code 0"]);
}
