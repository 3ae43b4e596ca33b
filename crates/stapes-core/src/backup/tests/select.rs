//! What names on a command line take from a server.

use std::collections::BTreeSet;

use crate::backup::select::{Selection, attached, referenced_images, select, select_images};
use crate::backup::{Fingerprint, NameProblemKind, Projects, Wanted};
use crate::inventory::{ServerFacts, VolumeFacts};
use crate::item::{ItemId, ItemKind};
use crate::replicate::marks::RUN;
use crate::replicate::testing::{config, disk, instance, server_with, volume};

fn instances(wanted: &Wanted, facts: &ServerFacts) -> Selection<ItemId> {
    select(ItemKind::Instance, wanted, facts)
}

fn volumes(names: &[&str], facts: &ServerFacts) -> Selection<ItemId> {
    select(ItemKind::Volume, &Wanted::names(names.iter().copied()), facts)
}

fn names(selection: &Selection<ItemId>) -> Vec<String> {
    selection.items.iter().map(ItemId::path).collect()
}

fn causes<T>(selection: &Selection<T>) -> Vec<(NameProblemKind, &str)> {
    selection.problems.iter().map(|problem| (problem.kind, problem.cause.as_str())).collect()
}

fn in_projects(projects: &[&str], names: &[&str]) -> Wanted {
    let projects = projects.iter().map(|name| name.parse().unwrap()).collect();
    Wanted { projects: Projects::Named(projects), ..Wanted::names(names.iter().copied()) }
}

fn two_projects() -> ServerFacts {
    server_with(
        "local",
        [
            instance("web"),
            instance("db-1"),
            instance("web").in_project("lab"),
            instance("db-2").in_project("lab"),
        ],
    )
}

fn with_volumes(
    mut facts: ServerFacts,
    volumes: impl IntoIterator<Item = VolumeFacts>,
) -> ServerFacts {
    facts.items.extend(volumes.into_iter().map(|volume| (volume.id(), volume.into())));
    facts
}

#[test]
fn no_names_take_everything_of_the_kind_in_the_projects() {
    let facts = with_volumes(two_projects(), [volume("data")]);
    assert_eq!(names(&instances(&Wanted::all(), &facts)), ["db-1", "web", "lab:db-2", "lab:web"]);
    assert_eq!(names(&instances(&in_projects(&["lab"], &[]), &facts)), ["lab:db-2", "lab:web"]);
    assert_eq!(names(&volumes(&[], &facts)), ["tank/data"]);
}

#[test]
fn names_and_patterns_with_and_without_projects_are_taken_once_each() {
    let facts = two_projects();
    let take = |text: &[&str]| names(&instances(&Wanted::names(text.iter().copied()), &facts));
    assert_eq!(take(&["db-1", "db-*", "db-1"]), ["db-1", "lab:db-2"]);
    assert_eq!(take(&["lab:*"]), ["lab:db-2", "lab:web"]);
    assert_eq!(take(&["default:web"]), ["web"]);
    assert_eq!(take(&["*:web"]), ["web", "lab:web"], "one in each was asked for");
    assert_eq!(take(&["l*"]), Vec::<String>::new(), "a project is not a part of the name");
    let inside = instances(&in_projects(&["default"], &["lab:web", "web"]), &facts);
    assert_eq!(names(&inside), ["web", "lab:web"], "a name's own project counts");
}

#[test]
fn a_name_in_several_projects_is_ambiguous_until_one_is_chosen() {
    let facts = two_projects();
    let both = instances(&Wanted::names(["web"]), &facts);
    assert!(both.items.is_empty());
    assert_eq!(
        causes(&both),
        [(
            NameProblemKind::Ambiguous,
            "instance web is in several projects: default:web, lab:web; write one of these, or choose a project with --project"
        )]
    );
    assert_eq!(names(&instances(&in_projects(&["lab"], &["web"]), &facts)), ["lab:web"]);
}

#[test]
fn what_is_not_there_is_named_with_what_could_be_meant() {
    let facts = two_projects();
    let selection =
        instances(&in_projects(&["default"], &["wbe", "db-2", "zzz", "lba:web"]), &facts);
    assert_eq!(
        causes(&selection),
        [
            (
                NameProblemKind::NotFound,
                "server local has no instance wbe in project default; did you mean web?"
            ),
            (
                NameProblemKind::NotFound,
                "server local has no instance db-2 in project default; there is one in project lab: lab:db-2"
            ),
            (NameProblemKind::NotFound, "server local has no instance zzz in project default"),
            (
                NameProblemKind::NotFound,
                "server local has no project lba, or our certificate may not see it; did you mean lab?"
            ),
        ]
    );
    let pattern = instances(&Wanted::names(["mail-*"]), &facts);
    assert!(pattern.items.is_empty() && pattern.problems.is_empty());
    assert_eq!(pattern.remarks, ["server local has no instance that fits `mail-*`"]);
}

#[test]
fn a_missing_project_is_named_once_and_hides_nothing_else() {
    let facts = two_projects();
    let selection = instances(&in_projects(&["attic", "attic"], &["web", "db-1"]), &facts);
    assert_eq!(selection.problems.len(), 1, "{:?}", selection.problems);
    assert_eq!(selection.problems[0].label, "project attic");
    let selection = instances(&in_projects(&["attic", "lab"], &["web"]), &facts);
    assert_eq!((names(&selection), selection.problems.len()), (vec!["lab:web".to_owned()], 1));
}

#[test]
fn volumes_are_named_with_their_pool() {
    let mut odd = volume("a:b[c]");
    odd.project = "lab".parse().unwrap();
    let mut slow = volume("data");
    slow.pool = "slow".parse().unwrap();
    let facts = with_volumes(server_with("local", [instance("web")]), [volume("data"), slow, odd]);
    assert_eq!(names(&volumes(&["tank/data"], &facts)), ["tank/data"]);
    assert_eq!(names(&volumes(&["*/data"], &facts)), ["slow/data", "tank/data"]);
    assert_eq!(names(&volumes(&["tank/a:b[c]"], &facts)), ["lab:tank/a:b[c]"]);
    assert_eq!(names(&volumes(&["lab:tank/a:b[c]"], &facts)), ["lab:tank/a:b[c]"]);
    let bare = volumes(&["data", "tank/", "a/b/c", "tank/["], &facts);
    assert!(bare.items.is_empty());
    assert_eq!(
        causes(&bare)[0],
        (
            NameProblemKind::Malformed,
            "\"data\" cannot be a name: write a volume as POOL/NAME; did you mean slow/data?"
        )
    );
    let kinds: BTreeSet<bool> =
        bare.problems.iter().map(|p| p.kind == NameProblemKind::Malformed).collect();
    assert_eq!((bare.problems.len(), kinds), (4, BTreeSet::from([true])));
}

#[test]
fn throw_away_and_unfinished_objects_are_never_taken_and_always_named() {
    let clone = instance("stapes-1").key(RUN, "r1").key("volatile.apply_template", "copy");
    let facts = server_with("local", [instance("web"), clone]);
    let all = instances(&Wanted::all(), &facts);
    assert_eq!(names(&all), ["web"]);
    assert_eq!(
        all.remarks,
        ["throw-away or unfinished objects of stapes are left out: instance stapes-1"]
    );
    let named = instances(&Wanted::names(["stapes-1"]), &facts);
    assert!(named.items.is_empty());
    assert_eq!(
        causes(&named),
        [(
            NameProblemKind::Unsound,
            "instance stapes-1 is a throw-away or unfinished object of stapes"
        )]
    );
    assert!(instances(&Wanted::names(["web"]), &facts).remarks.is_empty());
}

#[test]
fn attached_volumes_and_base_images_of_instances_are_found() {
    let image = "ab".repeat(32);
    let web = instance("web").attaches("data").attaches("gone").key("volatile.base_image", &image);
    let shared = instance("x").in_project("lab").device("d", &disk("/d", "tank", Some("data")));
    let odd = instance("odd").key("volatile.base_image", "none");
    let mut half = volume("half");
    half.config.insert(RUN.to_owned(), "r1".to_owned());
    let mut facts = with_volumes(
        server_with("local", [web.attaches("half"), shared, odd]),
        [volume("data"), volume("loose"), half],
    );
    facts.projects.insert("lab".parse().unwrap(), config(&[("features.storage.volumes", "false")]));
    let ids = |names: &[&str]| -> Vec<ItemId> {
        instances(&Wanted::names(names.iter().copied()), &facts).items.into_iter().collect()
    };
    let data = BTreeSet::from([volume("data").id()]);
    assert_eq!(attached(&ids(&["web"]), &facts), data);
    assert_eq!(attached(&ids(&["lab:x"]), &facts), data, "where the project has its volumes");
    assert!(attached(&ids(&["odd"]), &facts).is_empty());
    let images: Vec<String> =
        referenced_images(&ids(&["*"]), &facts).iter().map(Fingerprint::to_string).collect();
    assert_eq!(images, [image]);
}

#[test]
fn images_are_named_by_the_beginning_of_their_fingerprint() {
    let images: BTreeSet<Fingerprint> =
        ["ab12", "ab34", "cdef"].iter().map(|start| start.repeat(16).parse().unwrap()).collect();
    let facts = server_with("local", [instance("web")]);
    let take = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        select_images(&names, &images, &facts)
    };
    assert_eq!(take(&[]).items, images);
    assert_eq!(take(&["CD", "cdef"]).items.len(), 1);
    let wrong = take(&["ab", "ff", "", "xyz"]);
    assert!(wrong.items.is_empty());
    let kinds: Vec<_> = wrong.problems.iter().map(|problem| problem.kind).collect();
    use NameProblemKind::{Ambiguous, Malformed, NotFound};
    assert_eq!(kinds, [Ambiguous, NotFound, Malformed, Malformed]);
    assert_eq!(
        wrong.problems[0].cause,
        "image ab means several: ab12ab12ab12, ab34ab34ab34; write more digits"
    );
}
