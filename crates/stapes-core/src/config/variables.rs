//! The `variables:` block of a repository: what its storage would find in the environment.
//!
//! Knows the names, and which of them belong together; what they mean is the storage's.

use std::collections::BTreeMap;
use std::path::Path;

use secrecy::{ExposeSecret as _, SecretString};

use super::node::Node;
use super::problem::suggest;
use super::reader::{Block, Problems};
use super::secret;
use crate::secret::SecretSource;

/// Values for a storage, or where to read them, by the names that restic and AWS gave them.
pub type StorageVariables = BTreeMap<&'static str, SecretSource>;

/// A variable that storages know.
struct Known {
    name: &'static str,
    holds: Holds,
    /// Those of one group are one identity: half of one and half of another is neither.
    group: Group,
}

#[derive(PartialEq, Eq)]
enum Holds {
    Secret,
    Path,
    Text,
}

#[derive(PartialEq, Eq)]
enum Group {
    Identity,
    Region,
    Rest,
    Alone,
}

const fn known(name: &'static str, holds: Holds, group: Group) -> Known {
    Known { name, holds, group }
}

const KNOWN: [Known; 10] = [
    known("AWS_ACCESS_KEY_ID", Holds::Text, Group::Identity),
    known("AWS_SECRET_ACCESS_KEY", Holds::Secret, Group::Identity),
    known("AWS_SESSION_TOKEN", Holds::Secret, Group::Identity),
    known("AWS_PROFILE", Holds::Text, Group::Identity),
    known("AWS_SHARED_CREDENTIALS_FILE", Holds::Path, Group::Identity),
    known("AWS_REGION", Holds::Text, Group::Region),
    known("AWS_DEFAULT_REGION", Holds::Text, Group::Region),
    known("RESTIC_REST_USERNAME", Holds::Text, Group::Rest),
    known("RESTIC_REST_PASSWORD", Holds::Secret, Group::Rest),
    known("RESTIC_CACERT", Holds::Path, Group::Alone),
];

/// Where `.aws/credentials` is looked for; of the environment only.
const HOME: &str = "HOME";

/// The names that the `variables:` block takes.
pub fn variable_names() -> impl Iterator<Item = &'static str> {
    KNOWN.iter().map(|known| known.name)
}

/// These variables, and those of the environment that they do not replace, as references to it.
///
/// `is_set` says of a name whether the environment has a value for it that is not empty.
/// A group that the configuration speaks of, such as key and secret of AWS, is taken from it alone.
pub fn with_environment(
    configured: &StorageVariables,
    is_set: impl Fn(&str) -> bool,
) -> StorageVariables {
    let told = |group: &Group| {
        KNOWN.iter().any(|known| known.group == *group && configured.contains_key(known.name))
    };
    let mut variables = configured.clone();
    let names = KNOWN
        .iter()
        .filter(|known| match known.group {
            Group::Alone => !configured.contains_key(known.name),
            _ => !told(&known.group),
        })
        .map(|known| known.name);
    for name in names.chain([HOME]).filter(|name| is_set(name)) {
        variables.insert(name, SecretSource::Env(name.to_owned()));
    }
    variables
}

pub(super) fn read(node: &Node, problems: &mut Problems) -> StorageVariables {
    let mut variables = StorageVariables::new();
    let Some(block) = Block::of(node, "variables", problems) else { return variables };
    for entry in block.entries() {
        let Some(known) = KNOWN.iter().find(|known| known.name == entry.key) else {
            let help = match suggest(&entry.key, variable_names()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", variable_names().collect::<Vec<_>>().join(", ")),
            };
            let message = format!("no storage knows a variable `{}`", entry.key);
            problems.error_with_help(&entry.key_span, message, help);
            // Read all the same: it may be a secret, and then the drawing of its line must not show it.
            drop(secret::read(&entry.node, &entry.key, problems));
            continue;
        };
        let is_secret = |_: &str| known.holds == Holds::Secret;
        if let Some(source) = secret::read_filled(&entry.node, known.name, is_secret, problems) {
            variables.insert(known.name, source);
        }
    }
    variables
}

/// Makes relative paths relative to `base`: those of files that hold a value, and values that are one.
pub(super) fn resolve_paths(variables: &mut StorageVariables, base: &Path) {
    for (name, source) in variables {
        let is_path = KNOWN.iter().any(|known| known.name == *name && known.holds == Holds::Path);
        match source {
            SecretSource::Inline(path) if is_path => {
                let path = base.join(path.expose_secret()).to_string_lossy().into_owned();
                *source = SecretSource::Inline(SecretString::from(path));
            }
            _ => secret::resolve_path(source, base),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::node;
    use super::*;

    fn read_text(text: &str) -> StorageVariables {
        let mut problems = Problems::default();
        let variables = read(&node::parse(text).unwrap(), &mut problems);
        assert_eq!(problems.0, []);
        variables
    }

    fn merged(configured: &str, environment: &[&str]) -> Vec<String> {
        let is_set = |name: &str| environment.contains(&name);
        let variables = with_environment(&read_text(configured), is_set);
        let told = |(name, source): (&&str, &SecretSource)| match source {
            SecretSource::Env(from) => format!("{name}=${from}"),
            source => format!("{name} from {source}"),
        };
        variables.iter().map(told).collect()
    }

    #[test]
    fn what_the_configuration_leaves_out_comes_from_the_environment() {
        let environment = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "HOME", "PATH"];
        assert_eq!(
            merged("{ AWS_REGION: eu-1 }", &environment),
            [
                "AWS_ACCESS_KEY_ID=$AWS_ACCESS_KEY_ID",
                "AWS_REGION from the configuration file",
                "AWS_SECRET_ACCESS_KEY=$AWS_SECRET_ACCESS_KEY",
                "HOME=$HOME",
            ]
        );
        assert_eq!(merged("{}", &[]), [""; 0]);
    }

    #[test]
    fn one_identity_is_never_put_together_from_two_places() {
        let identity = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];
        assert_eq!(
            merged("{ AWS_PROFILE: nas }", &identity),
            ["AWS_PROFILE from the configuration file"],
        );
        assert_eq!(
            merged("{ AWS_DEFAULT_REGION: eu-1 }", &["AWS_REGION"]),
            ["AWS_DEFAULT_REGION from the configuration file"],
        );
        assert_eq!(
            merged("{ RESTIC_CACERT: ca.pem }", &["RESTIC_REST_PASSWORD", "RESTIC_CACERT"]),
            [
                "RESTIC_CACERT from the configuration file",
                "RESTIC_REST_PASSWORD=$RESTIC_REST_PASSWORD",
            ]
        );
    }

    #[test]
    fn paths_count_from_the_configuration_file_and_other_values_stay() {
        let mut variables = read_text(
            "{ RESTIC_CACERT: ca.pem, AWS_REGION: eu-1, AWS_SESSION_TOKEN: { file: token } }",
        );
        resolve_paths(&mut variables, Path::new("/etc/stapes"));
        let value = |name: &str| match &variables[name] {
            SecretSource::Inline(text) => text.expose_secret().to_owned(),
            source => source.to_string(),
        };
        assert_eq!(value("RESTIC_CACERT"), "/etc/stapes/ca.pem");
        assert_eq!(value("AWS_REGION"), "eu-1");
        assert_eq!(value("AWS_SESSION_TOKEN"), "file /etc/stapes/token");
    }
}
