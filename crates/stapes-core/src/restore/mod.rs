//! Restoring, decided: a pure function from chosen backups and the facts of a server to what is to
//! be done there.
//!
//! `input` says what it is decided from, `maps` how names on the target differ, `row` and `conflict`
//! what comes out, `plan` decides. Which backups are taken is `backup::choose`'s business, what a
//! restored configuration changes that of `server_config`, and doing it the engine's.
//!
//! Whether something running may be stopped: an instance that is itself replaced is stopped after
//! the confirmation that `-y` answers, because asking to replace it says so. An instance that only
//! uses a volume that is replaced was not asked for; unless it is replaced by the same plan, it is a
//! conflict that takes `--force`. What would not survive a stop (an ephemeral instance) is never
//! stopped.

mod between;
mod checks;
mod conflict;
mod input;
mod maps;
mod mistakes;
mod names;
mod plan;
mod row;
#[cfg(test)]
mod tests;

pub use conflict::Conflict;
pub use input::{
    ConfigContent, Content, Existing, InstanceContent, Restorable, RestoreInput, RestoreOptions,
    VolumeContent,
};
pub use maps::{MapError, MapKind, Maps};
pub use names::check_instance_name;
pub use plan::plan;
pub use row::{Replacement, RestoreAction, RestorePlan, RestoreRow};
