//! `stapes restore` of what others made: exports of the server itself, and the layout of incus-backup;
//! and what it refuses of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::json;
use stapes_testing::Scope;

use crate::lab::{Ran, assert_same_state, state};
use crate::restore_lab::{Keep, as_exported, assert_same_files, fill, instance_record, python};
use crate::rig::{assert_says, causes};

/// A container and a volume with everything, exported by the server's own program.
fn exported(here: &Scope<'_>, dir: &Path) {
    here.create("web").unwrap();
    fill(&here.rootfs("local", "web"));
    here.snapshot("web", "s1").unwrap();
    here.write("local", "web", "root/later", b"later").unwrap();
    here.volume("local", "data").unwrap();
    fill(&here.volume_path("local", "data"));
    here.volume_snapshot("local", "data", "v1").unwrap();
    let export = |arguments: &[&str], file: &str| export(here, arguments, &dir.join(file));
    export(&["export", "web"], "gzip.tar.gz");
    export(&["export", "web", "--compression", "none"], "plain.tar");
    export(&["export", "web", "--optimized-storage"], "optimized.tar.gz");
    export(&["storage", "volume", "export", "local", "data"], "volume.tar.gz");
}

fn export(here: &Scope<'_>, arguments: &[&str], file: &Path) {
    // Incus 6.0 calls the exports of all its clients `backup0`, also those of instances of the same
    // name in other projects.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _lock = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    here.incus(&[arguments, &[file.to_str().unwrap()]].concat()).unwrap();
}

fn from(keep: &Keep, what: &[&str], archive: &Path) -> Ran {
    keep.restore(&[what, &["--archive", archive.to_str().unwrap()]].concat())
}

/// The name of an instance of the test's project, as one writes it for an archive.
fn named(keep: &Keep, name: &str) -> String {
    format!("{}:{name}", keep.project())
}

#[test]
fn exports_of_the_server_itself_are_restored_with_their_snapshots() {
    let keep = Keep::new();
    let here = keep.here();
    exported(&here, keep.dir());
    let files = [
        as_exported(here.rootfs("local", "web")),
        as_exported(here.snapshot_rootfs("local", "web", "s1")),
    ];
    let record = instance_record(&here, "web");
    for archive in ["gzip.tar.gz", "plain.tar", "optimized.tar.gz"] {
        let archive = keep.dir().join(archive);
        let refused = from(&keep, &["instance", &named(&keep, "web")], &archive).expect_code(1);
        assert_says(&refused.stderr, &["web exists", "nothing was changed"]);
        from(&keep, &["instance", &named(&keep, "web"), "--replace"], &archive).complete();
        assert_eq!(instance_record(&here, "web"), record, "{}", archive.display());
        if archive.ends_with("optimized.tar.gz") {
            // The driver's own format loses nothing.
            continue;
        }
        assert_same_files(&files[0], &as_exported(here.rootfs("local", "web")));
        assert_same_files(&files[1], &as_exported(here.snapshot_rootfs("local", "web", "s1")));
    }
    let copy = ["instance", &named(&keep, "web"), "--target-name", "copy"];
    from(&keep, &copy, &keep.dir().join("optimized.tar.gz")).complete();
    here.state("copy", "start", false).unwrap();
    assert_eq!(here.exec("copy", &["cat", "/root/later"]).unwrap(), "later");
    let onto_dir = ["instance", &named(&keep, "other"), "--pool-map", "local=plain"];
    let refused = from(&keep, &onto_dir, &keep.dir().join("optimized.tar.gz")).expect_code(1);
    assert_says(
        &refused.stderr,
        &["in the format of btrfs, and pool plain is dir", "nothing was changed"],
    );
    from(&keep, &onto_dir, &keep.dir().join("gzip.tar.gz")).complete();
    assert_same_files(&files[0], &as_exported(here.rootfs("plain", "other")));

    let data = as_exported(here.volume_path("local", "data"));
    let volume = format!("{}:local/data", keep.project());
    from(&keep, &["volume", &volume, "--replace"], &keep.dir().join("volume.tar.gz")).complete();
    assert_same_files(&data, &as_exported(here.volume_path("local", "data")));
    assert_eq!(here.volume_snapshots("local", "data").unwrap(), ["v1"]);
    let wrong = from(&keep, &["volume", &volume], &keep.dir().join("plain.tar")).expect_code(1);
    assert_says(&wrong.stderr, &["holds an instance"]);
}

/// Variants of a plain export that no server should see.
const TAMPER: &str = r#"
import io, sys, tarfile
source, kind, target = sys.argv[1:]
if kind in ('cut', 'bit'):
    data = bytearray(open(source, 'rb').read())
    with tarfile.open(source) as tar:
        members = tar.getmembers()
    if kind == 'cut':
        # At the beginning of the last member: what is left is a sound tar without an end.
        data = data[:members[-1].offset]
    else:
        index = next(m for m in members if m.name == 'backup/container/rootfs/lab/file')
        data[index.offset + 3] ^= 1
    open(target, 'wb').write(data)
    sys.exit()
with tarfile.open(source) as old, tarfile.open(target, 'w', format=tarfile.PAX_FORMAT) as new:
    for member in old:
        new.addfile(member, old.extractfile(member) if member.isreg() else None)
    def add(name, type=tarfile.REGTYPE, link='', data=b'x'):
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.size = type, link, len(data) if type == tarfile.REGTYPE else 0
        new.addfile(member, io.BytesIO(data))
    if kind == 'above': add('backup/container/../../../../tmp/evil')
    if kind == 'absolute': add('/tmp/evil')
    if kind == 'through':
        add('backup/container/rootfs/door', tarfile.SYMTYPE, '/tmp')
        add('backup/container/rootfs/door/evil')
    if kind == 'link': add('backup/container/rootfs/hard', tarfile.LNKTYPE, '../../../etc/shadow')
    if kind == 'second': add('backup/index.yaml', data=b'name: evil\n')
    if kind == 'newline': add('backup/container/rootfs/lab/two\nlines', data=b'fine')
"#;

fn tampered(keep: &Keep, kind: &str) -> PathBuf {
    let target = keep.dir().join(format!("{kind}.tar"));
    python(TAMPER, &[&keep.dir().join("plain.tar"), Path::new(kind), &target]);
    target
}

#[test]
fn an_archive_that_is_cut_or_hostile_is_refused_before_the_server_sees_it() {
    let keep = Keep::new();
    let here = keep.here();
    exported(&here, keep.dir());
    here.state("web", "start", false).unwrap();
    let before = state(&here);
    let whole = fs::read(keep.dir().join("gzip.tar.gz")).unwrap();
    fs::write(keep.dir().join("short.tar"), &whole[..whole.len() * 2 / 3]).unwrap();
    for kind in ["cut", "bit", "above", "absolute", "through", "link", "second", "short"] {
        let archive = match kind {
            "short" => keep.dir().join("short.tar"),
            _ => tampered(&keep, kind),
        };
        let ran = from(&keep, &["instance", &named(&keep, "web"), "--replace"], &archive);
        assert_eq!(ran.code, 1, "{kind}: {ran:?}");
        let said = if ran.stdout.is_empty() { ran.stderr.clone() } else { causes(&ran, "web") };
        assert!(
            said.contains("nothing was touched") || said.contains("short.tar"),
            "{kind}: {said}"
        );
        assert!(!said.trim().contains('\n') || ran.stdout.is_empty(), "{kind}: {said}");
        assert_same_state(&before, &state(&here));
    }
    let odd = tampered(&keep, "newline");
    from(&keep, &["instance", &named(&keep, "odd")], &odd).complete();
    let file = here.rootfs("local", "odd").join("lab/two\nlines");
    assert_eq!(fs::read(file).unwrap(), b"fine");
    let nothing = keep.dir().join("nosuch.tar");
    let ran = from(&keep, &["instance", &named(&keep, "web")], &nothing).expect_code(1);
    assert_says(&ran.stderr, &["nosuch.tar"]);
}

#[test]
fn a_virtual_machine_is_refused_where_none_can_run() {
    let keep = Keep::new();
    let here = keep.here();
    here.create("web").unwrap();
    let plain = keep.dir().join("plain.tar");
    export(&here, &["export", "web", "--compression", "none"], &plain);
    let machine = keep.dir().join("machine.tar");
    let code = "import io, sys, tarfile\n\
        old, new = tarfile.open(sys.argv[1]), tarfile.open(sys.argv[2], 'w')\n\
        for m in old:\n  \
          if m.name == 'backup' or m.name.endswith(('index.yaml', '/backup.yaml')):\n    \
            data = old.extractfile(m).read() if m.isreg() else b''\n    \
            data = data.replace(b'type: container', b'type: virtual-machine')\n    \
            m.size = len(data); m.name = m.name.replace('/container/', '/virtual-machine/')\n    \
            new.addfile(m, io.BytesIO(data))\n\
        m = tarfile.TarInfo('backup/virtual-machine.img'); m.size = 1 << 20\n\
        new.addfile(m, io.BytesIO(bytes(1 << 20))); new.close()";
    python(code, &[&plain, &machine]);
    let before = state(&here);
    let ran = from(&keep, &["instance", &named(&keep, "vm")], &machine).expect_code(1);
    assert_says(&ran.stderr, &["it is a virtual machine, and the server cannot run any"]);
    assert_same_state(&before, &state(&here));
}

#[test]
fn what_incus_backup_wrote_is_restored() {
    let keep = Keep::new();
    let here = keep.here();
    exported(&here, keep.dir());
    let record = instance_record(&here, "web");
    let put = |place: &str, export: &str, file: &str, kind: &str, name: &str| {
        let dir = keep.repository().join(place).join("20250904T101112Z");
        fs::create_dir_all(&dir).unwrap();
        fs::copy(keep.dir().join(export), dir.join(file)).unwrap();
        let mut manifest = json!({
            "type": kind, "project": keep.project(), "name": name,
            "createdAt": "2025-09-04T10:11:12.345678901Z",
            "options": { "optimized": "false", "snapshot": "true" },
        });
        if kind == "volume" {
            manifest["pool"] = json!("local");
        }
        fs::write(dir.join("manifest.json"), manifest.to_string()).unwrap();
        let sums = "cd \"$1\" && sha256sum \"$2\" manifest.json > checksums.txt";
        let done = std::process::Command::new("sh")
            .args(["-c", sums, "sh"])
            .arg(&dir)
            .arg(file)
            .status()
            .unwrap();
        assert!(done.success());
        dir
    };
    let project = keep.project();
    let instance =
        put(&format!("instances/{project}/web"), "gzip.tar.gz", "export.tar.gz", "instance", "web");
    put(
        &format!("volumes/{project}/local/data"),
        "volume.tar.gz",
        "volume.tar.gz",
        "volume",
        "data",
    );
    here.write("local", "web", "root/new", b"new").unwrap();
    keep.restore(&["instances", "--replace"]).complete();
    assert_eq!(instance_record(&here, "web"), record);
    assert!(!here.rootfs("local", "web").join("root/new").exists());
    fs::remove_file(here.volume_path("local", "data").join("lab/file")).unwrap();
    keep.restore(&["volume", "local/data", "--replace"]).complete();
    assert!(here.volume_path("local", "data").join("lab/file").exists());
    crate::restore_lab::flip(&instance.join("export.tar.gz"));
    let ran = keep.restore(&["instance", "web", "--replace"]).expect_code(1);
    assert_says(&causes(&ran, "web"), &["export.tar.gz", "nothing was touched"]);
}
