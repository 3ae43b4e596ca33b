//! Looks after repositories: checks them, and removes what no snapshot needs.
//!
//! [`check`] changes nothing and reports everything it finds; [`prune`] refuses to begin where anything
//! that it must know cannot be read, and removes nothing before what replaces it is durable. Which
//! snapshots are forgotten is decided by callers.

pub mod check;
mod needed;
mod pack_check;
mod plan;
pub mod prune;
mod repack;
mod survey;
mod watch;

use self::survey::Survey;
use super::index::Index;
use super::repository::Repository;
use crate::error::{Error, Result};

pub use check::{CheckReport, Finding, ReadData};
pub use plan::{PruneOptions, PrunePlan};
pub use prune::PruneStats;
pub use watch::{Progress, Stage, Watch};

impl Repository {
    /// The index for those that add: what lies in packs that are missing, or have another size than
    /// index files say, is left out, so that it is stored again. The number is that of these packs.
    ///
    /// To be loaded under the lock under which something is added.
    ///
    /// # Errors
    /// `Damaged` if an index file cannot be read; if the storage fails.
    pub fn load_index_to_add(&self) -> Result<(Index, usize)> {
        let survey = Survey::take(self)?;
        match survey.damaged_index_files.first() {
            Some((_, why)) => Err(Error::damaged(
                "the index",
                format!(
                    "{why}; `restic repair index` makes it again of the packs (`restic rebuild-index` \
                     before 0.16)"
                ),
            )),
            None => Ok(survey.sound_index()),
        }
    }
}

#[cfg(test)]
mod tests;
