//! The configuration as incus-backup writes it, in our words: members in lower case, the project that
//! it leaves out, and no `null`.

use serde_json::{Map, Value};
use stapes_core::server_config::ConfigKind;

/// What incus-backup looked at: it knows no other project.
const PROJECT: &str = "default";

/// One of its documents as one of ours; what is no list of objects stays as it is, to be refused.
pub(super) fn document(kind: ConfigKind, text: &[u8]) -> Vec<u8> {
    let Ok(Value::Array(objects)) = serde_json::from_slice::<Value>(text) else {
        return text.to_vec();
    };
    let in_project = matches!(kind, ConfigKind::Profiles | ConfigKind::Networks);
    let ours = objects.into_iter().map(|object| match object {
        Value::Object(members) => Value::Object(ours(members, in_project)),
        other => other,
    });
    serde_json::to_vec(&Value::Array(ours.collect())).unwrap_or_else(|_| text.to_vec())
}

fn ours(members: Map<String, Value>, in_project: bool) -> Map<String, Value> {
    let mut ours: Map<String, Value> = members
        .into_iter()
        // It lists managed networks only, and says so of each.
        .filter(|(key, value)| key != "Managed" && !value.is_null())
        .map(|(key, value)| (key.to_ascii_lowercase(), value))
        .collect();
    if in_project {
        ours.entry("project").or_insert_with(|| PROJECT.into());
    }
    ours
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_get_our_names_and_keys_of_the_configuration_keep_theirs() {
        let text = br#"[{"Name":"lan","Managed":true,"Type":"bridge","Config":{"ipv4.NAT":"true"},"Description":""},
                        {"Name":"wan","Config":null}]"#;
        let read: Value = serde_json::from_slice(&document(ConfigKind::Networks, text)).unwrap();
        let expected = serde_json::json!([
            { "name": "lan", "type": "bridge", "config": { "ipv4.NAT": "true" }, "description": "", "project": "default" },
            { "name": "wan", "project": "default" },
        ]);
        assert_eq!(read, expected);
        assert_eq!(document(ConfigKind::Projects, b"no json"), b"no json");
    }
}
