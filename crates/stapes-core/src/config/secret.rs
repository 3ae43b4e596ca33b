//! `{ file: … }`, `{ env: … }`, `{ command: … }`, `{ credential: … }`, or the secret itself.

use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};

use super::node::{Node, Value};
use super::problem::Problem;
use super::reader::{self, Block, Problems};
use crate::secret::SecretSource;

pub(super) fn read(node: &Node, key: &str, problems: &mut Problems) -> Option<SecretSource> {
    read_where(node, key, |_| true, problems)
}

/// The same for a value that must not be empty, where that can be seen here already.
pub(super) fn read_filled(
    node: &Node,
    key: &str,
    is_secret: impl Fn(&str) -> bool,
    problems: &mut Problems,
) -> Option<SecretSource> {
    let source = read_where(node, key, is_secret, problems)?;
    if matches!(&source, SecretSource::Inline(text) if text.expose_secret().is_empty()) {
        problems.error(&node.span, format!("{key}: it is empty"));
        return None;
    }
    Some(source)
}

/// The same for a setting that is a secret only if `is_secret` says so of its text.
pub(super) fn read_where(
    node: &Node,
    key: &str,
    is_secret: impl Fn(&str) -> bool,
    problems: &mut Problems,
) -> Option<SecretSource> {
    if !matches!(node.value, Value::Map(_)) {
        let text = reader::text(node, key, problems)?;
        if is_secret(&text) {
            let message = format!(
                "{key}: a secret stands in the configuration file; {{ file: … }} keeps it out"
            );
            problems.0.push(Problem::warning(node.span.clone(), message).about_secret());
        }
        return Some(SecretSource::Inline(SecretString::from(text)));
    }
    let mut block = Block::of(node, key, problems)?;
    let mut sources = Vec::new();
    for source in ["file", "env", "command", "credential"] {
        let text = block.take(source).and_then(|node| reader::text(node, source, problems));
        if let Some(text) = text {
            sources.push(match source {
                "file" => SecretSource::File(PathBuf::from(text)),
                "env" => SecretSource::Env(text),
                "command" => SecretSource::Command(text),
                _ => SecretSource::Credential(text),
            });
        }
    }
    let span = block.span().clone();
    block.finish(problems);
    if sources.len() == 1 {
        return sources.pop();
    }
    problems.error(
        &span,
        format!("{key}: say one source of the secret: file, env, command or credential"),
    );
    None
}

pub(super) fn resolve_path(secret: &mut SecretSource, base: &Path) {
    if let SecretSource::File(path) = secret {
        *path = base.join(&*path);
    }
}
