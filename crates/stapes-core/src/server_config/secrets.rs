//! Which configuration keys hold secrets.
//!
//! The list was made from the documented keys of Incus 6.0.4 and 7.0 (`doc/config_options.txt` and
//! the schema of the server settings). What ends like a secret is one as well, so that a key of a
//! later version is rather left out than given away. `user.*`, `environment.*` and `cloud-init.*`
//! are data of users and stay.

use super::kind::ConfigKind;

/// Server settings, exactly.
const SERVER: [&str; 8] = [
    // Tokens of the DNS provider, for ACME challenges.
    "acme.provider.environment",
    "instances.tpm.platform_key",
    "loki.auth.password",
    "network.ovn.client_key",
    // Not in these versions, but its name is what it would be called.
    "oidc.client.secret",
    "openfga.api.token",
    "storage.linstor.client_key",
    "core.trust_password",
];

/// Last parts of keys that name a secret: `bgp.peers.NAME.password`, `logging.NAME.target.password`,
/// `truenas.api_key`, `ovn.client_key`.
const LAST_PARTS: [&str; 9] = [
    "password",
    "passphrase",
    "secret",
    "token",
    "api_key",
    "client_key",
    "secret_key",
    "access_key",
    "private_key",
];

/// Beginnings of keys of instances and profiles whose purpose is to hand secrets to services.
const CREDENTIALS: [&str; 2] = ["systemd.credential.", "systemd.credential-binary."];

/// Members of a bucket's key; the two belong together, and one without the other serves nobody.
pub(super) const BUCKET_KEY: [&str; 2] = ["access-key", "secret-key"];

/// Whether a configuration key with this value is a secret.
pub(super) fn is_secret(kind: ConfigKind, key: &str, value: &str) -> bool {
    if ["user.", "environment.", "cloud-init.", "volatile."].iter().any(|own| key.starts_with(own))
    {
        return false;
    }
    let last = key.rsplit('.').next().unwrap_or(key);
    if LAST_PARTS.contains(&last) {
        return true;
    }
    match kind {
        ConfigKind::Server => SERVER.contains(&key) || has_password(value),
        ConfigKind::StoragePools | ConfigKind::NetworkIntegrations => has_password(value),
        // TSIG keys of secondary name servers.
        ConfigKind::NetworkZones => key.starts_with("peers.") && last == "key",
        ConfigKind::Instances | ConfigKind::Profiles => {
            CREDENTIALS.iter().any(|prefix| key.starts_with(prefix))
        }
        _ => false,
    }
}

/// Whether a value is a URL with a password in it, such as that of a proxy.
fn has_password(value: &str) -> bool {
    let Some((scheme, rest)) = value.split_once("://") else { return false };
    if scheme.is_empty() || !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+')
    {
        return false;
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_their_keys_and_users_keep_theirs() {
        use ConfigKind::*;
        for (kind, key) in [
            (Server, "acme.provider.environment"),
            (Server, "loki.auth.password"),
            (Server, "logging.siem.target.password"),
            (Server, "openfga.api.token"),
            (Server, "network.ovn.client_key"),
            (Server, "storage.linstor.client_key"),
            (Server, "instances.tpm.platform_key"),
            (Networks, "bgp.peers.core.password"),
            (NetworkZones, "peers.ns1.key"),
            (NetworkIntegrations, "ovn.client_key"),
            (StoragePools, "truenas.api_key"),
            (Profiles, "systemd.credential.db"),
            (Instances, "systemd.credential-binary.db"),
        ] {
            assert!(is_secret(kind, key, "x"), "{kind} {key}");
        }
        for (kind, key) in [
            (Server, "core.https_address"),
            (Server, "network.ovn.client_cert"),
            (Server, "oidc.client.id"),
            (Server, "core.remote_token_expiry"),
            (Networks, "ipv4.address"),
            (NetworkZones, "peers.ns1.address"),
            (Profiles, "user.password"),
            (Profiles, "cloud-init.user-data"),
            (Profiles, "environment.TOKEN"),
        ] {
            assert!(!is_secret(kind, key, "x"), "{kind} {key}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_a_secret_and_a_host_with_a_port_is_none() {
        for url in ["http://joe:pw@proxy:3128", "https://a:b@h/x"] {
            assert!(is_secret(ConfigKind::Server, "core.proxy_http", url), "{url}");
        }
        for url in
            ["http://proxy:3128", "http://joe@proxy:1", "http://h/a:b@c", "a:b@c", "://a:b@c"]
        {
            assert!(!is_secret(ConfigKind::Server, "core.proxy_http", url), "{url}");
        }
    }
}
