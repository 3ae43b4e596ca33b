//! Tests only: a server that is written here, for what a real one does not do: replace files when it
//! renames, and stop to listen.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode};

use super::protocol::{self, Body, Fields};
use super::*;
use crate::ErrorKind;

type Files = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// A storage on a fake server, and the server's files by their paths. With `deaf_at`, the server hears
/// nothing any more after the first request of that kind.
fn storage(deaf_at: Option<u8>) -> (tempfile::TempDir, SftpStorage, Files) {
    let dir = tempfile::tempdir().unwrap();
    let pipes = ["in", "out"].map(|name| dir.path().join(name));
    for pipe in &pipes {
        rustix::fs::mknodat(CWD, pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }
    let [from, to] = pipes.each_ref().map(|pipe| pipe.display().to_string());
    // In the place of ssh: what is written to it goes to the thread below, and back.
    let script = format!("cat '{to}' & exec cat >'{from}'");
    let command = ["sh", "-c", &script].map(str::to_owned);
    let files = Files::default();
    let serving = Arc::clone(&files);
    thread::spawn(move || {
        let [from, to] = pipes;
        let requests = File::open(from).unwrap();
        serve(requests, File::options().write(true).open(to).unwrap(), &serving, deaf_at);
    });
    let location =
        SftpLocation { user: None, host: "fake".to_owned(), port: None, path: "/r".to_owned() };
    (dir, SftpStorage::new(&location, &command), files)
}

/// Answers until the pipe ends.
fn serve(mut requests: File, mut replies: File, files: &Files, deaf_at: Option<u8>) {
    let mut head = [0; 5];
    while requests.read_exact(&mut head).is_ok() {
        let [a, b, c, d, kind] = head;
        let mut body = vec![0; u32::from_be_bytes([a, b, c, d]) as usize - 1];
        requests.read_exact(&mut body).unwrap();
        let (kind, reply) = match kind {
            protocol::INIT => (protocol::VERSION, Body::default().number(3)),
            kind => answer(kind, &mut Fields(&body), files),
        };
        let length = u32::try_from(reply.0.len() + 1).unwrap();
        replies.write_all(&[&length.to_be_bytes()[..], &[kind], &reply.0].concat()).unwrap();
        if deaf_at == Some(head[4]) {
            // Open, and read by nobody, until the test is over.
            thread::sleep(Duration::from_secs(60));
            return;
        }
    }
}

fn answer(kind: u8, request: &mut Fields<'_>, files: &Files) -> (u8, Body) {
    let reply = Body::default().number(request.number().unwrap());
    let status = |code| (101, Body(reply.0.clone()).number(code).string(b"").string(b""));
    // A handle is the path.
    let name = String::from_utf8(request.string().unwrap().to_vec()).unwrap();
    let mut files = files.lock().unwrap();
    let about = |content: &Vec<u8>| Body(reply.0.clone()).number(5).long(content.len() as u64);
    match kind {
        protocol::OPEN if request.number() == Some(protocol::OPEN_READ) => match files.get(&name) {
            Some(_) => (102, Body(reply.0.clone()).string(name.as_bytes())),
            None => status(2),
        },
        protocol::OPEN => {
            files.insert(name.clone(), Vec::new());
            (102, Body(reply.0.clone()).string(name.as_bytes()))
        }
        protocol::LSTAT | protocol::FSTAT => match files.get(&name) {
            Some(content) => (105, about(content).number(0o100_400)),
            None => status(2),
        },
        protocol::WRITE => {
            request.long().unwrap();
            let content = request.string().unwrap();
            files.get_mut(&name).unwrap().extend(content);
            status(0)
        }
        protocol::READ => (103, Body(reply.0.clone()).string(&files[&name])),
        protocol::RENAME => {
            let content = files.remove(&name).unwrap();
            let to = String::from_utf8(request.string().unwrap().to_vec()).unwrap();
            files.insert(to, content);
            status(0)
        }
        protocol::REMOVE => {
            files.remove(&name);
            status(0)
        }
        _ => status(0),
    }
}

#[test]
fn a_server_whose_rename_replaces_replaces_nothing() {
    let (_dir, storage, files) = storage(None);
    storage.put("config", &[b"first"]).unwrap();
    storage.put("config", &[b"first"]).unwrap();
    let error = storage.put("config", &[b"other"]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
    assert_eq!(storage.get("config").unwrap(), b"first");
    // Nothing else is left either.
    assert_eq!(files.lock().unwrap().keys().collect::<Vec<_>>(), ["/r/config"]);
}

#[test]
fn a_server_that_takes_nothing_any_more_is_given_up() {
    let (_dir, mut storage, _files) = storage(Some(protocol::OPEN));
    storage.patience = Duration::from_millis(400);
    let begun = Instant::now();
    // More than the pipes hold, and less than what is waited for.
    let error = storage.put("data/5c/5c65", &[&[7; 2 << 20]]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
    assert!(format!("{error:?}").contains("taken nothing"), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}
