use super::*;

fn site(found: Found) -> Site {
    Site { path: "/srv/wiki".into(), found, is_mount_point: false, mounted_below: Vec::new() }
}

#[test]
fn only_what_is_empty_is_filled_unasked() {
    let decided = |found, rule| decide(&site(found), rule, &[]).ok();
    for rule in [Rule::Refuse, Rule::Replace, Rule::InPlace] {
        assert_eq!(decided(Found::Nothing, rule), Some(How::Create));
        assert_eq!(decided(Found::Other, rule), None);
    }
    assert_eq!(decided(Found::EmptyFolder, Rule::Refuse), Some(How::Create));
    assert_eq!(decided(Found::EmptyFolder, Rule::InPlace), Some(How::InPlace));
    assert_eq!(decided(Found::Folder, Rule::Refuse), None);
    assert_eq!(decided(Found::Folder, Rule::Replace), Some(How::Replace));
    assert_eq!(decided(Found::Folder, Rule::InPlace), Some(How::InPlace));
}

#[test]
fn nothing_takes_the_place_of_a_mount_point_or_of_what_holds_one() {
    let mounted = |found| Site { is_mount_point: true, ..site(found) };
    let decided = |site: &Site, rule| decide(site, rule, &[]);
    assert_eq!(decided(&mounted(Found::EmptyFolder), Rule::Refuse), Ok(How::InPlace));
    assert!(decided(&mounted(Found::Folder), Rule::Replace).unwrap_err().contains("mounted there"));
    assert_eq!(decided(&mounted(Found::Folder), Rule::InPlace), Ok(How::InPlace));
    let holds = Site { mounted_below: vec!["/srv/wiki/disk".into()], ..site(Found::Folder) };
    assert!(decided(&holds, Rule::Replace).unwrap_err().contains("/srv/wiki/disk is mounted"));
    assert_eq!(decided(&holds, Rule::InPlace), Ok(How::InPlace));
}

#[test]
fn a_folder_that_holds_the_repository_is_not_replaced() {
    let decided = |kept: &str| decide(&site(Found::Folder), Rule::Replace, &[PathBuf::from(kept)]);
    assert!(decided("/srv/wiki/repo").unwrap_err().contains("/srv/wiki/repo is in it"));
    assert_eq!(decided("/srv/wiki2"), Ok(How::Replace));
    assert_eq!(decided("sftp:host:/srv/wiki"), Ok(How::Replace));
}
