use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::ErrorKind;

const PACK: &str = "data/5c/5c65";

fn new() -> (tempfile::TempDir, LocalStorage) {
    let folder = tempfile::tempdir().unwrap();
    let storage = LocalStorage::create(&folder.path().join("r")).unwrap();
    (folder, storage)
}

#[test]
fn what_is_put_is_read_listed_and_deleted() {
    let (_folder, storage) = new();
    storage.put(PACK, &[b"hello ", b"", b"world"]).unwrap();
    storage.put("config", &[]).unwrap();
    assert_eq!(storage.get(PACK).unwrap(), b"hello world");
    assert_eq!(storage.get("config").unwrap(), b"");
    assert_eq!(storage.get_range(PACK, 6..11).unwrap(), b"world");
    assert_eq!(storage.stat(PACK).unwrap(), Some(11));
    assert_eq!(storage.stat("keys/12").unwrap(), None);
    assert_eq!(storage.list("data").unwrap(), [Entry { name: "5c65".into(), size: 11 }]);
    assert_eq!(storage.list("keys").unwrap(), []);
    storage.delete(PACK).unwrap();
    assert_eq!(storage.get(PACK).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(storage.delete(PACK).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(storage.list("data").unwrap(), []);
}

#[test]
fn a_file_is_never_replaced_by_another_one() {
    let (_folder, storage) = new();
    storage.put("config", &[b"mine"]).unwrap();
    storage.put("config", &[b"mi", b"ne"]).unwrap();
    for other in [&b"me"[..], b"your"] {
        let error = storage.put("config", &[other]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
    }
    assert_eq!(storage.get("config").unwrap(), b"mine");
    let left = storage.path.read_dir().unwrap().filter(|entry| {
        entry.as_ref().unwrap().file_name().to_string_lossy().contains(name::TEMPORARY)
    });
    assert_eq!(left.count(), 0, "a temporary file is left");
}

#[test]
fn a_range_past_the_end_is_an_error() {
    let (_folder, storage) = new();
    storage.put(PACK, &[b"hello"]).unwrap();
    for range in [3..6, 6..7, 0..u64::MAX, u64::MAX - 1..u64::MAX] {
        let error = storage.get_range(PACK, range).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{error:?}");
    }
    assert_eq!(storage.get_range(PACK, 5..5).unwrap(), b"");
}

#[test]
fn modes_are_those_of_restic() {
    let (folder, storage) = new();
    storage.put(PACK, &[b"x"]).unwrap();
    let mode = |path: &str| {
        folder.path().join("r").join(path).metadata().unwrap().permissions().mode() & 0o7777
    };
    assert_eq!((mode(""), mode("data"), mode("data/5c")), (0o700, 0o700, 0o700));
    assert_eq!(mode(PACK), 0o400);
}

#[test]
fn a_repository_that_the_group_may_read_stays_so() {
    let (folder, storage) = new();
    storage.put("config", &[b"x"]).unwrap();
    let path = folder.path().join("r");
    std::fs::set_permissions(path.join("config"), PermissionsExt::from_mode(0o440)).unwrap();
    let storage = LocalStorage::open(&path).unwrap();
    storage.put(PACK, &[b"x"]).unwrap();
    let mode = |name: &str| path.join(name).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("data/5c"), mode(PACK)), (0o750, 0o440));
}

#[test]
fn what_dead_writers_left_is_not_listed_and_is_swept() {
    let (folder, storage) = new();
    storage.put(PACK, &[b"x"]).unwrap();
    let path = folder.path().join("r");
    for left in ["data/5c/5c66-tmp-123-0", "keys/12-tmp-1", "config-tmp-12"] {
        std::fs::write(path.join(left), "half").unwrap();
    }
    assert_eq!(storage.list("data").unwrap().len(), 1);
    assert_eq!(storage.list("keys").unwrap(), []);
    let written = path.join("keys/12-tmp-1").metadata().unwrap().modified().unwrap();
    assert_eq!(storage.sweep(written - Duration::from_secs(10)).unwrap(), 0);
    assert_eq!(storage.sweep(written + Duration::from_secs(10)).unwrap(), 3);
    assert_eq!(storage.sweep(written + Duration::from_secs(10)).unwrap(), 0);
    assert_eq!(storage.get(PACK).unwrap(), b"x");
}

#[test]
fn links_folders_and_pipes_are_not_files() {
    let (folder, storage) = new();
    let keys = folder.path().join("r/keys");
    std::os::unix::fs::symlink("/etc/passwd", keys.join("aa")).unwrap();
    std::fs::create_dir(keys.join("bb")).unwrap();
    rustix::fs::mkfifoat(CWD, keys.join("cc"), Mode::RUSR).unwrap();
    assert_eq!(storage.list("keys").unwrap(), []);
    for name in ["keys/aa", "keys/bb", "keys/cc"] {
        storage.get(name).unwrap_err();
        storage.stat(name).unwrap_err();
    }
}

#[test]
fn a_file_larger_than_any_of_a_repository_is_not_read() {
    let (folder, storage) = new();
    let file = File::create(folder.path().join("r/keys/aa")).unwrap();
    file.set_len(1 << 40).unwrap();
    assert_eq!(storage.get("keys/aa").unwrap_err().kind(), ErrorKind::Damaged);
    storage.get_range("keys/aa", 0..1 << 49).unwrap_err();
}

#[test]
fn a_missing_folder_is_not_a_repository() {
    let folder = tempfile::tempdir().unwrap();
    let missing = LocalStorage::open(&folder.path().join("r")).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NoRepository);
    std::fs::write(folder.path().join("r"), "").unwrap();
    let file = LocalStorage::open(&folder.path().join("r")).unwrap_err();
    assert_eq!(file.kind(), ErrorKind::NoRepository);
}

#[test]
fn a_folder_that_is_another_one_meanwhile_is_gone() {
    let (folder, storage) = new();
    storage.put(PACK, &[b"x"]).unwrap();
    let path = folder.path().join("r");
    std::fs::rename(&path, folder.path().join("elsewhere")).unwrap();
    std::fs::create_dir_all(path.join("data/5c")).unwrap();
    for error in [
        storage.put("keys/aa", &[b"x"]).unwrap_err(),
        storage.list("keys").unwrap_err(),
        storage.get("keys/aa").unwrap_err(),
        storage.delete(PACK).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
    }
    assert!(!path.join("keys").exists(), "something was written beside the repository");
}

#[test]
fn two_writers_of_one_name_leave_one_of_the_two() {
    let (_folder, storage) = new();
    let contents = [vec![1_u8; 100_000], vec![2_u8; 100_000]];
    let results: Vec<bool> = std::thread::scope(|scope| {
        let threads: Vec<_> = contents
            .iter()
            .map(|content| scope.spawn(|| storage.put("config", &[content]).is_ok()))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(results.iter().filter(|stored| **stored).count(), 1);
    let winner = if results[0] { &contents[0] } else { &contents[1] };
    assert_eq!(&storage.get("config").unwrap(), winner);
}

#[test]
fn the_free_space_is_that_of_the_file_system_and_nobody_asks_a_folder_that_is_gone() {
    let (folder, storage) = new();
    let room = rustix::fs::statvfs(folder.path()).unwrap();
    let free = storage.free_bytes().unwrap().unwrap();
    // Others write to the same disk meanwhile; it does not become another one by that.
    let all = room.f_blocks * room.f_frsize;
    assert!(free > 0 && free <= all, "{free} of {all}");
    assert!(free.abs_diff(room.f_bavail * room.f_frsize) < all / 4, "{free}");
    std::fs::rename(folder.path().join("r"), folder.path().join("elsewhere")).unwrap();
    assert_eq!(storage.free_bytes().unwrap_err().kind(), ErrorKind::Unreachable);
}
