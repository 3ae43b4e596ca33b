//! `stapes onboard` from the outside: what it writes, what it says, how it ends. What goes wrong with
//! tokens and certificates is tested where it is done, in the engine.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use stapes_testing::{TestProject, pair};

use crate::lab::{Ran, binary, run};

/// A place without credentials and configuration.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs the binary here: the working directory is where `stapes.yaml` is written.
    fn stapes(&self, arguments: &[&str]) -> Ran {
        let mut command = binary(self.0.path());
        run(command.arg("--state-dir").arg(self.path("state")).args(arguments))
    }

    fn onboard(&self, tokens: Option<(&str, &str)>, more: &[&str]) -> Ran {
        let credentials = self.path("credentials");
        let (source, target) = (pair().source.https_url(), pair().target.https_url());
        let mut arguments =
            vec!["onboard", "--source-url", &source, "--target-url", &target, "--cred-dir"];
        arguments.push(credentials.to_str().unwrap());
        if let Some((source, target)) = tokens {
            arguments.extend(["--source-token", source, "--target-token", target]);
        }
        self.stapes(&[&arguments, more].concat())
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn two_commands_lead_from_nothing_to_a_plan() {
    let place = Place::new();
    let source = pair().source.trust_token("onboarding", None).unwrap();
    let target = pair().target.trust_token("onboarding", None).unwrap();
    let ran = place.onboard(Some((&source, &target)), &[]).complete();
    assert_eq!(ran.stderr, "");
    assert!(ran.stdout.contains("trusts us now"), "{}", ran.stdout);
    assert!(ran.stdout.contains("a new client key is in"), "{}", ran.stdout);
    for secret in [&source, &target] {
        assert!(!ran.stdout.contains(secret.as_str()));
    }
    let credentials = place.path("credentials");
    assert_eq!(mode(&credentials), 0o700);
    let keys: Vec<PathBuf> =
        fs::read_dir(&credentials).unwrap().map(|e| e.unwrap().path()).collect();
    let key = keys.iter().find(|path| path.extension().is_some_and(|end| end == "key")).unwrap();
    assert_eq!(mode(key), 0o600);
    let key_text = fs::read_to_string(key).unwrap();

    place.stapes(&["config", "check"]).complete();
    let plan = place.stapes(&["replicate", "--dry-run"]).complete();
    assert!(plan.stdout.starts_with("job nightly: plan of a dry run"), "{}", plan.stdout);

    second_run_needs_no_token_and_asks_before_it_overwrites(&place);
    assert_eq!(fs::read_to_string(key).unwrap(), key_text);
}

fn second_run_needs_no_token_and_asks_before_it_overwrites(place: &Place) {
    let config = place.path("stapes.yaml");
    fs::write(&config, "# mine\n").unwrap();
    let ran = place.onboard(None, &[]).expect_code(2);
    assert!(ran.stderr.contains("exists and would be replaced"), "{}", ran.stderr);
    assert_eq!(fs::read_to_string(&config).unwrap(), "# mine\n");

    place.onboard(None, &["--out-config", "other.yaml"]).complete();
    assert!(place.path("other.yaml").exists());
    assert_eq!(fs::read_to_string(&config).unwrap(), "# mine\n");

    let ran = place.onboard(None, &["-y", "--output", "json"]).complete();
    let told = ran.json();
    assert_eq!(told["created_key"], false);
    assert_eq!(told["source"]["url"], pair().source.https_url());
    assert_eq!(told["source"]["projects"], Value::Null);
    place.stapes(&["config", "check"]).complete();
    let again = place.onboard(None, &["-y"]).complete();
    assert_eq!(again.stdout.matches("trusts us already").count(), 2, "{}", again.stdout);
}

#[test]
fn a_restricted_client_gets_a_configuration_for_its_project_and_can_run_it() {
    let place = Place::new();
    let project = TestProject::new(pair()).unwrap();
    project.source().launch("app").unwrap();
    let token = |server: &stapes_testing::IncusServer| {
        server.trust_token(&format!("{}-client", project.name()), Some(&[project.name()])).unwrap()
    };
    let tokens = (token(&pair().source), token(&pair().target));
    let ran = place.onboard(Some((&tokens.0, &tokens.1)), &[]).complete();
    let words = format!("restricted to project {}", project.name());
    assert_eq!(ran.stdout.matches(&words).count(), 2, "{}", ran.stdout);

    let certificates = pair().target.api("GET", "/1.0/certificates?recursion=1", None).unwrap();
    let name = format!("{}-client", project.name());
    let ours = certificates.as_array().unwrap().iter().find(|one| one["name"] == name.as_str());
    assert_eq!(ours.unwrap()["restricted"], true);
    assert_eq!(ours.unwrap()["projects"], json!([project.name()]));

    let ran = place.stapes(&["replicate", "--output", "json"]).complete();
    assert_eq!(ran.item("instance", "app")["outcome"], "complete");
    assert_eq!(project.target().instances().unwrap(), ["app"]);
}

#[test]
fn a_token_that_does_not_fit_leaves_neither_credentials_nor_configuration() {
    let place = Place::new();
    let source = pair().source.trust_token("onboarding", None).unwrap();
    // The wrong server's token for the target.
    let ran = place.onboard(Some((&source, &source)), &[]);
    assert_ne!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.starts_with("error: "), "{}", ran.stderr);
    assert!(!place.path("stapes.yaml").exists());
    assert!(!place.path("credentials").exists());
    for broken in ["", "not a token", "bm90IGEgdG9rZW4="] {
        let ran = place.onboard(Some((broken, broken)), &[]);
        assert!(ran.code == 1 || ran.code == 2, "{ran:?}");
        assert!(ran.stderr.contains("the token for the source is damaged"), "{}", ran.stderr);
        assert!(!place.path("stapes.yaml").exists());
        assert!(!place.path("credentials").exists());
    }
}
