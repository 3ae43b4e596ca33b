use secrecy::ExposeSecret;

use super::*;

/// What is read from a spelling, field by field.
fn read(text: &str) -> String {
    match text.parse::<Location>() {
        Ok(Location::Local(path)) => format!("local {}", path.display()),
        Ok(Location::Sftp(SftpLocation { user, host, port, path })) => {
            let (user, port) = (user.unwrap_or_default(), port.unwrap_or_default());
            format!("sftp user={user} host={host} port={port} path={path}")
        }
        Ok(Location::S3(S3Location { endpoint, bucket, prefix })) => {
            format!("s3 {endpoint} bucket={bucket} prefix={prefix}")
        }
        Ok(Location::Rest(RestLocation { url, user, password })) => {
            let password = password.as_ref().map_or("", |password| password.expose_secret());
            format!("rest {url} user={} password={password}", user.unwrap_or_default())
        }
        Err(error) => format!("error: {error}"),
    }
}

#[test]
fn locations_are_read_as_restic_reads_them() {
    for (spelled, expected) in [
        ("/srv/repo", "local /srv/repo"),
        ("repo", "local repo"),
        ("./a:b", "local ./a:b"),
        ("local:/srv/repo", "local /srv/repo"),
        ("local:a:b", "local a:b"),
        ("sftp:user@host:/srv/repo", "sftp user=user host=host port=0 path=/srv/repo"),
        ("sftp:host:repo", "sftp user= host=host port=0 path=repo"),
        ("sftp:user@domain@host:repo", "sftp user=user@domain host=host port=0 path=repo"),
        ("sftp:u@[::1]:/r", "sftp user=u host=::1 port=0 path=/r"),
        ("sftp://user@host:2222//srv/repo", "sftp user=user host=host port=2222 path=/srv/repo"),
        ("sftp://host/repo", "sftp user= host=host port=0 path=repo"),
        ("sftp://[::1]:22//r", "sftp user= host=::1 port=22 path=/r"),
        (
            "s3:https://s3.example:9000/bucket/a/b/",
            "s3 https://s3.example:9000/ bucket=bucket prefix=a/b",
        ),
        ("s3:http://localhost/bucket", "s3 http://localhost/ bucket=bucket prefix="),
        ("s3:s3.amazonaws.com/bucket", "s3 https://s3.amazonaws.com/ bucket=bucket prefix="),
        ("s3://host/bucket//a", "s3 https://host/ bucket=bucket prefix=a"),
        ("rest:http://host:8000/", "rest http://host:8000/ user= password="),
        ("rest:https://me:p%40ss@host/repo", "rest https://host/repo/ user=me password=p@ss"),
    ] {
        assert_eq!(read(spelled), expected, "{spelled}");
    }
}

#[test]
fn what_is_no_location_is_refused_with_a_reason() {
    for (spelled, expected) in [
        ("", "error: the location is refused: a repository needs a folder"),
        (
            "b2:bucket",
            "error: a repository with b2: is refused: only a local folder, sftp:, s3: and rest: are known",
        ),
        (
            "user@host:/srv",
            "error: the location user@host:… is refused: no such kind is known; if it is a folder, write local: before it",
        ),
        (
            "sftp:host",
            "error: the location sftp:host is refused: it needs a host and a path: sftp:user@host:/path",
        ),
        ("sftp:host:", "error: the location sftp:host: is refused: it names no folder"),
        ("sftp::/r", "error: the location sftp::/r is refused: it names no host"),
        (
            "sftp:host:~/repo",
            "error: the location sftp:host:~/repo is refused: ~ is not understood by sftp servers; leave ~/ out",
        ),
        (
            "sftp:-oProxyCommand=x:/r",
            "error: the location sftp:-oProxyCommand=x:/r is refused: a host or user does not begin with a hyphen",
        ),
        (
            "sftp://host:port//r",
            "error: the location sftp://host:port//r is refused: its port is no number",
        ),
        (
            "s3:https://host",
            "error: the location s3:https://host is refused: it names no bucket: s3:https://host/bucket/prefix",
        ),
        (
            "s3:https://key:secret@host/bucket",
            "error: the location s3:…@host/bucket is refused: credentials are given beside it, not in it",
        ),
        (
            "rest:ftp://me:secret@host/",
            "error: the location rest:…@host/ is refused: a rest-server is reached by http:// or https://",
        ),
        ("rest:host", "error: the location rest:host is refused: relative URL without a base"),
    ] {
        assert_eq!(read(spelled), expected, "{spelled}");
    }
}

#[test]
fn what_is_printed_is_read_again_and_holds_no_password() {
    for spelled in [
        "/srv/repo",
        "local:a:b",
        "sftp:user@host:/srv/repo",
        "sftp://user@host:2222//srv/repo",
        "sftp://user@[::1]/repo",
        "s3:https://s3.example:9000/bucket/a/b",
        "s3:http://localhost/bucket",
        "rest:http://me@host:8000/a/",
    ] {
        let location: Location = spelled.parse().unwrap();
        assert_eq!(location.to_string(), spelled);
    }
    let location: Location = "rest:http://me:hunter2@host:8000/a/".parse().unwrap();
    assert!(!location.to_string().contains("hunter2"));
    assert!(!format!("{location:?}").contains("hunter2"));
}
