//! `stapes key`: which passwords open a restic repository.

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::{Value, json};
use stapes_core::place::Place;
use stapes_core::units::counted;
use stapes_engine::repository::keys::{self, Key, Keys};
use stapes_engine::repository::{Opened, Use};
use stapes_engine::secret;

use crate::confirm::confirm_in_run;
use crate::exit::Exit;
use crate::interrupt;
use crate::output::columns::{self, printable};
use crate::output::{self, listing};
use crate::password::NewPasswordArgs;
use crate::places::{PlaceArgs, RepositoryPlace};
use crate::report_error::CommandError;
use crate::settings::Settings;

/// List, add, remove and replace the passwords of a restic repository
///
/// Each key opens the whole repository with a password of its own. A key that is removed stops opening
/// it; who has copied the repository and knows that key's password can still read the copy.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stapes key list --target restic:/mnt/nas/restic
  stapes key add --new-password-file /root/second --target nas
  stapes key passwd --target nas                      asks for the new password, twice
  stapes key remove 5c65f1e2 --target nas")]
pub(crate) struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,
    #[command(flatten)]
    places: PlaceArgs,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// The keys, and which one opened the repository
    List,
    /// Add a key with another password
    Add(NewPasswordArgs),
    /// Remove a key that is not in use; asks before
    Remove {
        /// The key, or the beginning of its id, as `stapes key list` shows it
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Replace the key in use by one with another password
    Passwd(NewPasswordArgs),
}

impl KeyArgs {
    /// Whether its result is a document.
    pub(crate) fn is_list(&self) -> bool {
        matches!(self.command, KeyCommand::List)
    }
}

pub(crate) async fn run(args: &KeyArgs, settings: &Settings) -> Result<Exit, CommandError> {
    let loaded = settings.load_config_if_any()?;
    let target = args.places.repository(settings, loaded.as_ref())?;
    if let Place::Dir(_) = target.place {
        let label = &target.label;
        return Err(CommandError::usage(format!("{label} is a directory, which has no keys"))
            .with_help(
                "directories are not encrypted yet; a restic repository is restic:LOCATION",
            ));
    }
    // What has to be asked is asked before a lock keeps others out.
    let opened = target.open(settings, loaded.as_ref(), Use::Look).await?;
    let done = match &args.command {
        KeyCommand::List => return list(&opened, &target, settings).await,
        KeyCommand::Add(new) => add(new, &opened, &target, settings).await?,
        KeyCommand::Remove { id } => remove(id, &opened, settings).await?,
        KeyCommand::Passwd(new) => passwd(new, &opened, &target, settings).await?,
    };
    let document =
        json!({ "repository": target.label, "added": done.added, "removed": done.removed });
    output::result(&listing::text(settings.format, || document, || done.text)?);
    Ok(Exit::Complete)
}

/// What has changed: the names of keys, and a line for people.
struct Done {
    added: Option<String>,
    removed: Option<String>,
    text: String,
}

async fn list(
    opened: &Opened,
    target: &RepositoryPlace,
    settings: &Settings,
) -> Result<Exit, CommandError> {
    let keys = keys::list(&opened.repository).await?;
    let document = || document(&keys, &target.label);
    output::result(&listing::text(settings.format, document, || table(&keys))?);
    for (id, why) in &keys.damaged {
        let why = printable(why);
        output::error_line(&format!("warning: the key {} is damaged: {why}", short(id)));
    }
    Ok(Exit::Complete)
}

async fn add(
    new: &NewPasswordArgs,
    opened: &Opened,
    target: &RepositoryPlace,
    settings: &Settings,
) -> Result<Done, CommandError> {
    let password = new.choose(&target.label, settings)?;
    let password = secret::resolve_password(&password, &settings.environment()).await?;
    let _cancel = interrupt::token();
    let added = keys::add(&opened.repository, &password).await?;
    let text = format!("added the key {}\n", short(&added));
    Ok(Done { added: Some(added), removed: None, text })
}

async fn remove(start: &str, opened: &Opened, settings: &Settings) -> Result<Done, CommandError> {
    let keys = keys::list(&opened.repository).await?;
    let id = chosen(&keys, start)?;
    let cancel = interrupt::token();
    let consequences =
        vec![format!("{} does not open the repository any more", described(&keys, &id))];
    confirm_in_run(consequences, "Remove it?", settings.yes, &cancel).await?;
    keys::remove(&opened.repository, &id).await?;
    let text = format!("removed the key {}\n", short(&id));
    Ok(Done { added: None, removed: Some(id), text })
}

async fn passwd(
    new: &NewPasswordArgs,
    opened: &Opened,
    target: &RepositoryPlace,
    settings: &Settings,
) -> Result<Done, CommandError> {
    let password = new.choose(&target.label, settings)?;
    let password = secret::resolve_password(&password, &settings.environment()).await?;
    let _cancel = interrupt::token();
    let (old, new) = keys::replace(&opened.repository, &password).await?;
    let text = format!(
        "the key {} with the new password is in the place of {}\n",
        short(&new),
        short(&old)
    );
    // The work is done: that the others cannot be counted does not make it undone.
    let others =
        keys::list(&opened.repository).await.map_or(0, |keys| keys.whole.len().saturating_sub(1));
    if others > 0 {
        let open = if others == 1 { "opens" } else { "open" };
        let others = counted(others, "other key");
        output::note(settings, &format!("{others} {open} the repository as before"));
    }
    Ok(Done { added: Some(new), removed: Some(old), text })
}

/// The one key whose name begins so, if it may be removed.
fn chosen(keys: &Keys, start: &str) -> Result<String, CommandError> {
    let known = "`stapes key list` shows them; nothing was changed";
    // An empty beginning would mean the only key that there is.
    let found = if start.is_empty() { Vec::new() } else { keys.beginning_with(start) };
    let id = match found.as_slice() {
        [id] => *id,
        [] => {
            let shown = start.escape_debug();
            return Err(
                CommandError::failed(format!("no key begins with «{shown}»")).with_help(known)
            );
        }
        several => {
            let several: Vec<&str> = several.iter().map(|id| short(id)).collect();
            let told = format!("{start} is the beginning of several keys: {}", several.join(", "));
            return Err(CommandError::usage(told).with_help(known));
        }
    };
    if keys.current().is_some_and(|current| current.id == id) {
        let only = keys.whole.len() == 1;
        let why = if only { "the only one that opens" } else { "the one that opened" };
        let help = if only {
            "`stapes key passwd` replaces it; nothing was changed"
        } else {
            "give the password of another key to remove this one; nothing was changed"
        };
        let told = format!("the key {} is {why} the repository, and stays", short(id));
        return Err(CommandError::usage(told).with_help(help));
    }
    Ok(id.to_owned())
}

/// A key as people know it again.
fn described(keys: &Keys, id: &str) -> String {
    let short = short(id);
    match keys.whole.iter().find(|key| key.id == id) {
        Some(key) => {
            let [_, user, host, created, _] = row(key);
            format!("the key {short} of {user} on {host}, made {created},")
        }
        None => format!("the damaged key {short}"),
    }
}

/// As restic shows it.
fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

fn table(keys: &Keys) -> String {
    let rows: Vec<[String; 5]> = keys.whole.iter().map(row).collect();
    columns::draw(["KEY", "USER", "HOST", "CREATED (UTC)", "IN USE"], &rows)
}

fn row(key: &Key) -> [String; 5] {
    let text = |text: &Option<String>| text.as_deref().map_or_else(|| "-".to_owned(), printable);
    let created = key.created.map(|at| at.strftime("%Y-%m-%d %H:%M").to_string());
    [
        short(&key.id).to_owned(),
        text(&key.user),
        text(&key.host),
        created.unwrap_or_else(|| "-".to_owned()),
        if key.is_current { "yes" } else { "-" }.to_owned(),
    ]
}

fn document(keys: &Keys, repository: &str) -> impl Serialize {
    let whole = keys.whole.iter().map(|key| {
        json!({
            "id": key.id,
            "user": key.user,
            "host": key.host,
            "created_at": key.created.map(|at| at.to_string()),
            "current": key.is_current,
        })
    });
    let damaged = keys.damaged.iter().map(|(id, cause)| json!({ "id": id, "cause": cause }));
    json!({
        "repository": repository,
        "keys": whole.collect::<Vec<Value>>(),
        "damaged": damaged.collect::<Vec<Value>>(),
    })
}
