//! `stapes prune` of repositories in the restic format: what goes, what stays whoever made it, and what
//! a crash leaves.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use serde_json::{Value, json};
use stapes_testing::storage_servers::RestServer;

use crate::lab::{Ran, binary, texts};
use crate::restic_shelf::{PASSWORD, ResticShelf, noise};
use crate::rig::{Background, PATIENCE, assert_says};
use crate::shelf::{INDEX, Shelf, copy, instance, tar, tree};

const DAY: i64 = 86_400;

fn prune(shelf: &ResticShelf, arguments: &[&str]) -> Ran {
    shelf.stapes(&[&["prune", "--output", "json"], arguments].concat())
}

/// Three backups of `web`, which have a file in common, so that packs are needed in part.
fn three() -> ResticShelf {
    let shelf = ResticShelf::new();
    for day in 0..3_u64 {
        let dir = "backup/container/";
        let export = tar(&[
            ("backup/", b""),
            ("backup/index.yaml", INDEX),
            (dir, b""),
            (&format!("{dir}data"), &noise(day + 1, 900_000)),
            (&format!("{dir}same"), &noise(77, 700_000)),
        ]);
        let second = i64::try_from(day).unwrap() * DAY;
        shelf.store(&instance("web"), second, &[("export.tar", &export)]);
    }
    shelf
}

/// Bytes of all packs.
fn data(shelf: &ResticShelf) -> u64 {
    shelf.files("data").iter().map(|path| fs::metadata(path).unwrap().len()).sum()
}

/// The report on the repository as a whole.
fn of_repository(ran: &Ran) -> Value {
    let report = ran.report();
    let mut items = report["items"].as_array().unwrap().iter();
    items.find(|item| item["item"] == json!({ "kind": "repository" })).unwrap().clone()
}

#[test]
fn removed_backups_set_their_data_free_and_all_others_stay_whole() {
    let shelf = three();
    fs::create_dir(shelf.dir().join("mine")).unwrap();
    fs::write(shelf.dir().join("mine/file"), noise(9, 300_000)).unwrap();
    let mine = shelf.dir().join("mine");
    shelf.restic(&["backup", mine.to_str().unwrap()]).complete();
    let before = data(&shelf);
    let ran = prune(&shelf, &["--keep", "1", "-y"]).complete();
    assert_eq!(ran.item("instance", "web")["result"], "thinned");
    let repository = of_repository(&ran);
    assert_eq!(
        (&repository["result"], &repository["outcome"]),
        (&json!("pruned"), &json!("complete"))
    );
    assert_says(texts(&repository["remarks"])[0], &["set free", "packs removed", "copied"]);
    // 2 × 900 KB are gone; that of others, what is common and the newest are not.
    let freed = before - data(&shelf);
    assert!((1_790_000..1_850_000).contains(&freed), "{freed}");
    shelf.restic_finds_it_sound();
    shelf.stapes(&["verify"]).complete();
    let out = shelf.dir().join("out");
    shelf
        .restic(&[
            "restore",
            "latest",
            "--path",
            mine.to_str().unwrap(),
            "--target",
            out.to_str().unwrap(),
        ])
        .complete();
    let restored = fs::read(out.join(mine.strip_prefix("/").unwrap()).join("file")).unwrap();
    assert_eq!(restored, noise(9, 300_000));
    // A second time nothing changes.
    let before = tree(&shelf.root());
    let ran = prune(&shelf, &["--keep", "1", "-y"]).complete();
    assert_eq!(of_repository(&ran)["result"], "unchanged");
    assert_eq!(tree(&shelf.root()), before);
}

#[test]
fn kept_data_stays_until_the_next_prune_although_nothing_else_goes_then() {
    let shelf = three();
    let before = shelf.files("data");
    let ran = prune(&shelf, &["--keep", "1", "-y", "--keep-data"]).complete();
    assert_eq!(shelf.listed().len(), 1);
    assert_eq!(shelf.files("data"), before);
    assert!(
        ran.report()["items"]
            .as_array()
            .unwrap()
            .iter()
            .all(|item| item["item"]["kind"] == "instance")
    );
    // What was removed can be found again.
    let found = shelf.restic(&["recover"]).complete();
    assert_says(&found.stdout, &["found 2 unreferenced roots"]);
    let recovered = shelf.restic(&["snapshots", "--json", "--tag", "recovered"]).complete().json();
    let id = recovered[0]["id"].as_str().unwrap().to_owned();
    shelf.restic(&["forget", &id]).complete();
    let bytes = data(&shelf);
    prune(&shelf, &["--keep", "1", "-y"]).complete();
    assert!(data(&shelf) < bytes - 1_700_000);
    shelf.restic_finds_it_sound();
    let dir = Shelf::new();
    let ran = dir.stapes(&["prune", "--keep", "1", "--keep-data"]).expect_code(2);
    assert_says(&ran.stderr, &["--keep-data", "is a directory", "nothing was changed"]);
}

#[test]
fn a_dry_run_tells_what_would_be_set_free_and_changes_nothing() {
    let shelf = three();
    let before = tree(&shelf.root());
    let ran = shelf.stapes(&["prune", "--keep", "1", "--dry-run", "--output", "json"]).complete();
    let plan = ran.json();
    let freed = plan["data"]["freed_bytes"].as_u64().unwrap();
    assert!((1_700_000..1_900_000).contains(&freed), "{freed}");
    let documented = include_str!("../../../../docs/json.md");
    for key in plan["data"].as_object().unwrap().keys() {
        assert!(documented.contains(&format!("`{key}`")), "{key} is not in docs/json.md");
    }
    let ran = shelf.stapes(&["prune", "--keep", "1", "--dry-run"]).complete();
    assert_says(
        &ran.stdout,
        &["keep 1: 2 of 3 backups to remove", "data: 1.7 MiB would be set free"],
    );
    assert_eq!(tree(&shelf.root()), before);
    // Nobody to ask is a refusal, also where only data would go.
    let ran = shelf.stapes(&["prune", "--keep", "9"]).expect_code(2);
    assert_says(&ran.stderr, &["data that no snapshot needs", "say -y to confirm"]);
    assert_eq!(tree(&shelf.root()), before);
}

#[test]
fn nothing_is_removed_from_the_data_of_a_damaged_repository() {
    let shelf = three();
    let mut packs = shelf.files("data");
    packs.sort_by_key(|pack| fs::metadata(pack).unwrap().len());
    fs::remove_file(packs.last().unwrap()).unwrap();
    let before = shelf.files("data");
    let ran = prune(&shelf, &["--keep", "2", "-y"]).expect_code(3);
    let repository = of_repository(&ran);
    assert_says(
        texts(&repository["causes"])[0],
        &["no backup was removed", "nothing is pruned", "`stapes verify`"],
    );
    assert_eq!(shelf.files("data"), before);
}

#[test]
fn a_repository_without_snapshots_is_no_damage_and_keeps_its_data() {
    let shelf = ResticShelf::new();
    let ran = prune(&shelf, &["--keep", "1", "-y"]).complete();
    assert_eq!(of_repository(&ran)["result"], "unchanged");
    shelf.instance("web", 0, 1);
    for snapshot in shelf.files("snapshots") {
        fs::remove_file(snapshot).unwrap();
    }
    let before = shelf.files("data");
    let ran = prune(&shelf, &["--keep", "1", "-y"]).expect_code(3);
    let repository = of_repository(&ran);
    assert_eq!(repository["outcome"], "skipped");
    assert_says(texts(&repository["causes"])[0], &["no snapshot is there at all"]);
    assert_eq!(shelf.files("data"), before);
}

/// A way to a server on which the first request that begins so waits, until the test ends.
struct Gate {
    address: SocketAddr,
    held: Receiver<()>,
}

impl Gate {
    fn new(upstream: SocketAddr, held: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, told) = sync_channel(1);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = TcpStream::connect(upstream).unwrap();
                let (from, to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                std::thread::spawn(move || pass(from, to));
                let tell = tell.clone();
                std::thread::spawn(move || pass_unless(client, server, held, &tell));
            }
        });
        Self { address, held: told }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    // Either side may be gone at any time.
    let _ended = std::io::copy(&mut from, &mut to);
    let _closed = to.shutdown(Shutdown::Write);
}

fn pass_unless(mut from: TcpStream, mut to: TcpStream, held: &str, tell: &SyncSender<()>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if buffer[..count].starts_with(held.as_bytes()) {
            let _first = tell.try_send(());
            // Nobody answers; the client is killed.
            return drop(from.read(&mut buffer));
        }
        if to.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

#[test]
fn killed_in_the_middle_of_a_prune_the_repository_is_sound_and_the_next_one_ends_it() {
    for held in ["DELETE /index/", "DELETE /data/"] {
        let shelf = three();
        let server = RestServer::start().unwrap();
        copy(&shelf.root(), &server.folder());
        let gate = Gate::new(server.address(), held);
        let target = |address: SocketAddr| {
            format!("restic:rest:http://{}:p%40ss%20word@{address}/", RestServer::USER)
        };
        let command = |address: SocketAddr| {
            let mut command = binary(shelf.dir());
            command.args(["prune", "--keep", "1", "-y", "--output", "json", "--target"]);
            command.arg(target(address)).arg("--state-dir").arg(shelf.dir().join("state"));
            command.env("RESTIC_PASSWORD", PASSWORD);
            command
        };
        let run = Background::start(&mut command(gate.address));
        if gate.held.recv_timeout(PATIENCE).is_err() {
            panic!("nobody came to {held}: {:?}", run.kill());
        }
        drop(run.kill());
        let sound = |folder: &Path| {
            let mut restic = shelf.restic_command(&["check", "--read-data", "--no-lock"]);
            let checked = crate::lab::run(restic.env("RESTIC_REPOSITORY", folder)).complete();
            assert!(checked.stdout.contains("no errors were found"), "{held}: {checked:?}");
        };
        sound(&server.folder());
        let ran = crate::lab::run(&mut command(server.address())).complete();
        assert_eq!(of_repository(&ran)["result"], "pruned", "{held}");
        sound(&server.folder());
        let left: u64 = crate::restic_shelf::files_below(&server.folder().join("data"))
            .iter()
            .map(|path| fs::metadata(path).unwrap().len())
            .sum();
        assert!(left < 1_650_000, "{held}: {left}");
    }
}
