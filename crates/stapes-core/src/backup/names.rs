//! Which items the names on a command line mean.
//!
//! A name is exact or a pattern, `NAME` for an instance and `POOL/NAME` for a volume, with
//! `project:` before it where the projects of the command line are not what is meant; images
//! and services are in no project. What belongs to what was asked for (volumes of an instance, versions
//! of a backup) is decided elsewhere.

use std::collections::BTreeSet;
use std::fmt;

use super::Fingerprint;
use crate::config::problem::suggest;
use crate::id::{ProjectName, ServerName, ServiceName};
use crate::item::{ItemId, ItemKind};
use crate::select::{NamePattern, SelectError};

/// The projects that names without one are looked for in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Projects {
    /// Wherever they are.
    #[default]
    All,
    /// These.
    Named(Vec<ProjectName>),
}

/// What a command line asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Where. A name with a project of its own is looked for there instead.
    pub projects: Projects,
    /// Names and patterns; none means everything.
    pub names: Vec<String>,
}

impl Wanted {
    /// Everything in all projects.
    pub fn all() -> Self {
        Self::default()
    }

    /// These names, in whatever project they are.
    pub fn names<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Self {
        Self { projects: Projects::All, names: names.into_iter().map(Into::into).collect() }
    }
}

/// Why a name, or what it means, cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameProblem {
    /// What is wrong, for programs.
    pub kind: NameProblemKind,
    /// How a report names the item, in place of an identity.
    pub label: String,
    /// What is wrong and what to do, for people.
    pub cause: String,
}

/// The ways in which a name can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameProblemKind {
    /// There is nothing of that name, project or version.
    NotFound,
    /// It means several things.
    Ambiguous,
    /// It cannot be a name.
    Malformed,
    /// What it means is there, but must not be used.
    Unsound,
}

impl fmt::Display for NameProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)
    }
}

/// Who has the items, for messages.
#[derive(Clone, Copy, Debug)]
pub(super) enum Holder<'a> {
    Server(&'a ServerName),
    Repository,
}

impl Holder<'_> {
    fn has_no(self, what: &str) -> String {
        match self {
            Self::Server(name) => format!("server {name} has no {what}"),
            Self::Repository => format!("the repository has no backup of {what}"),
        }
    }

    fn project_missing(self, project: &str) -> String {
        match self {
            Self::Server(name) => {
                format!("server {name} has no project {project}, or our certificate may not see it")
            }
            Self::Repository => format!("the repository has no backup from project {project}"),
        }
    }
}

/// The items of one kind among which names are looked for.
#[derive(Clone, Debug)]
pub(super) struct Catalog<'a> {
    pub(super) holder: Holder<'a>,
    pub(super) kind: ItemKind,
    pub(super) projects: BTreeSet<&'a ProjectName>,
    pub(super) items: BTreeSet<&'a ItemId>,
}

/// What names mean. `items` holds each once, whatever named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found<T> {
    pub(super) items: BTreeSet<T>,
    pub(super) problems: Vec<NameProblem>,
    pub(super) remarks: Vec<String>,
}

impl<T> Default for Found<T> {
    fn default() -> Self {
        Self { items: BTreeSet::new(), problems: Vec::new(), remarks: Vec::new() }
    }
}

impl<'a> Catalog<'a> {
    /// Takes what is wanted, and says what is not there.
    pub(super) fn find(&self, wanted: &Wanted) -> Found<ItemId> {
        let mut found = Found::default();
        let projects = self.projects_of(&wanted.projects, &mut found);
        if wanted.names.is_empty() {
            found.items.extend(self.inside(&projects).into_iter().cloned());
        }
        // A project that is missing has been named; its items need not be, too.
        let nowhere = projects.is_empty() && !found.problems.is_empty();
        for name in &wanted.names {
            let (prefix, rest) = split_project(name);
            match prefix {
                None if nowhere => {}
                None => self.find_in(&projects, name, rest, false, &mut found),
                Some(prefix) => self.find_with_prefix(prefix, name, rest, &mut found),
            }
        }
        found
    }

    fn projects_of(
        &self,
        wanted: &Projects,
        found: &mut Found<ItemId>,
    ) -> BTreeSet<&'a ProjectName> {
        let Projects::Named(names) = wanted else { return self.projects.clone() };
        let unknown: BTreeSet<&ProjectName> =
            names.iter().filter(|name| !self.projects.contains(name)).collect();
        found.problems.extend(unknown.into_iter().map(|name| self.no_project(name.as_str())));
        self.projects.iter().copied().filter(|project| names.contains(project)).collect()
    }

    fn find_with_prefix(&self, prefix: &str, text: &str, rest: &str, found: &mut Found<ItemId>) {
        let projects = self.projects.iter().copied();
        match fitting(prefix, projects, |project| project.to_string()) {
            Err(error) => found.problems.push(malformed(text, &error.to_string())),
            Ok(fit) if fit.taken.is_empty() && fit.exact => {
                found.problems.push(self.no_project(prefix));
            }
            Ok(fit) => {
                let projects = fit.taken.into_iter().collect();
                self.find_in(&projects, text, rest, !fit.exact, found);
            }
        }
    }

    /// Looks for one name in some projects; `everywhere` if one of that name in each is meant.
    fn find_in(
        &self,
        projects: &BTreeSet<&'a ProjectName>,
        text: &str,
        name: &str,
        everywhere: bool,
        found: &mut Found<ItemId>,
    ) {
        let inside = self.inside(projects);
        if self.kind == ItemKind::Volume && name.split('/').filter(|p| !p.is_empty()).count() != 2 {
            let suffix = format!("/{name}");
            let meant = inside.iter().find(|item| local_name(item).ends_with(&suffix));
            let meant = meant.map(|item| item.path());
            let advice = did_you_mean(meant.as_deref());
            found.problems.push(malformed(text, &format!("write a volume as POOL/NAME{advice}")));
            return;
        }
        match fitting(name, inside.into_iter(), local_name) {
            Err(error) => found.problems.push(malformed(text, &error.to_string())),
            Ok(Fit { taken, exact: false }) if taken.is_empty() => {
                let what = format!("{} that fits `{}`", self.kind, text.escape_debug());
                found.remarks.push(self.holder.has_no(&what));
            }
            Ok(Fit { taken, .. }) if taken.is_empty() => {
                found.problems.push(self.not_found(projects, text, name));
            }
            Ok(Fit { taken, exact: true }) if taken.len() > 1 && !everywhere => {
                found.problems.push(self.ambiguous(text, &taken));
            }
            Ok(Fit { taken, .. }) => found.items.extend(taken.into_iter().cloned()),
        }
    }

    fn inside(&self, projects: &BTreeSet<&'a ProjectName>) -> Vec<&'a ItemId> {
        self.items.iter().copied().filter(|item| projects.contains(item.project())).collect()
    }

    fn no_project(&self, name: &str) -> NameProblem {
        let known = suggest(name, self.projects.iter().map(|project| project.as_str()));
        let name = name.escape_debug();
        NameProblem {
            kind: NameProblemKind::NotFound,
            label: format!("project {name}"),
            cause: self.holder.project_missing(&name.to_string()) + &did_you_mean(known),
        }
    }

    fn not_found(
        &self,
        projects: &BTreeSet<&'a ProjectName>,
        text: &str,
        name: &str,
    ) -> NameProblem {
        let elsewhere = self.items.iter().find(|item| local_name(item) == name);
        let advice = if let Some(item) = elsewhere {
            format!("; there is one in project {}: {}", item.project(), full_name(item))
        } else {
            let names: Vec<String> = self.inside(projects).into_iter().map(local_name).collect();
            did_you_mean(suggest(name, names.iter().map(String::as_str)))
        };
        let shown = text.escape_debug();
        let place: Vec<&str> = projects.iter().map(|project| project.as_str()).collect();
        let place = match place.as_slice() {
            [] => String::new(),
            [one] => format!(" in project {one}"),
            several if several.len() == self.projects.len() => String::new(),
            several => format!(" in projects {}", several.join(", ")),
        };
        NameProblem {
            kind: NameProblemKind::NotFound,
            label: format!("{} {shown}", self.kind),
            cause: self.holder.has_no(&format!("{} {shown}", self.kind)) + &place + &advice,
        }
    }

    fn ambiguous(&self, text: &str, several: &[&ItemId]) -> NameProblem {
        let names: Vec<String> = several.iter().map(|item| full_name(item)).collect();
        let shown = text.escape_debug();
        NameProblem {
            kind: NameProblemKind::Ambiguous,
            label: format!("{} {shown}", self.kind),
            cause: format!(
                "{} {shown} is in several projects: {}; write one of these, or choose a project with --project",
                self.kind,
                names.join(", ")
            ),
        }
    }
}

/// Finds images by the beginning of their fingerprints.
pub(super) fn find_images(
    names: &[String],
    among: &BTreeSet<&Fingerprint>,
    holder: Holder<'_>,
) -> Found<Fingerprint> {
    let mut found = Found::default();
    if names.is_empty() {
        found.items.extend(among.iter().map(|image| (*image).clone()));
    }
    for name in names {
        let digits = name.to_ascii_lowercase();
        let shown = name.escape_debug();
        let fits = |image: &&&Fingerprint| image.as_str().starts_with(&digits);
        let fitting: Vec<&Fingerprint> = among.iter().filter(fits).copied().collect();
        let (kind, cause) = match fitting.as_slice() {
            _ if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => (
                NameProblemKind::Malformed,
                format!("\"{shown}\" is not the beginning of an image's fingerprint"),
            ),
            [one] => {
                found.items.insert((*one).clone());
                continue;
            }
            [] => (NameProblemKind::NotFound, holder.has_no(&format!("image {shown}"))),
            several => {
                let names: Vec<&str> = several.iter().map(|image| image.short()).collect();
                let names = names.join(", ");
                (
                    NameProblemKind::Ambiguous,
                    format!("image {shown} means several: {names}; write more digits"),
                )
            }
        };
        found.problems.push(NameProblem { kind, label: format!("image {shown}"), cause });
    }
    found
}

/// Finds services of a repository by name or pattern.
pub(super) fn find_services(
    names: &[String],
    among: &BTreeSet<&ServiceName>,
) -> Found<ServiceName> {
    let mut found = Found::default();
    if names.is_empty() {
        found.items.extend(among.iter().map(|service| (*service).clone()));
    }
    for text in names {
        let shown = text.escape_debug();
        match fitting(text, among.iter().copied(), ServiceName::to_string) {
            Err(error) => found.problems.push(malformed(text, &error.to_string())),
            Ok(Fit { taken, exact: false }) if taken.is_empty() => {
                let what = format!("service that fits `{shown}`");
                found.remarks.push(Holder::Repository.has_no(&what));
            }
            Ok(Fit { taken, .. }) if taken.is_empty() => {
                let label = format!("service {shown}");
                let known = suggest(text, among.iter().map(|service| service.as_str()));
                let cause = Holder::Repository.has_no(&label) + &did_you_mean(known);
                found.problems.push(NameProblem { kind: NameProblemKind::NotFound, label, cause });
            }
            Ok(Fit { taken, .. }) => found.items.extend(taken.into_iter().cloned()),
        }
    }
    found
}

/// `project:` at the beginning of a name, and the rest. What follows a slash is a volume's, whose
/// name may hold colons.
fn split_project(text: &str) -> (Option<&str>, &str) {
    let pool_end = text.find('/').unwrap_or(text.len());
    match text.split_once(':') {
        Some((project, rest)) if project.len() < pool_end => (Some(project), rest),
        _ => (None, text),
    }
}

/// The name of an item within its project.
fn local_name(item: &ItemId) -> String {
    match item {
        ItemId::Instance { name, .. } => name.to_string(),
        ItemId::Volume { pool, name, .. } => format!("{pool}/{name}"),
    }
}

/// The name of an item that means nothing else, with its project also where that is `default`.
fn full_name(item: &ItemId) -> String {
    format!("{}:{}", item.project(), local_name(item))
}

/// What a text means among some names.
struct Fit<T> {
    taken: Vec<T>,
    /// Whether the text is one name, so that nothing taken is a mistake.
    exact: bool,
}

/// What is called just so, even if that looks like a pattern; else all that fits the pattern.
fn fitting<T: Copy>(
    text: &str,
    all: impl Iterator<Item = T> + Clone,
    name_of: impl Fn(T) -> String,
) -> Result<Fit<T>, SelectError> {
    let taken: Vec<T> = all.clone().filter(|one| name_of(*one) == text).collect();
    if !taken.is_empty() {
        return Ok(Fit { taken, exact: true });
    }
    let pattern: NamePattern = text.parse()?;
    if pattern.is_exact() {
        return Ok(Fit { taken, exact: true });
    }
    Ok(Fit { taken: all.filter(|one| pattern.matches(&name_of(*one))).collect(), exact: false })
}

fn malformed(text: &str, why: &str) -> NameProblem {
    let shown = text.escape_debug();
    NameProblem {
        kind: NameProblemKind::Malformed,
        label: format!("\"{shown}\""),
        cause: format!("\"{shown}\" cannot be a name: {why}"),
    }
}

fn did_you_mean(known: Option<&str>) -> String {
    known.map(|known| format!("; did you mean {known}?")).unwrap_or_default()
}
