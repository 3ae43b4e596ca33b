//! Trust tokens: how a new client is admitted without copying certificates by hand.
//!
//! A token is base64 of JSON and names the server by the fingerprint of its certificate, so the
//! very first connection is pinned already.

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use jiff::Timestamp;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::client::Client;
use crate::connect::{HttpsOptions, Identity, Pin, Timeouts};
use crate::error::{Cause, Error, Result};
use crate::request::api_path;
use crate::wire::parse_time;

/// A trust token.
#[derive(Clone, PartialEq, Eq)]
pub struct TrustToken {
    /// The name that the new certificate will have in the trust store.
    pub client_name: String,
    /// The server's certificate.
    pub pin: Pin,
    /// `HOST:PORT` where the server says it can be reached.
    pub addresses: Vec<String>,
    /// When it stops being valid.
    pub expires_at: Option<Timestamp>,
    text: String,
}

#[derive(Deserialize, Serialize)]
pub(crate) struct TokenWire {
    pub(crate) client_name: String,
    pub(crate) fingerprint: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) secret: String,
    #[serde(default)]
    pub(crate) expires_at: String,
}

const DECODE: &str = "read the trust token";

impl TrustToken {
    /// Reads a token as the server's administrator received it.
    pub fn decode(text: &str) -> Result<Self> {
        // Tokens get wrapped by terminals and mail programs.
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        if text.is_empty() {
            return Err(Error::invalid(DECODE, "it is empty"));
        }
        let config =
            GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        let bytes = GeneralPurpose::new(&base64::alphabet::STANDARD, config)
            .decode(&text)
            .map_err(|e| Error::invalid(DECODE, "it is not base64; was it cut?").with_source(e))?;
        let wire: TokenWire = serde_json::from_slice(&bytes).map_err(|e| {
            // The decoder's message can quote values, and one of them is the secret.
            let place = format!("it decodes, but is not a trust token (column {})", e.column());
            Error::invalid(DECODE, place)
        })?;
        Self::check(&wire, text)
    }

    /// The token as text, to be handed to a new client. It is a secret.
    pub fn encoded(&self) -> &str {
        &self.text
    }

    /// The addresses as URLs.
    pub fn urls(&self) -> Vec<String> {
        self.addresses.iter().map(|address| format!("https://{address}")).collect()
    }

    pub(crate) fn from_wire(wire: &TokenWire) -> Result<Self> {
        let json = serde_json::to_vec(wire)
            .map_err(|e| Error::invalid(DECODE, "it cannot be written").with_source(e))?;
        Self::check(wire, base64::engine::general_purpose::STANDARD.encode(json))
    }

    fn check(wire: &TokenWire, text: String) -> Result<Self> {
        if wire.secret.is_empty() {
            return Err(Error::invalid(DECODE, "it has no secret"));
        }
        let pin = Pin::parse(&wire.fingerprint)
            .map_err(|e| Error::invalid(DECODE, "its fingerprint is damaged").with_source(e))?;
        let expires_at = parse_time(&wire.expires_at)
            .map_err(|e| Error::invalid(DECODE, "its expiry is damaged").with_source(e))?;
        let (client_name, addresses) = (wire.client_name.clone(), wire.addresses.clone());
        Ok(Self { client_name, pin, addresses, expires_at, text })
    }
}

impl std::fmt::Debug for TrustToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrustToken")
            .field("client_name", &self.client_name)
            .field("pin", &self.pin)
            .field("addresses", &self.addresses)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// Uses `token` to have the certificate of `identity` trusted by the server at `url`.
///
/// The server must show the certificate that the token names.
/// Returns a client that the server has confirmed to trust.
/// A token that is wrong, used or expired is `Denied`.
pub async fn register(url: &str, identity: &Identity, token: &TrustToken) -> Result<Client> {
    let options = HttpsOptions {
        url: url.to_owned(),
        identity: Some(identity.clone()),
        pin: token.pin.clone(),
        timeouts: Timeouts::default(),
    };
    let client = Client::https(&options)?;
    present(&client, token).await?;
    Ok(client)
}

/// Shows the token to the server of `client`, and asks whether it is trusted now.
async fn present(client: &Client, token: &TrustToken) -> Result<()> {
    let action = format!("register at {} with a trust token", client.label());
    let body = json!({ "type": "client", "trust_token": token.encoded() });
    // The server does this at once. Asking for events before it would be refused, and the client
    // would remember that.
    let request = client.post(api_path!["certificates"], &*action).json(&body);
    request.fetch::<IgnoredAny>().await?;
    if !client.server().await?.is_trusted() {
        let detail = "it took the token, but does not trust the certificate";
        return Err(client.error(&action, Cause::Protocol { detail: detail.to_owned() }));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use stapes_testing::fake::{FakeIncus, Reply, Version};

    use super::*;
    use crate::error::ErrorKind;

    #[tokio::test]
    async fn a_client_that_has_just_registered_remembers_no_refused_events() {
        let fake = FakeIncus::start(Version::Lts6, &[]).unwrap();
        fake.on("POST", "/1.0/certificates", [Reply::sync(json!({}))]);
        let client = Client::unix(fake.socket()).unwrap();
        let token = TrustToken::decode(&encode(&sample())).unwrap();
        present(&client, &token).await.unwrap();
        let asked: Vec<_> = fake.requests().into_iter().map(|request| request.path).collect();
        assert_eq!(asked, ["/1.0/certificates", "/1.0"]);
    }

    fn encode(json: &str) -> String {
        base64::engine::general_purpose::STANDARD.encode(json)
    }

    fn sample() -> String {
        let fingerprint = "da3d".repeat(16);
        format!(
            r#"{{"client_name":"bkp","fingerprint":"{fingerprint}","addresses":["127.0.0.1:8443","[::1]:8443"],"secret":"028b","expires_at":"0001-01-01T00:00:00Z"}}"#
        )
    }

    #[test]
    fn a_token_is_read_whole_wrapped_and_without_padding() {
        let whole = encode(&sample());
        let wrapped = format!("  {}\n{}\n", &whole[..40], &whole[40..]);
        for text in [whole.as_str(), &wrapped, whole.trim_end_matches('=')] {
            let token = TrustToken::decode(text).unwrap();
            assert_eq!(token.client_name, "bkp");
            assert_eq!(token.pin.as_str(), "da3d".repeat(16));
            assert_eq!(token.urls(), ["https://127.0.0.1:8443", "https://[::1]:8443"]);
            assert_eq!(token.expires_at, None);
        }
    }

    #[test]
    fn damage_is_named_and_the_secret_never_shown() {
        let whole = encode(&sample());
        for (text, expected) in [
            (" ", "it is empty"),
            (&whole[..32], "not a trust token"),
            ("not!base64", "not base64"),
            (&encode(&sample().replace("da3dda3d", "xyz")), "fingerprint is damaged"),
            (&encode(&sample().replace("028b", "")), "no secret"),
            (&encode(&sample().replace("0001-01-01T", "soon")), "expiry is damaged"),
            (&encode(&sample().replace("\"028b\"", "28")), "not a trust token"),
        ] {
            let error = TrustToken::decode(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BadRequest);
            assert!(error.to_string().contains(expected), "{error}");
        }
        let shown = format!("{:?}", TrustToken::decode(&whole).unwrap());
        assert!(!shown.contains("028b"), "{shown}");
        assert!(!shown.contains(&whole), "{shown}");
    }
}
