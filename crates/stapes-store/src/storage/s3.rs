//! A repository in a bucket of an S3 server.
//!
//! An object is there whole or not at all. One request stores it: files of a repository are far below
//! the 5 GB that one may have. Requests are signed in their addresses, so those are in no message.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::StatusCode;
use reqwest::blocking::{RequestBuilder, Response};
use reqwest::header::{IF_NONE_MATCH, RANGE};
use rusty_s3::actions::{ListObjectsV2, S3Action};
use rusty_s3::{Bucket, Credentials, Method, UrlStyle};
use sha2::{Digest, Sha256};

use super::{
    Access, Cause, Entry, Failure, MAX_FILE_BYTES, S3Location, Storage, check_size, credentials,
    http, length_of, name, settle_existing,
};
use crate::error::{Error, Result};

/// How long a signature is good for: as long as a request may take, and clocks may differ.
const SIGNED_FOR: Duration = Duration::from_secs(6 * 3600);
/// A page of a list has at most 1000 names of at most 1024 bytes, with some words about each.
const MAX_PAGE_BYTES: u64 = 8 << 20;
/// The region where none is known; servers that are not Amazon's take any.
const USUAL_REGION: &str = "us-east-1";
/// How a server says in which region a bucket is.
const REGION_HEADER: &str = "x-amz-bucket-region";

/// A repository in a bucket.
#[derive(Debug)]
pub struct S3Storage {
    location: S3Location,
    bucket: Bucket,
    credentials: Option<Credentials>,
    client: http::Client,
    /// Whether the server knows requests to store only what is not there.
    conditional: AtomicBool,
}

impl S3Storage {
    /// Connects, and looks whether the bucket is there and lets us in.
    ///
    /// # Errors
    /// [`Error::NoRepository`] if there is no such bucket; [`Error::Storage`] if the server cannot be
    /// reached ([`Cause::Temporary`]) or does not let us in ([`Cause::Denied`]), and if the file with
    /// the credentials cannot be read.
    pub fn open(location: &S3Location, access: &Access) -> Result<Self> {
        let mut storage = Self::new(location, access)?;
        match storage.find_bucket(access.aws_region.is_none()) {
            Err(failure) if failure.cause() == Cause::Gone => Err(Error::NoRepository {
                path: storage.label().into(),
                why: "there is no such bucket".to_owned(),
            }),
            Err(failure) => Err(Error::storage("open", &storage.label(), failure)),
            Ok(()) => Ok(storage),
        }
    }

    /// Makes the bucket of a new repository, if it is not there.
    ///
    /// # Errors
    /// As [`S3Storage::open`], and [`Error::Storage`] if the bucket cannot be made.
    pub fn create(location: &S3Location, access: &Access) -> Result<Self> {
        let mut storage = Self::new(location, access)?;
        let made = match storage.find_bucket(access.aws_region.is_none()) {
            Err(failure) if failure.cause() == Cause::Gone => storage.make_bucket(),
            found => found,
        };
        made.map_err(|failure| Error::storage("make the bucket of", &storage.label(), failure))?;
        Ok(storage)
    }

    fn new(location: &S3Location, access: &Access) -> Result<Self> {
        let failed = |failure| Error::storage("open", &location_label(location), failure);
        let region = access.aws_region.clone().or_else(|| region_of(location));
        let region = region.unwrap_or_else(|| USUAL_REGION.to_owned());
        Ok(Self {
            location: location.clone(),
            bucket: bucket(location, region).map_err(failed)?,
            credentials: credentials::find(access).map_err(failed)?,
            client: http::client(access).map_err(failed)?,
            conditional: AtomicBool::new(true),
        })
    }

    /// Asks for one name, and takes over the region that the server says.
    fn find_bucket(&mut self, ask_region: bool) -> Result<(), Failure> {
        let response = self.send_list(Some(1), None)?;
        let region = response.headers().get(REGION_HEADER).and_then(|value| value.to_str().ok());
        let other = region.filter(|region| ask_region && *region != self.bucket.region());
        if let Some(region) = other.map(str::to_owned) {
            self.bucket = bucket(&self.location, region)?;
            return parse_list(self.send_list(Some(1), None)?).map(drop);
        }
        parse_list(response).map(drop)
    }

    fn make_bucket(&self) -> Result<(), Failure> {
        let Some(credentials) = &self.credentials else {
            return Err(Failure::new(Cause::Denied, "a bucket cannot be made without credentials"));
        };
        let region = self.bucket.region();
        // Only Amazon insists on it, and not in its first region.
        let place = if region == USUAL_REGION {
            String::new()
        } else {
            format!(
                "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                 <LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
            )
        };
        let request = self.request(&self.bucket.create_bucket(credentials));
        let response = http::send(http::with_content(request, &[place.as_bytes()]), 0)?;
        if response.status().is_success() { Ok(()) } else { Err(http::refusal(response)) }
    }

    /// The name of the object of a file.
    fn key(&self, name: &str) -> Result<String> {
        name::split(name)?;
        Ok(self.prefixed(name))
    }

    fn prefixed(&self, name: &str) -> String {
        match self.location.prefix.as_str() {
            "" => name.to_owned(),
            prefix => format!("{prefix}/{name}"),
        }
    }

    fn what(&self, name: &str) -> String {
        format!("{name} in {}", self.label())
    }

    /// A signed request, with the headers that were signed.
    fn request<'a, A: S3Action<'a>>(&self, action: &A) -> RequestBuilder {
        let method = match A::METHOD {
            Method::Head => reqwest::Method::HEAD,
            Method::Get => reqwest::Method::GET,
            Method::Post => reqwest::Method::POST,
            Method::Put => reqwest::Method::PUT,
            Method::Delete => reqwest::Method::DELETE,
        };
        self.client.request(method, action.sign(SIGNED_FOR))
    }

    fn send_list(
        &self,
        most: Option<usize>,
        page: Option<(&str, String)>,
    ) -> Result<Response, Failure> {
        let mut action = self.bucket.list_objects_v2(self.credentials.as_ref());
        let (folder, token) = page.unwrap_or_default();
        action.with_prefix(self.prefixed(folder));
        if let Some(most) = most {
            action.with_max_keys(most);
        }
        if !token.is_empty() {
            action.with_continuation_token(token);
        }
        http::send(self.request(&action), MAX_PAGE_BYTES)
    }

    /// The answer if it is a good one, and [`Error::NotFound`] for 404 unless the bucket is gone.
    fn good(&self, doing: &'static str, name: &str, response: Response) -> Result<Response> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let failure = http::refusal(response);
        if status == StatusCode::NOT_FOUND && failure.cause() != Cause::Gone {
            return Err(Error::NotFound { what: self.what(name) });
        }
        Err(Error::storage(doing, &self.what(name), failure))
    }

    /// Stores an object unless there is one: then `false`.
    fn store(&self, key: &str, content: &[&[u8]]) -> Result<Response, Failure> {
        let mut hash = Sha256::new();
        content.iter().for_each(|part| hash.update(part));
        let checksum = STANDARD.encode(hash.finalize());
        let size = content.iter().map(|part| part.len() as u64).sum();
        let mut action = self.bucket.put_object(self.credentials.as_ref(), key);
        // Servers that know it compare it with what arrived.
        action.headers_mut().insert("x-amz-checksum-sha256", checksum.as_str());
        let request = self.request(&action).header("x-amz-checksum-sha256", &checksum);
        let conditional = self.conditional.load(Ordering::Relaxed);
        let request = if conditional { request.header(IF_NONE_MATCH, "*") } else { request };
        let response = http::send(http::with_content(request, content), size)?;
        if conditional && response.status() == StatusCode::NOT_IMPLEMENTED {
            self.conditional.store(false, Ordering::Relaxed);
            return self.store(key, content);
        }
        Ok(response)
    }
}

impl Storage for S3Storage {
    fn put(&self, name: &str, content: &[&[u8]]) -> Result<()> {
        let key = self.key(name)?;
        // Not every server knows conditions, or says that it does not.
        if self.stat(name)?.is_some() {
            return settle_existing(self, name, content);
        }
        let response = self
            .store(&key, content)
            .map_err(|failure| Error::storage("store", &self.what(name), failure))?;
        if response.status() == StatusCode::PRECONDITION_FAILED {
            return settle_existing(self, name, content);
        }
        self.good("store", name, response).map(drop)
    }

    fn get(&self, name: &str) -> Result<Vec<u8>> {
        let failed = |failure| Error::storage("read", &self.what(name), failure);
        let key = self.key(name)?;
        let action = self.bucket.get_object(self.credentials.as_ref(), &key);
        let response = http::send(self.request(&action), MAX_FILE_BYTES).map_err(failed)?;
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
        let key = self.key(name)?;
        let action = self.bucket.get_object(self.credentials.as_ref(), &key);
        let bytes = format!("bytes={}-{}", range.start, range.end - 1);
        let request = self.request(&action).header(RANGE, bytes);
        let response = http::send(request, length as u64).map_err(failed)?;
        if response.status() == StatusCode::NOT_FOUND {
            return self.good("read", name, response).map(|_| Vec::new());
        }
        http::read_range(response, length).map_err(failed)
    }

    fn stat(&self, name: &str) -> Result<Option<u64>> {
        let failed = |failure| Error::storage("look at", &self.what(name), failure);
        let key = self.key(name)?;
        let action = self.bucket.head_object(self.credentials.as_ref(), &key);
        let response = http::send(self.request(&action), 0).map_err(failed)?;
        match self.good("look at", name, response) {
            Ok(response) => http::length_said(&response).map(Some).map_err(failed),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        name::check_folder(folder)?;
        let failed = |failure| Error::storage("list", &self.what(folder), failure);
        let prefix = format!("{folder}/");
        let mut entries = Vec::new();
        let mut token = String::new();
        loop {
            let page = self.send_list(None, Some((&prefix, token.clone()))).and_then(parse_list);
            let page = page.map_err(failed)?;
            for object in page.contents {
                let name = object.key.rsplit('/').next().unwrap_or_default().to_owned();
                // Also the empty objects that some tools make in the place of folders.
                if !name.is_empty() && name::is_whole(&name) {
                    let missing = || Failure::new(Cause::Other, "the server tells no sizes");
                    let size = object.size.ok_or_else(|| failed(missing()))?;
                    entries.push(Entry { name, size });
                }
            }
            match page.next_continuation_token {
                None => return Ok(entries),
                Some(next) if next == token => {
                    let why = "the server's list does not come to its end";
                    return Err(failed(Failure::new(Cause::Other, why)));
                }
                Some(next) => token = next,
            }
        }
    }

    fn delete(&self, name: &str) -> Result<()> {
        let key = self.key(name)?;
        // S3 calls it a success to remove what is not there.
        if self.stat(name)?.is_none() {
            return Err(Error::NotFound { what: self.what(name) });
        }
        let action = self.bucket.delete_object(self.credentials.as_ref(), &key);
        let response = http::send(self.request(&action), 0)
            .map_err(|failure| Error::storage("remove", &self.what(name), failure))?;
        self.good("remove", name, response).map(drop)
    }

    fn label(&self) -> String {
        location_label(&self.location)
    }
}

fn location_label(location: &S3Location) -> String {
    location.to_string()
}

fn bucket(location: &S3Location, region: String) -> Result<Bucket, Failure> {
    let amazon = location.endpoint.host_str().is_some_and(|host| host.ends_with(".amazonaws.com"));
    // A bucket with a dot in its name has no certificate of its own.
    let style = if amazon && !location.bucket.contains('.') {
        UrlStyle::VirtualHost
    } else {
        UrlStyle::Path
    };
    Bucket::new(location.endpoint.clone(), style, location.bucket.clone(), region)
        .map_err(|error| Failure::with_source(Cause::Other, "there can be no such bucket", error))
}

/// The region in the name of a server of Amazon: `s3.eu-west-1.amazonaws.com`.
fn region_of(location: &S3Location) -> Option<String> {
    let host = location.endpoint.host_str()?.strip_suffix(".amazonaws.com")?;
    let region = host.strip_prefix("s3.dualstack.").or_else(|| host.strip_prefix("s3."))?;
    (!region.is_empty() && !region.contains('.')).then(|| region.to_owned())
}

fn parse_list(response: Response) -> Result<rusty_s3::actions::ListObjectsV2Response, Failure> {
    if !response.status().is_success() {
        return Err(http::refusal(response));
    }
    let page = http::read(response, MAX_PAGE_BYTES)?;
    ListObjectsV2::parse_response(&String::from_utf8_lossy(&page))
        .map_err(|error| Failure::with_source(Cause::Other, "the server's list is damaged", error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Location;

    fn location(text: &str) -> S3Location {
        match text.parse() {
            Ok(Location::S3(location)) => location,
            other => panic!("{text} is {other:?}"),
        }
    }

    #[test]
    fn the_region_is_in_the_names_of_amazons_servers() {
        for (text, region) in [
            ("s3:s3.amazonaws.com/b", None),
            ("s3:s3.eu-west-1.amazonaws.com/b", Some("eu-west-1")),
            ("s3:s3.dualstack.eu-west-1.amazonaws.com/b", Some("eu-west-1")),
            ("s3:s3.eu-west-1.example.com/b", None),
        ] {
            assert_eq!(region_of(&location(text)).as_deref(), region, "{text}");
        }
    }

    #[test]
    fn buckets_are_in_the_host_only_at_amazon_and_only_where_certificates_allow_it() {
        for (text, expected) in [
            ("s3:s3.amazonaws.com/b", "https://b.s3.amazonaws.com/"),
            ("s3:s3.amazonaws.com/a.b", "https://s3.amazonaws.com/a.b/"),
            ("s3:http://127.0.0.1:9000/b", "http://127.0.0.1:9000/b/"),
        ] {
            let bucket = bucket(&location(text), USUAL_REGION.to_owned()).unwrap();
            assert_eq!(bucket.base_url().as_str(), expected);
        }
    }
}
