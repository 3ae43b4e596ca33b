//! `stapes restore files`: single files and folders of a backup, to this machine or into an instance.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;
use stapes_core::backup::address::Address;
use stapes_core::backup::{BackupItem, Version};
use stapes_core::item::ItemId;
use stapes_engine::browse::{Tree, files, into, shown};
use stapes_engine::clock::Clock;
use stapes_engine::repository::{Use, User};

use super::look::{self, Looking, ViewArgs};
use crate::confirm::{confirm, confirm_in_run};
use crate::exit::Exit;
use crate::interrupt;
use crate::output;
use crate::output::given::{self, Line};
use crate::places::PlaceArgs;
use crate::report_error::CommandError;
use crate::settings::Settings;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stapes restore files web1 /etc/nginx --into web1 --target nas
  stapes restore files web1 /srv/data/report.ods --to /tmp/found --target nas
  stapes restore files web1@20261121T023000Z /etc/hosts --into web1 --replace --target nas

Into an instance go content, owner, permissions, folders and links; the server's interface for files
sets no times and extended attributes, and no setuid bits. --to keeps all that the user may set.")]
pub(crate) struct FilesArgs {
    /// The item: `[PROJECT:]NAME`, `[PROJECT:]POOL/NAME`, service:NAME, maybe with @VERSION
    item: String,
    /// Files and folders as inside the item
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
    /// Into this folder of this machine, under their last names
    #[arg(long, value_name = "DIR", conflicts_with = "into", required_unless_present = "into")]
    to: Option<PathBuf>,
    /// Into this instance, running or stopped: to where they came from, or into a FOLDER of it
    #[arg(long, value_name = "[PROJECT:]NAME[/FOLDER]")]
    into: Option<String>,
    #[command(flatten)]
    view: ViewArgs,
}

/// What all restores have, of which this one has a part.
pub(crate) struct Common {
    pub(crate) version: Option<Version>,
    pub(crate) replace: bool,
    pub(crate) dry_run: bool,
}

pub(crate) async fn run(
    args: &FilesArgs,
    common: &Common,
    places: &PlaceArgs,
    settings: &Settings,
) -> Result<Exit, CommandError> {
    let user = User::this_process("restore", Clock::System.now());
    let looking = Looking::begin(places, settings, Use::Shared(user)).await?;
    let chosen = looking.choose(&Address::new(&args.item), places, common.version)?;
    let tree = looking.tree(&chosen, &args.view.view(), settings)?;
    let paths: Vec<Vec<u8>> = args.paths.iter().map(|path| look::path(path)).collect();
    match (&args.to, &args.into) {
        (Some(to), _) => to_folder(tree, &paths, to, common, settings),
        (None, Some(into)) => {
            let into = instance(into, &chosen.info.item, places, settings)?;
            into_instance(tree, &paths, into, common, settings).await
        }
        (None, None) => Err(CommandError::usage("it is not said where to")
            .with_help("say --to DIR or --into INSTANCE")),
    }
}

fn to_folder(
    tree: Tree,
    paths: &[Vec<u8>],
    to: &Path,
    common: &Common,
    settings: &Settings,
) -> Result<Exit, CommandError> {
    let plan = files::prepare(tree, paths, to)?;
    let line = |item: &files::Planned| Line {
        entry: item.entry.clone(),
        to: shown(&look::path(item.to.as_os_str())),
        exists: item.exists,
    };
    let lines: Vec<Line> = plan.items.iter().map(line).collect();
    let extent = plan.extent()?;
    if common.dry_run {
        output::result(&given::plan(settings.format, plan.title(), &lines, extent));
        check(&lines, common)?;
        return Ok(Exit::Complete);
    }
    check(&lines, common)?;
    let replaced = given::replaced(&lines);
    if !replaced.is_empty() {
        confirm(&replaced, "Go on?", settings.yes)?;
    }
    let title = plan.title().to_owned();
    let given = files::restore(plan)?;
    Ok(given::tell(&given, &title, settings))
}

async fn into_instance(
    tree: Tree,
    paths: &[Vec<u8>],
    into: into::Into,
    common: &Common,
    settings: &Settings,
) -> Result<Exit, CommandError> {
    let instance = into.instance.clone();
    let plan = into::prepare(tree, paths, into).await?;
    let line = |item: &into::Planned| Line {
        entry: item.entry.clone(),
        to: format!("{instance}:{}", shown(item.to.as_bytes())),
        exists: item.exists,
    };
    let lines: Vec<Line> = plan.items.iter().map(line).collect();
    let extent = plan.extent()?;
    if common.dry_run {
        output::result(&given::plan(settings.format, plan.title(), &lines, extent));
        check(&lines, common)?;
        return Ok(Exit::Complete);
    }
    check(&lines, common)?;
    let cancel = interrupt::token();
    confirm_in_run(given::replaced(&lines), "Go on?", settings.yes, &cancel).await?;
    let title = plan.title().to_owned();
    let given = into::restore(plan, &cancel).await?;
    Ok(given::tell(&given, &title, settings))
}

/// Refuses to replace what nobody has allowed to be replaced.
fn check(lines: &[Line], common: &Common) -> Result<(), CommandError> {
    let there: Vec<String> = lines
        .iter()
        .filter(|line| line.exists && !common.replace)
        .map(|line| format!("{} exists already", line.to))
        .collect();
    if there.is_empty() {
        return Ok(());
    }
    Err(CommandError::failed(there.join("\n       "))
        .with_help("say --replace to replace it, or another place; nothing was changed"))
}

/// The instance that is meant, in the project of the item unless another one is said.
fn instance(
    text: &str,
    item: &BackupItem,
    places: &PlaceArgs,
    settings: &Settings,
) -> Result<into::Into, CommandError> {
    let (name, folder) = match text.find('/') {
        Some(slash) => text.split_at(slash),
        None => (text, ""),
    };
    let own = item.item().map(ItemId::project).map(ToString::to_string);
    let (project, name) = match name.split_once(':') {
        Some((project, name)) => (project.to_owned(), name),
        None => (own.unwrap_or_else(|| "default".to_owned()), name),
    };
    if name.is_empty() || project.is_empty() {
        return Err(CommandError::usage(format!(
            "--into: {} names no instance",
            shown(text.as_bytes())
        ))
        .with_help("write [PROJECT:]NAME, or [PROJECT:]NAME/FOLDER"));
    }
    let loaded = settings.load_config_if_any()?;
    let server = places.server(settings, loaded.as_ref())?;
    let folder = Some(folder).filter(|folder| !folder.is_empty());
    Ok(into::Into {
        server: server.name,
        client: server.client.with_project(&project),
        instance: name.to_owned(),
        folder: folder.map(|folder| folder.as_bytes().to_vec()),
    })
}
