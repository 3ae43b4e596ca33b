//! Marks and the names of history clones.

use std::collections::BTreeSet;

use crate::inventory::ConfigMap;
use crate::item::ItemId;
use crate::replicate::marks::{
    HISTORY_CREATED, Ownership, RUN, history_clone, history_id, history_marks, history_name,
    ownership, replica_marks,
};
use crate::replicate::testing::{instance, manual, ours, volume};

#[test]
fn a_replica_knows_its_source_by_server_and_item() {
    let web = instance("web").id();
    let marked: ConfigMap = replica_marks("aa", &web).into_iter().collect();
    assert_eq!(ownership(&marked, "aa", &web), Ownership::Ours);
    let other = Ownership::Other { item: "instance/default/web".to_owned() };
    assert_eq!(ownership(&marked, "bb", &web), other, "another server");
    assert_eq!(ownership(&marked, "aa", &volume("web").id()), other, "another item");
    assert_eq!(ownership(&ConfigMap::new(), "aa", &web), Ownership::Unmarked);
}

#[test]
fn a_clone_is_read_back_as_the_point_in_time_that_it_holds() {
    let replica = instance("web").id();
    let mut snapshot = manual("before-upgrade", "2026-11-20T14:30:05.75Z");
    snapshot.expires_at = Some("2027-01-01T00:00:00Z".parse().unwrap());
    let mut config: ConfigMap = history_marks(&replica, &snapshot).into_iter().collect();
    let id = history_id(&"stapes-history".parse().unwrap(), &replica, &snapshot).unwrap();
    let clone = history_clone(id.clone(), &config, &replica).unwrap();
    assert!(clone.snapshot.same_as(&snapshot));
    assert_eq!((clone.id.clone(), clone.snapshot.expires_at), (id.clone(), None));
    assert_eq!(
        history_clone(id.clone(), &config, &instance("db").id()),
        None,
        "of another replica"
    );
    config.insert(RUN.to_owned(), "r1".to_owned());
    assert_eq!(history_clone(id.clone(), &config, &replica), None, "unfinished");
    config.remove(RUN);
    config.insert(HISTORY_CREATED.to_owned(), "yesterday".to_owned());
    assert_eq!(history_clone(id, &config, &replica), None, "unreadable");
}

#[test]
fn history_names_fit_instances_whatever_the_item_is_called() {
    let long = "a-very-long-name-of-an-instance-that-fills-all-sixty-three-bytes";
    let names = ["web", "w", "9lives", "--", "db.example_1", "größe-データ", long];
    let mut seen = BTreeSet::new();
    for name in names {
        for item in [volume(name).id(), instance(name).id()] {
            for snapshot in [ours("2026-11-20T14:30:05Z"), manual("x", "2026-11-20T14:30:05Z")] {
                let made = history_name(&item, &snapshot);
                assert!(made.len() <= 63, "{made}");
                assert!(made.starts_with(|c: char| c.is_ascii_lowercase()), "{made}");
                assert!(made.ends_with(|c: char| c.is_ascii_alphanumeric()), "{made}");
                assert!(made.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "{made}");
                assert!(seen.insert(made.clone()), "{made} is not unique");
            }
        }
    }
    let name = history_name(&instance("web").id(), &ours("2026-11-20T14:30:05Z"));
    assert!(name.starts_with("i-web-20261120-143005-"), "{name}");
}

#[test]
fn long_names_that_differ_only_at_their_end_have_clones_of_their_own() {
    let snapshot = ours("2026-11-20T14:30:05Z");
    let name = |end: char| {
        let long: String = "x".repeat(62) + &end.to_string();
        history_name(
            &ItemId::Instance { project: "p".parse().unwrap(), name: long.parse().unwrap() },
            &snapshot,
        )
    };
    assert_ne!(name('1'), name('2'));
    assert_eq!(name('1').len(), 63);
}
