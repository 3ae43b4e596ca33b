//! What the commands that look into backups share: which backup, which part of it, and opening it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use clap::Args;
use stapes_core::backup::address::Address;
use stapes_core::backup::choose::Chosen;
use stapes_core::backup::{NameProblem, NameProblemKind, Version};
use stapes_engine::browse::{self, Catalog, Tree, View};
use stapes_engine::repository::{Opened, Use};

use crate::output;
use crate::output::columns::printable;
use crate::places::PlaceArgs;
use crate::report_error::CommandError;
use crate::settings::Settings;

/// Which backup of an item, and what of it.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct LookArgs {
    /// This version of the backup [default: the newest complete one]
    #[arg(long, value_name = "TS")]
    pub(crate) version: Option<String>,
    #[command(flatten)]
    pub(crate) view: ViewArgs,
}

/// What of a backup is looked at.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ViewArgs {
    /// The files of this snapshot of the item, instead of those of the item itself
    #[arg(long, value_name = "NAME", conflicts_with = "raw")]
    pub(crate) snapshot: Option<String>,
    /// All that is stored, as it lies in the repository
    #[arg(long)]
    pub(crate) raw: bool,
}

impl ViewArgs {
    pub(crate) fn view(&self) -> View {
        match &self.snapshot {
            _ if self.raw => View::Raw,
            Some(name) => View::Snapshot(name.clone()),
            None => View::Inside,
        }
    }
}

/// A version as it was typed.
pub(crate) fn version(text: Option<&str>) -> Result<Option<Version>, CommandError> {
    let version = text.map(str::parse::<Version>).transpose();
    version.map_err(|error| CommandError::usage(error.to_string()))
}

/// A path as it was typed.
pub(crate) fn path(text: &OsStr) -> Vec<u8> {
    text.as_bytes().to_vec()
}

/// A repository that is looked into.
pub(crate) struct Looking {
    pub(crate) opened: Opened,
    pub(crate) catalog: Catalog,
}

impl Looking {
    /// Opens the repository and lists it; what is strange about it is told.
    pub(crate) async fn begin(
        places: &PlaceArgs,
        settings: &Settings,
        purpose: Use,
    ) -> Result<Self, CommandError> {
        let loaded = settings.load_config_if_any()?;
        let target = places.repository(settings, loaded.as_ref())?;
        let opened = target.open(settings, loaded.as_ref(), purpose).await?;
        if let Some(warning) = &opened.warning {
            output::error_line(&format!("warning: {warning}"));
        }
        let catalog = browse::catalog(&opened.repository)?;
        for text in &catalog.strange {
            output::error_line(&format!("warning: {}", printable(text)));
        }
        Ok(Self { opened, catalog })
    }

    /// The backup that is meant.
    pub(crate) fn choose(
        &self,
        address: &Address,
        places: &PlaceArgs,
        version: Option<Version>,
    ) -> Result<Chosen, CommandError> {
        let chosen = address.choose(&self.catalog.backups, &places.projects()?, version);
        chosen.map_err(unclear)
    }

    /// Opens a backup and says which one it is, unless it was named.
    pub(crate) fn tree(
        &self,
        chosen: &Chosen,
        view: &View,
        settings: &Settings,
    ) -> Result<Tree, CommandError> {
        for remark in &chosen.remarks {
            let title = browse::title(chosen);
            output::error_line(&format!("warning: {title}: {}", printable(remark)));
        }
        let tree = Tree::open(&self.opened.repository, &chosen.info, view)?;
        let remark = tree.remark().map(|remark| format!(": {remark}")).unwrap_or_default();
        output::note(settings, &format!("{}{remark}", tree.title()));
        Ok(tree)
    }

    /// The backup of an item as it was typed.
    pub(crate) fn open(
        &self,
        item: &str,
        look: &LookArgs,
        places: &PlaceArgs,
        settings: &Settings,
    ) -> Result<(Chosen, Tree), CommandError> {
        let version = version(look.version.as_deref())?;
        let chosen = self.choose(&Address::new(item), places, version)?;
        let tree = self.tree(&chosen, &look.view.view(), settings)?;
        Ok((chosen, tree))
    }
}

/// A name that means nothing, or several things.
pub(crate) fn unclear(problem: NameProblem) -> CommandError {
    match problem.kind {
        NameProblemKind::Ambiguous | NameProblemKind::Malformed => {
            CommandError::usage(problem.cause)
        }
        NameProblemKind::NotFound | NameProblemKind::Unsound => CommandError::failed(problem.cause),
    }
}
