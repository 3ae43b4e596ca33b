//! `stapes find`: in which backups a file is, and where.

use std::collections::BTreeSet;

use clap::{Args, ValueEnum};
use stapes_core::backup::address::Address;
use stapes_core::backup::choose::{Which, choose, select_backed_up};
use stapes_core::backup::{BackupInfo, BackupItem, BackupKind, Wanted};
use stapes_engine::browse::{Query, Tree, View, find};
use stapes_engine::repository::Use;

use super::look::{Looking, unclear};
use crate::exit::Exit;
use crate::output;
use crate::output::backup_plan::refuse_unclear_names;
use crate::output::entries::Stream;
use crate::places::PlaceArgs;
use crate::report_error::CommandError;
use crate::settings::Settings;

/// Find files in backups by their names
///
/// Looks into the newest complete backup of every item, or of those that are named. Reads folders and
/// no contents. Finding nothing is no failure.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stapes find nginx.conf --target nas
  stapes find '*.sql' '*.dump' --in db1 --all-versions --target nas
  stapes find '/etc/**/*.pem' --kind instance -i --target nas")]
pub(crate) struct FindArgs {
    /// Names with `*`, `?`, `[a-z]` and `{a,b}`; with a slash for whole paths, where `**` is any folders
    #[arg(required = true, value_name = "PATTERN")]
    patterns: Vec<String>,
    /// Only in this item: `[PROJECT:]NAME`, `[PROJECT:]POOL/NAME`, service:NAME, with `*` and `?`; can be
    /// repeated
    #[arg(long = "in", value_name = "ITEM")]
    items: Vec<String>,
    /// Only in items of this kind; can be repeated
    #[arg(long = "kind", value_enum, value_name = "KIND", conflicts_with = "items")]
    kinds: Vec<Kind>,
    /// In all versions, not only the newest complete one
    #[arg(long)]
    all_versions: bool,
    /// Take capital and small letters as the same
    #[arg(short = 'i', long)]
    ignore_case: bool,
    /// In all that is stored, as it lies in the repository
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    places: PlaceArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Config,
    Image,
    Volume,
    Instance,
    Service,
}

impl From<Kind> for BackupKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Config => Self::Config,
            Kind::Image => Self::Image,
            Kind::Volume => Self::Volume,
            Kind::Instance => Self::Instance,
            Kind::Service => Self::Service,
        }
    }
}

pub(crate) async fn run(args: &FindArgs, settings: &Settings) -> Result<Exit, CommandError> {
    let query = Query::new(&args.patterns, args.ignore_case)
        .map_err(|error| CommandError::usage(stapes_engine::chain(&error)))?;
    let looking = Looking::begin(&args.places, settings, Use::Look).await?;
    let listing = &looking.catalog.backups;
    let mut stream = Stream::new(settings.format);
    let view = if args.raw { View::Raw } else { View::Inside };
    for info in args.backups(listing, &mut stream)? {
        let tree = match Tree::open(&looking.opened.repository, &info, &view) {
            Ok(tree) => tree,
            Err(error) => {
                stream.problem(error);
                continue;
            }
        };
        for found in find(&tree, &query) {
            let goes_on = match found {
                Ok(entry) => stream.found(&info, &entry),
                Err(error) => stream.problem(error),
            };
            if !goes_on {
                return Ok(stream.end());
            }
        }
    }
    if stream.count() == 0 {
        output::note(settings, "nothing of that name was found");
    }
    Ok(stream.end())
}

impl FindArgs {
    /// The backups that are looked into, items in order and the newest of each first.
    fn backups(
        &self,
        listing: &[BackupInfo],
        stream: &mut Stream,
    ) -> Result<Vec<BackupInfo>, CommandError> {
        let mut backups = Vec::new();
        for item in self.wanted(listing)? {
            let own: Vec<BackupInfo> =
                listing.iter().filter(|info| info.item == item).cloned().collect();
            let which = if self.all_versions { Which::Every } else { Which::Newest };
            let choice = choose(&own, &[item.kind()], &Wanted::all(), which);
            for problem in choice.problems {
                stream.trouble(&problem.cause);
            }
            for chosen in choice.chosen {
                for remark in chosen.remarks {
                    let title = format!("{} {}", chosen.info.item, chosen.info.version);
                    output::warning(&format!("{title}: {remark}"));
                }
                backups.push(chosen.info);
            }
        }
        Ok(backups)
    }

    fn wanted(&self, listing: &[BackupInfo]) -> Result<BTreeSet<BackupItem>, CommandError> {
        let projects = self.places.projects()?;
        if self.items.is_empty() {
            let kinds: Vec<BackupKind> = if self.kinds.is_empty() {
                BackupKind::ALL.to_vec()
            } else {
                self.kinds.iter().map(|kind| (*kind).into()).collect()
            };
            let wanted = Wanted { projects, names: Vec::new() };
            let selection = select_backed_up(listing, &kinds, &wanted);
            refuse_unclear_names(&selection.problems)?;
            return match selection.problems.into_iter().next() {
                Some(problem) => Err(unclear(problem)),
                None => Ok(selection.items),
            };
        }
        let mut items = BTreeSet::new();
        for text in &self.items {
            items.extend(Address::new(text).items(listing, &projects).map_err(unclear)?);
        }
        Ok(items)
    }
}
