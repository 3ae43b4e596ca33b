//! Why a backup cannot be restored as things are, and what to do about it.

use crate::id::{PoolName, ProjectName};
use crate::item::ItemId;

/// One obstacle. Prints what is in the way, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// The target has an item of that name.
    #[error(
        "{target} exists; --replace replaces it, --skip-existing leaves it, --target-name restores beside it"
    )]
    Exists {
        /// The item.
        target: ItemId,
    },
    /// The new name that was given is taken.
    #[error(
        "{target} exists; --target-name is for a new name: choose another, or remove that one first"
    )]
    NewNameTaken {
        /// The item that has it.
        target: ItemId,
    },
    /// Another backup of the plan goes to the same place.
    #[error(
        "{others} would be restored onto {target} as well; restore them one by one, with --target-name or a map"
    )]
    SharedTarget {
        /// Where they meet, as people write it.
        target: String,
        /// The other backups.
        others: String,
    },
    /// The backup cannot be used.
    #[error("the backup is damaged: {causes}; choose another with --version")]
    Damaged {
        /// What is wrong with it.
        causes: String,
    },
    /// The manifest is of something else than its folder.
    #[error("the backup's content is not that of {item}; somebody changed its files or its folder")]
    WrongContent {
        /// The item that it should be of.
        item: String,
    },
    /// The target has no such project.
    #[error(
        "the server has no project {project}; restore the configuration first, create it, or use --project-map {old}=PROJECT{known}"
    )]
    NoProject {
        /// The project on the target.
        project: ProjectName,
        /// The project in the backup.
        old: ProjectName,
        /// Those that it has, or nothing.
        known: String,
    },
    /// The target has no such pool.
    #[error(
        "the server has no pool {pool}; restore the configuration first, create it, or use --pool-map {old}=POOL{known}"
    )]
    NoPool {
        /// The pool on the target.
        pool: PoolName,
        /// The pool in the backup.
        old: PoolName,
        /// Those that it has, or nothing.
        known: String,
    },
    /// The target has no such profile.
    #[error(
        "project {project} has no profile {profile}; restore the configuration first, create it, or use --profile-map {old}=PROFILE{known}"
    )]
    NoProfile {
        /// The profile on the target.
        profile: String,
        /// The profile in the backup.
        old: String,
        /// Where it is looked for.
        project: ProjectName,
        /// Those that are there, or nothing.
        known: String,
    },
    /// The target has no such network.
    #[error(
        "project {project} has no network {network}; restore the configuration first, create it, or use --network-map {old}=NETWORK{known}"
    )]
    NoNetwork {
        /// The network on the target.
        network: String,
        /// The network in the backup.
        old: String,
        /// Where it is looked for.
        project: ProjectName,
        /// Those that are there, or nothing.
        known: String,
    },
    /// A volume that the instance has attached is not there and not restored with it.
    #[error("{volume}, which it has attached, is not there; restore it first, or with it")]
    NoVolume {
        /// The volume on the target.
        volume: ItemId,
    },
    /// The archive is in the format of another storage driver.
    #[error(
        "the backup is in the format of {made_for}, and pool {pool} is {driver}; restore it to a pool of {made_for} with --pool-map {old}=POOL{known}, or take a backup made without --optimized"
    )]
    OtherDriver {
        /// The driver that it is for.
        made_for: String,
        /// The pool on the target.
        pool: PoolName,
        /// The pool in the backup.
        old: PoolName,
        /// The driver of the pool.
        driver: String,
        /// Pools that would do, or nothing.
        known: String,
    },
    /// The target cannot run this architecture.
    #[error("it is for {architecture}, and the server runs {supported} only")]
    Architecture {
        /// That of the instance.
        architecture: String,
        /// Those of the server.
        supported: String,
    },
    /// The target runs containers only.
    #[error("it is a virtual machine, and the server cannot run any")]
    VirtualMachine,
    /// The target cannot take this content.
    #[error("the server cannot import volumes of content type {content_type}{advice}")]
    ContentType {
        /// What the volume holds.
        content_type: String,
        /// What to do, or nothing.
        advice: String,
    },
    /// Incus does not accept the name.
    #[error("Incus does not accept the name \"{name}\": {why}; choose one with --target-name")]
    InvalidName {
        /// The name.
        name: String,
        /// The rule that it breaks.
        why: String,
    },
    /// A running instance, not replaced itself, uses the volume.
    #[error(
        "{user} uses it and is not stopped; stop it, or let --force stop it and start it again"
    )]
    InUse {
        /// The instance.
        user: ItemId,
    },
    /// An instance would have to be stopped and would not be there afterwards.
    #[error(
        "{instance} would have to be stopped, and it is deleted when it stops (it is ephemeral); copy it or stop it yourself"
    )]
    Ephemeral {
        /// The instance.
        instance: ItemId,
    },
    /// An instance would have to be stopped and is in a state in which that is no good.
    #[error(
        "{instance} would have to be stopped, and its state is {status}; bring it to running or stopped first"
    )]
    UnclearState {
        /// The instance.
        instance: ItemId,
        /// The server's word for its state.
        status: String,
    },
}
