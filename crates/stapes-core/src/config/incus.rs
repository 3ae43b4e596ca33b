//! The `incus:` block: which servers there are and how to reach them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::node::{Node, Value};
use super::problem::Problem;
use super::reader::{self, Block, Problems};
use crate::id::ServerName;

/// How a server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerUrl {
    /// The unix socket of a server on this machine.
    Unix(PathBuf),
    /// `https://host:port`, without a path.
    Https {
        /// The whole URL, normalised, with the port.
        url: String,
        /// Its host and port, the key of pinned certificates.
        host_port: String,
    },
}

/// One server of the configuration.
#[derive(Clone, Debug)]
pub struct IncusServer {
    /// How it is reached.
    pub url: ServerUrl,
    /// The address under which the *other* server of a copy reaches this one, if that differs.
    pub copy_url: Option<String>,
    /// The pinned server certificate, if it is not in the credentials directory.
    pub certificate: Option<PathBuf>,
    /// Our client certificate, if it is not in the credentials directory.
    pub client_certificate: Option<PathBuf>,
    /// Our client key, if it is not in the credentials directory.
    pub client_key: Option<PathBuf>,
}

impl IncusServer {
    pub(super) fn resolve_paths(&mut self, base: &Path) {
        let paths = [&mut self.certificate, &mut self.client_certificate, &mut self.client_key];
        for path in paths.into_iter().flatten() {
            *path = base.join(&*path);
        }
        if let ServerUrl::Unix(path) = &mut self.url {
            *path = base.join(&*path);
        }
    }
}

/// Why a text is not the address of an Incus server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not the address of an Incus server: {reason}")]
pub struct UrlError {
    text: String,
    reason: &'static str,
}

/// The port of Incus where the URL names none.
const DEFAULT_PORT: u16 = 8443;

impl FromStr for ServerUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let refuse = |reason| UrlError { text: without_login(text), reason };
        if let Some(path) = text.strip_prefix("unix://") {
            if !path.starts_with('/') {
                return Err(refuse("write unix:// and an absolute path"));
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        let Some(rest) = text.strip_prefix("https://") else {
            return Err(refuse("write https://host:8443 or unix:///path/to/unix.socket"));
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#', '@', ' ']) {
            return Err(refuse("only host and port may follow https://"));
        }
        let (host, port) = split_port(authority).ok_or_else(|| refuse("its port is no number"))?;
        if host.is_empty() {
            return Err(refuse("it names no host"));
        }
        let host_port = format!("{}:{port}", host.to_ascii_lowercase());
        Ok(Self::Https { url: format!("https://{host_port}"), host_port })
    }
}

/// The text with what stands before an `@`, which may be a password, left out.
fn without_login(text: &str) -> String {
    let Some((before, host)) = text.rsplit_once('@') else { return text.to_owned() };
    let scheme = before.find("://").map_or("", |end| before.get(..end + 3).unwrap_or_default());
    format!("{scheme}…@{host}")
}

/// Splits `host:port`, `[v6]:port` and `host`.
fn split_port(authority: &str) -> Option<(&str, u16)> {
    let after_host = match authority.rfind(']') {
        Some(end) => end + 1,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, rest) = authority.split_at(after_host);
    match rest.strip_prefix(':') {
        Some(port) => Some((host, port.parse().ok().filter(|port| *port > 0)?)),
        None if rest.is_empty() => Some((host, DEFAULT_PORT)),
        None => None,
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Https { url, .. } => f.write_str(url),
        }
    }
}

pub(super) fn read_servers(
    node: &Node,
    problems: &mut Problems,
) -> BTreeMap<ServerName, IncusServer> {
    let mut servers = BTreeMap::new();
    let Some(block) = Block::of(node, "incus", problems) else { return servers };
    for entry in block.entries() {
        let name = match entry.key.parse::<ServerName>() {
            Ok(name) => name,
            Err(error) => {
                problems.0.push(Problem::error(entry.key_span.clone(), error.to_string()));
                continue;
            }
        };
        if let Some(server) = read_server(&entry.node, &entry.key, problems) {
            servers.insert(name, server);
        }
    }
    servers
}

/// The names of all servers of the block, also of those that cannot be used.
pub(super) fn declared_names(node: &Node) -> BTreeSet<ServerName> {
    let Value::Map(entries) = &node.value else { return BTreeSet::new() };
    entries.iter().filter_map(|entry| entry.key.parse().ok()).collect()
}

fn read_server(node: &Node, name: &str, problems: &mut Problems) -> Option<IncusServer> {
    let mut block =
        Block::of_or_help(node, &format!("server {name}"), "write { url: https://… }", problems)?;
    let url = block.require("url", problems).and_then(|n| reader::parsed(n, "url", problems));
    let copy_url = block.take("copy-url").and_then(|n| read_copy_url(n, problems));
    let mut path = |key: &'static str, problems: &mut Problems| {
        block.take(key).and_then(|n| reader::text(n, key, problems)).map(PathBuf::from)
    };
    let certificate = path("certificate", problems);
    let client_certificate = path("client-certificate", problems);
    let client_key = path("client-key", problems);
    let span = block.span().clone();
    block.finish(problems);
    if client_certificate.is_some() != client_key.is_some() {
        problems.error(
            &span,
            format!("server {name}: client-certificate and client-key come together"),
        );
    }
    Some(IncusServer { url: url?, copy_url, certificate, client_certificate, client_key })
}

fn read_copy_url(node: &Node, problems: &mut Problems) -> Option<String> {
    match reader::parsed::<ServerUrl>(node, "copy-url", problems)? {
        ServerUrl::Https { url, .. } => Some(url),
        ServerUrl::Unix(_) => {
            problems.error(&node.span, "copy-url: another server cannot reach a unix socket");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_normalised_and_odd_ones_refused() {
        let host_port = |text: &str| match text.parse::<ServerUrl>() {
            Ok(ServerUrl::Https { host_port, .. }) => host_port,
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(host_port("https://Spare.lan"), "spare.lan:8443");
        assert_eq!(host_port("https://10.0.0.11:9443/"), "10.0.0.11:9443");
        assert_eq!(host_port("https://[fd00::1]:8443"), "[fd00::1]:8443");
        assert_eq!(host_port("https://[fd00::1]"), "[fd00::1]:8443");
        for bad in [
            "10.0.0.1:8443",
            "http://x",
            "https://",
            "https://h:0",
            "https://h:port",
            "https://h/1.0",
            "https://user@h",
            "unix://relative",
        ] {
            assert!(bad.parse::<ServerUrl>().is_err(), "{bad}");
        }
    }
}
