//! The credentials for S3: given, or from the file that the tools of AWS share.
//!
//! No other source is asked: no metadata service, no program, no single sign-on.

use std::io::{self, Read};

use rusty_s3::Credentials;
use secrecy::ExposeSecret;

use super::{Access, Cause, Failure};

/// A file of credentials is some lines.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The credentials to sign with; `None` signs nothing, for what everybody may read.
pub(super) fn find(access: &Access) -> Result<Option<Credentials>, Failure> {
    match (&access.aws_access_key_id, &access.aws_secret_access_key) {
        (Some(id), Some(secret)) => {
            let secret = secret.expose_secret();
            let token = access.aws_session_token.as_ref().map(ExposeSecret::expose_secret);
            return Ok(Some(credentials(id, secret, token)));
        }
        (None, None) => {}
        (Some(_), None) | (None, Some(_)) => {
            let why = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are needed both, or none";
            return Err(Failure::new(Cause::Denied, why));
        }
    }
    let Some(path) = &access.aws_shared_credentials_file else { return Ok(None) };
    let profile = access.aws_profile.as_deref();
    let mut text = String::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES).read_to_string(&mut text));
    match read {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound && profile.is_none() => {
            return Ok(None);
        }
        Err(error) => {
            let why = format!("could not read the credentials in {}", path.display());
            return Err(Failure::with_source(Cause::Denied, why, error));
        }
    }
    let found = in_file(&text, profile.unwrap_or("default"));
    if found.is_none()
        && let Some(profile) = profile
    {
        let why = format!("there are no credentials of {profile} in {}", path.display());
        return Err(Failure::new(Cause::Denied, why));
    }
    Ok(found)
}

/// The credentials of one section.
fn in_file(text: &str, profile: &str) -> Option<Credentials> {
    let (mut id, mut secret, mut token) = (None, None, None);
    let mut section = "";
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[') {
            section = name.split(']').next().unwrap_or_default().trim();
        } else if section == profile
            && !line.starts_with(['#', ';'])
            && let Some((key, value)) = line.split_once('=')
        {
            match key.trim() {
                "aws_access_key_id" => id = Some(value.trim()),
                "aws_secret_access_key" => secret = Some(value.trim()),
                "aws_session_token" => token = Some(value.trim()),
                _ => {}
            }
        }
    }
    Some(credentials(id?, secret?, token))
}

fn credentials(id: &str, secret: &str, token: Option<&str>) -> Credentials {
    match token {
        Some(token) => Credentials::new_with_token(id, secret, token),
        None => Credentials::new(id, secret),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
# comment
[default]
aws_access_key_id = ID
aws_secret_access_key=SE=CRET
; aws_session_token = no

[other profile]
aws_access_key_id=ID2
aws_secret_access_key=SECRET2
aws_session_token=TOKEN2
region = eu

[half]
aws_access_key_id=ID3
";

    fn access() -> (tempfile::NamedTempFile, Access) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), FILE).unwrap();
        let path = Some(file.path().to_owned());
        (file, Access { aws_shared_credentials_file: path, ..Access::default() })
    }

    #[test]
    fn the_section_of_the_profile_counts() {
        let (_file, mut access) = access();
        let found = find(&access).unwrap().unwrap();
        assert_eq!((found.key(), found.secret(), found.token()), ("ID", "SE=CRET", None));
        access.aws_profile = Some("other profile".to_owned());
        let found = find(&access).unwrap().unwrap();
        assert_eq!(
            (found.key(), found.secret(), found.token()),
            ("ID2", "SECRET2", Some("TOKEN2"))
        );
    }

    #[test]
    fn a_profile_without_credentials_is_an_error_and_none_at_all_is_not() {
        let (_file, mut access) = access();
        for profile in ["half", "missing"] {
            access.aws_profile = Some(profile.to_owned());
            assert_eq!(find(&access).unwrap_err().cause(), Cause::Denied);
        }
        access.aws_profile = None;
        access.aws_shared_credentials_file = Some("/nonexistent/credentials".into());
        assert!(find(&access).unwrap().is_none());
    }

    #[test]
    fn what_is_given_goes_before_the_file_and_is_given_whole() {
        let (_file, mut access) = access();
        access.aws_access_key_id = Some("GIVEN".to_owned());
        assert_eq!(find(&access).unwrap_err().cause(), Cause::Denied);
        access.aws_secret_access_key = Some("S".into());
        assert_eq!(find(&access).unwrap().unwrap().key(), "GIVEN");
    }
}
