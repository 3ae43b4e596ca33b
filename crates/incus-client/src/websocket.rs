//! Opens websockets on a server: an HTTP request that is upgraded in place.
//!
//! Uses the same connections, pins and identities as every other request.
//! What is sent over the socket is the business of `events` and `transfer`.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::SEC_WEBSOCKET_ACCEPT;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::{client::generate_key, derive_accept_key};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::error::Result;
use crate::request::Request;

/// An open websocket. Pings are answered while it is being read.
pub(crate) type Socket = WebSocketStream<reqwest::Upgraded>;

/// How long the handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(20);

/// The largest message that is accepted; Incus sends far smaller ones.
/// This bounds what a relay holds in memory per direction.
const LARGEST_MESSAGE: usize = 16 << 20;

impl Request<'_> {
    /// Sends the request as a websocket handshake.
    pub(crate) async fn websocket(self) -> Result<Socket> {
        let key = generate_key();
        let mut request = self
            .within(HANDSHAKE)
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", key.clone());
        let response = request.send_raw().await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(request.refusal(response).await);
        }
        let accept = response.headers().get(SEC_WEBSOCKET_ACCEPT).map(|value| value.as_bytes());
        if accept != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
            return Err(request.protocol_error("the websocket handshake is not ours"));
        }
        let upgraded = response.upgrade().await.map_err(|error| {
            request.protocol_error("the connection cannot be upgraded").with_source(error)
        })?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(LARGEST_MESSAGE))
            .max_frame_size(Some(LARGEST_MESSAGE));
        Ok(WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(config)).await)
    }
}
