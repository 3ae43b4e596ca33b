//! Restores the server's declarative configuration: compared, shown, and applied.
//!
//! What remains if the machine dies: the changes before that moment, each of them whole; the same
//! command goes on with the rest.

use incus_client::Client;
use stapes_core::event::{ItemReport, Step};
use stapes_core::outcome::Outcome;
use stapes_core::restore::{MapKind, Maps, RestoreOptions, RestoreRow};
use stapes_core::server_config::{
    Action, ConfigKind, ConfigPlan, Maps as ConfigMaps, PlanOptions, Secrets, ServerConfig, plan,
    render,
};
use stapes_store::StoredBackup;

use super::{Shared, content, item};
use crate::error::chain;
use crate::server_config::{ApplyResult, apply, gather};
use crate::steps::{explained, step};

/// How the configuration of a backup differs from that of the server.
#[derive(Debug)]
pub(crate) struct ConfigRestore {
    plan: ConfigPlan,
    /// Why there is no plan.
    pub(crate) problem: Option<String>,
}

impl ConfigRestore {
    /// Compares.
    pub(crate) async fn prepare(
        client: &Client,
        stored: &StoredBackup,
        options: &RestoreOptions,
    ) -> Self {
        match compare(client, stored, options).await {
            Ok(plan) => Self { plan, problem: None },
            Err(cause) => Self { plan: ConfigPlan::default(), problem: Some(cause) },
        }
    }

    /// The differences for people.
    pub(crate) fn diff(&self) -> String {
        let differences = render(&self.plan);
        if self.plan.is_empty() && self.problem.is_none() {
            return format!("no difference\n{differences}");
        }
        differences
    }

    /// What is changed or removed, one line each; what is only added is not in it.
    pub(crate) fn changes(&self) -> Vec<String> {
        let changes = self.plan.work().filter_map(|change| match &change.action {
            Action::Update(keys) => {
                let keys: Vec<String> = keys.iter().map(|key| key.key()).collect();
                Some(format!("changes {}: {}", change.id, keys.join(", ")))
            }
            Action::Remove => Some(format!("removes {}", change.id)),
            _ => None,
        });
        changes.collect()
    }

    /// Applies what differs.
    pub(crate) async fn apply(
        &self,
        shared: &Shared<'_>,
        row: &RestoreRow,
        report: &mut ItemReport,
    ) -> Result<(), String> {
        if let Some(problem) = &self.problem {
            return Err(problem.clone());
        }
        let stored = shared.stored(&row.info.item)?;
        item::check(shared, row, stored, &mut report.elapsed).await?;
        report.result = Some("applied");
        if !self.plan.changes.iter().any(stapes_core::server_config::Change::is_work) {
            report.result = Some("unchanged");
        }
        let cancel = &shared.context.cancel;
        let applying =
            async { Ok((apply(&shared.client, &self.plan, cancel, |_, _, _| {}).await, None)) };
        let elapsed = &mut report.elapsed;
        let events = &shared.context.events;
        let applied = step(events, &row.target, Step::Apply, elapsed, Box::pin(applying)).await?;
        for one in applied {
            match one.result {
                ApplyResult::Done => {}
                ApplyResult::Failed { reason } | ApplyResult::Unconfirmed { reason } => {
                    report.set_back(Outcome::Incomplete, format!("{}: {reason}", one.change.id));
                }
                ApplyResult::Skipped { reason } if one.change.is_work() => {
                    report.set_back(Outcome::Incomplete, format!("{}: {reason}", one.change.id));
                }
                ApplyResult::Skipped { reason } => {
                    report.remark(format!("{} was left alone: {reason}", one.change.id));
                }
            }
        }
        Ok(())
    }
}

async fn compare(
    client: &Client,
    stored: &StoredBackup,
    options: &RestoreOptions,
) -> Result<ConfigPlan, String> {
    let backup = content::documents(stored)?;
    let gathered = gather(client, Secrets::Include).await.map_err(|error| explained(&error))?;
    let (listens, listened) = (address(&gathered.config), address(&backup));
    let options = PlanOptions {
        force: options.force,
        maps: maps(&options.maps),
        own_certificate: gathered.own_certificate.clone(),
        keep_address: listens.is_some() && !options.force,
    };
    let mut plan = plan(&backup, &gathered.config, &options).map_err(|error| chain(&error))?;
    if options.keep_address && listens != listened {
        plan.notes.push(format!(
            "the server goes on listening on {}; the backup has {}, which --force would set",
            listens.unwrap_or_default(),
            listened.unwrap_or_else(|| "no address".to_owned()),
        ));
    }
    Ok(plan)
}

/// Where a server listens.
fn address(config: &ServerConfig) -> Option<String> {
    let servers = config.objects(ConfigKind::Server).iter();
    let mut found =
        servers.filter_map(|one| one.get("config")?.get("core.https_address")?.as_str());
    found.find(|address| !address.is_empty()).map(str::to_owned)
}

/// The maps as the comparison takes them; names that are no part of the configuration, such as that
/// of a pool of a single volume, are looked at by the restore itself.
fn maps(maps: &Maps) -> ConfigMaps {
    let map = |kind| {
        let entries = maps.entries(kind).into_iter();
        entries.map(|(old, new)| (old.to_owned(), new.to_owned())).collect()
    };
    ConfigMaps {
        pools: map(MapKind::Pool),
        networks: map(MapKind::Network),
        projects: map(MapKind::Project),
        profiles: map(MapKind::Profile),
    }
}
