//! The server itself: version, extensions, how it sees us, configuration.
//!
//! Ask for extensions, not versions: the long-term branches receive backports.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::client::Client;
use crate::error::{Cause, Result};
use crate::operation::OperationInfo;
use crate::request::{ETag, Versioned, api_path};
use crate::wire::{Config, Extra, open_enum, or_default};

open_enum! {
    /// How the server sees the caller.
    AuthState {
        /// May use the API (a restricted certificate is trusted too).
        Trusted = "trusted",
        /// May read `GET /1.0` in part, and nothing else.
        Untrusted = "untrusted",
    }
}

/// `GET /1.0`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Server {
    /// Optional parts of the API that this server has.
    #[serde(deserialize_with = "or_default")]
    pub api_extensions: Vec<String>,
    /// `1.0`.
    pub api_version: String,
    /// How the server sees us.
    pub auth: AuthState,
    /// Who we are: a certificate fingerprint or a unix user.
    #[serde(deserialize_with = "or_default")]
    pub auth_user_name: String,
    /// How we proved it: `tls`, `unix`, `oidc`.
    #[serde(deserialize_with = "or_default")]
    pub auth_user_method: String,
    /// Configuration; empty for restricted and untrusted callers.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// What the server is and runs on; empty for untrusted callers.
    #[serde(deserialize_with = "or_default")]
    pub environment: Environment,
    /// Members that this crate does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// What a server is and runs on.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Environment {
    /// `HOST:PORT` of the addresses that it listens on.
    #[serde(deserialize_with = "or_default")]
    pub addresses: Vec<String>,
    /// Architectures, the native one first.
    #[serde(deserialize_with = "or_default")]
    pub architectures: Vec<String>,
    /// Its certificate, PEM.
    pub certificate: String,
    /// SHA-256 of its certificate, lower-case hexadecimal.
    pub certificate_fingerprint: String,
    /// Kernel release.
    pub kernel_version: String,
    /// Whether it is a member of a cluster.
    pub server_clustered: bool,
    /// Name, usually the host's.
    pub server_name: String,
    /// Process id of the daemon.
    pub server_pid: i64,
    /// Version; not to be used for decisions.
    pub server_version: String,
    /// Drivers of the pools in use, joined with ` | `.
    pub storage: String,
    /// Drivers that could be used.
    #[serde(deserialize_with = "or_default")]
    pub storage_supported_drivers: Vec<StorageDriver>,
    /// Members that this crate does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A storage driver of the server.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
#[non_exhaustive]
pub struct StorageDriver {
    /// `btrfs`, `dir`, `zfs`, …
    // Incus 6.0 writes these with a capital letter, 7.0 without.
    #[serde(alias = "Name")]
    pub name: String,
    /// Version of its tools.
    #[serde(alias = "Version")]
    pub version: String,
    /// Whether its data live outside the server.
    #[serde(alias = "Remote")]
    pub remote: bool,
}

impl Server {
    /// Whether the server has an API extension.
    pub fn has(&self, extension: &str) -> bool {
        self.api_extensions.iter().any(|have| have == extension)
    }

    /// Whether the server trusts us.
    pub fn is_trusted(&self) -> bool {
        self.auth == AuthState::Trusted
    }

    /// The addresses that it listens on, as URLs.
    pub fn urls(&self) -> Vec<String> {
        self.environment.addresses.iter().map(|address| format!("https://{address}")).collect()
    }

    /// An error if the server lacks an API extension.
    pub fn require(&self, extension: &str) -> Result<()> {
        if self.has(extension) {
            return Ok(());
        }
        let name = &self.environment.server_name;
        let server = if name.is_empty() { "the server" } else { name.as_str() };
        let cause = Cause::Unsupported { extension: extension.to_owned() };
        Err(crate::Error::new("check the abilities of the server", server, None, cause))
    }
}

impl Client {
    /// Reads what the server is and how it sees us. Needs no trust.
    pub async fn server(&self) -> Result<Server> {
        Ok(self.server_versioned().await?.value)
    }

    /// Like [`server`](Self::server), with the version for a conditional change.
    pub async fn server_versioned(&self) -> Result<Versioned<Server>> {
        self.get("/1.0", "read the server's state").fetch().await
    }

    /// Changes the given keys of the server's configuration and leaves the others alone.
    pub async fn patch_server(&self, config: &Config, etag: Option<&ETag>) -> Result<()> {
        let body = serde_json::json!({ "config": config });
        let request = self.patch("/1.0", "change the server's configuration");
        request.if_match(etag).json(&body).done().await
    }
}

impl Client {
    /// Lists the operations of the project that the server still knows, running or just ended.
    pub async fn operations(&self) -> Result<Vec<OperationInfo>> {
        let request = self.get(api_path!["operations"], "list the operations");
        let by_status: BTreeMap<String, Vec<OperationInfo>> =
            request.scoped().query("recursion", "1").fetch().await?.value;
        Ok(by_status.into_values().flatten().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storage_drivers_are_read_in_both_spellings() {
        for drivers in [
            r#"[{"Name":"btrfs","Version":"6.2","Remote":false}]"#,
            r#"[{"name":"btrfs","version":"6.2","remote":false,"new":1}]"#,
        ] {
            let text = format!(r#"{{"environment":{{"storage_supported_drivers":{drivers}}}}}"#);
            let server: Server = serde_json::from_str(&text).unwrap();
            let driver = &server.environment.storage_supported_drivers[0];
            assert_eq!((driver.name.as_str(), driver.version.as_str()), ("btrfs", "6.2"));
        }
    }

    #[test]
    fn an_untrusted_answer_has_no_environment() {
        let text =
            r#"{"auth":"untrusted","config":{},"api_extensions":["a"],"auth_methods":["tls"]}"#;
        let server: Server = serde_json::from_str(text).unwrap();
        assert!(!server.is_trusted());
        assert!(server.has("a") && !server.has("b"));
        assert!(server.extra.contains_key("auth_methods"));
        let error = server.require("direct_backup").unwrap_err();
        let text = "check the abilities of the server: the server is too old: \
                    it lacks the API extension direct_backup";
        assert_eq!(error.to_string(), text);
        assert_eq!(error.missing_extension(), Some("direct_backup"));
    }
}
