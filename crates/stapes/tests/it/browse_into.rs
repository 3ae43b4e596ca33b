//! `stapes restore files --into`: files of a backup straight into instances of a real server.

use std::process::Command;

use stapes_testing::{Scope, pair};

use crate::lab::{Lab, Ran, run};
use crate::restic_shelf::ResticShelf;
use crate::rig::assert_says;

/// An instance `web` that has been backed up.
struct Kept {
    lab: Lab,
    shelf: ResticShelf,
}

/// What is under `/srv` of the instance: 200 files, a link, a name with a blank, one that is setuid.
const FILL: &str = "mkdir -p /srv/many/deep && cd /srv/many \
    && for n in $(seq 200); do echo file $n > deep/$n; done \
    && echo secret > key && chown 1000:1001 key && chmod 640 key && chmod 750 deep && chown 7:8 deep \
    && ln -s deep/1 link && echo blank > 'a b' && echo s > suid && chmod 4755 suid && mkfifo fifo";

/// Owner, mode, kind and content of everything there; times of change are not kept.
const SHOW: &str = "cd /srv/many && find . | sort | while read -r f; do \
    if [ -h \"$f\" ]; then echo \"$f -> $(readlink \"$f\")\"; \
    else stat -c '%n %F %u:%g %a' \"$f\"; [ -f \"$f\" ] && cat \"$f\"; fi; done; true";

impl Kept {
    fn new() -> Self {
        let kept = Self { lab: Lab::new(), shelf: ResticShelf::new() };
        kept.here().launch("web").unwrap();
        kept.sh(FILL);
        run(&mut kept.command(&["backup", "instances", "web"])).complete();
        kept
    }

    fn here(&self) -> Scope<'_> {
        self.lab.source()
    }

    fn sh(&self, script: &str) -> String {
        self.here().exec("web", &["sh", "-c", script]).unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.shelf.command(arguments);
        command.arg("--incus").arg(format!("unix://{}", pair().source.socket().display()));
        command.args(["--project", self.lab.name()]);
        command
    }

    fn restore(&self, arguments: &[&str]) -> Ran {
        run(&mut self.command(&[&["restore", "files", "web"], arguments].concat()))
    }
}

#[test]
fn deleted_files_come_back_into_a_running_and_into_a_stopped_instance() {
    let kept = Kept::new();
    let before = kept.sh(SHOW);
    assert_eq!(before.matches("\nfile ").count(), 200, "{before}");
    kept.sh("rm -r /srv/many/key /srv/many/deep");
    let ran = kept.restore(&["/srv/many/key", "/srv/many/deep", "--into", "web"]).complete();
    assert_says(&ran.stdout, &["201 files and 1 folder of instance"]);
    assert_says(&ran.stderr, &["the server sets no times"]);
    assert_eq!(kept.sh(SHOW), before);

    // The folder above goes, too, and with it what cannot be made again.
    kept.sh("rm -r /srv/many");
    kept.here().state("web", "stop", true).unwrap();
    let ran = kept.restore(&["/srv/many", "--into", "web"]).expect_code(3);
    assert_says(&ran.stderr, &["/srv/many/suid: it has the mode 0755 instead of 4755"]);
    assert_says(&ran.stderr, &["/srv/many/fifo: the server's interface for files makes no fifo"]);
    kept.here().state("web", "start", false).unwrap();
    let without = before.replace("./suid regular file 0:0 4755", "./suid regular file 0:0 755");
    let without = without.replace("./fifo fifo 0:0 644\n", "");
    assert_ne!(without, before);
    assert_eq!(kept.sh(SHOW), without);
}

#[test]
fn what_is_there_is_replaced_only_when_that_was_allowed() {
    let kept = Kept::new();
    kept.sh("cd /srv/many && echo mine > key && chmod 600 key && chown 0:0 key && rm deep/7 \
        && echo mine > deep/own && rm deep/8 && echo other > /etc/other && ln -s /etc/other deep/8");
    let paths = ["/srv/many/key", "/srv/many/deep", "--into", "web"];
    let ran = kept.restore(&paths).expect_code(1);
    assert_says(&ran.stderr, &["web:/srv/many/key exists already", "web:/srv/many/deep exists"]);
    let ran = kept.restore(&[&paths[..], &["--replace"]].concat()).expect_code(2);
    assert_says(&ran.stderr, &["web:/srv/many/key is replaced", "say -y"]);
    let dry = kept.restore(&[&paths[..], &["--replace", "--dry-run"]].concat()).complete();
    assert_says(&dry.stdout, &["/srv/many/key -> web:/srv/many/key  (exists)", "201 files"]);
    assert_eq!(kept.sh("cat /srv/many/key"), "mine\n");

    kept.restore(&[&paths[..], &["--replace", "-y"]].concat()).complete();
    let key = kept.sh("cd /srv/many && cat key && stat -c '%u:%g %a' key && cat deep/7 deep/own");
    assert_eq!(key, "secret\n1000:1001 640\nfile 7\nmine\n");
    // A link in the place of a file is replaced; what it points to is not written to.
    assert_eq!(kept.sh("cat /srv/many/deep/8 /etc/other"), "file 8\nother\n");

    let other = ["/srv/many/key", "--into", "web/opt/new/place"];
    kept.restore(&other).complete();
    assert_eq!(
        kept.sh("cat /opt/new/place/key && stat -c '%u:%g %a' /opt/new"),
        "secret\n0:0 755\n"
    );
    let ran = kept.restore(&["/srv/many/key", "--into", "nobody"]).expect_code(1);
    assert_says(&ran.stderr, &["looking at the instance nobody"]);
}
