//! A repository on restic's rest-server, or on another one that speaks version 2 of its protocol.
//!
//! The server stores a file whole or not at all. Packs have no folders of two letters in addresses.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reqwest::blocking::{RequestBuilder, Response};
use reqwest::header::{ACCEPT, CONTENT_TYPE, RANGE};
use reqwest::{Method, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};

use super::{
    Access, Cause, Entry, Failure, MAX_FILE_BYTES, RestLocation, Storage, check_size, http,
    length_of, name, settle_existing,
};
use crate::error::{Error, Result};

/// Version 2 of the protocol, in which lists have sizes.
const VERSION_2: &str = "application/vnd.x.restic.rest.v2";

/// How long rclone shows what it has of an upload that was cut, at most.
const CUT_UPLOAD: Duration = Duration::from_secs(2);

/// A repository on a rest-server.
#[derive(Debug)]
pub struct RestStorage {
    location: RestLocation,
    user: Option<String>,
    password: Option<SecretString>,
    client: http::Client,
    /// Whether there is a repository: then a folder that «is not there» is a mistake of the server, or
    /// of a proxy before it, and no empty folder. Old versions of rclone say so of any failure.
    is_there: AtomicBool,
}

impl RestStorage {
    /// Connects, and looks whether the server lets us in.
    ///
    /// # Errors
    /// [`Error::Storage`] if it cannot be reached ([`Cause::Temporary`]) or does not ([`Cause::Denied`]).
    pub fn open(location: &RestLocation, access: &Access) -> Result<Self> {
        let client = http::client(access).map_err(|failure| {
            Error::storage("open", &format!("rest:{}", location.url), failure)
        })?;
        let storage = Self {
            location: location.clone(),
            user: location.user.clone().or_else(|| access.rest_username.clone()),
            password: location.password.clone().or_else(|| access.rest_password.clone()),
            client,
            is_there: AtomicBool::new(false),
        };
        let is_there = storage.stat("config")?.is_some();
        storage.is_there.store(is_there, Ordering::Relaxed);
        Ok(storage)
    }

    /// Makes the folder of a new repository.
    ///
    /// # Errors
    /// As [`RestStorage::open`].
    pub fn create(location: &RestLocation, access: &Access) -> Result<Self> {
        let storage = Self::open(location, access)?;
        let failed = |failure| Error::storage("make the folders of", &storage.label(), failure);
        let mut url = location.url.clone();
        url.set_query(Some("create=true"));
        let request = http::with_content(storage.request(Method::POST, url), &[]);
        let response = http::send(request, 0).map_err(failed)?;
        if response.status().is_success() {
            Ok(storage)
        } else {
            Err(failed(http::refusal(response)))
        }
    }

    /// The size of a file that is there; one that is too short is given the time that the server needs
    /// to notice that its upload was cut, and to remove it.
    fn settled_size(&self, name: &str, whole: u64) -> Result<Option<u64>> {
        let begun = Instant::now();
        loop {
            let found = self.stat(name)?;
            if found.is_none_or(|size| size >= whole) || begun.elapsed() > CUT_UPLOAD {
                return Ok(found);
            }
            std::thread::sleep(CUT_UPLOAD / 40);
        }
    }

    fn request(&self, method: Method, url: Url) -> RequestBuilder {
        let request = self.client.request(method, url).header(ACCEPT, VERSION_2);
        match &self.user {
            Some(user) => {
                let password = self.password.as_ref().map(ExposeSecret::expose_secret);
                request.basic_auth(user, password)
            }
            None => request,
        }
    }

    /// The address of a file.
    fn url(&self, name: &str) -> Result<Url> {
        let (folder, file) = name::split(name)?;
        let path = match folder.split('/').next().unwrap_or_default() {
            "" => file.to_owned(),
            folder => format!("{folder}/{file}"),
        };
        // Names hold nothing that an address would have to escape.
        let joined = self.location.url.join(&path);
        joined.map_err(|error| Error::refused(format!("the name {name:?}"), error.to_string()))
    }

    fn what(&self, name: &str) -> String {
        format!("{name} in {}", self.label())
    }

    /// The answer if it is a good one, and [`Error::NotFound`] for 404.
    fn good(&self, doing: &'static str, name: &str, response: Response) -> Result<Response> {
        match response.status() {
            status if status.is_success() => Ok(response),
            StatusCode::NOT_FOUND => Err(Error::NotFound { what: self.what(name) }),
            _ => Err(Error::storage(doing, &self.what(name), http::refusal(response))),
        }
    }
}

impl Storage for RestStorage {
    fn put(&self, name: &str, content: &[&[u8]]) -> Result<()> {
        let url = self.url(name)?;
        let size = content.iter().map(|part| part.len() as u64).sum();
        // Servers differ in what they say, or do, about a file that is there.
        if self.settled_size(name, size)?.is_some() {
            return settle_existing(self, name, content);
        }
        let request =
            self.request(Method::POST, url).header(CONTENT_TYPE, "application/octet-stream");
        let response = http::send(http::with_content(request, content), size)
            .map_err(|failure| Error::storage("store", &self.what(name), failure))?;
        // How rest-server says that somebody else has stored it meanwhile.
        if response.status() == StatusCode::FORBIDDEN && matches!(self.stat(name), Ok(Some(_))) {
            return settle_existing(self, name, content);
        }
        self.good("store", name, response)?;
        if name == "config" {
            self.is_there.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn get(&self, name: &str) -> Result<Vec<u8>> {
        let failed = |failure| Error::storage("read", &self.what(name), failure);
        let request = self.request(Method::GET, self.url(name)?);
        let response = http::send(request, MAX_FILE_BYTES).map_err(failed)?;
        let response = self.good("read", name, response)?;
        check_size(&self.what(name), response.content_length().unwrap_or_default())?;
        http::read(response, MAX_FILE_BYTES).map_err(failed)
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        let failed = |failure| Error::storage("read", &self.what(name), failure);
        let length = length_of(&range, range.end).map_err(failed)?;
        if length == 0 {
            let size = self.stat(name)?.ok_or_else(|| Error::NotFound { what: self.what(name) })?;
            return length_of(&range, size).map(|_| Vec::new()).map_err(failed);
        }
        let bytes = format!("bytes={}-{}", range.start, range.end - 1);
        let request = self.request(Method::GET, self.url(name)?).header(RANGE, bytes);
        let response = http::send(request, length as u64).map_err(failed)?;
        if response.status() == StatusCode::NOT_FOUND {
            return Err(Error::NotFound { what: self.what(name) });
        }
        http::read_range(response, length).map_err(failed)
    }

    fn stat(&self, name: &str) -> Result<Option<u64>> {
        let failed = |failure| Error::storage("look at", &self.what(name), failure);
        let request = self.request(Method::HEAD, self.url(name)?);
        let response = http::send(request, 0).map_err(failed)?;
        match self.good("look at", name, response) {
            Ok(response) => http::length_said(&response).map(Some).map_err(failed),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        name::check_folder(folder)?;
        let failed = |failure| Error::storage("list", &self.what(folder), failure);
        let url = self.location.url.join(&format!("{folder}/")).map_err(|error| {
            failed(Failure::with_source(Cause::Other, "its address cannot be made", error))
        })?;
        let response =
            http::send(self.request(Method::GET, url), MAX_FILE_BYTES).map_err(failed)?;
        let response = match self.good("list", folder, response) {
            Err(Error::NotFound { .. }) if !self.is_there.load(Ordering::Relaxed) => {
                return Ok(Vec::new());
            }
            Err(Error::NotFound { .. }) => {
                let why = "the server says that the folder is not there, and the repository is";
                return Err(failed(Failure::new(Cause::Temporary, why)));
            }
            response => response?,
        };
        let version = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if version != Some(VERSION_2) {
            let why = "the server does not speak version 2 of the protocol of rest-server";
            return Err(failed(Failure::new(Cause::Other, why)));
        }
        let listed: Option<Vec<Listed>> =
            serde_json::from_slice(&http::read(response, MAX_FILE_BYTES).map_err(failed)?)
                .map_err(|error| {
                    failed(Failure::with_source(Cause::Other, "its list is damaged", error))
                })?;
        // An empty folder is `null` on some servers.
        let whole =
            listed.unwrap_or_default().into_iter().filter(|file| name::is_whole(&file.name));
        Ok(whole.map(|file| Entry { name: file.name, size: file.size }).collect())
    }

    fn delete(&self, name: &str) -> Result<()> {
        let request = self.request(Method::DELETE, self.url(name)?);
        let response = http::send(request, 0)
            .map_err(|failure| Error::storage("remove", &self.what(name), failure))?;
        self.good("remove", name, response).map(drop)
    }

    fn label(&self) -> String {
        self.location.to_string()
    }
}

/// One file of a list.
#[derive(serde::Deserialize)]
struct Listed {
    name: String,
    size: u64,
}
