//! Reaching servers, recognising them, and being recognised.

use std::time::Duration;

use incus_client::access::Grant;
use incus_client::{
    Client, ErrorKind, HttpsOptions, Identity, ListOptions, Pin, TrustToken, fetch_certificate,
    register,
};
use stapes_testing::{TcpProxy, TestProject, pair};

use crate::support::{certificate_of, chain, https, new_identity, unix};

#[tokio::test]
async fn the_unix_socket_is_trusted() {
    let server = unix(&pair().source, "default").server().await.unwrap();
    assert!(server.is_trusted());
    assert_eq!(server.auth_user_method, "unix");
    assert!(server.has("instances") && !server.has("no_such_extension"));
    assert!(server.environment.storage_supported_drivers.iter().any(|d| d.name == "btrfs"));
    assert_eq!(server.urls(), [pair().source.https_url()]);
    let error = server.require("no_such_extension").unwrap_err();
    assert!(error.to_string().contains("no_such_extension"), "{error}");
}

/// Incus reads the first bytes of a connection to its socket before it takes the next one, so one
/// connection on which nothing is sent keeps everybody out.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_requests_at_once_leave_the_unix_socket_to_others() {
    let busy = unix(&pair().source, "default");
    for _ in 0..100 {
        let askers = (0..8).map(|_| {
            let busy = busy.clone();
            tokio::spawn(async move {
                for _ in 0..3 {
                    busy.server().await.unwrap();
                }
            })
        });
        let askers = futures_util::future::join_all(askers);
        let patience = Duration::from_secs(10);
        tokio::time::timeout(patience, askers).await.expect("the socket is blocked");
        let other = unix(&pair().source, "default");
        let answer = tokio::time::timeout(patience, other.server()).await;
        answer.expect("the socket is blocked").unwrap();
    }
}

#[tokio::test]
async fn a_fetched_certificate_is_the_one_that_the_server_tells_of() {
    let fetched = certificate_of(&pair().source).await;
    let server = unix(&pair().source, "default").server().await.unwrap();
    assert_eq!(fetched.fingerprint, server.environment.certificate_fingerprint);
    assert_eq!(fetched.pem.trim(), server.environment.certificate.trim());
    assert_eq!(Pin::of_pem(&fetched.pem).unwrap(), fetched.pin());
}

#[tokio::test]
async fn keys_of_every_form_are_read_and_prove_who_we_are() {
    let admin = unix(&pair().source, "default");
    for (certificate, keys) in [
        (
            include_str!("../keys/ec.crt"),
            [include_str!("../keys/ec-sec1.key"), include_str!("../keys/ec-pkcs8.key")],
        ),
        (
            include_str!("../keys/rsa.crt"),
            [include_str!("../keys/rsa-pkcs1.key"), include_str!("../keys/rsa-pkcs8.key")],
        ),
    ] {
        for key in keys {
            let identity = Identity::from_pem(certificate, key).unwrap();
            let client = https(&pair().source, identity.clone()).await;
            assert!(!client.server().await.unwrap().is_trusted());
            let fingerprint = &identity.certificate().fingerprint;
            admin
                .add_certificate("by hand", identity.certificate(), &Grant::Unrestricted)
                .await
                .unwrap();
            let server = client.server().await.unwrap();
            assert!(server.is_trusted());
            assert_eq!(&server.auth_user_name, fingerprint);
            let listed = admin.certificates().await.unwrap();
            assert!(listed.iter().any(|c| &c.fingerprint == fingerprint && c.name == "by hand"));
            admin.delete_certificate(fingerprint).await.unwrap();
            let gone = admin.certificate(fingerprint).await.unwrap_err();
            assert!(gone.is_not_found(), "{gone}");
        }
    }
}

#[test]
fn a_key_of_another_certificate_is_refused_when_it_is_read() {
    let error =
        Identity::from_pem(include_str!("../keys/ec.crt"), include_str!("../keys/rsa-pkcs8.key"))
            .unwrap_err();
    assert!(error.to_string().contains("do not fit together"), "{error}");
    let swapped =
        Identity::from_pem(include_str!("../keys/ec-sec1.key"), include_str!("../keys/ec.crt"));
    assert!(swapped.unwrap_err().to_string().contains("no certificate"));
}

#[tokio::test]
async fn another_certificate_than_the_pinned_one_is_named_as_such() {
    let right = certificate_of(&pair().source).await.fingerprint;
    let wrong = "ab".repeat(32);
    let options = HttpsOptions::new(pair().source.https_url(), Pin::parse(&wrong).unwrap());
    let client = Client::https(&options).unwrap();
    let error = client.server().await.unwrap_err();
    let expected = ErrorKind::CertificateMismatch { expected: wrong.clone(), got: right.clone() };
    assert_eq!(error.kind(), expected, "{}", chain(&error));
    let text = error.to_string();
    assert!(text.contains(&wrong) && text.contains(&right), "{text}");
    // The same where a request would open the event stream first.
    let error = client.delete_instance("x").await.unwrap_err();
    assert_eq!(error.kind(), expected, "{}", chain(&error));
}

#[tokio::test]
async fn an_untrusted_identity_may_look_at_the_door_but_not_enter() {
    let client = https(&pair().source, new_identity()).await;
    let server = client.server().await.unwrap();
    assert!(!server.is_trusted());
    assert_eq!(server.environment.server_version, "");
    let error = client.instances(&ListOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert_eq!(error.code(), Some(403));
    let error = client.delete_instance("x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{}", chain(&error));
}

#[tokio::test]
async fn a_token_admits_one_identity_once() {
    let (server, admin) = (&pair().source, unix(&pair().source, "default"));
    let token = TrustToken::decode(&server.trust_token("by-token", None).unwrap()).unwrap();
    assert_eq!(token.client_name, "by-token");
    assert_eq!(token.urls(), [server.https_url()]);
    assert_eq!(token.pin, certificate_of(server).await.pin());

    let first = new_identity();
    let client = register(&server.https_url(), &first, &token).await.unwrap();
    assert!(client.server().await.unwrap().is_trusted());
    let seen = admin.certificate(&first.certificate().fingerprint).await.unwrap();
    assert_eq!((seen.name.as_str(), seen.restricted), ("by-token", false));

    let again = register(&server.https_url(), &new_identity(), &token).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Denied);
    assert!(!chain(&again).contains(token.encoded()));
    admin.delete_certificate(&first.certificate().fingerprint).await.unwrap();
}

#[tokio::test]
async fn tokens_can_be_issued_used_and_revoked() {
    let (server, admin) = (&pair().target, unix(&pair().target, "default"));
    let grant = Grant::Projects(vec!["default".to_owned()]);
    let issued = admin.issue_token("ours", &grant).await.unwrap();
    let decoded = TrustToken::decode(issued.token.encoded()).unwrap();
    assert_eq!(decoded, issued.token);
    let identity = new_identity();
    register(&server.https_url(), &identity, &decoded).await.unwrap();
    let seen = admin.certificate(&identity.certificate().fingerprint).await.unwrap();
    assert!(seen.restricted);
    assert_eq!(seen.projects, ["default"]);
    admin.delete_certificate(&seen.fingerprint).await.unwrap();

    let revoked = admin.issue_token("revoked", &Grant::Unrestricted).await.unwrap();
    revoked.operation.cancel().await.unwrap();
    let error = register(&server.https_url(), &new_identity(), &revoked.token).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
}

#[tokio::test]
async fn a_token_of_one_server_is_not_given_to_another() {
    let token = pair().source.trust_token("stray", None).unwrap();
    let token = TrustToken::decode(&token).unwrap();
    let error = register(&pair().target.https_url(), &new_identity(), &token).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::CertificateMismatch { .. }), "{}", chain(&error));
}

#[tokio::test]
async fn a_restricted_certificate_sees_its_projects_and_hears_their_operations() {
    let project = TestProject::new(pair()).unwrap();
    let server = &pair().source;
    let token = server.trust_token("restricted", Some(&[project.name()])).unwrap();
    let token = TrustToken::decode(&token).unwrap();
    let identity = new_identity();
    let client = register(&server.https_url(), &identity, &token).await.unwrap();

    let seen = client.server().await.unwrap();
    assert!(seen.is_trusted() && seen.config.is_empty());
    // Incus 6.0 refuses the list and 7.0 shows it without configuration.
    let is_6 = seen.environment.server_version.starts_with("6.0.");
    match client.storage_pools().await {
        Ok(pools) => assert!(!is_6 && pools.iter().all(|pool| pool.config.is_empty())),
        Err(error) => assert!(is_6 && error.kind() == ErrorKind::Denied, "{}", chain(&error)),
    }
    let pool = client.storage_pool("local").await.unwrap().value;
    assert_eq!((pool.driver.as_str(), pool.config.len()), ("btrfs", 0));
    assert!(client.storage_pool_resources("local").await.unwrap().space.total > 0);
    let denied = client.with_project("default").instances(&ListOptions::default()).await;
    // Incus 7.0 shows an empty project instead.
    match denied {
        Ok(instances) => assert!(!is_6 && instances.is_empty()),
        Err(error) => assert!(is_6 && error.kind() == ErrorKind::Denied, "{}", chain(&error)),
    }

    let client = client.with_project(project.name());
    crate::operations::create_and_delete(&client, "c").await;
    let admin = unix(server, "default");
    admin.delete_certificate(&identity.certificate().fingerprint).await.unwrap();
}

#[tokio::test]
async fn nobody_there_is_unreachable_and_not_a_time_out() {
    let dir = tempfile::tempdir().unwrap();
    let error = Client::unix(dir.path().join("none.socket")).unwrap().server().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.to_string().contains("none.socket"), "{error}");
    assert!(chain(&error).contains("No such file"), "{}", chain(&error));

    let url = "https://127.0.0.1:9";
    let options = HttpsOptions::new(url, Pin::parse(&"0".repeat(64)).unwrap());
    let error = Client::https(&options).unwrap().delete_instance("x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{}", chain(&error));
    assert!(chain(&error).contains("refused"), "{}", chain(&error));
    let error = fetch_certificate(url, Duration::from_secs(5)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
}

#[tokio::test]
async fn a_server_that_stalls_in_the_handshake_runs_into_the_connect_deadline() {
    let proxy = TcpProxy::start(pair().source.https_address()).unwrap();
    proxy.stall();
    let error =
        fetch_certificate(&proxy.https_url(), Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let mut options = HttpsOptions::new(proxy.https_url(), Pin::parse(&"0".repeat(64)).unwrap());
    options.timeouts.connect = Duration::from_millis(300);
    let error = Client::https(&options).unwrap().server().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{}", chain(&error));
    assert!(chain(&error).contains("timed out"), "{}", chain(&error));
}
