//! Reads the declarative configuration of a server, all of it, as documents.
//!
//! What the server's version does not have gets no document; what we may not read is named as
//! missing. Throw-away objects of our own runs are left out. Nothing is changed.

use incus_client::{Client, Error, ErrorKind};
use reqwest::Method;
use serde_json::{Map, Value, json};
use stapes_core::replicate::marks::RUN;
use stapes_core::server_config::{ConfigKind, LeftOut, Secrets, ServerConfig, clean_object};

use super::paths::escaped;

/// The configuration of a server, as it is now.
#[derive(Clone, Debug)]
pub struct Gathered {
    /// The documents.
    pub config: ServerConfig,
    /// The secrets that were left out of them.
    pub left_out: Vec<LeftOut>,
    /// What could not be read, one sentence each; a backup of this is incomplete.
    pub missing: Vec<String>,
    /// Fingerprint of the certificate that we used, if we came with one.
    pub own_certificate: Option<String>,
}

type Object = Map<String, Value>;

/// Reads a server.
///
/// # Errors
/// The first call that fails for another reason than that we may not make it.
pub async fn gather(client: &Client, secrets: Secrets) -> Result<Gathered, Error> {
    let mut again = ATTEMPTS;
    loop {
        again -= 1;
        match Reader::new(client, secrets).read().await {
            Err(error) if error.is_not_found() && again > 0 => {}
            gathered => return gathered,
        }
    }
}

/// What is listed and what is then asked of it are several calls; something may be deleted between
/// them, and that is no reason to fail.
const ATTEMPTS: u32 = 5;

struct Reader<'a> {
    client: &'a Client,
    secrets: Secrets,
    restricted: bool,
    gathered: Gathered,
}

/// What a restricted client sees without its configuration on Incus 7, as if it had none.
const HIDDEN: [ConfigKind; 7] = [
    ConfigKind::Networks,
    ConfigKind::NetworkForwards,
    ConfigKind::NetworkLoadBalancers,
    ConfigKind::NetworkPeers,
    ConfigKind::NetworkZones,
    ConfigKind::NetworkIntegrations,
    ConfigKind::StoragePools,
];

/// An answer to a listing.
enum Listed {
    Objects(Vec<Object>),
    /// The server knows no such thing.
    Unsupported,
    /// We may not see it.
    Denied,
}

impl<'a> Reader<'a> {
    fn new(client: &'a Client, secrets: Secrets) -> Self {
        let gathered = Gathered {
            config: ServerConfig::default(),
            left_out: Vec::new(),
            missing: Vec::new(),
            own_certificate: None,
        };
        Self { client, secrets, restricted: false, gathered }
    }

    async fn read(mut self) -> Result<Gathered, Error> {
        self.server().await?;
        for (kind, path) in [
            (ConfigKind::Projects, "/1.0/projects?recursion=1"),
            (ConfigKind::Profiles, "/1.0/profiles?recursion=1&all-projects=true"),
            (ConfigKind::NetworkAcls, "/1.0/network-acls?recursion=1&all-projects=true"),
            (
                ConfigKind::NetworkAddressSets,
                "/1.0/network-address-sets?recursion=1&all-projects=true",
            ),
            (ConfigKind::NetworkIntegrations, "/1.0/network-integrations?recursion=1"),
            (ConfigKind::Instances, "/1.0/instances?recursion=1&all-projects=true"),
            (ConfigKind::Images, "/1.0/images?recursion=1&all-projects=true"),
        ] {
            let listed = self.list(path).await?;
            self.keep_listed(kind, listed)?;
        }
        if !self.restricted {
            let listed = self.list("/1.0/certificates?recursion=1").await?;
            self.keep_listed(ConfigKind::Certificates, listed)?;
        }
        self.networks().await?;
        self.zones().await?;
        self.pools().await?;
        self.cluster().await?;
        Ok(self.gathered)
    }

    /// Settings, and who we are.
    async fn server(&mut self) -> Result<(), Error> {
        let server = self.client.raw(Method::GET, "/1.0", None).await?;
        let text = |member: &str| server.get(member).and_then(Value::as_str).unwrap_or_default();
        let mut restricted = false;
        if text("auth_user_method") == "tls" {
            let fingerprint = text("auth_user_name");
            self.gathered.own_certificate = Some(fingerprint.to_owned());
            let path = format!("/1.0/certificates/{}", escaped(fingerprint));
            restricted = match self.client.raw(Method::GET, &path, None).await {
                Ok(own) => own.get("restricted").and_then(Value::as_bool).unwrap_or(false),
                Err(error) if error.kind() == ErrorKind::Denied => true,
                // Trusted by an authority, and not in the store.
                Err(error) if error.is_not_found() => false,
                Err(error) => return Err(error),
            };
        }
        if restricted {
            self.gathered.config.set_partial();
            self.gathered.missing.push(
                "our certificate is restricted to some projects: other projects, pools, networks, \
                 zones, the settings of the server and its trust store cannot be read"
                    .to_owned(),
            );
        } else {
            let config = server.get("config").cloned().unwrap_or_else(|| json!({}));
            let mut object = Object::new();
            object.insert("config".to_owned(), config);
            self.keep(ConfigKind::Server, vec![object])?;
        }
        self.restricted = restricted;
        Ok(())
    }

    async fn networks(&mut self) -> Result<(), Error> {
        let listed = self.list("/1.0/networks?recursion=1&all-projects=true").await?;
        let Listed::Objects(mut networks) = listed else {
            return self.keep_listed(ConfigKind::Networks, listed);
        };
        // The others are interfaces of the host.
        networks.retain(|network| network.get("managed").and_then(Value::as_bool).unwrap_or(false));
        for (kind, part) in [
            (ConfigKind::NetworkForwards, "forwards"),
            (ConfigKind::NetworkLoadBalancers, "load-balancers"),
            (ConfigKind::NetworkPeers, "peers"),
        ] {
            let mut all = Vec::new();
            for network in &networks {
                let (name, project) = (text(network, "name"), project_of(network));
                let path = format!(
                    "/1.0/networks/{}/{part}?recursion=1&project={}",
                    escaped(name),
                    escaped(project)
                );
                let parts = self.part_list(&path).await?;
                all.extend(parts.into_iter().map(|mut object| {
                    object.insert("network".to_owned(), name.into());
                    object.insert("project".to_owned(), project.into());
                    object
                }));
            }
            self.keep(kind, all)?;
        }
        self.keep(ConfigKind::Networks, networks)
    }

    async fn zones(&mut self) -> Result<(), Error> {
        let listed = self.list("/1.0/network-zones?recursion=1&all-projects=true").await?;
        let Listed::Objects(mut zones) = listed else {
            return self.keep_listed(ConfigKind::NetworkZones, listed);
        };
        for zone in &mut zones {
            let (name, project) = (escaped(text(zone, "name")), escaped(project_of(zone)));
            let path = format!("/1.0/network-zones/{name}/records?recursion=1&project={project}");
            let records = self.part_list(&path).await?;
            zone.insert("records".to_owned(), as_list(records));
        }
        self.keep(ConfigKind::NetworkZones, zones)
    }

    /// Pools, and what lies on them: buckets and custom volumes.
    async fn pools(&mut self) -> Result<(), Error> {
        let listed = self.list("/1.0/storage-pools?recursion=1").await?;
        let Listed::Objects(pools) = listed else {
            return self.keep_listed(ConfigKind::StoragePools, listed);
        };
        let (mut buckets, mut volumes) = (Vec::new(), Vec::new());
        for pool in &pools {
            let name = text(pool, "name");
            let below = format!("/1.0/storage-pools/{}", escaped(name));
            let path = format!("{below}/buckets?recursion=1&all-projects=true");
            for mut bucket in self.part_list(&path).await? {
                let (bucket_name, project) =
                    (escaped(text(&bucket, "name")), escaped(project_of(&bucket)));
                let path =
                    format!("{below}/buckets/{bucket_name}/keys?recursion=1&project={project}");
                let keys = self.part_list(&path).await?;
                bucket.insert("keys".to_owned(), as_list(keys));
                bucket.insert("pool".to_owned(), name.into());
                buckets.push(bucket);
            }
            let path = format!("{below}/volumes?recursion=1&all-projects=true");
            let custom = self.part_list(&path).await?.into_iter().filter(|volume| {
                // Incus 6.0 lists snapshots among the volumes, as `volume/snapshot`.
                text(volume, "type") == "custom" && !text(volume, "name").contains('/')
            });
            volumes.extend(custom.map(|mut volume| {
                volume.insert("pool".to_owned(), name.into());
                volume
            }));
        }
        self.keep(ConfigKind::StorageBuckets, buckets)?;
        self.keep(ConfigKind::Volumes, volumes)?;
        self.keep(ConfigKind::StoragePools, pools)
    }

    /// Members and groups, if there is a cluster.
    async fn cluster(&mut self) -> Result<(), Error> {
        let cluster = match self.client.raw(Method::GET, "/1.0/cluster", None).await {
            Ok(cluster) => cluster,
            Err(error) if error.kind() == ErrorKind::Denied => {
                self.deny(ConfigKind::Cluster);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if !cluster.get("enabled").and_then(Value::as_bool).unwrap_or(false) {
            return Ok(());
        }
        let mut document = Object::new();
        for (member, path) in [
            ("members", "/1.0/cluster/members?recursion=1"),
            ("groups", "/1.0/cluster/groups?recursion=1"),
        ] {
            let mut objects = self.part_list(path).await?;
            for object in &mut objects {
                let name = label(object);
                let cleaned = clean_object(ConfigKind::Cluster, object, &name, self.secrets);
                self.gathered.left_out.extend(cleaned);
            }
            document.insert(member.to_owned(), as_list(objects));
        }
        self.keep(ConfigKind::Cluster, vec![document])
    }

    async fn list(&self, path: &str) -> Result<Listed, Error> {
        match self.client.raw(Method::GET, path, None).await {
            Ok(Value::Array(list)) => {
                let objects = list.into_iter().filter_map(|value| match value {
                    Value::Object(object) => Some(object),
                    _ => None,
                });
                Ok(Listed::Objects(objects.collect()))
            }
            Ok(_) => Ok(Listed::Objects(Vec::new())),
            Err(error) if error.is_not_found() && is_unknown(&error) => Ok(Listed::Unsupported),
            Err(error) if error.kind() == ErrorKind::Denied => Ok(Listed::Denied),
            Err(error) => Err(error),
        }
    }

    /// The parts of an object; none where its driver or the server's version has no such parts.
    async fn part_list(&self, path: &str) -> Result<Vec<Object>, Error> {
        match self.list(path).await {
            Ok(Listed::Objects(objects)) => Ok(objects),
            Ok(Listed::Unsupported | Listed::Denied) => Ok(Vec::new()),
            Err(error) if error.kind() == ErrorKind::BadRequest => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn keep_listed(&mut self, kind: ConfigKind, listed: Listed) -> Result<(), Error> {
        match listed {
            Listed::Objects(objects) => return self.keep(kind, objects),
            Listed::Denied => self.deny(kind),
            Listed::Unsupported => {}
        }
        Ok(())
    }

    fn deny(&mut self, kind: ConfigKind) {
        let what = kind.as_str().replace('_', " ");
        self.gathered.missing.push(format!("{what}: the server does not let us read these"));
    }

    fn keep(&mut self, kind: ConfigKind, mut objects: Vec<Object>) -> Result<(), Error> {
        if self.restricted && HIDDEN.contains(&kind) {
            return Ok(());
        }
        objects.retain(|object| !is_throw_away(object));
        for object in &mut objects {
            let name = if kind == ConfigKind::Server { "server".to_owned() } else { label(object) };
            self.gathered.left_out.extend(clean_object(kind, object, &name, self.secrets));
        }
        let document = if matches!(kind, ConfigKind::Server | ConfigKind::Cluster) {
            Value::Object(objects.into_iter().next().unwrap_or_default())
        } else {
            as_list(objects)
        };
        if let Err(problem) = self.gathered.config.insert(kind, document) {
            self.gathered.missing.push(format!("{kind}: the server's answer is odd: {problem}"));
        }
        Ok(())
    }
}

/// Whether the server has no such endpoint; of an object that is gone it says what is gone.
fn is_unknown(error: &Error) -> bool {
    error.message().is_some_and(|message| message.trim() == "not found")
}

/// Objects that a run of ours made and will remove are nobody's configuration.
fn is_throw_away(object: &Object) -> bool {
    let config = object.get("config").and_then(Value::as_object);
    config.is_some_and(|config| config.contains_key(RUN))
}

fn as_list(objects: Vec<Object>) -> Value {
    Value::Array(objects.into_iter().map(Value::Object).collect())
}

fn text<'o>(object: &'o Object, member: &str) -> &'o str {
    object.get(member).and_then(Value::as_str).unwrap_or_default()
}

fn project_of(object: &Object) -> &str {
    match text(object, "project") {
        "" => "default",
        project => project,
    }
}

/// The object as people write it.
fn label(object: &Object) -> String {
    let name = ["name", "listen_address", "fingerprint", "server_name"];
    let name = name.into_iter().map(|member| text(object, member)).find(|name| !name.is_empty());
    let name = name.unwrap_or_default();
    match project_of(object) {
        "default" => name.to_owned(),
        project => format!("{project}:{name}"),
    }
}
