//! [`Address`]: one item of a repository as people write it on a command line, maybe with a version.
//!
//! ```text
//! web, lab:web             an instance, with its project where the name alone is not enough
//! tank/data, lab:tank/data a custom volume
//! service:gitea            a service
//! image:0f3a               an image by the beginning of its fingerprint
//! config                   the server's configuration
//! instance:service:web     any of them with its kind in front, which means nothing else
//! web@20261121T023000Z     one version of it
//! ```
//!
//! What a text means is decided by what there is: a project may be called `service`, too. What is not
//! decided by that is told, and never guessed.

use std::collections::BTreeSet;
use std::fmt;

use super::choose::{Chosen, Which, choose, select_backed_up};
use super::{BackupInfo, BackupItem, BackupKind, NameProblem, NameProblemKind};
use super::{Projects, Version, Wanted};
use crate::outcome::Outcome;

/// An item as it was written; see the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// All of it, for messages.
    text: String,
    /// What it can mean, the likeliest first; names as [`Wanted`] has them.
    readings: Vec<(BackupKind, String)>,
    version: Option<Version>,
}

impl Address {
    /// Takes a text apart. Every text can be an address; whether it is one shows when it is looked for.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let (name, version) = match text.rsplit_once('@') {
            Some((name, version)) => match version.parse() {
                Ok(version) => (name, Some(version)),
                Err(_) => (text, None),
            },
            None => (text, None),
        };
        Self { text: text.to_owned(), readings: readings(name), version }
    }

    /// The version that it names.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// The items that it means; several only if it is a pattern.
    ///
    /// # Errors
    /// `NotFound`, `Ambiguous` or `Malformed`, with what may have been meant.
    pub fn items(
        &self,
        listing: &[BackupInfo],
        projects: &Projects,
    ) -> Result<BTreeSet<BackupItem>, NameProblem> {
        let mut meanings: Vec<BTreeSet<BackupItem>> = Vec::new();
        let mut problems = Vec::new();
        for (kind, name) in &self.readings {
            let names = if name.is_empty() { Vec::new() } else { vec![name.clone()] };
            let wanted = Wanted { projects: projects.clone(), names };
            let found = select_backed_up(listing, &[*kind], &wanted);
            problems.extend(found.problems);
            if !found.items.is_empty() {
                meanings.push(found.items);
            }
        }
        // That one reading finds several is a mistake, whatever another one finds.
        let unclear = problems.iter().find(|problem| problem.kind == NameProblemKind::Ambiguous);
        if let Some(problem) = unclear {
            return Err(problem.clone());
        }
        match meanings.as_slice() {
            [one] => Ok(one.clone()),
            [] => Err(self.nothing(problems.into_iter().next(), listing)),
            several => Err(self.several(several.iter().flatten())),
        }
    }

    /// The one backup that it means: of its version, or of `version`, or the newest that is complete and
    /// sound. One that is named is taken even if it is damaged, with a remark.
    ///
    /// # Errors
    /// Those of [`Self::items`]; `Ambiguous` if it means several items; `Malformed` if two versions are
    /// named; `NotFound` or `Unsound` if there is no such backup.
    pub fn choose(
        &self,
        listing: &[BackupInfo],
        projects: &Projects,
        version: Option<Version>,
    ) -> Result<Chosen, NameProblem> {
        let version = self.one_version(version)?;
        let items = self.items(listing, projects)?;
        let mut all = items.iter();
        let (Some(item), None) = (all.next(), all.next()) else {
            return Err(self.several(items.iter()));
        };
        let own: Vec<BackupInfo> =
            listing.iter().filter(|info| info.item == *item).cloned().collect();
        let which = version.map_or(Which::Newest, Which::Version);
        let choice = choose(&own, &[item.kind()], &Wanted::all(), which);
        if let Some(chosen) = choice.chosen.into_iter().next() {
            return Ok(chosen);
        }
        let problem = choice.problems.into_iter().next();
        let damaged = own.iter().find(|info| Some(info.version) == version);
        match (problem, damaged) {
            (_, Some(info)) if info.outcome != Outcome::Failed => {
                let remark = "it is damaged: what can still be read of it is shown".to_owned();
                Ok(Chosen { info: info.clone(), remarks: vec![remark] })
            }
            (Some(problem), _) => Err(problem),
            (None, _) => Err(self.nothing(None, listing)),
        }
    }

    fn one_version(&self, other: Option<Version>) -> Result<Option<Version>, NameProblem> {
        match (self.version, other) {
            (Some(own), Some(other)) if own != other => Err(NameProblem {
                kind: NameProblemKind::Malformed,
                label: self.to_string(),
                cause: format!("two versions are named, {own} and {other}; leave one out"),
            }),
            (own, other) => Ok(own.or(other)),
        }
    }

    fn nothing(&self, problem: Option<NameProblem>, listing: &[BackupInfo]) -> NameProblem {
        let mut problem = problem.unwrap_or_else(|| NameProblem {
            kind: NameProblemKind::NotFound,
            label: self.to_string(),
            cause: format!("the repository has no backup of {self}"),
        });
        let says_more = problem.cause.contains("did you mean");
        let namesake = listing.iter().map(|info| &info.item).find(|item| {
            self.readings
                .iter()
                .any(|(kind, name)| item.kind() != *kind && item.name() == Some(name))
        });
        if let Some(namesake) = namesake.filter(|_| !says_more) {
            problem.cause.push_str(&format!("; did you mean {}?", written(namesake)));
        } else if self.version.is_none() && self.text.contains('@') {
            let advice = "; what follows an @ is a version such as 20261121T023000Z";
            problem.cause.push_str(advice);
        }
        problem
    }

    fn several<'i>(&self, items: impl Iterator<Item = &'i BackupItem>) -> NameProblem {
        const SHOWN: usize = 10;
        let names: Vec<String> = items.map(in_full).collect();
        let more = names.len().saturating_sub(SHOWN);
        let mut list = names.into_iter().take(SHOWN).collect::<Vec<_>>().join(", ");
        if more > 0 {
            list.push_str(&format!(" and {more} more"));
        }
        NameProblem {
            kind: NameProblemKind::Ambiguous,
            label: self.to_string(),
            cause: format!("{self} means several: {list}; write one of these"),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.text.escape_debug())
    }
}

/// What a name can mean, the likeliest first.
fn readings(name: &str) -> Vec<(BackupKind, String)> {
    let mut readings = Vec::new();
    if let Some((word, rest)) = name.split_once(':') {
        let named = |kind: &BackupKind| word == kind.as_str() || word == kind.plural();
        match BackupKind::ALL.into_iter().find(named) {
            Some(BackupKind::Config) if rest.is_empty() => {
                return vec![(BackupKind::Config, String::new())];
            }
            // No name would be every name.
            Some(kind) if kind != BackupKind::Config && !rest.is_empty() => {
                readings.push((kind, rest.to_owned()));
            }
            _ => {}
        }
    } else if name == BackupKind::Config.as_str() {
        readings.push((BackupKind::Config, String::new()));
    }
    if !name.is_empty() {
        let kind = if name.contains('/') { BackupKind::Volume } else { BackupKind::Instance };
        readings.push((kind, name.to_owned()));
    }
    readings
}

/// An item as short as people write it; [`Address::new`] reads it.
#[must_use]
pub fn written(item: &BackupItem) -> String {
    match item {
        BackupItem::Config => "config".to_owned(),
        BackupItem::Item(id) => id.path(),
        BackupItem::Image(_) | BackupItem::Service(_) => in_full(item),
    }
}

/// An item with its kind and project: it can mean nothing else.
fn in_full(item: &BackupItem) -> String {
    let kind = item.kind();
    match item {
        BackupItem::Item(id) => {
            let path = id.path();
            // The default project is not part of a path.
            let name = path.strip_prefix(&format!("{}:", id.project())).unwrap_or(&path);
            format!("{kind}:{}:{name}", id.project())
        }
        _ => format!("{kind}:{}", item.path()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::Layout;
    use crate::item::ItemId;

    const FIRST: &str = "20261121T023000Z";
    const SECOND: &str = "20261122T023000Z";

    fn instance(project: &str, name: &str) -> BackupItem {
        let (project, name) = (project.parse().unwrap(), name.parse().unwrap());
        BackupItem::Item(ItemId::Instance { project, name })
    }

    fn volume(project: &str, name: &str) -> BackupItem {
        let [project, pool] = [project, "tank"];
        BackupItem::Item(ItemId::Volume {
            project: project.parse().unwrap(),
            pool: pool.parse().unwrap(),
            name: name.parse().unwrap(),
        })
    }

    fn info(item: &BackupItem, version: &str, outcome: Outcome) -> BackupInfo {
        BackupInfo {
            item: item.clone(),
            version: version.parse().unwrap(),
            outcome,
            causes: Vec::new(),
            stored_bytes: 0,
            content_bytes: None,
            layout: Layout::Stapes,
            driver: None,
            verified: None,
        }
    }

    fn listing(items: &[BackupItem]) -> Vec<BackupInfo> {
        items.iter().map(|item| info(item, FIRST, Outcome::Complete)).collect()
    }

    fn found(text: &str, items: &[BackupItem]) -> Result<BTreeSet<BackupItem>, String> {
        let found = Address::new(text).items(&listing(items), &Projects::All);
        found.map_err(|problem| problem.cause)
    }

    #[test]
    fn every_kind_has_a_spelling_that_is_read_back() {
        let image = BackupItem::Image("ab".repeat(32).parse().unwrap());
        let items = [
            instance("default", "web"),
            instance("lab", "db"),
            volume("default", "data"),
            volume("lab", "logs"),
            image,
            BackupItem::Service("a wiki".parse().unwrap()),
            BackupItem::Config,
        ];
        for item in &items {
            let only = BTreeSet::from([item.clone()]);
            for text in [written(item), in_full(item), format!("{}@{FIRST}", written(item))] {
                assert_eq!(found(&text, &items).as_ref(), Ok(&only), "{text}");
            }
        }
        assert_eq!(found("tank/*", &items).unwrap().len(), 2);
        assert_eq!(found("services:a*", &items).unwrap().len(), 1);
    }

    #[test]
    fn what_means_several_things_is_told_and_how_to_say_it() {
        let items = [instance("service", "web"), BackupItem::Service("web".parse().unwrap())];
        let expected = "\"service:web\" means several: service:web, instance:service:web; write one of \
                        these";
        assert_eq!(found("service:web", &items), Err(expected.to_owned()));
        assert_eq!(found("instance:service:web", &items).unwrap().len(), 1);
        // Where only one of them is there, it is meant.
        assert_eq!(found("service:web", &items[..1]).unwrap().len(), 1);

        let items = [instance("default", "config"), BackupItem::Config];
        assert!(found("config", &items).unwrap_err().contains("config:, "), "{items:?}");
        assert_eq!(found("config:", &items), Ok(BTreeSet::from([BackupItem::Config])));

        let items = [instance("default", "web"), instance("lab", "web")];
        let problem = found("web", &items).unwrap_err();
        assert!(problem.contains("is in several projects: default:web, lab:web"), "{problem}");
        let only_lab = Projects::Named(vec!["lab".parse().unwrap()]);
        let lab = Address::new("web").items(&listing(&items), &only_lab).unwrap();
        assert_eq!(lab, BTreeSet::from([items[1].clone()]));
    }

    #[test]
    fn what_is_not_there_is_told_with_what_may_have_been_meant() {
        let items = [
            instance("default", "web"),
            volume("lab", "data"),
            BackupItem::Service("gitea".parse().unwrap()),
        ];
        for (text, says) in [
            ("wev", "did you mean web?"),
            ("gitea", "did you mean service:gitea?"),
            ("data", "did you mean lab:tank/data?"),
            ("service:gita", "did you mean gitea?"),
            ("tank/date", "did you mean tank/data?"),
            ("web@yesterday", "what follows an @ is a version such as 2026"),
            ("", "the repository has no backup of \"\""),
            ("config", "the repository has no backup of instance config"),
            ("a\u{1b}[2J", "\\u{1b}[2J"),
        ] {
            let problem = found(text, &items).unwrap_err();
            assert!(problem.contains(says), "{text}: {problem}");
            assert!(!problem.contains('\u{1b}'), "{problem:?}");
        }
    }

    #[test]
    fn the_newest_complete_version_is_taken_unless_one_is_named() {
        let web = instance("default", "web");
        let third = "20261123T023000Z";
        let listing = [
            info(&web, FIRST, Outcome::Complete),
            info(&web, SECOND, Outcome::Complete),
            info(&web, third, Outcome::Incomplete),
        ];
        let chosen = |text: &str, version: Option<&str>| {
            let version = version.map(|version| version.parse().unwrap());
            let chosen = Address::new(text).choose(&listing, &Projects::All, version);
            chosen.map(|chosen| (chosen.info.version.to_string(), chosen.remarks.len()))
        };
        assert_eq!(chosen("web", None), Ok((SECOND.to_owned(), 1)));
        assert_eq!(chosen("web", Some(FIRST)), Ok((FIRST.to_owned(), 0)));
        assert_eq!(chosen(&format!("web@{third}"), None), Ok((third.to_owned(), 1)));
        let two = chosen(&format!("web@{FIRST}"), Some(SECOND)).unwrap_err();
        assert_eq!(two.kind, NameProblemKind::Malformed);
        let none = chosen("web@20260101T000000Z", None).unwrap_err();
        assert_eq!(none.kind, NameProblemKind::NotFound);
    }

    #[test]
    fn a_damaged_version_is_looked_at_only_if_it_is_named() {
        let web = instance("default", "web");
        let mut damaged = info(&web, FIRST, Outcome::Complete);
        damaged.verified = Some(crate::backup::Verification {
            at: damaged.version.timestamp(),
            problems: vec!["export.tar.zst has changed".to_owned()],
        });
        let listing = [damaged];
        let newest = Address::new("web").choose(&listing, &Projects::All, None).unwrap_err();
        assert_eq!(newest.kind, NameProblemKind::Unsound);
        let named = Address::new(&format!("web@{FIRST}"));
        let chosen = named.choose(&listing, &Projects::All, None).unwrap();
        assert_eq!(chosen.remarks.len(), 1);
    }
}
