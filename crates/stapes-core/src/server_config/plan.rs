//! [`plan`]: what has to be done to a server so that it has the configuration of a backup.
//!
//! The rules for single objects are in `decide.rs`; here they are asked for every object, and the
//! answers are put in the order in which they can be done. Nothing is done here.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::clean::LEFT_OUT;
use super::decide::{Decider, server_certificate};
use super::diff::{KeyChange, is_nothing};
use super::document::ServerConfig;
use super::kind::{ConfigKind, ObjectId, ObjectKind};
use super::maps::{MapError, Maps};
use super::object::{Objects, config, list, objects, text};
use super::order::{has_late_rules, needs};
use super::users::{Features, Users};

/// Choices for a plan.
#[derive(Clone, Debug, Default)]
pub struct PlanOptions {
    /// Also remove what the backup does not have, change networks and pools that carry instances,
    /// and make pools on devices.
    pub force: bool,
    /// What is called otherwise on this server.
    pub maps: Maps,
    /// Fingerprint of the certificate that we use ourselves; it is neither changed nor removed.
    pub own_certificate: Option<String>,
    /// Leave the address that the server listens on as it is.
    pub keep_address: bool,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConfigPlan {
    /// Single changes, each after those that it needs.
    pub changes: Vec<Change>,
    /// What a person should know besides, in whole sentences.
    pub notes: Vec<String>,
}

/// One change, or the reason why there is none.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// What it is about.
    pub id: ObjectId,
    /// What is done.
    pub action: Action,
    /// What must be there before; a change is not tried if making one of these failed.
    pub needs: Vec<ObjectId>,
    /// What a person should know about it, in whole sentences.
    pub notes: Vec<String>,
}

/// What is done about an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// It is made.
    Create {
        /// As the backup has it.
        object: Map<String, Value>,
        /// Whether the server makes an empty one by itself, as it does with the profile `default`
        /// of a new project; that one is then filled.
        implicit: bool,
    },
    /// Some values of it change.
    Update(Vec<KeyChange>),
    /// It is removed.
    Remove,
    /// Nothing, because that needs `force`.
    NeedsForce {
        /// What would be done.
        wish: Wish,
        /// What is dangerous about it.
        why: String,
    },
    /// Nothing, because it cannot be done.
    Blocked {
        /// What would have to be done.
        wish: Wish,
        /// Why not.
        why: String,
        /// What a person can do.
        help: String,
    },
}

/// What would be done to an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Wish {
    /// To make it.
    Create,
    /// To change some values.
    Update(Vec<KeyChange>),
    /// To remove it.
    Remove,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The backup is not whole.
    #[error("the backup has no {}: it cannot be compared with a server", files(.0))]
    Missing(Vec<ConfigKind>),
    /// Whoever made the backup did not see the server whole: what is not in it may have been there.
    #[error(
        "the backup was made with a certificate that is restricted to some projects: it says too \
         little about the server to bring one into its state"
    )]
    Partial,
    /// We do not see the server whole.
    #[error(
        "the server's configuration cannot be read whole ({0}); that takes an unrestricted \
         certificate or the unix socket"
    )]
    Unread(String),
    /// A map cannot be used.
    #[error(transparent)]
    Map(#[from] MapError),
}

fn files(kinds: &[ConfigKind]) -> String {
    kinds.iter().map(|kind| kind.file_name()).collect::<Vec<_>>().join(", ")
}

impl ConfigPlan {
    /// Whether there is nothing to do and nothing that ought to be done.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The changes that will be made.
    pub fn work(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(|change| change.is_work())
    }
}

impl Change {
    /// Whether something will be done.
    pub fn is_work(&self) -> bool {
        matches!(self.action, Action::Create { .. } | Action::Update(_) | Action::Remove)
    }

    /// Whether the object is not there before and is meant to be there afterwards.
    pub fn makes(&self) -> bool {
        matches!(
            self.action,
            Action::Create { .. }
                | Action::NeedsForce { wish: Wish::Create, .. }
                | Action::Blocked { wish: Wish::Create, .. }
        )
    }
}

/// Compares a backup with what a server has now.
///
/// `current` must have been read with its secrets, or changes of secrets are not seen.
///
/// # Errors
/// [`PlanError`]; what cannot be done about single objects is in the plan.
pub fn plan(
    backup: &ServerConfig,
    current: &ServerConfig,
    options: &PlanOptions,
) -> Result<ConfigPlan, PlanError> {
    check(backup, current)?;
    options.maps.check(backup)?;
    let exists = |kind: ConfigKind, project: &str, name: &str| {
        current.objects(kind).iter().any(|object| {
            text(object, "name") == name
                && (text(object, "project") == project || project.is_empty())
        })
    };
    let backup = options.maps.apply(backup, exists);
    let (wanted, present) = (objects(&backup), objects(current));
    let users = Users::of(current);
    let features = Features::of(&backup);
    let decider =
        Decider { options, users: &users, wanted: &wanted, present: &present, server: current };
    let mut drafts = Vec::new();
    for (id, object) in wanted.iter().filter(|(_, object)| !server_certificate(object)) {
        let needed = needs(id, object, &features);
        let decided = match present.get(id) {
            Some(now) => decider.update(id, object, now),
            None => decider.create(id, object),
        };
        for (action, notes) in decided {
            let change = Change { id: id.clone(), action, needs: needed.clone(), notes };
            drafts.extend(in_two(change, id, object));
        }
    }
    let mut changes = ordered(drafts, &wanted);
    let removals = removals(&decider, &backup, &present);
    // What decides about our own connection comes after everything else.
    let last = changes.iter().position(|change| change.id.kind == ObjectKind::Address);
    changes.splice(last.unwrap_or(changes.len())..last.unwrap_or(changes.len()), removals);
    Ok(ConfigPlan { changes, notes: notes(&backup, current, &wanted, &present) })
}

fn check(backup: &ServerConfig, current: &ServerConfig) -> Result<(), PlanError> {
    if backup.is_partial() {
        return Err(PlanError::Partial);
    }
    let missing = backup.missing();
    if !missing.is_empty() {
        return Err(PlanError::Missing(missing));
    }
    let mut unread = current.missing();
    let needed = [ConfigKind::Server, ConfigKind::Certificates, ConfigKind::Instances];
    unread.extend(needed.into_iter().filter(|kind| !current.knows(*kind)));
    if !unread.is_empty() || current.is_partial() {
        let kinds: Vec<&str> = unread.iter().map(|kind| kind.as_str()).collect();
        let what =
            if kinds.is_empty() { "only some projects".to_owned() } else { kinds.join(", ") };
        return Err(PlanError::Unread(what));
    }
    Ok(())
}

/// A change with the step of its order: before or after networks and their peers.
struct Draft {
    change: Change,
    step: ObjectKind,
}

/// Splits the creation of a list of rules that name other lists or peers: the empty list first,
/// its rules when everything that they can name is there.
fn in_two(change: Change, id: &ObjectId, object: &Map<String, Value>) -> Vec<Draft> {
    let late = id.kind == ObjectKind::NetworkAcl && has_late_rules(id, object);
    let Change { action: Action::Create { object, implicit }, needs, notes, .. } = &change else {
        // Rules of a list that exists may name one that is new.
        let step = if late { ObjectKind::NetworkPeer } else { id.kind };
        return vec![Draft { change, step }];
    };
    if !late {
        return vec![Draft { step: id.kind, change }];
    }
    let (mut empty, mut rules) = (object.clone(), Vec::new());
    for member in ["egress", "ingress"] {
        if let Some(value) = empty.remove(member).filter(|value| !is_nothing(value)) {
            let path = vec![member.to_owned()];
            rules.push(KeyChange { path, old: None, new: Some(value), secret: false });
        }
    }
    let project = needs.iter().filter(|need| need.kind == ObjectKind::Project).cloned();
    let create = Action::Create { object: empty, implicit: *implicit };
    let mut needed = needs.clone();
    needed.push(id.clone());
    vec![
        Draft {
            step: id.kind,
            change: Change {
                id: id.clone(),
                action: create,
                needs: project.collect(),
                notes: notes.clone(),
            },
        },
        Draft {
            step: ObjectKind::NetworkPeer,
            change: Change {
                id: id.clone(),
                action: Action::Update(rules),
                needs: needed,
                notes: Vec::new(),
            },
        },
    ]
}

/// In the order of the kinds, what is made before what changes, uplinks before what hangs on them.
fn ordered(mut drafts: Vec<Draft>, wanted: &Objects) -> Vec<Change> {
    drafts.sort_by_cached_key(|Draft { change, step }| {
        let uplinked = wanted.get(&change.id).is_some_and(|object| {
            change.id.kind == ObjectKind::Network && !config(object, "network").is_empty()
        });
        (*step, !change.makes(), uplinked, change.id.clone())
    });
    drafts.into_iter().map(|draft| draft.change).collect()
}

/// What the server has and the backup does not, in the opposite order of creation.
fn removals(decider: &Decider<'_>, backup: &ServerConfig, present: &Objects) -> Vec<Change> {
    let surplus = present.iter().rev().filter(|(id, _)| backup.knows(id.kind.document()));
    surplus
        .filter_map(|(id, object)| {
            let action = decider.remove(id, object)?;
            Some(Change { id: id.clone(), action, needs: Vec::new(), notes: Vec::new() })
        })
        .collect()
}

/// What the plan is silent about.
fn notes(
    backup: &ServerConfig,
    current: &ServerConfig,
    wanted: &Objects,
    present: &Objects,
) -> Vec<String> {
    let mut notes = Vec::new();
    let planned = ConfigKind::ALL.into_iter().filter(|kind| !kind.is_evidence());
    let ignored = |kind: &ConfigKind| !backup.knows(*kind) && !current.objects(*kind).is_empty();
    let absent: BTreeSet<String> = planned.filter(ignored).map(ConfigKind::file_name).collect();
    if !absent.is_empty() {
        let absent = absent.into_iter().collect::<Vec<_>>().join(", ");
        notes.push(format!("the backup has no {absent}: these are left as they are"));
    }
    let nothing = Map::new();
    for (id, object) in wanted {
        // What is created says so itself.
        let now = match present.get(id) {
            Some(now) => now,
            None if id.kind == ObjectKind::Settings => &nothing,
            None => continue,
        };
        let secrets = list(object, LEFT_OUT).iter().filter_map(Value::as_str);
        let lost = secrets.filter(|key| config(now, key).is_empty() && text(now, key).is_empty());
        notes.extend(
            lost.map(|key| {
                format!("{id}: the secret «{key}» is not in the backup; set it by hand")
            }),
        );
    }
    notes
}
