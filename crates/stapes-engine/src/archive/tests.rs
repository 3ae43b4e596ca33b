use std::io;

use serde_json::{Value, json};
use stapes_store::tar::{Editor, MemberKind, Reader, rewrite};

use super::document::Document;
use super::*;

/// The index of a clone as a real server writes it, shortened.
const INDEX: &str = r#"
name: stapes-1
backend: btrfs
pool: local
snapshots:
- s0
- s1
optimized: false
optimized_header: false
type: container
config:
  container:
    architecture: x86_64
    config:
      user.note: |
        two
        lines
      user.clone: "yes"
      volatile.last_state.idmap: '[]'
      volatile.uuid: 2
      volatile.apply_template: copy
    devices:
      eth0: {type: none}
      root: {path: /, pool: local, type: disk}
    profiles: []
    created_at: 2026-11-21T12:47:22.449019783Z
    expanded_config: {user.clone: "yes"}
    name: stapes-1
    project: default
  snapshots:
  - name: s0
    expires_at: 0001-01-01T00:00:00Z
    config: {user.clone: "yes", volatile.last_state.idmap: "[s0]"}
    size: -1
  - name: s1
    config: {}
    size: -1
  pool: {name: local, driver: btrfs, config: {size: 2GiB}}
  profiles: []
  volume: {name: stapes-1, type: container, config: {}, project: default}
  volume_snapshots:
  - {name: s0, config: {}, created_at: 2026-11-21T12:47:23Z}
  - {name: s1, config: {}, created_at: 2026-11-21T12:47:24Z}
"#;

fn web() -> Value {
    json!({
        "name": "web", "project": "lab", "type": "container", "architecture": "x86_64",
        "description": "the \u{85}web", "created_at": "2026-01-01T00:00:00.5Z",
        "config": {
            "user.a": "yes", "volatile.uuid": "1", "volatile.uuid.generation": "1",
            "volatile.eth0.hwaddr": "10:66:6a:00:00:01", "volatile.last_state.power": "RUNNING",
            "volatile.last_state.idmap": "[old]", "volatile.cloud-init.instance-id": "i",
        },
        "expanded_config": { "user.a": "yes", "user.p": "x", "volatile.uuid": "1" },
        "devices": { "data": { "type": "disk", "pool": "tank", "source": "data/dir", "path": "/d" } },
        "expanded_devices": {
            "data": { "type": "disk", "pool": "tank", "source": "data/dir", "path": "/d" },
            "eth0": { "type": "nic", "network": "br0" },
            "root": { "type": "disk", "path": "/", "pool": "local", "size": "10GiB" },
        },
        "profiles": ["default", "p"], "status": "Running", "status_code": 103,
        "state": { "pid": 7 }, "backups": null,
        "snapshots": [
            snapshot("s0", "2026-01-01T00:00:01Z"), snapshot("s1", "2026-01-01T00:00:02Z"),
            snapshot("later", "2026-01-01T00:00:03Z"),
        ],
    })
}

fn snapshot(name: &str, created_at: &str) -> Value {
    json!({
        "name": name, "created_at": created_at, "expires_at": "2027-01-01T00:00:00Z",
        "config": { "user.a": name, "volatile.eth0.hwaddr": "10:66:6a:00:00:01" },
        "devices": { "eth0": { "type": "nic", "network": "br0" } },
        "profiles": ["default"], "size": -1, "stateful": false,
    })
}

fn profiles() -> Vec<Value> {
    let devices = json!({
        "root": { "type": "disk", "path": "/", "pool": "local" },
        "eth0": { "type": "nic", "network": "br0" },
    });
    vec![json!({ "name": "default", "config": {}, "devices": devices, "used_by": ["/1.0/x"] })]
}

fn original() -> Original {
    Original::instance(web(), profiles()).unwrap()
}

fn parse(text: &[u8]) -> Value {
    yaml::read(std::str::from_utf8(text).unwrap()).unwrap()
}

/// The index of the original, made of the clone's.
fn index() -> Vec<u8> {
    as_original(INDEX.as_bytes(), DocumentKind::Index, &original()).unwrap()
}

fn relocated(relocation: &Relocation) -> Value {
    parse(&relocate(&index(), DocumentKind::Index, relocation).unwrap())
}

fn map(old: &str, new: &str) -> std::collections::BTreeMap<String, String> {
    [(old.to_owned(), new.to_owned())].into()
}

#[test]
fn the_index_of_a_clone_becomes_that_of_the_original() {
    let index = parse(&index());
    assert_eq!(index["name"], "web");
    assert_eq!(index["snapshots"], json!(["s0", "s1"]));
    let mut expected = web();
    for key in ["state", "backups", "snapshots"] {
        expected.as_object_mut().unwrap().remove(key);
    }
    expected["config"]["volatile.last_state.idmap"] = json!("[]");
    expected["expanded_config"]["volatile.last_state.idmap"] = json!("[]");
    assert_eq!(index["config"]["container"], expected);
    let mut s0 = snapshot("s0", "2026-01-01T00:00:01Z");
    s0["config"]["volatile.last_state.idmap"] = json!("[s0]");
    assert_eq!(index["config"]["snapshots"][0], s0);
    assert_eq!(index["config"]["snapshots"][1], snapshot("s1", "2026-01-01T00:00:02Z"));
    assert_eq!(index["config"]["volume"]["name"], "web");
    assert_eq!(index["config"]["volume"]["project"], "lab");
    let volumes = &index["config"]["volume_snapshots"];
    assert_eq!(volumes[1]["created_at"], "2026-01-01T00:00:02Z");
    assert_eq!(index["config"]["profiles"][0]["name"], "default");
    assert_eq!(index["config"]["profiles"][0]["used_by"], json!([]));
    assert_eq!(index["config"]["pool"]["config"]["size"], "2GiB");
    assert!(!index.to_string().contains("stapes-1"));
}

#[test]
fn backup_yaml_is_changed_like_the_index() {
    let backup = Document::read(INDEX.as_bytes(), DocumentKind::Index).unwrap();
    let records = parse(&backup.write())["config"].clone();
    let text = yaml::write(&records);
    let changed = parse(&as_original(&text, DocumentKind::Backup, &original()).unwrap());
    assert_eq!(changed, parse(&index())["config"]);
}

#[test]
fn snapshots_that_nobody_knows_are_an_error() {
    let unknown = INDEX.replace("s1", "s2");
    let error = as_original(unknown.as_bytes(), DocumentKind::Index, &original()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "backup/index.yaml and the server do not agree about the snapshots of web: \
         the server has no snapshot s2"
    );
    let fewer = INDEX.replace("- s1\n", "");
    let error = as_original(fewer.as_bytes(), DocumentKind::Index, &original()).unwrap_err();
    assert!(error.to_string().contains("differ: s0 / s0, s1 / s0, s1"), "{error}");
}

#[test]
fn a_volume_gets_its_names_back_and_keeps_the_map_of_its_bytes() {
    let index = "\
name: stapes-2
pool: local
snapshots: [vs0]
type: custom
config:
  volume:
    {name: stapes-2, config: {user.run: x, volatile.idmap.last: 'clone'}, content_type: block}
  volume_snapshots: [{name: vs0, config: {}, content_type: block}]
";
    let record = json!({
        "name": "v", "type": "custom", "content_type": "block", "used_by": ["/1.0/instances/a"],
        "config": { "size": "4MiB", "volatile.idmap.last": "old" }, "description": "d",
        "created_at": "2026-01-01T00:00:00Z", "state": {}, "project": "default",
    });
    let snapshots = vec![json!({
        "name": "v/vs0", "config": { "size": "3MiB" }, "description": "s", "content_type": "",
        "created_at": "2026-01-02T00:00:00Z", "expires_at": null,
    })];
    let original = Original::volume(record, snapshots).unwrap();
    let changed = parse(&as_original(index.as_bytes(), DocumentKind::Index, &original).unwrap());
    assert_eq!(changed["name"], "v");
    let volume = &changed["config"]["volume"];
    assert_eq!(volume["config"], json!({ "size": "4MiB", "volatile.idmap.last": "clone" }));
    assert_eq!(volume["used_by"], json!([]));
    assert_eq!(
        changed["config"]["volume_snapshots"],
        json!([{
            "name": "vs0", "config": { "size": "3MiB" }, "description": "s", "content_type": "block",
            "created_at": "2026-01-02T00:00:00Z", "expires_at": "0001-01-01T00:00:00Z",
        }])
    );
}

#[test]
fn names_pools_networks_and_profiles_are_mapped_everywhere() {
    let relocation = Relocation {
        name: Some("new".to_owned()),
        project: Some("other".to_owned()),
        pools: map("local", "fast"),
        networks: map("br0", "br9"),
        profiles: map("default", "base"),
        ..Relocation::default()
    };
    let index = relocated(&relocation);
    let (container, config) = (&index["config"]["container"], &index["config"]);
    assert_eq!((&index["name"], &index["pool"]), (&json!("new"), &json!("fast")));
    assert_eq!(container["name"], "new");
    assert_eq!(container["project"], "other");
    assert_eq!(container["profiles"], json!(["base", "p"]));
    assert_eq!(container["devices"]["data"]["pool"], "tank");
    assert_eq!(container["expanded_devices"]["root"]["pool"], "fast");
    assert_eq!(container["expanded_devices"]["eth0"]["network"], "br9");
    assert_eq!(config["snapshots"][0]["devices"]["eth0"]["network"], "br9");
    assert_eq!(config["snapshots"][0]["profiles"], json!(["base"]));
    assert_eq!(config["snapshots"][0]["name"], "s0");
    assert_eq!(config["profiles"][0]["name"], "base");
    assert_eq!(config["profiles"][0]["devices"]["root"]["pool"], "fast");
    assert_eq!(
        (&config["pool"]["name"], &config["pool"]["driver"]),
        (&json!("fast"), &json!("btrfs"))
    );
    assert_eq!(config["volume"]["name"], "new");
    // What was not mapped is as it was.
    assert_eq!(container["config"]["volatile.last_state.power"], "RUNNING");
}

#[test]
fn an_empty_relocation_changes_nothing() {
    assert_eq!(relocated(&Relocation::default()), parse(&index()));
}

#[test]
fn devices_are_left_out_also_where_a_profile_brings_them() {
    let relocation = Relocation {
        without_devices: ["data", "eth0", "nosuch"].map(str::to_owned).into(),
        ..Relocation::default()
    };
    let index = relocated(&relocation);
    let container = &index["config"]["container"];
    assert_eq!(container["devices"], json!({ "eth0": { "type": "none" } }));
    assert_eq!(container["expanded_devices"].as_object().unwrap().len(), 2);
    assert_eq!(container["expanded_devices"]["eth0"], json!({ "type": "none" }));
    let before = &relocated(&Relocation::default())["config"]["snapshots"];
    assert_eq!(&index["config"]["snapshots"], before);
}

#[test]
fn a_restore_beside_the_original_shares_no_identity_and_does_not_start() {
    let relocation = Relocation {
        fresh_identity: true,
        stopped: true,
        config: [("boot.autostart", "false"), ("user.a", "")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        ..Relocation::default()
    };
    let index = relocated(&relocation);
    let container = &index["config"]["container"];
    assert_eq!(
        container["config"],
        json!({ "boot.autostart": "false", "volatile.last_state.idmap": "[]" })
    );
    assert_eq!(container["status"], "Stopped");
    assert!(container["expanded_config"].get("volatile.uuid").is_none());
    // A snapshot keeps its own settings.
    assert_eq!(index["config"]["snapshots"][1]["config"], json!({ "user.a": "s1" }));
}

#[test]
fn what_is_to_be_quiet_does_not_act_by_itself_whatever_a_profile_says_and_knows_what_it_had() {
    let active = [
        ("user.clone: \"yes\"\n      volatile", "boot.autostart: \"true\"\n      volatile"),
        ("user.note: |", "snapshots.schedule: '@daily'\n      user.note: |"),
        (
            "{user.clone: \"yes\"}\n    name",
            "{boot.autostart: \"true\", snapshots.expiry: 4w}\n    name",
        ),
    ];
    let mut text = INDEX.to_owned();
    for (old, new) in active {
        assert!(text.contains(old), "{old}");
        text = text.replace(old, new);
    }
    let relocation = Relocation { quiet: true, ..Relocation::default() };
    let relocated =
        |text: &str| relocate(text.as_bytes(), DocumentKind::Index, &relocation).unwrap();
    let once = relocated(&text);
    let index = parse(&once);
    let container = &index["config"]["container"];
    for part in ["config", "expanded_config"] {
        let config = &container[part];
        assert_eq!(config["boot.autostart"], "false", "{part}");
        assert_eq!(config["snapshots.schedule"], "@never", "{part}");
        assert_eq!(config["user.stapes.original.boot.autostart"], "true", "{part}");
        assert_eq!(config["user.stapes.original.snapshots.schedule"], "@daily", "{part}");
        // It was its profile's.
        assert!(config.get("user.stapes.original.snapshots.expiry").is_none(), "{part}");
    }
    // Snapshots keep what they had, and a second time changes nothing.
    assert_eq!(index["config"]["snapshots"], parse(text.as_bytes())["config"]["snapshots"]);
    assert_eq!(parse(&relocated(std::str::from_utf8(&once).unwrap())), index);
    // Also where it has no settings at all.
    let bare = relocated("config: {container: {name: c, config: null}}");
    assert_eq!(parse(&bare)["config"]["container"]["config"]["boot.autostart"], "false");
}

#[test]
fn a_volume_that_is_to_be_quiet_makes_and_expires_no_snapshots() {
    let index = "type: custom\nconfig:\n  volume: {name: v, config: {snapshots.schedule: '@daily', \
        snapshots.expiry: 4w, size: 4MiB}}\n";
    let relocation = Relocation { quiet: true, ..Relocation::default() };
    let index = relocate(index.as_bytes(), DocumentKind::Index, &relocation).unwrap();
    assert_eq!(
        parse(&index)["config"]["volume"]["config"],
        json!({
            "size": "4MiB", "user.stapes.original.snapshots.schedule": "@daily",
            "user.stapes.original.snapshots.expiry": "4w",
        })
    );
}

#[test]
fn snapshots_can_be_left_out_but_not_of_a_drivers_own_format() {
    let relocation = Relocation { without_snapshots: true, ..Relocation::default() };
    let index = relocated(&relocation);
    assert!(index.get("snapshots").is_none());
    assert!(index["config"].get("snapshots").is_none());
    assert!(index["config"].get("volume_snapshots").is_none());
    let optimized = INDEX.replace("optimized: false", "optimized: true");
    let error = relocate(optimized.as_bytes(), DocumentKind::Index, &relocation).unwrap_err();
    assert!(error.to_string().contains("the storage driver btrfs"), "{error}");
}

#[test]
fn an_archive_tells_what_it_is() {
    let info = inspect(&index()).unwrap();
    assert_eq!(info.kind, Some(ArchiveKind::Container));
    assert_eq!(info.name.as_deref(), Some("web"));
    assert_eq!(info.pool.as_deref(), Some("local"));
    assert_eq!(info.driver.as_deref(), Some("btrfs"));
    assert_eq!(info.project.as_deref(), Some("lab"));
    assert_eq!(info.snapshots, ["s0", "s1"]);
    assert_eq!(info.profiles, ["default", "p"]);
    assert_eq!(info.networks, ["br0"]);
    assert_eq!(info.size.as_deref(), Some("10GiB"));
    let (pool, name, device) = ("tank".to_owned(), "data".to_owned(), "data".to_owned());
    assert_eq!(info.volumes, [ArchiveVolume { pool, name, device }]);
    assert!(info.problems.is_empty());
}

#[test]
fn an_archive_that_says_little_or_nonsense_is_reported_and_not_believed() {
    let info = inspect(b"{}").unwrap();
    assert_eq!(info.problems.len(), 3, "{:?}", info.problems);
    let info = inspect(b"{type: [], name: {a: b}, snapshots: 7, config: {container: 3}}");
    assert!(info.is_err() || info.unwrap().name.is_none());
    assert_eq!(inspect(b"type: 'x\"'").unwrap().kind, None);
    for text in ["", "7", "- a", "a: [", "a: 1\na: 2", "\u{0}", "&a [*a]"] {
        let error = inspect(text.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("backup/index.yaml") && !error.contains('\n'), "{error}");
    }
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n\
        c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\n\
        e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n\
        g: [*f,*f,*f,*f,*f,*f,*f,*f,*f]";
    assert!(inspect(bomb.as_bytes()).is_err());
    assert!(inspect("[".repeat(100_000).as_bytes()).is_err());
}

/// One archive with the members given.
fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (path, content) in members {
        let mut block = [0; 512];
        block[..path.len()].copy_from_slice(path.as_bytes());
        block[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        block[148..156].copy_from_slice(b"        ");
        block[156] = b'0';
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        archive.extend_from_slice(&block);
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

fn edited(archive: &[u8], editor: &mut dyn Editor) -> Result<Vec<(String, Vec<u8>)>, String> {
    let mut output = Vec::new();
    rewrite(&mut &archive[..], &mut output, editor).map_err(|error| {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        source.unwrap_or_else(|| error.to_string())
    })?;
    let mut output = &output[..];
    let mut reader = Reader::new(&mut output);
    let mut found = Vec::new();
    while let Some(member) = reader.next_member().unwrap() {
        assert_eq!(member.kind, MemberKind::Regular);
        found.push((member.display_path(), reader.content(u64::MAX).unwrap()));
    }
    Ok(found)
}

#[test]
fn both_control_files_are_changed_wherever_they_come() {
    let records = yaml::write(&parse(INDEX.as_bytes())["config"]);
    let members: [(&str, &[u8]); 4] = [
        ("backup/container/backup.yaml", &records),
        ("backup/snapshots/s0/backup.yaml", b"a snapshot's own file is data"),
        ("backup/container/rootfs/backup/index.yaml", b"so is this"),
        ("backup/index.yaml", INDEX.as_bytes()),
    ];
    let original = original();
    let found = edited(&archive(&members), &mut AsOriginal::new(&original)).unwrap();
    assert_eq!(parse(&found[0].1)["container"]["name"], "web");
    assert_eq!(found[1].1, members[1].1);
    assert_eq!(found[2].1, members[2].1);
    assert_eq!(parse(&found[3].1)["name"], "web");

    let relocation = Relocation {
        name: Some("new".to_owned()),
        without_snapshots: true,
        ..Relocation::default()
    };
    let found = edited(&archive(&members), &mut Relocate::new(&relocation)).unwrap();
    assert_eq!(found.len(), 3);
    assert_eq!(parse(&found[0].1)["container"]["name"], "new");
    assert!(found.iter().all(|(path, _)| !path.contains("snapshots")));
}

#[test]
fn an_archive_without_its_control_files_is_not_passed_on_as_whole() {
    let original = original();
    let only_index = archive(&[("backup/index.yaml", INDEX.as_bytes())]);
    let error = edited(&only_index, &mut AsOriginal::new(&original)).unwrap_err();
    assert_eq!(error, "the archive holds no backup.yaml, so it cannot be imported");
    let error = edited(&archive(&[]), &mut AsOriginal::new(&original)).unwrap_err();
    assert_eq!(error, "the archive holds no backup/index.yaml, so it cannot be imported");
    let twice = archive(&[("backup/index.yaml", b"{}"), ("backup/index.yaml", b"{}")]);
    let relocation = Relocation::default();
    let error = edited(&twice, &mut Relocate::new(&relocation)).unwrap_err();
    assert_eq!(error, "backup/index.yaml: it is in the archive twice");
    // A driver's own format has its backup.yaml inside.
    let optimized = INDEX.replace("optimized: false", "optimized: true");
    let optimized = archive(&[("backup/index.yaml", optimized.as_bytes())]);
    assert!(edited(&optimized, &mut AsOriginal::new(&original)).is_ok());
    let volume = archive(&[("backup/index.yaml", b"{type: custom, name: v}")]);
    assert!(edited(&volume, &mut Relocate::new(&relocation)).is_ok());
}

#[test]
fn the_index_is_found_in_an_archive_or_missed() {
    let found = archive(&[("backup/x", b"x"), ("backup/index.yaml", INDEX.as_bytes())]);
    assert_eq!(inspect_archive(&mut &found[..]).unwrap().name.as_deref(), Some("stapes-1"));
    let error = inspect_archive(&mut &archive(&[("x", b"x")])[..]).unwrap_err();
    assert!(matches!(error, ArchiveError::Missing { .. }));
    assert!(matches!(inspect_archive(&mut io::empty()).unwrap_err(), ArchiveError::Tar(_)));
}

#[test]
fn configuration_is_text_whatever_it_looks_like() {
    let text = "config:\n  container:\n    config: {a: yes, b: 0x1F, c: 1:30, d: 1_000, e: 1e3, \
        f: ~, g: null, h: 007, i: .inf, j: 2026-01-01}\n    devices: {d: {required: false, n: 0b1}}\n";
    let value = yaml::read(text).unwrap();
    let container = &value["config"]["container"];
    assert_eq!(
        container["config"],
        json!({
            "a": "yes", "b": "0x1F", "c": "1:30", "d": "1_000", "e": "1e3", "f": "", "g": "",
            "h": "007", "i": ".inf", "j": "2026-01-01",
        })
    );
    assert_eq!(container["devices"]["d"], json!({ "required": "false", "n": "0b1" }));
}

#[test]
fn every_character_is_written_so_that_it_is_read_again() {
    let all: Vec<char> = ('\0'..='\u{ffff}').chain('\u{1f600}'..='\u{1f6ff}').collect();
    for some in all.chunks(500) {
        let text: String = some.iter().collect();
        let value = json!({ "config": { "container": {
            "config": { &text: &text, "a": "b" }, "size": -1, "list": [true, null, &text],
        } } });
        let written = yaml::write(&value);
        assert_eq!(serde_json::from_slice::<Value>(&written).unwrap(), value);
        // Keys of configuration are short words; only values must be anything.
        let value = json!({ "config": { "container": { "config": { "k": &text } } } });
        let written = yaml::write(&value);
        assert_eq!(parse(&written), value);
        let forbidden = |c: char| c != '\n' && (c < ' ' || ('\u{7f}'..='\u{9f}').contains(&c));
        assert!(!std::str::from_utf8(&written).unwrap().contains(forbidden));
    }
}

#[test]
fn a_control_file_with_any_byte_changed_is_read_or_refused() {
    let original = original();
    for at in (0..INDEX.len()).step_by(3) {
        let bytes = [b'{', b'"', b'\n', b'*', b':', 0xff, 0];
        let mut text = INDEX.as_bytes().to_vec();
        text[at] = bytes[at % bytes.len()];
        let kind = DocumentKind::Index;
        for changed in
            [relocate(&text, kind, &Relocation::default()), as_original(&text, kind, &original)]
        {
            // What is passed on can be read again.
            drop(changed.map(|text| parse(&text)));
        }
        drop(inspect(&text));
    }
}
