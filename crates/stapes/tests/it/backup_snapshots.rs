//! Snapshots that appear and vanish while their item is being backed up: what the archive holds, what
//! the manifest says, and what comes back are the same.
//!
//! Runs are held before a request of theirs, so that each change is at a known moment.

use serde_json::Value;
use stapes_testing::{Launch, Scope, pair};

use crate::backup_lab::{Stored, leftovers};
use crate::lab::{Ran, texts};
use crate::restore_lab::{Keep, newest};
use crate::rig::Background;
use crate::turnstile::{Point, Turnstile};

/// What is backed up, by the words of the command line.
#[derive(Clone, Copy)]
enum What {
    Instance,
    Volume,
}

impl What {
    const BOTH: [Self; 2] = [Self::Instance, Self::Volume];

    /// On a pool, with a file, and with snapshots that are told apart by it.
    fn make(self, here: &Scope<'_>, pool: &str, snapshots: &[&str]) {
        match self {
            Self::Instance => {
                let launch = Launch { pool, start: false, ..Launch::default() };
                here.launch_with("web", launch).unwrap();
            }
            Self::Volume => here.volume(pool, "web").unwrap(),
        }
        for name in snapshots {
            self.snapshot(here, pool, name);
        }
    }

    fn snapshot(self, here: &Scope<'_>, pool: &str, name: &str) {
        match self {
            Self::Instance => {
                here.write(pool, "web", "root/when", name.as_bytes()).unwrap();
                here.snapshot("web", name).unwrap();
            }
            Self::Volume => {
                here.write_volume(pool, "web", "when", name.as_bytes()).unwrap();
                here.volume_snapshot(pool, "web", name).unwrap();
            }
        }
    }

    fn forget(self, here: &Scope<'_>, pool: &str, name: &str) {
        let path = match self {
            Self::Instance => format!("/1.0/instances/web/snapshots/{name}"),
            Self::Volume => {
                format!("/1.0/storage-pools/{pool}/volumes/custom/web/snapshots/{name}")
            }
        };
        here.api("DELETE", &path, None).unwrap();
    }

    fn words(self) -> &'static str {
        match self {
            Self::Instance => "instances",
            Self::Volume => "volumes",
        }
    }

    /// Before the request that makes the copy.
    fn is_copying(self) -> fn(&str) -> bool {
        match self {
            Self::Instance => |request| request == "POST /1.0/instances",
            Self::Volume => |request| {
                request.starts_with("POST /1.0/storage-pools/") && !request.ends_with("/backups")
            },
        }
    }

    fn stored(self, keep: &Keep, pool: &str) -> Stored {
        let project = keep.repository().join(self.words()).join(keep.project());
        let dir = match self {
            Self::Instance => newest(&project.join("web")),
            Self::Volume => newest(&project.join(pool).join("web")),
        };
        Stored { dir }
    }

    /// The snapshots whose files are in an archive, oldest first.
    fn in_archive(self, stored: &Stored) -> Vec<String> {
        let begin = match self {
            Self::Instance => "backup/snapshots/",
            Self::Volume => "backup/volume-snapshots/",
        };
        let mut names: Vec<String> = Vec::new();
        for member in stored.members() {
            let name = member.strip_prefix(begin).and_then(|rest| rest.split('/').next());
            if let Some(name) =
                name.filter(|name| !name.is_empty() && !names.iter().any(|known| known == name))
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        names
    }

    /// Restores beside and says which snapshots there are, each with what its file says.
    fn restored(self, keep: &Keep, pool: &str) -> Vec<(String, String)> {
        let here = keep.here();
        let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap();
        let names = match self {
            Self::Instance => {
                keep.restore(&["instance", "web", "--target-name", "copy"]).complete();
                here.snapshots("copy").unwrap()
            }
            Self::Volume => {
                let volume = format!("{pool}/web");
                keep.restore(&["volume", &volume, "--target-name", "copy"]).complete();
                here.volume_snapshots(pool, "copy").unwrap()
            }
        };
        let content = |name: String| {
            let when = match self {
                Self::Instance => here.snapshot_rootfs(pool, "copy", &name).join("root/when"),
                Self::Volume => here.volume_snapshot_path(pool, "copy", &name).join("when"),
            };
            let when = read(when);
            (name, when)
        };
        names.into_iter().map(content).collect()
    }
}

fn is_exporting(request: &str) -> bool {
    request.starts_with("POST ") && request.ends_with("/backups")
}

fn is_looking_at_the_copy(request: &str) -> bool {
    request.starts_with("GET ") && request.contains("/stapes-")
}

/// Backs up, and does something while the run is held before a request.
fn backed_up_while(
    keep: &Keep,
    what: What,
    is_it: fn(&str) -> bool,
    meanwhile: impl FnOnce(),
) -> Ran {
    let turnstile = Turnstile::start(keep.dir(), "held.sock", &pair().source);
    turnstile.hold(Point::Request, is_it);
    let mut command =
        keep.command_on(turnstile.socket(), &["backup", "--output", "json", what.words()]);
    let mut run = Background::start(command.args(["--project", keep.project()]));
    turnstile.wait_held(&mut run);
    meanwhile();
    turnstile.let_go();
    let ran = run.end();
    std::fs::remove_file(turnstile.socket()).unwrap();
    ran
}

/// Fails unless archive, manifest and a restore agree on these snapshots.
#[track_caller]
fn assert_agree(keep: &Keep, what: What, pool: &str, expected: &[&str]) {
    let stored = what.stored(keep, pool);
    stored.assert_sums();
    let manifest: Value = stored.manifest();
    assert_eq!(texts(&manifest["snapshots"]), expected, "the manifest");
    assert_eq!(what.in_archive(&stored), expected, "the archive");
    let restored = what.restored(keep, pool);
    let own: Vec<_> =
        expected.iter().map(|name| ((*name).to_owned(), (*name).to_owned())).collect();
    assert_eq!(restored, own, "the restore");
    assert_eq!(leftovers(&keep.here()), [""; 0]);
}

#[test]
fn a_snapshot_that_appears_before_the_copy_is_in_the_backup() {
    for what in What::BOTH {
        let keep = Keep::new();
        let here = keep.here();
        what.make(&here, "local", &["s1"]);
        let appears = || what.snapshot(&here, "local", "s2");
        backed_up_while(&keep, what, what.is_copying(), appears).complete();
        assert_agree(&keep, what, "local", &["s1", "s2"]);
    }
}

#[test]
fn a_snapshot_that_vanishes_before_the_copy_is_not_in_the_backup() {
    for what in What::BOTH {
        let keep = Keep::new();
        let here = keep.here();
        what.make(&here, "local", &["s1", "s2"]);
        let vanishes = || what.forget(&here, "local", "s1");
        backed_up_while(&keep, what, what.is_copying(), vanishes).complete();
        assert_agree(&keep, what, "local", &["s2"]);
    }
}

#[test]
fn what_happens_to_snapshots_after_the_copy_changes_nothing_of_the_backup() {
    for what in What::BOTH {
        let keep = Keep::new();
        let here = keep.here();
        what.make(&here, "local", &["s1", "s2"]);
        let both = || {
            what.forget(&here, "local", "s1");
            what.snapshot(&here, "local", "s3");
        };
        backed_up_while(&keep, what, is_exporting, both).complete();
        assert_agree(&keep, what, "local", &["s1", "s2"]);
    }
}

#[test]
fn one_that_appears_and_one_that_vanishes_around_the_copy_are_what_the_copy_holds() {
    for what in What::BOTH {
        let keep = Keep::new();
        let here = keep.here();
        what.make(&here, "local", &["s1", "s2"]);
        let turnstile = Turnstile::start(keep.dir(), "held.sock", &pair().source);
        turnstile.hold(Point::Request, what.is_copying());
        let mut command =
            keep.command_on(turnstile.socket(), &["backup", "--output", "json", what.words()]);
        let mut run = Background::start(command.args(["--project", keep.project()]));
        turnstile.wait_held(&mut run);
        what.snapshot(&here, "local", "s3");
        turnstile.hold(Point::Request, is_looking_at_the_copy);
        turnstile.let_go();
        turnstile.wait_held(&mut run);
        what.forget(&here, "local", "s1");
        turnstile.let_go();
        run.end().complete();
        assert_agree(&keep, what, "local", &["s1", "s2", "s3"]);
    }
}

#[test]
fn an_item_that_is_read_as_it_is_has_the_snapshots_that_its_archive_holds() {
    for what in What::BOTH {
        for (case, expected) in [("appears", &["s1", "s2"][..]), ("vanishes", &[])] {
            let keep = Keep::new();
            let here = keep.here();
            what.make(&here, "plain", &["s1"]);
            let change = || match case {
                "appears" => what.snapshot(&here, "plain", "s2"),
                _ => what.forget(&here, "plain", "s1"),
            };
            backed_up_while(&keep, what, is_exporting, change).complete();
            assert_agree(&keep, what, "plain", expected);
        }
    }
}
