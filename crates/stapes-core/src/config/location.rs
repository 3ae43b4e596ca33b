//! The LOCATION of `restic:LOCATION`, as restic spells it.
//!
//! Knows which kinds there are and which of them is a folder of this machine; what a location means
//! is read by the storages.

use std::fmt;
use std::path::Path;

use super::problem::suggest;

/// Kinds of storage that work; `local:` may be left out.
const KINDS: [&str; 4] = ["local", "sftp", "s3", "rest"];

/// Where a restic repository lies: the text that restic's `-r` takes.
///
/// The text of a REST server may hold a password, so it prints without one.
#[derive(Clone, PartialEq, Eq)]
pub struct ResticLocation(String);

impl ResticLocation {
    /// Checks the text after `restic:`; the error is why it is none.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("write restic: and a location, as restic takes it after -r".to_owned());
        }
        if text.contains(char::is_control) {
            return Err("it holds a control character".to_owned());
        }
        let works = "restic repositories work in a folder, over sftp:, s3: and rest:";
        match kind(text) {
            Some("local") if text == "local:" => Err("local: needs a path".to_owned()),
            Some(kind) if !KINDS.contains(&kind) => match suggest(kind, KINDS) {
                Some(near) => Err(format!("{works}; did you mean {near}:?")),
                None => Err(format!("{works}; a folder of this name is local:{kind}:…")),
            },
            _ => Ok(Self(text.to_owned())),
        }
    }

    /// The text itself, which may hold a password: for whoever opens the storage, never for people.
    pub fn as_written(&self) -> &str {
        &self.0
    }

    /// Whether a password stands in the text.
    pub fn holds_password(&self) -> bool {
        without_password(&self.0) != self.0
    }

    /// The folder, if it is one of this machine.
    fn folder(&self) -> Option<&Path> {
        match kind(&self.0) {
            None => Some(Path::new(&self.0)),
            Some("local") => self.0.split_once(':').map(|(_, path)| Path::new(path)),
            Some(_) => None,
        }
    }

    /// Makes a relative folder of this machine relative to `base`; other places stay as they are.
    pub fn resolve(&mut self, base: &Path) {
        let Some(folder) = self.folder().filter(|folder| folder.is_relative()) else { return };
        // A base that is no text makes a folder that is not there, and that is told; without it the
        // folder would be another one, wherever the program happens to be started.
        let path = base.join(folder).to_string_lossy().into_owned();
        let ambiguous = kind(&path).is_some();
        self.0 = if ambiguous { format!("local:{path}") } else { path };
    }
}

impl fmt::Display for ResticLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_password(&self.0))
    }
}

impl fmt::Debug for ResticLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResticLocation({self})")
    }
}

/// What stands before the first colon, unless a slash comes first: then it is a path.
fn kind(text: &str) -> Option<&str> {
    text.split_once(':').map(|(kind, _)| kind).filter(|kind| !kind.contains('/'))
}

/// The text of a location, right or wrong, without what is or may be a password in it.
pub(super) fn without_password(text: &str) -> String {
    let Some(kind) = kind(text).filter(|kind| *kind != "local") else { return text.to_owned() };
    let scheme = |rest: &str| ["https:", "http:"].into_iter().find(|s| rest.starts_with(s));
    let mut start = kind.len() + 1;
    start += text.get(start..).and_then(scheme).map_or(0, str::len);
    let rest = text.get(start..).unwrap_or_default();
    let authority = rest.strip_prefix("//");
    if kind == "sftp" && authority.is_none() {
        // `user@host:path`, in which there is no place for one.
        return text.to_owned();
    }
    start += rest.len() - authority.unwrap_or(rest).len();
    let (head, rest) = text.split_at(start);
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if let Some((user, host)) = authority.rsplit_once('@') {
        return match user.split_once(':') {
            Some((user, _)) => format!("{head}{user}@{host}{path}"),
            None => text.to_owned(),
        };
    }
    // A slash that belongs to the password would have to be written %2F, and was not.
    let port_is_number = authority.rsplit_once(':').is_none_or(|(_, port)| {
        authority.ends_with(']') || port.chars().all(|c| c.is_ascii_digit())
    });
    match rest.rsplit_once('@') {
        Some((_, host)) if !port_is_number => format!("{head}…@{host}"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_taken_as_restic_spells_them() {
        for text in [
            "/srv/restic",
            "backups",
            "./odd:name",
            "local:a:b",
            "sftp:user@host:/path",
            "sftp://user@host:2222//path",
            "s3:https://s3.example/bucket/prefix",
            "s3:localhost:9000/bucket",
            "rest:https://host:8000/",
        ] {
            let location = ResticLocation::parse(text).unwrap();
            assert_eq!((location.as_written(), location.to_string().as_str()), (text, text));
            assert!(!location.holds_password(), "{text}");
        }
        for (text, why) in [
            ("", "write restic: and a location"),
            ("local:", "needs a path"),
            ("/srv/a\nb", "control character"),
            ("rclone:nas:restic", "work in a folder, over sftp:, s3: and rest:"),
            ("b2:bucket", "over sftp:, s3: and rest:"),
            ("sfpt:user@host:/path", "did you mean sftp:?"),
            ("https://host/", "over sftp:, s3: and rest:"),
        ] {
            let error = ResticLocation::parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn only_folders_of_this_machine_are_relative_to_something() {
        let resolved = |text: &str, base: &str| {
            let mut location = ResticLocation::parse(text).unwrap();
            location.resolve(Path::new(base));
            location.as_written().to_owned()
        };
        assert_eq!(resolved("backups/a", "/etc/stapes"), "/etc/stapes/backups/a");
        assert_eq!(resolved("local:a:b", "/etc/stapes"), "/etc/stapes/a:b");
        assert_eq!(resolved("local:a:b", ""), "local:a:b");
        for same in ["/srv/a", "local:/srv/a:b", "sftp:host:path", "s3:host/b", "rest:http://h/"] {
            assert_eq!(resolved(same, "/etc/stapes"), same);
        }
    }

    #[test]
    fn a_password_in_a_location_is_not_printed() {
        for (text, shown) in [
            ("rest:https://me:hunter2@host:8000/p/", "rest:https://me@host:8000/p/"),
            ("rest:http://:hunter2@host/", "rest:http://@host/"),
            ("rest:https://me:hun@ter2@host/", "rest:https://me@host/"),
            ("rest:https://me:hun/ter2@host/", "rest:https://…@host/"),
            ("s3:key:hunter2@host/bucket", "s3:key@host/bucket"),
            ("s3:https://key:hunter2@host/bucket", "s3:https://key@host/bucket"),
            ("sftp://me:hunter2@host//path", "sftp://me@host//path"),
        ] {
            let location = ResticLocation::parse(text).unwrap();
            assert!(location.holds_password(), "{text}");
            assert_eq!(location.to_string(), shown);
            assert_eq!(format!("{location:?}"), format!("ResticLocation({shown})"));
        }
        for text in [
            "rest:https://me@host/",
            "s3:https://host:9000/bucket/a@b",
            "s3:https://[::1]/bucket/a@b",
            "/srv/a:b@c",
            "local:x//a:b@c",
            "sftp:me@host:/srv//a:b@c",
        ] {
            assert_eq!(ResticLocation::parse(text).unwrap().to_string(), text);
        }
    }
}
