//! The trust store: client certificates, and tokens that admit new ones.
//!
//! The other half, using a token as a new client, is in [`token`](crate::token).

use base64::Engine as _;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::client::Client;
use crate::connect::Certificate;
use crate::error::{Error, Result};
use crate::operation::Operation;
use crate::request::api_path;
use crate::token::{TokenWire, TrustToken};
use crate::wire::{Extra, or_default};

/// A trusted certificate.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
#[non_exhaustive]
pub struct TrustedCertificate {
    /// Name in the trust store.
    pub name: String,
    /// `client`, `server` or `metrics`.
    #[serde(rename = "type")]
    pub kind: String,
    /// PEM.
    pub certificate: String,
    /// SHA-256, lower-case hexadecimal.
    pub fingerprint: String,
    /// Whether it is restricted to `projects`.
    pub restricted: bool,
    /// The projects of a restricted certificate.
    #[serde(deserialize_with = "or_default")]
    pub projects: Vec<String>,
    /// For people.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
    /// Members that this crate does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// What a new certificate may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Grant {
    /// Everything.
    #[default]
    Unrestricted,
    /// Only these projects.
    Projects(Vec<String>),
}

impl Grant {
    fn restricted(&self) -> bool {
        matches!(self, Self::Projects(_))
    }

    fn projects(&self) -> &[String] {
        match self {
            Self::Unrestricted => &[],
            Self::Projects(projects) => projects,
        }
    }
}

/// A token that was just made; it can be used once, and is revoked by cancelling its operation.
#[derive(Debug)]
pub struct IssuedToken {
    /// The token.
    pub token: TrustToken,
    /// The operation that waits for it to be used.
    pub operation: Operation,
}

impl Client {
    /// Lists the trust store.
    pub async fn certificates(&self) -> Result<Vec<TrustedCertificate>> {
        let request = self.get(api_path!["certificates"], "list the trusted certificates");
        request.query("recursion", "1").list().await
    }

    /// Reads one certificate; the way to learn whether one's own is restricted.
    pub async fn certificate(&self, fingerprint: &str) -> Result<TrustedCertificate> {
        let action = format!("read the trusted certificate {fingerprint}");
        Ok(self.get(api_path!["certificates", fingerprint], action).fetch().await?.value)
    }

    /// Trusts a client certificate.
    pub async fn add_certificate(
        &self,
        name: &str,
        certificate: &Certificate,
        grant: &Grant,
    ) -> Result<()> {
        // The field holds the base64 of the DER, not the PEM.
        let encoded = base64::engine::general_purpose::STANDARD.encode(&certificate.der);
        let body = json!({
            "name": name,
            "type": "client",
            "certificate": encoded,
            "restricted": grant.restricted(),
            "projects": grant.projects(),
        });
        let action = format!("trust the certificate {name:?}");
        self.post(api_path!["certificates"], action).json(&body).done().await
    }

    /// Stops trusting a certificate.
    pub async fn delete_certificate(&self, fingerprint: &str) -> Result<()> {
        let action = format!("remove the trusted certificate {fingerprint}");
        self.delete(api_path!["certificates", fingerprint], action).done().await
    }

    /// Makes a token with which one new client certificate can be admitted.
    pub async fn issue_token(&self, name: &str, grant: &Grant) -> Result<IssuedToken> {
        let body = json!({
            "name": name,
            "type": "client",
            "token": true,
            "restricted": grant.restricted(),
            "projects": grant.projects(),
        });
        let action = format!("make a trust token for {name:?}");
        let operation = self.post(api_path!["certificates"], action).json(&body).run().await?;
        let token = issued(name, &operation)?;
        Ok(IssuedToken { token, operation })
    }
}

/// Composes the token of a token operation, as the official client does.
fn issued(name: &str, operation: &Operation) -> Result<TrustToken> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Made {
        addresses: Vec<String>,
        fingerprint: String,
        secret: String,
        #[serde(rename = "expiresAt", deserialize_with = "or_default")]
        expires_at: Option<String>,
    }
    let metadata = serde_json::Value::Object(operation.info().metadata.clone());
    let made: Made = serde_json::from_value(metadata).map_err(|error| {
        Error::invalid(operation.action(), "the server's token is not understood")
            .with_source(error)
    })?;
    let never = || crate::wire::NEVER.to_owned();
    TrustToken::from_wire(&TokenWire {
        client_name: name.to_owned(),
        fingerprint: made.fingerprint,
        addresses: made.addresses,
        secret: made.secret,
        expires_at: made.expires_at.unwrap_or_else(never),
    })
}
