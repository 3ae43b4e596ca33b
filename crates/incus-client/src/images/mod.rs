//! Images and their aliases: reading, exporting, importing.
//!
//! An image is one file (*unified*) or two (*split*: metadata, and the root file system or disk).
//! Both are streamed; the fingerprint, SHA-256 over the files in that order, is not checked here.

mod files;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::client::Client;
use crate::download::OCTETS;
use crate::error::{Error, Result};
use crate::instances::InstanceType;
use crate::multipart::{FORM_DATA, compose};
use crate::operation::{Operation, OperationInfo};
use crate::request::{ETag, ListOptions, Request, Versioned, api_path, segment};
use crate::wire::{Config, Extra, NEVER, or_default, time};

use self::files::split_parts;
pub use self::files::{ImageData, ImageDownload, ImageFile, ImagePart, ImagePartKind};

/// An image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Image {
    /// SHA-256 of its files, lower-case hexadecimal.
    pub fingerprint: String,
    /// Its project.
    #[serde(deserialize_with = "or_default")]
    pub project: String,
    /// What instances are made of it.
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: InstanceType,
    /// `x86_64`, `aarch64`, …
    pub architecture: String,
    /// Name of its file, or of that of the metadata.
    #[serde(deserialize_with = "or_default")]
    pub filename: String,
    /// Size of its files in bytes.
    #[serde(deserialize_with = "or_default")]
    pub size: u64,
    /// Whether everybody may fetch it.
    pub public: bool,
    /// Whether the server keeps it up to date by itself.
    pub auto_update: bool,
    /// Whether the server fetched it for an instance and removes it by itself.
    pub cached: bool,
    /// Operating system, release and the like.
    #[serde(deserialize_with = "or_default")]
    pub properties: Config,
    /// Its names.
    #[serde(deserialize_with = "or_default")]
    pub aliases: Vec<ImageName>,
    /// The profiles of an instance that is made of it without naming any.
    #[serde(deserialize_with = "or_default")]
    pub profiles: Vec<String>,
    /// When it was built.
    #[serde(deserialize_with = "time")]
    pub created_at: Option<Timestamp>,
    /// When the server removes it; `None` for never.
    #[serde(deserialize_with = "time")]
    pub expires_at: Option<Timestamp>,
    /// When it was last used; `None` for never.
    #[serde(deserialize_with = "time")]
    pub last_used_at: Option<Timestamp>,
    /// When it came to this server.
    #[serde(deserialize_with = "time")]
    pub uploaded_at: Option<Timestamp>,
    /// Members that this crate does not know, where it came from among them.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Image {
    /// What a PUT replaces, as it is now.
    pub fn to_put(&self) -> ImagePut {
        const READ_ONLY: [&str; 2] = ["update_source", "locations"];
        let mut extra = self.extra.clone();
        extra.retain(|key, _| !READ_ONLY.contains(&key.as_str()));
        ImagePut {
            auto_update: self.auto_update,
            public: self.public,
            properties: self.properties.clone(),
            profiles: self.profiles.clone(),
            expires_at: self.expires_at,
            extra,
        }
    }
}

/// The changeable part of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ImagePut {
    /// Whether the server keeps it up to date by itself.
    pub auto_update: bool,
    /// Whether everybody may fetch it.
    pub public: bool,
    /// Operating system, release and the like.
    pub properties: Config,
    /// The profiles of an instance that is made of it without naming any.
    pub profiles: Vec<String>,
    /// When the server removes it; `None` for never.
    #[serde(serialize_with = "expiry")]
    pub expires_at: Option<Timestamp>,
    /// Members that this crate does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A name of an image, as the image carries it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ImageName {
    /// The name; slashes are usual.
    pub name: String,
    /// For people.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
    /// Members that this crate does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A name of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct ImageAlias {
    /// The name; slashes are usual.
    pub name: String,
    /// For people.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
    /// Fingerprint of the image.
    pub target: String,
    /// What instances are made of it.
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: InstanceType,
    /// Members that this crate does not know.
    #[serde(flatten)]
    pub extra: Extra,
}

/// What is said of an image that is imported; by default only what its metadata say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageUpload {
    /// Name of the file of a unified image.
    pub filename: Option<String>,
    /// Whether everybody may fetch it.
    pub public: bool,
    /// Properties beside those in its metadata.
    pub properties: Config,
    /// Its names; they must be free.
    pub aliases: Vec<String>,
    /// The profiles of its instances; the profile `default` if there are none.
    pub profiles: Vec<String>,
    /// What the fingerprint must turn out to be.
    pub fingerprint: Option<String>,
}

impl OperationInfo {
    /// The fingerprint of the image that a successful import has made.
    pub fn image_fingerprint(&self) -> Option<&str> {
        self.metadata.get("fingerprint").and_then(Value::as_str)
    }
}

fn image_path(fingerprint: &str) -> String {
    api_path!["images", fingerprint]
}

/// Images.
impl Client {
    /// Lists images with their aliases.
    pub async fn images(&self, options: &ListOptions) -> Result<Vec<Image>> {
        let request = self.get(api_path!["images"], "list the images").listing(options);
        request.query("recursion", "1").list().await
    }

    /// Reads an image; the beginning of a fingerprint is enough if no other one begins so.
    pub async fn image(&self, fingerprint: &str) -> Result<Versioned<Image>> {
        let request = self.get(image_path(fingerprint), format!("read image {fingerprint}"));
        request.scoped().fetch().await
    }

    /// Fetches the files of an image.
    pub async fn export_image(&self, fingerprint: &str) -> Result<ImageDownload> {
        let path = format!("{}/export", image_path(fingerprint));
        let request = self.get(path, format!("fetch image {fingerprint}")).scoped();
        let (download, headers) = request.streamed(0, &[OCTETS, FORM_DATA]).await?;
        ImageDownload::new(download, &headers)
    }

    /// Makes an image of its files.
    ///
    /// [`OperationInfo::image_fingerprint`] of the result says what it is.
    /// An image that exists already is an error of the operation.
    pub async fn import_image(&self, image: &ImageUpload, data: ImageData) -> Result<Operation> {
        let request = self.post(api_path!["images"], "import an image").scoped();
        let request = image.describe(request);
        let (metadata, rootfs, kind) = match data {
            ImageData::Unified(body) => return request.upload(OCTETS.to_owned(), body).await,
            ImageData::Split { metadata, rootfs, kind } => (metadata, rootfs, kind),
        };
        let parts = split_parts(metadata, rootfs, &kind)
            .map_err(|detail| Error::invalid(request.action(), detail))?;
        let (content_type, body) = compose(parts);
        request.upload(content_type, body).await
    }

    /// Replaces the changeable part of an image.
    pub async fn update_image(
        &self,
        fingerprint: &str,
        put: &ImagePut,
        etag: Option<&ETag>,
    ) -> Result<()> {
        let request = self.put(image_path(fingerprint), format!("change image {fingerprint}"));
        request.scoped().if_match(etag).json(put).done().await
    }

    /// Changes the given members of an image.
    pub async fn patch_image(
        &self,
        fingerprint: &str,
        patch: &Value,
        etag: Option<&ETag>,
    ) -> Result<()> {
        let request = self.patch(image_path(fingerprint), format!("change image {fingerprint}"));
        request.scoped().if_match(etag).json(patch).done().await
    }

    /// Deletes an image with its aliases.
    pub async fn delete_image(&self, fingerprint: &str) -> Result<Operation> {
        let request = self.delete(image_path(fingerprint), format!("delete image {fingerprint}"));
        request.scoped().run().await
    }
}

/// Aliases of images.
impl Client {
    /// Lists the aliases of the project of the client.
    pub async fn image_aliases(&self) -> Result<Vec<ImageAlias>> {
        let request = self.get(api_path!["images", "aliases"], "list the image aliases");
        request.scoped().query("recursion", "1").list().await
    }

    /// Gives a name to an image.
    pub async fn create_image_alias(&self, alias: &ImageAlias) -> Result<()> {
        let action = format!("create image alias {:?}", alias.name);
        self.post(api_path!["images", "aliases"], action).scoped().json(alias).done().await
    }

    /// Takes a name away from its image.
    pub async fn delete_image_alias(&self, name: &str) -> Result<()> {
        let path = api_path!["images", "aliases", name];
        self.delete(path, format!("delete image alias {name:?}")).scoped().done().await
    }
}

impl ImageUpload {
    /// Puts what is known into the headers.
    fn describe<'a>(&self, request: Request<'a>) -> Request<'a> {
        let pairs = |pairs: &mut dyn Iterator<Item = (&str, &String)>| {
            let pairs = pairs.map(|(key, value)| format!("{}={}", segment(key), segment(value)));
            pairs.collect::<Vec<_>>().join("&")
        };
        let mut properties = self.properties.iter().map(|(key, value)| (key.as_str(), value));
        let headers = [
            ("X-Incus-filename", self.filename.clone().unwrap_or_default()),
            ("X-Incus-fingerprint", self.fingerprint.clone().unwrap_or_default()),
            ("X-Incus-properties", pairs(&mut properties)),
            ("X-Incus-aliases", pairs(&mut self.aliases.iter().map(|name| ("alias", name)))),
            ("X-Incus-profiles", pairs(&mut self.profiles.iter().map(|name| ("profile", name)))),
        ];
        let request = request.header("X-Incus-public", if self.public { "1" } else { "0" });
        let given = headers.into_iter().filter(|(_, value)| !value.is_empty());
        given.fold(request, |request, (name, value)| request.header(name, value))
    }
}

fn expiry<S: serde::Serializer>(
    time: &Option<Timestamp>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.collect_str(time),
        None => serializer.serialize_str(NEVER),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_image_of_either_server_is_read_and_written_back() {
        let image: Image = serde_json::from_value(json!({
            "auto_update": true, "properties": {"os": "busybox"}, "public": false,
            "expires_at": "1970-01-01T00:00:00Z", "profiles": null,
            "aliases": [{"name": "a/b", "description": ""}], "architecture": "x86_64",
            "cached": false, "filename": "f", "fingerprint": "ab", "size": 7, "type": "container",
            "update_source": {"alias": "x"}, "locations": [], "novelty": 1,
            "created_at": "2023-11-14T22:13:20Z", "last_used_at": "0001-01-01T00:00:00Z",
        }))
        .unwrap();
        assert_eq!((image.size, image.aliases[0].name.as_str()), (7, "a/b"));
        assert_eq!((image.expires_at, image.last_used_at), (None, None));
        assert_eq!(image.kind, InstanceType::Container);
        let put = serde_json::to_value(image.to_put()).unwrap();
        let expected = json!({
            "auto_update": true, "public": false, "properties": {"os": "busybox"}, "profiles": [],
            "expires_at": "0001-01-01T00:00:00Z", "novelty": 1,
        });
        assert_eq!(put, expected);
    }
}
