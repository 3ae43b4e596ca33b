//! The first configuration text, as onboarding writes it: complete, commented, ready to run.
//!
//! Text only; who is in it was found out elsewhere, and writing the file is the caller's job.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::select::NamePattern;

/// What a first configuration is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstConfig {
    /// The server with the originals.
    pub source: FirstServer,
    /// The server that gets the replicas.
    pub target: FirstServer,
    /// Where key and pins are; `None` for the program's default.
    pub credentials_dir: Option<PathBuf>,
}

/// One of the two servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstServer {
    /// Its address.
    pub url: String,
    /// The name that it gives itself, for a comment; may be empty.
    pub name: String,
    /// The projects that we are restricted to; `None` if to none.
    pub projects: Option<Vec<String>>,
}

/// Enough to get over a few missed nights; space is dearest where the originals are.
const SOURCE_KEEP: &str = "3,1d1w";
/// What is kept where there is room for it.
const TARGET_KEEP: &str = "3,1d2w,1w3m,1m1y";

/// A configuration that replicates every running day's work from one server to the other.
pub fn first_config(first: &FirstConfig) -> String {
    let credentials = match &first.credentials_dir {
        Some(dir) => format!(
            "# Our key and the pinned certificates of the servers.\ncredentials: {}\n\n",
            quoted(&dir.to_string_lossy())
        ),
        None => String::new(),
    };
    let mut text = HEAD.to_owned();
    text += &credentials;
    text += "# The servers, by the names that jobs use.\nincus:\n";
    text += &server("source", &first.source);
    text += &server("target", &first.target);
    text +=
        "\n# What is to be done. `stapes replicate nightly` runs this one.\njobs:\n  nightly:\n";
    text += &source_block(first);
    text += &target_block(first);
    text
}

const HEAD: &str = "\
# Configuration of stapes, written by `stapes onboard`.
# `stapes config check` reads it and changes nothing; `stapes replicate --dry-run` shows what a run
# would do.

";

fn server(key: &str, server: &FirstServer) -> String {
    let name = one_line(&server.name);
    let comment = if name.is_empty() { name } else { format!("    # {name}\n") };
    format!("  {key}:\n{comment}    url: {}\n", quoted(&server.url))
}

fn source_block(first: &FirstConfig) -> String {
    let (projects, remark) = projects(first);
    let list: Vec<String> =
        projects.iter().map(|name| quoted(&NamePattern::text_for(name))).collect();
    format!(
        "    from:
      incus: source
{remark}      projects: [{}]
      # All instances; name some, or use patterns: [web, \"db-*\"].
      instances: [\"*\"]
      # The custom volumes that are attached to them.
      volumes: attached
      # Leave out what carries a label: `incus config set NAME user.stapes=off`.
      # where: user.stapes!=off
    # Snapshots that stay on the source: the 3 newest, and one per day for a week.
    # `stapes policy explain {SOURCE_KEEP}` shows what a policy keeps.
    keep: {}
    # Instances keep running while their snapshot is made; `stop` or `freeze` hold them.
    consistency: snapshot
",
        list.join(", "),
        quoted(SOURCE_KEEP),
    )
}

fn target_block(first: &FirstConfig) -> String {
    let text = "    to:
      - replica: target
        # The source connects to the target. Where it cannot: `pull` the other way round, `relay`
        # through this machine.
        mode: push
        # The pool of the replicas, if the target's pools have other names than the source's.
        # pool: default
";
    let keep = if first.target.projects.is_some() {
        "        # Nothing else is said here, so the target keeps what the source keeps. Keeping more needs
        # a history project on the target (`history-project:`) that our certificate may use.
"
        .to_owned()
    } else {
        format!(
            "        # The target keeps more: one per day for 2 weeks, per week for 3 months, per month for a
        # year.
        keep: {}
",
            quoted(TARGET_KEEP)
        )
    };
    format!("{text}{keep}")
}

/// The projects that we may use on both servers, and what to say about them.
fn projects(first: &FirstConfig) -> (Vec<String>, String) {
    let line = |text: &str| format!("      # {text}\n");
    let (source, target) = (&first.source.projects, &first.target.projects);
    let (names, remark) = match (source, target) {
        (None, None) => {
            return (vec!["default".to_owned()], line("More projects: [default, web]."));
        }
        (Some(names), None) => (names.clone(), "Our certificate reaches these on the source."),
        (None, Some(names)) => (names.clone(), "Our certificate reaches these on the target."),
        (Some(source), Some(target)) => {
            let target: BTreeSet<&String> = target.iter().collect();
            let both: Vec<String> =
                source.iter().filter(|name| target.contains(name)).cloned().collect();
            if both.is_empty() {
                let remark = "Our certificate reaches none of these on the target: add them there \
                              with `incus config trust edit`.";
                (source.clone(), remark)
            } else {
                (both, "Our certificate reaches these on both servers.")
            }
        }
    };
    // An empty list would be a job that never does anything.
    let names = if names.is_empty() { vec!["default".to_owned()] } else { names };
    (names, line(remark))
}

/// A YAML text in double quotes, whatever is in it.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            _ if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') => {
                quoted.push_str(&format!("\\u{:04X}", u32::from(character)));
            }
            _ => quoted.push(character),
        }
    }
    quoted + "\""
}

/// For a comment, which ends with its line.
fn one_line(text: &str) -> String {
    let safe = |c: char| !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}');
    text.chars().filter(|c| safe(*c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Loaded, ServerUrl};
    use crate::id::JobName;

    fn first(source: Option<&[&str]>, target: Option<&[&str]>) -> FirstConfig {
        let server = |url: &str, projects: Option<&[&str]>| FirstServer {
            url: url.to_owned(),
            name: "host".to_owned(),
            projects: projects.map(|names| names.iter().map(|&name| name.to_owned()).collect()),
        };
        FirstConfig {
            source: server("https://10.0.0.10:8443", source),
            target: server("https://[fd00::2]:9443", target),
            credentials_dir: None,
        }
    }

    fn parsed(first: &FirstConfig) -> Config {
        let text = first_config(first);
        let Loaded { config, warnings } =
            Config::parse(&text).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"));
        assert_eq!(warnings, [], "{text}");
        config
    }

    fn project_names(config: &Config) -> Vec<&str> {
        let job = &config.jobs[&"nightly".parse::<JobName>().unwrap()];
        job.from.projects.iter().map(|pattern| pattern.as_str()).collect()
    }

    #[test]
    fn the_first_configuration_parses_without_a_remark() {
        let config = parsed(&first(None, None));
        let urls: Vec<String> = config.incus.values().map(|s| s.url.to_string()).collect();
        assert_eq!(urls, ["https://10.0.0.10:8443", "https://[fd00::2]:9443"]);
        assert_eq!(config.credentials_dir, None);
        let job = config.jobs.values().next().unwrap();
        assert_eq!((job.name.as_str(), job.from.incus.as_str()), ("nightly", "source"));
        assert_eq!((job.to.len(), job.to[0].server.as_str()), (1, "target"));
        assert!(job.to[0].keep.is_some());
        assert_eq!(project_names(&config), ["default"]);
    }

    #[test]
    fn what_stands_there_as_a_comment_can_be_used() {
        let mut text = first_config(&first(None, None));
        for key in ["where: user", "pool: default"] {
            assert_eq!(text.matches(&format!("# {key}")).count(), 1, "{text}");
            text = text.replace(&format!("# {key}"), key);
        }
        let config = Config::parse(&text).unwrap().config;
        let job = config.jobs.values().next().unwrap();
        assert_eq!(job.from.conditions.len(), 1);
        assert_eq!(job.to[0].pool.as_ref().map(|pool| pool.as_str()), Some("default"));
    }

    #[test]
    fn restricted_certificates_get_the_projects_that_both_servers_allow() {
        for (source, target, expected) in [
            (Some(&["a", "b"][..]), None, &["a", "b"][..]),
            (None, Some(&["b"][..]), &["b"]),
            (Some(&["a", "b"]), Some(&["b", "c"]), &["b"]),
            (Some(&["a"]), Some(&["c"]), &["a"]),
            (Some(&[]), None, &["default"]),
        ] {
            let config = parsed(&first(source, target));
            assert_eq!(project_names(&config), expected);
            // A restricted certificate cannot make the project for a longer history.
            let job = config.jobs.values().next().unwrap();
            assert_eq!(job.to[0].keep.is_some(), target.is_none());
        }
    }

    #[test]
    fn odd_names_neither_break_the_text_nor_become_patterns() {
        let mut odd = first(Some(&["a[b]*", "x\"y\\z", "ü: #"]), None);
        odd.source.name = "evil\njobs: {}".to_owned();
        odd.target.url = "unix:///run/a \"b\"/unix.socket".to_owned();
        odd.credentials_dir = Some("/etc/stapes/key: # \"s".into());
        let config = parsed(&odd);
        assert_eq!(config.credentials_dir, odd.credentials_dir);
        let url = ServerUrl::Unix("/run/a \"b\"/unix.socket".into());
        assert!(config.incus.values().any(|server| server.url == url));
        let job = config.jobs.values().next().unwrap();
        let names = ["a[b]*", "x\"y\\z", "ü: #"];
        for (index, pattern) in job.from.projects.iter().enumerate() {
            let fits: Vec<bool> = names.iter().map(|name| pattern.matches(name)).collect();
            let expected: Vec<bool> = (0..names.len()).map(|other| other == index).collect();
            assert_eq!(fits, expected, "{pattern}");
        }
        assert!(!job.from.projects[0].matches("ab"));
    }
}
