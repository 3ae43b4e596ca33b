//! What README says about a disaster: an instance comes back with restic, tar and incus alone.

use std::process::Command;

use stapes_testing::pair;

use crate::lab::run;
use crate::restic_lab::{PASSWORD, Vault};
use crate::restore_lab::{as_exported, fill};

/// The lines that README has for it.
fn lines() -> &'static str {
    let readme = include_str!("../../../../README.md");
    let block = readme.split("<!-- A test runs these lines. -->\n```sh\n").nth(1).unwrap();
    block.split("```").next().unwrap()
}

#[test]
fn an_instance_comes_back_with_restic_tar_and_incus_alone() {
    let vault = Vault::new();
    let here = vault.here();
    here.launch("web").unwrap();
    fill(&here.rootfs("local", "web"));
    here.snapshot("web", "before").unwrap();
    here.write("local", "web", "root/later", b"later").unwrap();
    vault.stapes(&["backup", "instances"]).complete();
    let before = as_exported(here.rootfs("local", "web"));
    let snapshot = as_exported(here.snapshot_rootfs("local", "web", "before"));
    here.state("web", "stop", true).unwrap();
    here.incus(&["delete", "web"]).unwrap();

    let place = vault.lab.dir().join("recovered").display().to_string();
    let script = lines()
        .replace("/mnt/nas/vault", vault.location())
        .replace("/tmp/web1", &place)
        .replace("/instances/default/web1", &format!("/instances/{}/web", vault.lab.name()))
        .replace(" web1\n", " web\n");
    let server = &pair().source;
    let mut shell = Command::new("bash");
    shell.args(["-euo", "pipefail", "-c", &script]);
    shell.env("RESTIC_PASSWORD", PASSWORD).env("HOME", vault.lab.dir());
    shell.env("INCUS_DIR", server.dir()).env("INCUS_CONF", server.dir().join("cli"));
    shell.env("INCUS_PROJECT", vault.lab.name());
    run(&mut shell).complete();

    stapes_testing::tree::assert_same(&before, &as_exported(here.rootfs("local", "web")));
    let restored = as_exported(here.snapshot_rootfs("local", "web", "before"));
    stapes_testing::tree::assert_same(&snapshot, &restored);
    here.state("web", "start", false).unwrap();
    assert_eq!(here.exec("web", &["cat", "/root/later"]).unwrap(), "later");
}
