//! Where a repository lies, spelled as restic spells it.
//!
//! Only reads and writes the spelling; nothing is looked up. What is printed can be read again, and
//! never holds a password.

use std::fmt::{self, Display};
use std::path::PathBuf;
use std::str::FromStr;

use reqwest::Url;
use secrecy::SecretString;

use crate::error::{Error, Result};

/// Where a repository lies.
#[derive(Clone, Debug)]
pub enum Location {
    /// `/path` or `local:/path`.
    Local(PathBuf),
    /// `sftp:user@host:/path` or `sftp://user@host:port//path`.
    Sftp(SftpLocation),
    /// `s3:https://host/bucket/prefix` or `s3:host/bucket/prefix`.
    S3(S3Location),
    /// `rest:https://user:password@host:port/path/`.
    Rest(RestLocation),
}

/// A folder on a machine that is reached through `ssh`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SftpLocation {
    /// The user to log in as; else `ssh` decides.
    pub user: Option<String>,
    /// The machine, or its name in the configuration of `ssh`.
    pub host: String,
    /// The port; else `ssh` decides.
    pub port: Option<u16>,
    /// The folder; one that does not begin with `/` is below the home folder of the user.
    pub path: String,
}

/// A bucket of an S3 server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Location {
    /// Scheme, host and port of the server.
    pub endpoint: Url,
    /// The bucket.
    pub bucket: String,
    /// What all names in it begin with, without slashes at its ends; may be empty.
    pub prefix: String,
}

/// A folder of restic's rest-server.
#[derive(Clone, Debug)]
pub struct RestLocation {
    /// The folder, ending with a slash, without user and password.
    pub url: Url,
    /// The user of the spelling.
    pub user: Option<String>,
    /// The password of the spelling.
    pub password: Option<SecretString>,
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(path) = text.strip_prefix("local:") {
            return local(path);
        }
        if let Some(rest) = text.strip_prefix("sftp:") {
            return sftp(rest).map(Self::Sftp);
        }
        if let Some(rest) = text.strip_prefix("s3:") {
            return s3(rest).map(Self::S3);
        }
        if let Some(rest) = text.strip_prefix("rest:") {
            return rest_server(rest).map(Self::Rest);
        }
        match text.split_once(':') {
            Some((scheme @ ("azure" | "b2" | "gs" | "rclone" | "swift"), _)) => {
                Err(Error::refused(
                    format!("a repository with {scheme}:"),
                    "only a local folder, sftp:, s3: and rest: are known",
                ))
            }
            // As restic: what looks like a scheme is not taken for a folder by accident.
            Some((scheme, _)) if !scheme.contains('/') => Err(Error::refused(
                format!("the location {scheme}:…"),
                "no such kind is known; if it is a folder, write local: before it",
            )),
            _ => local(text),
        }
    }
}

impl Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => {
                let path = path.display().to_string();
                let ambiguous = path.split('/').next().is_some_and(|first| first.contains(':'));
                if ambiguous {
                    f.write_str("local:")?;
                }
                f.write_str(&path)
            }
            Self::Sftp(sftp) => sftp.fmt(f),
            Self::S3(s3) => s3.fmt(f),
            Self::Rest(rest) => rest.fmt(f),
        }
    }
}

impl Display for SftpLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
        let bare = self.port.is_none() && !self.host.contains(':') && !user.contains(':');
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if bare {
            return write!(f, "sftp:{user}{host}:{}", self.path);
        }
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        write!(f, "sftp://{user}{host}{port}/{}", self.path)
    }
}

impl Display for S3Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3:{}{}", self.endpoint, self.bucket)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

impl Display for RestLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The user belongs to the place (a server may have private folders), the password does not.
        let mut url = self.url.clone();
        if let Some(user) = &self.user {
            // Cannot fail: http and https URLs with a host have user names.
            let _: Result<(), ()> = url.set_username(user);
        }
        write!(f, "rest:{url}")
    }
}

fn local(path: &str) -> Result<Location> {
    if path.is_empty() || path.contains('\0') {
        return Err(Error::refused("the location", "a repository needs a folder"));
    }
    Ok(Location::Local(PathBuf::from(path)))
}

fn sftp(text: &str) -> Result<SftpLocation> {
    let refused = |why: &str| Error::refused(format!("the location sftp:{text}"), why);
    let located = match text.strip_prefix("//") {
        Some(url) => {
            let (authority, path) = url.split_once('/').unwrap_or((url, ""));
            let (user, host) = split_user(authority);
            let (host, port) = split_port(host).ok_or_else(|| refused("its port is no number"))?;
            SftpLocation { user, host: host.to_owned(), port, path: path.to_owned() }
        }
        None => {
            let colon = match text.rfind("]:") {
                Some(bracket) => Some(bracket + 1),
                None => text.find(':'),
            };
            let (authority, path) = colon
                .and_then(|colon| Some((text.get(..colon)?, text.get(colon + 1..)?)))
                .ok_or_else(|| refused("it needs a host and a path: sftp:user@host:/path"))?;
            let (user, host) = split_user(authority);
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            SftpLocation { user, host, port: None, path: path.to_owned() }
        }
    };
    let user_is_option = located.user.as_ref().is_some_and(|user| user.starts_with('-'));
    if located.host.is_empty() {
        return Err(refused("it names no host"));
    }
    // `ssh` would take them for options.
    if located.host.starts_with('-') || user_is_option {
        return Err(refused("a host or user does not begin with a hyphen"));
    }
    if located.path.is_empty() {
        return Err(refused("it names no folder"));
    }
    if located.path.starts_with('~') {
        return Err(refused("~ is not understood by sftp servers; leave ~/ out"));
    }
    if text.contains('\0') {
        return Err(refused("it contains a zero byte"));
    }
    Ok(located)
}

fn split_user(authority: &str) -> (Option<String>, &str) {
    match authority.rsplit_once('@') {
        Some((user, host)) if !user.is_empty() => (Some(user.to_owned()), host),
        Some((_, host)) => (None, host),
        None => (None, authority),
    }
}

/// Host and port of an authority; `None` if the port is no number.
fn split_port(host: &str) -> Option<(&str, Option<u16>)> {
    if let Some(rest) = host.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        return match port.strip_prefix(':') {
            Some(port) => Some((host, Some(port.parse().ok()?))),
            None => port.is_empty().then_some((host, None)),
        };
    }
    match host.split_once(':') {
        Some((host, port)) => Some((host, Some(port.parse().ok()?))),
        None => Some((host, None)),
    }
}

fn s3(text: &str) -> Result<S3Location> {
    let refused = |why: &str| Error::refused(format!("the location s3:{}", hidden(text)), why);
    let url = if text.starts_with("http://") || text.starts_with("https://") {
        text.to_owned()
    } else {
        format!("https://{}", text.strip_prefix("//").unwrap_or(text))
    };
    let url = Url::parse(&url).map_err(|error| refused(&error.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refused("credentials are given beside it, not in it"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refused("it has a ? or #, which is no part of a bucket"));
    }
    let path = url.path().trim_matches('/');
    let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
    if bucket.is_empty() {
        return Err(refused("it names no bucket: s3:https://host/bucket/prefix"));
    }
    let prefix: Vec<&str> = prefix.split('/').filter(|part| !part.is_empty()).collect();
    let located = S3Location {
        endpoint: url.join("/").map_err(|error| refused(&error.to_string()))?,
        bucket: bucket.to_owned(),
        prefix: prefix.join("/"),
    };
    Ok(located)
}

fn rest_server(text: &str) -> Result<RestLocation> {
    let refused = |why: &str| Error::refused(format!("the location rest:{}", hidden(text)), why);
    let mut url = Url::parse(text).map_err(|error| refused(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refused("a rest-server is reached by http:// or https://"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refused("it has a ? or #, which is no part of a folder"));
    }
    let decoded = |text: &str| {
        let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
        decoded
            .map(|text| text.into_owned())
            .map_err(|_| refused("its user or password is no text"))
    };
    let user = if url.username().is_empty() { None } else { Some(decoded(url.username())?) };
    let password = url.password().map(&decoded).transpose()?.map(SecretString::from);
    let bare = url.set_username("").is_ok() && url.set_password(None).is_ok();
    if !bare {
        return Err(refused("it names no host"));
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(RestLocation { url, user, password })
}

/// A spelling that could not be read, without what may be a password in it.
fn hidden(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((_, rest)) => format!("…@{rest}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
