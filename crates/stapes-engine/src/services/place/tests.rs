use super::*;

fn folder(path: &Path, content: &str) {
    fs::create_dir(path).unwrap();
    fs::write(path.join("file"), content).unwrap();
}

fn content(path: &Path) -> String {
    fs::read_to_string(path.join("file")).unwrap()
}

#[test]
fn a_place_is_looked_at_through_symbolic_links() {
    let dir = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(dir.path()).unwrap();
    let found = |name: &str| {
        let site = Site::look(&root.join(name)).unwrap();
        (site.path.strip_prefix(&root).unwrap().to_owned(), site.found)
    };
    folder(&root.join("real"), "x");
    fs::create_dir(root.join("empty")).unwrap();
    std::os::unix::fs::symlink("real", root.join("link")).unwrap();
    std::os::unix::fs::symlink("nowhere", root.join("dangling")).unwrap();
    assert_eq!(found("link"), ("real".into(), Found::Folder));
    assert_eq!(found("empty"), ("empty".into(), Found::EmptyFolder));
    assert_eq!(found("link/file"), ("real/file".into(), Found::Other));
    assert_eq!(found("dangling"), ("dangling".into(), Found::Other));
    assert_eq!(found("link/new/deep"), ("real/new/deep".into(), Found::Nothing));
    assert!(Site::look(Path::new("/proc")).unwrap().is_mount_point);
    assert!(!Site::look(Path::new("/")).unwrap().mounted_below.is_empty());
}

#[test]
fn a_mount_point_is_read_as_the_kernel_writes_it() {
    assert_eq!(unescaped(br"/a\040b\134c\x"), OsString::from(r"/a b\c\x"));
    assert_eq!(unescaped(br"/\04"), OsString::from(r"/\04"));
}

#[test]
fn a_new_folder_takes_the_place_and_the_old_one_is_beside() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("above/place");
    let beside = Beside::make(&place, "r1").unwrap();
    fs::write(beside.path.join("file"), "first").unwrap();
    assert_eq!(beside.take_place(true).unwrap().old, None);
    assert_eq!(content(&place), "first");

    let beside = Beside::make(&place, "r2").unwrap();
    fs::write(beside.path.join("file"), "second").unwrap();
    let old = beside.take_place(false).unwrap().old.unwrap();
    assert_eq!((content(&place), content(&old)), ("second".into(), "first".into()));
    remove(&old).unwrap();

    let beside = Beside::make(&place, "r3").unwrap();
    assert!(beside.take_place(true).is_err(), "it is not free");
    assert_eq!(content(&place), "second");
}

#[test]
fn only_what_dead_runs_left_beside_this_place_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("place");
    for name in ["dead", "alive"] {
        Beside::make(&place, name).unwrap();
    }
    let others = ["place.old-dead", "place.stapes", "place2.stapes-dead", "place.incomplete-dead"];
    others.iter().for_each(|name| fs::create_dir(dir.path().join(name)).unwrap());
    assert_eq!(sweep(&place, |run| run == "dead"), Vec::<String>::new());
    let left: std::collections::BTreeSet<OsString> =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let expected = others.iter().copied().chain(["place.stapes-alive"]).map(OsString::from);
    assert_eq!(left, expected.collect());
}
