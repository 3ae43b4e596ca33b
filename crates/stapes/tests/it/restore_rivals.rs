//! Two restores onto one name at once: one wins, the other says why, and what is there is whole.
//!
//! Runs are held before the request that matters, so that both have looked before either acts. Two
//! state directories are two machines, which no lock keeps apart.

use stapes_testing::pair;

use crate::lab::binary;
use crate::restore_lab::{Keep, instance_record, versions};
use crate::rig::{Background, assert_says, causes, is_idle, next_second, wait_until};
use crate::turnstile::{Point, Turnstile};

/// A machine that restores: a state directory, and a way to the server on which its requests wait.
struct Machine<'a> {
    keep: &'a Keep,
    state: String,
    way: Turnstile,
}

impl<'a> Machine<'a> {
    /// With a state directory of this name, which two may share.
    fn new(keep: &'a Keep, state: &str, socket: &str) -> Self {
        let way = Turnstile::start(keep.dir(), socket, &pair().source);
        Self { keep, state: state.to_owned(), way }
    }

    /// `stapes restore` on this machine.
    fn start(&self, what: &[&str]) -> Background {
        let arguments = [&["restore", "-y", "--output", "json"], what].concat();
        let mut command = binary(self.keep.dir());
        command.arg("--state-dir").arg(self.keep.dir().join(&self.state)).args(arguments);
        command.arg("--target").arg(format!("dir:{}", self.keep.repository().display()));
        command.arg("--incus").arg(format!("unix://{}", self.way.socket().display()));
        Background::start(command.args(["--project", self.keep.project()]))
    }

    /// The same, held at a point.
    fn held(
        &self,
        what: &[&str],
        point: Point,
        is_it: impl FnMut(&str) -> bool + Send + 'static,
    ) -> Background {
        self.way.hold(point, is_it);
        let mut run = self.start(what);
        self.way.wait_held(&mut run);
        run
    }
}

/// The names of the two versions of an item, older first.
fn two_versions(item: &std::path::Path) -> [String; 2] {
    let name = |path: &std::path::PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    let names: Vec<String> = versions(item).iter().map(name).collect();
    names.try_into().unwrap()
}

fn is_import(request: &str) -> bool {
    request == "POST /1.0/instances"
}

fn is_volume_import(request: &str) -> bool {
    request == "POST /1.0/storage-pools/local/volumes/custom"
}

#[test]
fn of_two_machines_that_have_sent_one_instance_the_first_wins_and_the_other_changes_nothing() {
    let keep = Keep::new();
    let here = keep.here();
    here.create("web").unwrap();
    for n in ["1", "2"] {
        here.write("local", "web", "root/n", n.as_bytes()).unwrap();
        keep.backup(&["instances"]);
        next_second();
    }
    let [old, new] = two_versions(keep.instance_dir("web").parent().unwrap());
    here.api("DELETE", "/1.0/instances/web", None).unwrap();
    let (one, two) = (Machine::new(&keep, "one", "1.sock"), Machine::new(&keep, "two", "2.sock"));
    // All of both uploads has been sent before the server has the end of either.
    let first = one.held(&["instance", "web", "--version", &old], Point::LastBytes, is_import);
    let second = two.held(&["instance", "web", "--version", &new], Point::LastBytes, is_import);
    one.way.let_go();
    first.end().complete();
    let won = instance_record(&here, "web");
    two.way.let_go();
    let ran = second.end().expect_code(1);
    assert_says(&causes(&ran, "web"), &["already exists"]);
    assert_eq!(here.instances().unwrap(), ["web"]);
    assert_eq!(instance_record(&here, "web"), won);
    let file = here.rootfs("local", "web").join("root/n");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "1");
    here.state("web", "start", false).unwrap();
}

#[test]
fn of_two_machines_that_have_sent_one_volume_the_first_wins_and_the_other_changes_nothing() {
    let keep = Keep::new();
    let here = keep.here();
    here.volume("local", "data").unwrap();
    for n in ["1", "2"] {
        here.write_volume("local", "data", "n", n.as_bytes()).unwrap();
        keep.backup(&["volumes"]);
        next_second();
    }
    let item = keep.repository().join("volumes").join(keep.project()).join("local/data");
    let [old, new] = two_versions(&item);
    here.api("DELETE", "/1.0/storage-pools/local/volumes/custom/data", None).unwrap();
    let (one, two) = (Machine::new(&keep, "one", "1.sock"), Machine::new(&keep, "two", "2.sock"));
    let restore = |version| ["volume", "local/data", "--version", version];
    let first = one.held(&restore(&old), Point::LastBytes, is_volume_import);
    let second = two.held(&restore(&new), Point::LastBytes, is_volume_import);
    one.way.let_go();
    first.end().complete();
    two.way.let_go();
    let ran = second.end().expect_code(1);
    assert_says(&causes(&ran, "data"), &["already exists"]);
    assert_eq!(here.volumes("local").unwrap(), ["data"]);
    let file = here.volume_path("local", "data").join("n");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "1");
}

#[test]
fn on_one_machine_the_second_is_told_who_is_at_it_and_leaves_it() {
    let keep = Keep::new();
    let here = keep.here();
    here.create("web").unwrap();
    keep.backup(&["instances"]);
    here.api("DELETE", "/1.0/instances/web", None).unwrap();
    let (one, two) = (Machine::new(&keep, "one", "1.sock"), Machine::new(&keep, "one", "2.sock"));
    let first = one.held(&["instance", "web"], Point::Request, is_import);
    let pid = first.pid().to_string();
    let ran = two.start(&["instance", "web"]).end().expect_code(3);
    assert_eq!(ran.item("instance", "web")["outcome"], "skipped");
    assert_says(&causes(&ran, "web"), &["restore (process ", &pid, "left to that run"]);
    one.way.let_go();
    first.end().complete();
    assert_eq!(here.instances().unwrap(), ["web"]);
    here.state("web", "start", false).unwrap();
}

#[test]
fn what_another_machine_makes_in_the_middle_of_a_replacement_stays_and_so_does_the_old_one() {
    let keep = Keep::new();
    let here = keep.here();
    here.create("web").unwrap();
    here.write("local", "web", "root/n", b"stored").unwrap();
    keep.backup(&["instances"]);
    here.write("local", "web", "root/n", b"old").unwrap();
    let (one, two) = (Machine::new(&keep, "one", "1.sock"), Machine::new(&keep, "two", "2.sock"));
    // The old one is aside, and the name is free for a moment.
    let is_taking_its_place = |request: &str| request.starts_with("POST /1.0/instances/stapes-");
    let first = one.held(&["instance", "web", "--replace"], Point::Request, is_taking_its_place);
    two.start(&["instance", "web"]).end().complete();
    let made = instance_record(&here, "web");
    one.way.let_go();
    let ran = first.end().expect_code(1);
    let said = causes(&ran, "web");
    assert_says(&said, &["there is another instance", "the one from before is kept as"]);
    assert_eq!(instance_record(&here, "web"), made);
    let read = |name: &str| {
        let file = here.rootfs("local", name).join("root/n");
        std::fs::read_to_string(file).unwrap()
    };
    assert_eq!(read("web"), "stored");
    let all = here.instances().unwrap();
    let kept: Vec<&String> = all.iter().filter(|name| *name != "web").collect();
    assert_eq!(kept.len(), 1, "{all:?}");
    assert_eq!(read(kept[0]), "old");
    assert_says(&said, &[kept[0]]);
    // When the name is free again, the next start of that machine brings the old one back.
    wait_until("the server is idle", || is_idle(&pair().source, keep.project()));
    here.api("DELETE", "/1.0/instances/web", None).unwrap();
    one.start(&["instance", "web", "--skip-existing"]).end().complete();
    assert_eq!(here.instances().unwrap(), ["web"]);
    assert_eq!(read("web"), "old");
}
