//! Projects, profiles and networks: what instances stand in.

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::client::Client;
use crate::error::Result;
use crate::request::{ETag, ListOptions, Versioned, api_path};
use crate::wire::{Config, Devices, Extra, or_default};

/// A project.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Project {
    /// Name.
    pub name: String,
    /// For people.
    pub description: String,
    /// Configuration; `features.*` decide which objects it has of its own.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// URLs of what is in it.
    #[serde(deserialize_with = "or_default", skip_serializing)]
    pub used_by: Vec<String>,
    /// Members that this crate does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Project {
    /// Whether the project has its own objects of a kind (`storage.volumes`, `profiles`, …).
    pub fn has_feature(&self, feature: &str) -> bool {
        self.name == "default"
            || self.config.get(&format!("features.{feature}")).is_some_and(|v| v == "true")
    }
}

/// A profile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Profile {
    /// Name.
    pub name: String,
    /// For people.
    pub description: String,
    /// Configuration for the instances that use it.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// Devices for the instances that use it.
    #[serde(deserialize_with = "or_default")]
    pub devices: Devices,
    /// URLs of the instances that use it.
    #[serde(deserialize_with = "or_default", skip_serializing)]
    pub used_by: Vec<String>,
    /// The project it belongs to, where the server says so.
    #[serde(deserialize_with = "or_default", skip_serializing)]
    pub project: String,
    /// Members that this crate does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Network {
    /// Name.
    pub name: String,
    /// `bridge`, `ovn`, `physical`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether Incus made it; otherwise it is just an interface of the host.
    pub managed: bool,
    /// For people.
    pub description: String,
    /// Configuration.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// `Created`, `Pending`, `Errored`, …
    #[serde(deserialize_with = "or_default")]
    pub status: String,
    /// URLs of what uses it.
    #[serde(deserialize_with = "or_default")]
    pub used_by: Vec<String>,
    /// The project it belongs to, where the server says so.
    #[serde(deserialize_with = "or_default")]
    pub project: String,
    /// Members that this crate does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Client {
    /// Lists the projects that the caller may see.
    pub async fn projects(&self) -> Result<Vec<Project>> {
        self.get(api_path!["projects"], "list the projects").query("recursion", "1").list().await
    }

    /// Reads a project by name.
    pub async fn read_project(&self, name: &str) -> Result<Versioned<Project>> {
        self.get(api_path!["projects", name], format!("read project {name:?}")).fetch().await
    }

    /// Creates a project.
    pub async fn create_project(&self, project: &Project) -> Result<()> {
        let action = format!("create project {:?}", project.name);
        self.post(api_path!["projects"], action).json(project).done().await
    }

    /// Replaces description and configuration; the full set of `features.*` must be in it.
    pub async fn update_project(&self, project: &Project, etag: Option<&ETag>) -> Result<()> {
        let action = format!("change project {:?}", project.name);
        let request = self.put(api_path!["projects", &project.name], action);
        request.if_match(etag).json(project).done().await
    }

    /// Deletes an empty project.
    pub async fn delete_project(&self, name: &str) -> Result<()> {
        self.delete(api_path!["projects", name], format!("delete project {name:?}")).done().await
    }

    /// Lists profiles.
    pub async fn profiles(&self, options: &ListOptions) -> Result<Vec<Profile>> {
        let request = self.get(api_path!["profiles"], "list the profiles");
        request.listing(options).query("recursion", "1").list().await
    }

    /// Reads a profile.
    pub async fn profile(&self, name: &str) -> Result<Versioned<Profile>> {
        let request = self.get(api_path!["profiles", name], format!("read profile {name:?}"));
        request.scoped().fetch().await
    }

    /// Creates a profile.
    pub async fn create_profile(&self, profile: &Profile) -> Result<()> {
        let action = format!("create profile {:?}", profile.name);
        self.post(api_path!["profiles"], action).scoped().json(profile).done().await
    }

    /// Replaces description, configuration and devices of a profile.
    pub async fn update_profile(&self, profile: &Profile, etag: Option<&ETag>) -> Result<()> {
        let action = format!("change profile {:?}", profile.name);
        let request = self.put(api_path!["profiles", &profile.name], action);
        request.scoped().if_match(etag).json(profile).done().await
    }

    /// Renames a profile.
    pub async fn rename_profile(&self, name: &str, to: &str) -> Result<()> {
        let request = self.post(api_path!["profiles", name], format!("rename profile {name:?}"));
        request.scoped().json(&json!({ "name": to })).done().await
    }

    /// Deletes a profile that nothing uses.
    pub async fn delete_profile(&self, name: &str) -> Result<()> {
        let request = self.delete(api_path!["profiles", name], format!("delete profile {name:?}"));
        request.scoped().done().await
    }

    /// Lists networks, interfaces of the host included (those are not `managed`).
    pub async fn networks(&self, options: &ListOptions) -> Result<Vec<Network>> {
        let request = self.get(api_path!["networks"], "list the networks");
        request.listing(options).query("recursion", "1").list().await
    }

    /// Reads a network.
    pub async fn network(&self, name: &str) -> Result<Versioned<Network>> {
        let request = self.get(api_path!["networks", name], format!("read network {name:?}"));
        request.scoped().fetch().await
    }
}
