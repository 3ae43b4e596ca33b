//! Does what a plan says, one change after the other, and reads back what came of it.
//!
//! A change that fails is a result; those that need what it should have made are not tried, all
//! others are. After a cut the server has the changes before it, each whole, and a new plan holds
//! the rest. Nothing that the plan does not name is touched.

use std::collections::BTreeSet;

use incus_client::{Client, Error, ErrorKind};
use reqwest::Method;
use serde_json::{Map, Value, json};
use stapes_core::server_config::{
    Action, Change, ConfigPlan, KeyChange, ObjectId, ObjectKind, apply_keys, differences,
};
use tokio_util::sync::CancellationToken;

use super::paths;
use crate::error::chain;

/// What came of a change.
#[derive(Clone, Debug)]
pub struct Applied<'a> {
    /// The change.
    pub change: &'a Change,
    /// What came of it.
    pub result: ApplyResult,
}

/// What came of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApplyResult {
    /// It was made, and the server says so.
    Done,
    /// It was not made, or not as asked.
    Failed {
        /// Why, in a sentence.
        reason: String,
    },
    /// It was not tried.
    Skipped {
        /// Why, in a sentence.
        reason: String,
    },
    /// It was sent, but the connection did not live to see the result.
    Unconfirmed {
        /// What happened, in a sentence.
        reason: String,
    },
}

type Object = Map<String, Value>;

/// Carries out a plan; `progress` hears of each change before it is tried, with its number and the
/// number of all.
///
/// Changes that the plan holds back (see [`Change::is_work`]) are returned as skipped. When `cancel`
/// is cancelled, the present change is finished and the others are skipped.
pub async fn apply<'a>(
    client: &Client,
    plan: &'a ConfigPlan,
    cancel: &CancellationToken,
    mut progress: impl FnMut(usize, usize, &Change),
) -> Vec<Applied<'a>> {
    let total = plan.work().count();
    let (mut number, mut silent) = (0, false);
    let mut absent: BTreeSet<&ObjectId> = BTreeSet::new();
    let mut applied = Vec::with_capacity(plan.changes.len());
    for change in &plan.changes {
        let result = if let Some(reason) = held_back(change) {
            ApplyResult::Skipped { reason }
        } else if cancel.is_cancelled() {
            ApplyResult::Skipped { reason: "interrupted".to_owned() }
        } else if silent {
            ApplyResult::Skipped { reason: "the server no longer answers".to_owned() }
        } else if let Some(need) = change.needs.iter().find(|need| absent.contains(need)) {
            ApplyResult::Skipped { reason: format!("it needs {need}, which could not be made") }
        } else {
            number += 1;
            progress(number, total, change);
            match carry_out(client, change).await {
                Ok(result) => result,
                Err(error) => {
                    silent = matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Timeout);
                    judge(change, &error)
                }
            }
        };
        // What exists, but not as asked, still serves those that need it.
        let made = result == ApplyResult::Done || matches!(result, ApplyResult::Unconfirmed { .. });
        if change.makes() && !made && !exists(client, &change.id, silent).await {
            absent.insert(&change.id);
        }
        applied.push(Applied { change, result });
    }
    applied
}

fn held_back(change: &Change) -> Option<String> {
    match &change.action {
        Action::NeedsForce { why, .. } => Some(format!("only with --force: {why}")),
        Action::Blocked { why, help, .. } => Some(format!("{why}; {help}")),
        Action::Create { .. } | Action::Update(_) | Action::Remove => None,
    }
}

fn judge(change: &Change, error: &Error) -> ApplyResult {
    let reason = without_secrets(chain(error), change);
    let cut = matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Timeout);
    if cut && change.id.kind == ObjectKind::Address {
        ApplyResult::Unconfirmed { reason }
    } else {
        ApplyResult::Failed { reason }
    }
}

/// Servers repeat what they refuse, secrets included.
fn without_secrets(mut reason: String, change: &Change) -> String {
    let keys = match &change.action {
        Action::Create { object, .. } => differences(change.id.kind, object, &Object::new()),
        Action::Update(keys) => keys.clone(),
        _ => Vec::new(),
    };
    for key in keys.iter().filter(|key| key.secret) {
        for value in [&key.old, &key.new].into_iter().flatten().filter_map(Value::as_str) {
            if !value.is_empty() {
                reason = reason.replace(value, "(a secret)");
            }
        }
    }
    reason
}

/// Whether an object is there in spite of a failure to make it.
async fn exists(client: &Client, id: &ObjectId, silent: bool) -> bool {
    !silent && client.raw(Method::GET, &paths::object(id), None).await.is_ok()
}

async fn carry_out(client: &Client, change: &Change) -> Result<ApplyResult, Error> {
    let id = &change.id;
    match &change.action {
        Action::Create { object, implicit } => create(client, id, object, *implicit).await,
        Action::Update(keys) if matches!(id.kind, ObjectKind::Settings | ObjectKind::Address) => {
            set(client, keys).await
        }
        Action::Update(keys) => update(client, id, keys).await,
        Action::Remove => remove(client, id).await,
        Action::NeedsForce { .. } | Action::Blocked { .. } => Ok(ApplyResult::Done),
    }
}

/// Makes an object, and then takes away what the server added to it by itself.
async fn create(
    client: &Client,
    id: &ObjectId,
    object: &Object,
    implicit: bool,
) -> Result<ApplyResult, Error> {
    let there = implicit && read(client, id).await.is_ok();
    if !there {
        let body = Value::Object(body_of(id, object));
        client.raw(Method::POST, &paths::collection(id), Some(&body)).await?;
    }
    let made = read(client, id).await?;
    let keys = differences(id.kind, object, &made);
    if keys.is_empty() {
        return Ok(ApplyResult::Done);
    }
    update(client, id, &keys).await
}

/// What is posted: the object without what only tells where it belongs.
fn body_of(id: &ObjectId, object: &Object) -> Object {
    let mut body = object.clone();
    for member in ["project", "network", "pool", "location", "fingerprint"] {
        body.remove(member);
    }
    if id.kind == ObjectKind::Certificate
        && let Some(pem) = object.get("certificate").and_then(Value::as_str)
    {
        // It is read as PEM and written as the base64 within.
        let inside = pem.lines().map(str::trim).filter(|line| !line.starts_with("-----"));
        body.insert("certificate".to_owned(), inside.collect::<String>().into());
    }
    body
}

/// Changes values of an object as it is now; everything else of it stays.
async fn update(client: &Client, id: &ObjectId, keys: &[KeyChange]) -> Result<ApplyResult, Error> {
    let mut object = read(client, id).await?;
    apply_keys(&mut object, keys);
    let body = Value::Object(object.clone());
    client.raw(Method::PUT, &paths::object(id), Some(&body)).await?;
    let now = read(client, id).await?;
    Ok(compare(&differences(id.kind, &object, &now)))
}

/// Changes settings of the server; the empty text takes one away.
async fn set(client: &Client, keys: &[KeyChange]) -> Result<ApplyResult, Error> {
    let value = |key: &KeyChange| key.new.clone().unwrap_or_else(|| Value::String(String::new()));
    let config: Object = keys.iter().map(|key| (key.key(), value(key))).collect();
    client.raw(Method::PATCH, "/1.0", Some(&json!({ "config": config }))).await?;
    let server = client.raw(Method::GET, "/1.0", None).await?;
    let now =
        |key: &KeyChange| server.get("config").and_then(|config| config.get(key.key())).cloned();
    let differing: Vec<KeyChange> =
        keys.iter().filter(|key| now(key) != key.new).cloned().collect();
    Ok(compare(&differing))
}

async fn remove(client: &Client, id: &ObjectId) -> Result<ApplyResult, Error> {
    match client.raw(Method::DELETE, &paths::object(id), None).await {
        // It went with what it was part of, or somebody else was faster.
        Err(error) if error.is_not_found() => Ok(ApplyResult::Done),
        other => other.map(|_| ApplyResult::Done),
    }
}

fn compare(differing: &[KeyChange]) -> ApplyResult {
    if differing.is_empty() {
        return ApplyResult::Done;
    }
    let keys: Vec<String> = differing.iter().map(KeyChange::key).collect();
    let reason = format!("the server took it, but has other values now: {}", keys.join(", "));
    ApplyResult::Failed { reason }
}

async fn read(client: &Client, id: &ObjectId) -> Result<Object, Error> {
    match client.raw(Method::GET, &paths::object(id), None).await? {
        Value::Object(object) => Ok(object),
        // An answer without an object has no values; the comparison says which are missing.
        _ => Ok(Object::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_does_not_repeat_the_secret() {
        let key = |name: &str, value: &str, secret| KeyChange {
            path: vec!["config".to_owned(), name.to_owned()],
            old: None,
            new: Some(value.into()),
            secret,
        };
        let id = ObjectId {
            kind: ObjectKind::Settings,
            project: None,
            within: Vec::new(),
            name: "loki".to_owned(),
        };
        let keys = vec![key("loki.auth.password", "pw1", true), key("loki.api.url", "u", false)];
        let change =
            Change { id, action: Action::Update(keys), needs: Vec::new(), notes: Vec::new() };
        let told = "cannot set 'loki.auth.password' to 'pw1': deprecated".to_owned();
        assert_eq!(
            without_secrets(told, &change),
            "cannot set 'loki.auth.password' to '(a secret)': deprecated"
        );
    }
}
