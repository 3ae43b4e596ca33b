//! Maps of names: how they are read, and that a mistake in one is not silent.

use super::*;
use crate::replicate::testing::{pool, server};
use crate::restore::{MapError, MapKind};

#[test]
fn an_entry_is_old_and_new_once_each() {
    let mut maps = Maps::default();
    maps.add(MapKind::Pool, "tank=fast").unwrap();
    maps.add(MapKind::Pool, "tank=fast").unwrap();
    maps.add(MapKind::Pool, "fast=slow").unwrap();
    maps.add(MapKind::Profile, "a=b=c").unwrap();
    assert_eq!(maps.pool(&"tank".parse().unwrap()).as_str(), "fast", "once, not on to slow");
    assert_eq!(maps.entries(MapKind::Pool), [("fast", "slow"), ("tank", "fast")]);
    assert_eq!((maps.profile("a"), maps.profile("x")), ("b=c", "x"));
    assert_eq!(
        maps.add(MapKind::Pool, "tank=slow").unwrap_err().to_string(),
        "--pool-map: tank cannot become both fast and slow"
    );
    for shape in ["tank", "=fast", "tank=", ""] {
        let error = maps.add(MapKind::Network, shape).unwrap_err();
        assert!(matches!(error, MapError::Shape { .. }), "{shape}");
    }
    assert!(matches!(maps.add(MapKind::Project, "a=b/c"), Err(MapError::Name { .. })));
}

#[test]
fn a_map_of_a_name_that_no_backup_has_is_a_mistake() {
    let web = || {
        container("web").attaches("data").with(|content| {
            content.networks.insert("br0".to_owned());
        })
    };
    let mut target = server("spare");
    target.items.insert(volume("data").id(), volume("data").into());
    let problems = |entries: &[(MapKind, &str)]| {
        let options = RestoreOptions { maps: maps(entries), ..plain() };
        decide(&[web()], &target, &options).problems
    };
    use MapKind::{Network, Pool, Profile, Project};
    let used = [
        (Pool, "tank=tank"),
        (Network, "br0=br0"),
        (Project, "default=default"),
        (Profile, "default=default"),
    ];
    assert!(problems(&used).is_empty());
    assert_eq!(
        problems(&[
            (Pool, "tnak=tank"),
            (Network, "br1=br0"),
            (Project, "x=lab"),
            (Profile, "gpu=default")
        ]),
        [
            "--pool-map tnak=tank: no pool of that name is in these backups; did you mean tank?",
            "--network-map br1=br0: no network of that name is in these backups; did you mean br0?",
            "--project-map x=lab: no project of that name is in these backups",
            "--profile-map gpu=default: no profile of that name is in these backups",
        ]
    );
}

#[test]
fn every_reference_of_an_instance_follows_the_maps() {
    let mut target = server("spare");
    target.pools = [pool("fast", "btrfs")].into();
    target.networks = [("lab".parse().unwrap(), "wan".to_owned())].into();
    target.profiles.entry(("lab".parse().unwrap(), "small".to_owned())).or_default();
    let web = container("web").attaches("data").with(|content| {
        content.networks.insert("br0".to_owned());
        content.profiles = vec!["big".to_owned()];
    });
    let options = RestoreOptions {
        maps: maps(&[
            (MapKind::Pool, "tank=fast"),
            (MapKind::Network, "br0=wan"),
            (MapKind::Project, "default=lab"),
            (MapKind::Profile, "big=small"),
        ]),
        ..plain()
    };
    let plan = decide(&[web, disk("data")], &target, &options);
    assert_eq!(
        shown(&plan),
        "volume tank/data -> volume lab:fast/data on fast: create\n\
         instance web -> instance lab:web on fast: create"
    );
    assert!(plan.is_clear(), "{:?}", plan.problems);
}
