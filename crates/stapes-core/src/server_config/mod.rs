//! The declarative configuration of an Incus server: what a backup of it holds, how it differs from
//! what a server has, and what would have to be done about that.
//!
//! Pure: documents come in as JSON, a plan comes out. Asking a server and changing it are the
//! engine's; where documents lie is the store's. Instances, volumes and images are recorded here as
//! evidence and never planned: other commands restore them.

mod clean;
mod decide;
mod diff;
mod document;
mod kind;
mod maps;
mod object;
mod order;
mod plan;
mod render;
mod secrets;
#[cfg(test)]
mod tests;
mod users;

pub use clean::{LeftOut, Secrets, clean_object};
pub use diff::{KeyChange, KeyPath, apply_keys, differences};
pub use document::{DocumentProblem, DocumentProblems, MAX_DOCUMENT_BYTES, ServerConfig};
pub use kind::{ConfigKind, ObjectId, ObjectKind};
pub use maps::{MapError, Maps};
pub use plan::{Action, Change, ConfigPlan, PlanError, PlanOptions, Wish, plan};
pub use render::render;
