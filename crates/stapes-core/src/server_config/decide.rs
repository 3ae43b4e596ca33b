//! The rules for single objects: what may be made, changed and removed, and what only by force.
//!
//! Order and dependencies are `plan.rs`'s.

use serde_json::{Map, Value};

use super::clean::LEFT_OUT;
use super::diff::{KeyChange, differences, has_own_source};
use super::document::ServerConfig;
use super::kind::{ConfigKind, ObjectId, ObjectKind};
use super::maps::VOLUME_KEYS;
use super::object::{Objects, config, list, text};
use super::plan::{Action, PlanOptions, Wish};
use super::users::Users;

/// Everything that a decision can depend on.
pub(super) struct Decider<'a> {
    pub(super) options: &'a PlanOptions,
    pub(super) users: &'a Users,
    pub(super) wanted: &'a Objects,
    pub(super) present: &'a Objects,
    pub(super) server: &'a ServerConfig,
}

/// What to do about an object, and what to say about it.
type Decision = (Action, Vec<String>);

impl Decider<'_> {
    /// What to do about an object that the server does not have.
    pub(super) fn create(&self, id: &ObjectId, object: &Map<String, Value>) -> Vec<Decision> {
        match id.kind {
            ObjectKind::Settings | ObjectKind::Address => {
                return self.settings(id, object, &Map::new());
            }
            ObjectKind::StoragePool if !self.options.force && is_on_device(object) => {
                let source = config(object, "source");
                let why = format!("it would be made on «{source}», which may hold other data");
                return plain(Action::NeedsForce { wish: Wish::Create, why });
            }
            ObjectKind::StorageBucketKey if !list(object, LEFT_OUT).is_empty() => {
                return blocked(
                    Wish::Create,
                    "its secret is not in the backup",
                    "make a new key, and tell it to those who use the bucket",
                );
            }
            kind if !self.server.knows(kind.document()) => {
                let why =
                    format!("this server has no {}", kind.document().as_str().replace('_', " "));
                return blocked(Wish::Create, &why, "it is too old for it: upgrade Incus");
            }
            _ => {}
        }
        let mut notes = Vec::new();
        let secrets: Vec<&str> = list(object, LEFT_OUT).iter().filter_map(Value::as_str).collect();
        if !secrets.is_empty() {
            let secrets = secrets.join(", ");
            notes.push(format!(
                "without secrets, which are not in the backup: set {secrets} by hand"
            ));
        }
        let implicit = id.kind == ObjectKind::Profile && id.name == "default";
        vec![(Action::Create { object: creatable(id.kind, object), implicit }, notes)]
    }

    /// What to do about an object that the server has.
    pub(super) fn update(
        &self,
        id: &ObjectId,
        wanted: &Map<String, Value>,
        now: &Map<String, Value>,
    ) -> Vec<Decision> {
        if matches!(id.kind, ObjectKind::Settings | ObjectKind::Address) {
            return self.settings(id, wanted, now);
        }
        let keys = differences(id.kind, wanted, now);
        if keys.is_empty() {
            return Vec::new();
        }
        match id.kind {
            ObjectKind::Project => self.update_project(id, keys),
            ObjectKind::Certificate if self.is_own(id) => blocked(
                Wish::Update(keys),
                "it is the certificate that we use ourselves",
                "change it over the unix socket",
            ),
            _ => {
                if let Some(fixed) = keys.iter().find(|key| is_fixed(id.kind, key)) {
                    let why = format!("Incus cannot change «{}» of what exists", fixed.key());
                    return blocked(Wish::Update(keys), &why, help_for_fixed(id.kind));
                }
                plain(self.forced_if_carrying(id, keys))
            }
        }
    }

    /// Changes of networks and pools are felt by the instances on them.
    fn forced_if_carrying(&self, id: &ObjectId, keys: Vec<KeyChange>) -> Action {
        let sensitive = matches!(id.kind, ObjectKind::StoragePool | ObjectKind::Network);
        match self.users.instances_on(id) {
            Some(carried) if sensitive && !self.options.force => Action::NeedsForce {
                wish: Wish::Update(keys),
                why: format!("it carries {carried}"),
            },
            _ => Action::Update(keys),
        }
    }

    /// What a project has of its own can only be changed as long as there is nothing in it.
    fn update_project(&self, id: &ObjectId, keys: Vec<KeyChange>) -> Vec<Decision> {
        let (features, others): (Vec<_>, Vec<_>) =
            keys.into_iter().partition(|key| key.key().starts_with("features."));
        let mut decisions = Vec::new();
        let holds = self.inside_project(id);
        let allowed = id.name != "default" && holds.is_none();
        let (others, features) = if allowed {
            (others.into_iter().chain(features).collect(), Vec::new())
        } else {
            (others, features)
        };
        if !features.is_empty() {
            let why = match holds {
                _ if id.name == "default" => {
                    "the features of the project default are fixed".to_owned()
                }
                Some(inside) => {
                    format!("features can be changed only while it is empty: it holds {inside}")
                }
                None => String::new(),
            };
            let help = "empty the project, or restore it under another name";
            decisions.extend(blocked(Wish::Update(features), &why, help));
        }
        if !others.is_empty() {
            decisions.extend(plain(Action::Update(others)));
        }
        decisions
    }

    /// What is in a project besides what the server put there.
    fn inside_project(&self, id: &ObjectId) -> Option<String> {
        self.users.inside(id).or_else(|| {
            let own = self.present.keys().find(|other| {
                other.project.as_deref() == Some(id.name.as_str())
                    && !(other.kind == ObjectKind::Profile && other.name == "default")
            });
            own.map(ToString::to_string)
        })
    }

    /// Settings are removed only by force, one by one.
    fn settings(
        &self,
        id: &ObjectId,
        wanted: &Map<String, Value>,
        now: &Map<String, Value>,
    ) -> Vec<Decision> {
        if id.kind == ObjectKind::Address && self.options.keep_address {
            return Vec::new();
        }
        let keys = differences(id.kind, wanted, now);
        let (gone, mut set): (Vec<_>, Vec<_>) = keys.into_iter().partition(|key| key.new.is_none());
        let mut decisions = Vec::new();
        let absent: Vec<KeyChange> =
            set.iter().filter(|key| self.lacks_volume(key)).cloned().collect();
        set.retain(|key| !absent.contains(key));
        if !absent.is_empty() {
            let help = "restore the volume, then apply again";
            decisions.extend(blocked(Wish::Update(absent), "its volume is not there", help));
        }
        if self.options.force {
            set.extend(gone);
        } else if !gone.is_empty() {
            let why = "the backup has no such setting".to_owned();
            decisions.push((Action::NeedsForce { wish: Wish::Update(gone), why }, Vec::new()));
        }
        if !set.is_empty() {
            let mut notes = Vec::new();
            if id.kind == ObjectKind::Address {
                notes.push("connections to the server may break".to_owned());
            }
            decisions.push((Action::Update(set), notes));
        }
        decisions
    }

    /// Whether a setting names a custom volume that the server does not have.
    fn lacks_volume(&self, key: &KeyChange) -> bool {
        let Some(place) = key.new.as_ref().and_then(Value::as_str) else { return false };
        let Some((pool, volume)) = place.split_once('/') else { return false };
        VOLUME_KEYS.contains(&key.key().as_str())
            && !self.server.objects(ConfigKind::Volumes).iter().any(|one| {
                text(one, "pool") == pool
                    && text(one, "name") == volume
                    && super::users::project_of(one) == "default"
            })
    }

    /// What to do about an object that the backup may not have; `None` if nothing.
    pub(super) fn remove(&self, id: &ObjectId, object: &Map<String, Value>) -> Option<Action> {
        let matters = !self.wanted.contains_key(id)
            && !self.is_own(id)
            && !server_certificate(object)
            && !self.is_mapped_to(id);
        let made_by_itself =
            id.name == "default" && matches!(id.kind, ObjectKind::Project | ObjectKind::Profile);
        if !matters || made_by_itself {
            return None;
        }
        if matches!(id.kind, ObjectKind::Settings | ObjectKind::Address) {
            let (action, _) = self.settings(id, &Map::new(), object).into_iter().next()?;
            return Some(action);
        }
        if !self.options.force {
            let why = "the backup does not have it".to_owned();
            return Some(Action::NeedsForce { wish: Wish::Remove, why });
        }
        let holds = match id.kind {
            ObjectKind::Project | ObjectKind::StoragePool => self.users.inside(id),
            ObjectKind::Network | ObjectKind::Profile => self.users.instances_on(id),
            _ => None,
        };
        Some(match holds {
            None => Action::Remove,
            Some(holds) => Action::Blocked {
                wish: Wish::Remove,
                why: format!("it is in use by {holds}"),
                help: "remove or move these first".to_owned(),
            },
        })
    }

    fn is_own(&self, id: &ObjectId) -> bool {
        id.kind == ObjectKind::Certificate
            && self.options.own_certificate.as_deref() == Some(id.name.as_str())
    }

    /// Whether something of the backup is mapped to this object, which is then used as it is.
    fn is_mapped_to(&self, id: &ObjectId) -> bool {
        let maps = &self.options.maps;
        let (map, name) = match id.kind {
            ObjectKind::StoragePool => (&maps.pools, Some(&id.name)),
            ObjectKind::Network => (&maps.networks, Some(&id.name)),
            ObjectKind::Project => (&maps.projects, Some(&id.name)),
            ObjectKind::Profile => (&maps.profiles, Some(&id.name)),
            ObjectKind::NetworkForward
            | ObjectKind::NetworkLoadBalancer
            | ObjectKind::NetworkPeer => (&maps.networks, id.within.first()),
            _ => return false,
        };
        name.is_some_and(|name| map.values().any(|new| new == name))
    }
}

fn plain(action: Action) -> Vec<Decision> {
    vec![(action, Vec::new())]
}

fn blocked(wish: Wish, why: &str, help: &str) -> Vec<Decision> {
    plain(Action::Blocked { wish, why: why.to_owned(), help: help.to_owned() })
}

/// A cluster's members trust each other by themselves.
pub(super) fn server_certificate(object: &Map<String, Value>) -> bool {
    object.contains_key("fingerprint") && text(object, "type") == "server"
}

/// What is sent to make an object: as it is in the backup, but for what describes the old server.
fn creatable(kind: ObjectKind, object: &Map<String, Value>) -> Map<String, Value> {
    let mut object = object.clone();
    object.remove(LEFT_OUT);
    if kind == ObjectKind::StoragePool
        && has_own_source(&object)
        && let Some(Value::Object(config)) = object.get_mut("config")
    {
        config.remove("source");
    }
    object
}

/// Whether a pool is made on something that the server did not make itself; a folder has to be
/// empty, so that nothing can be lost there.
fn is_on_device(pool: &Map<String, Value>) -> bool {
    !has_own_source(pool) && text(pool, "driver") != "dir"
}

/// Whether a value is fixed once the object exists.
fn is_fixed(kind: ObjectKind, key: &KeyChange) -> bool {
    let key = key.key();
    match kind {
        ObjectKind::StoragePool => matches!(key.as_str(), "driver" | "source"),
        ObjectKind::Network | ObjectKind::NetworkIntegration => key == "type",
        ObjectKind::NetworkPeer => key == "type" || key.starts_with("target_"),
        _ => false,
    }
}

fn help_for_fixed(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::StoragePool => "use the pool as it is with --pool-map, or under another name",
        ObjectKind::Network => "use the network as it is with --network-map, or under another name",
        _ => "remove it, then apply again",
    }
}
