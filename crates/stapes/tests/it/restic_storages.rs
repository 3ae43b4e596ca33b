//! The whole way of a container and a volume through a restic repository, on each storage: backed up
//! twice, listed, verified, restored beside, thinned; and stock restic is content after each step.

use stapes_testing::storage_servers::{RestServer, S3Server, SshServer};

use crate::restic_lab::{Vault, largest_pack};
use crate::restore_lab::{as_exported, fill};

fn the_whole_way(vault: &Vault) {
    let here = vault.here();
    here.launch("web").unwrap();
    fill(&here.rootfs("local", "web"));
    here.volume("local", "data").unwrap();
    here.write_volume("local", "data", "kept", b"first").unwrap();
    let stored = |ran: crate::lab::Ran| {
        let report = ran.complete().report();
        assert_eq!(
            (&report["outcome"], report["items"].as_array().unwrap().len()),
            (&"complete".into(), 3)
        );
    };
    stored(vault.json(&["backup", "all", "--images", "none"]));
    here.write_volume("local", "data", "kept", b"second").unwrap();
    here.write("local", "web", "root/later", b"later").unwrap();
    stored(vault.json(&["backup", "all", "--images", "none"]));
    vault.restic(&["check", "--read-data"]);

    let listed = vault.json(&["list", "all"]).complete().json();
    assert_eq!(listed["backups"].as_array().unwrap().len(), 6, "{listed:#}");
    assert_eq!(vault.json(&["verify", "all"]).complete().report()["outcome"], "complete");

    assert_eq!(vault.stapes(&["dump", "web", "/root/later"]).complete().stdout, "later");
    assert!(vault.stapes(&["ls", "web", "/root"]).complete().stdout.contains("later"));
    assert!(vault.stapes(&["find", "later"]).complete().stdout.contains("/root/later"));
    assert!(vault.stapes(&["diff", "web"]).complete().stdout.contains("+ /root/later"));
    let to = vault.lab.dir().join("files").display().to_string();
    vault.stapes(&["restore", "files", "web", "/root/later", "--to", &to, "-y"]).complete();
    assert_eq!(std::fs::read(vault.lab.dir().join("files/later")).unwrap(), b"later");

    vault.stapes(&["restore", "instance", "web", "--target-name", "again", "-y"]).complete();
    let (web, again) = (here.rootfs("local", "web"), here.rootfs("local", "again"));
    stapes_testing::tree::assert_same(&as_exported(web), &as_exported(again));
    let oldest = listed["backups"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|backup| backup["item"]["kind"] == "volume")
        .map(|backup| backup["version"].as_str().unwrap().to_owned())
        .min()
        .unwrap();
    let restore = ["restore", "volume", "local/data", "--version", &oldest, "--replace", "-y"];
    vault.stapes(&restore).complete();
    let kept = here.volume_path("local", "data").join("kept");
    assert_eq!(std::fs::read(kept).unwrap(), b"first");

    vault.stapes(&["prune", "all", "--keep", "1", "-y"]).complete();
    vault.restic(&["check", "--read-data"]);
    let listed = vault.json(&["list", "all"]).complete().json();
    assert_eq!(listed["backups"].as_array().unwrap().len(), 3, "{listed:#}");
    assert_eq!(vault.restic(&["list", "locks"]), "");
}

#[test]
fn a_folder_keeps_a_repository() {
    the_whole_way(&Vault::new());
}

#[test]
fn a_server_of_sftp_keeps_a_repository() {
    let server = SshServer::start().unwrap();
    the_whole_way(&Vault::over_sftp(&server));
}

#[test]
fn a_bucket_keeps_a_repository() {
    let server = S3Server::start().unwrap();
    the_whole_way(&Vault::in_s3(&server));
}

#[test]
fn a_server_of_the_rest_protocol_keeps_a_repository() {
    let server = RestServer::start().unwrap();
    the_whole_way(&Vault::over_rest(&server));
}

/// What is new is read once, while it is sent; so this is where damage has to show.
#[test]
fn nothing_is_made_of_a_damaged_backup() {
    let vault = Vault::new();
    let here = vault.here();
    here.launch("web").unwrap();
    fill(&here.rootfs("local", "web"));
    vault.stapes(&["backup", "instances"]).complete();
    let largest = largest_pack(std::path::Path::new(vault.location()));
    let mut pack = std::fs::read(&largest).unwrap();
    let middle = pack.len() / 2;
    pack[middle] ^= 1;
    std::fs::write(&largest, pack).unwrap();

    let restore = ["restore", "instance", "web", "--target-name", "again", "-y"];
    let ran = vault.json(&restore).expect_code(1);
    assert!(ran.item("instance", "again")["causes"].to_string().contains("damaged"), "{ran:?}");
    assert!(here.api("GET", "/1.0/instances/again", None).is_err());
    // And what is there is not touched.
    let ran = vault.json(&["restore", "instance", "web", "--replace", "-y"]).expect_code(1);
    let causes = ran.item("instance", "web")["causes"].to_string();
    assert!(causes.contains("damaged") && causes.contains("nothing was touched"), "{causes}");
    assert_eq!(crate::rig::status(&here, "web"), "Running");
}
