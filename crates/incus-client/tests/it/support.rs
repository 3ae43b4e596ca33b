//! What the tests share: clients, identities, and ways to wait.

use std::time::Duration;

use incus_client::access::Grant;
use incus_client::instances::{InstanceSource, NewInstance};
use incus_client::{
    Certificate, Client, Devices, Error, HttpsOptions, Identity, Timeouts, UnixOptions,
    WaitOptions, fetch_certificate,
};
use stapes_testing::fake::FakeIncus;
use stapes_testing::{IncusServer, TcpProxy, TestProject};

/// A client over the unix socket, bound to `project`.
pub(crate) fn unix(server: &IncusServer, project: &str) -> Client {
    Client::unix(server.socket()).unwrap().with_project(project)
}

/// Clients of source and target, bound to the project of the test.
pub(crate) fn clients(project: &TestProject<'_>) -> (Client, Client) {
    let name = project.name();
    (unix(project.source().server(), name), unix(project.target().server(), name))
}

/// A client of a fake, with time for a slow machine.
pub(crate) fn fake_client(fake: &FakeIncus) -> Client {
    fake_client_within(fake, Duration::from_secs(10))
}

/// A client of a fake, for the tests in which a deadline is to pass.
pub(crate) fn fake_client_within(fake: &FakeIncus, request: Duration) -> Client {
    let timeouts = Timeouts { request, ..Timeouts::default() };
    Client::unix_with(&UnixOptions { path: fake.socket(), timeouts }).unwrap()
}

/// A new identity that no server knows.
pub(crate) fn new_identity() -> Identity {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    Identity::from_pem(&certificate.pem(), &key.serialize_pem()).unwrap()
}

pub(crate) async fn certificate_of(server: &IncusServer) -> Certificate {
    fetch_certificate(&server.https_url(), Duration::from_secs(10)).await.unwrap()
}

/// A client over HTTPS with an identity that the server may or may not trust.
pub(crate) async fn https(server: &IncusServer, identity: Identity) -> Client {
    let pin = certificate_of(server).await.pin();
    Client::https(&HttpsOptions::new(server.https_url(), pin).identity(identity)).unwrap()
}

/// A trusted client that reaches the server through the proxy, bound to `project`.
pub(crate) async fn through(proxy: &TcpProxy, server: &IncusServer, project: &str) -> Client {
    let identity = new_identity();
    let admin = unix(server, "default");
    let grant = Grant::Unrestricted;
    admin.add_certificate("proxied", identity.certificate(), &grant).await.unwrap();
    let pin = certificate_of(server).await.pin();
    let options = HttpsOptions::new(proxy.https_url(), pin).identity(identity);
    Client::https(&options).unwrap().with_project(project)
}

/// Waiting that fails a test rather than hang it.
pub(crate) fn patient() -> WaitOptions {
    WaitOptions::default().deadline(Duration::from_secs(60))
}

/// A stopped container to be, without profiles, with its root disk on `pool`.
pub(crate) fn container(name: &str, pool: &str, source: InstanceSource) -> NewInstance {
    NewInstance {
        name: name.to_owned(),
        kind: incus_client::instances::InstanceType::Container,
        // A migration asks for it.
        architecture: std::env::consts::ARCH.to_owned(),
        profiles: Some(Vec::new()),
        devices: root_disk(pool),
        source,
        ..NewInstance::default()
    }
}

pub(crate) fn root_disk(pool: &str) -> Devices {
    let device = [("type", "disk"), ("path", "/"), ("pool", pool)];
    let device = device.map(|(key, value)| (key.to_owned(), value.to_owned()));
    [("root".to_owned(), device.into())].into()
}

/// An error with its causes, for assertions and failures.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(" <- {cause}"));
        next = cause.source();
    }
    text
}

/// Waits until `check` holds; operations of servers end a little after their effects.
pub(crate) async fn eventually(what: &str, mut check: impl AsyncFnMut() -> Result<bool, Error>) {
    for _ in 0..1200 {
        if check().await.unwrap() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("in vain: {what}");
}
