//! Nothing of a private server stays on the machine, however its owner ends.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "the helpers here are part of tests")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use stapes_testing::IncusServer;

/// Bridges are interfaces of the host: another run of these tests may be under way on it.
fn bridge(number: u32) -> String {
    format!("stb{}n{number}", std::process::id())
}

/// A helper process with a server that has a bridge, a running and a frozen container.
fn hold(ending: &str, bridge: &str) -> (Child, PathBuf) {
    // What runs the tests in the background, as a shell does with `&`, has them ignore Ctrl-C.
    let mut child = Command::new("env")
        .args(["--default-signal=INT", env!("CARGO_BIN_EXE_hold-server"), ending, bridge])
        .stdout(Stdio::piped())
        .stderr(if ending == "panic" { Stdio::null() } else { Stdio::inherit() })
        .process_group(0)
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let dir = PathBuf::from(line.trim_end());
    assert!(dir.is_absolute(), "the helper told no directory but {line:?}");
    (child, dir)
}

fn signal(name: &str, process: &str) {
    assert!(Command::new("kill").args([name, "--", process]).status().unwrap().success());
}

/// All that is still there of the server in `dir`.
fn leftovers(dir: &Path, bridge: &str) -> Vec<String> {
    let text = dir.to_str().unwrap();
    let mut found = Vec::new();
    for path in [dir.to_owned(), PathBuf::from(format!("{text}.stapes-lab"))] {
        if path.exists() {
            found.push(format!("file {}", path.display()));
        }
    }
    if Path::new("/sys/class/net").join(bridge).exists() {
        found.push(format!("interface {bridge}"));
    }
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    found.extend(
        mounts.lines().filter(|line| line.contains(text)).map(|line| format!("mount {line}")),
    );
    for entry in fs::read_dir("/sys/block").unwrap() {
        let backing = entry.unwrap().path().join("loop/backing_file");
        if fs::read_to_string(&backing).is_ok_and(|file| file.starts_with(text)) {
            found.push(format!("loop {}", backing.display()));
        }
    }
    for entry in fs::read_dir("/proc").unwrap() {
        let process = entry.unwrap().path();
        for file in ["cmdline", "environ"] {
            let content = fs::read(process.join(file)).unwrap_or_default();
            if String::from_utf8_lossy(&content).contains(text) {
                found.push(format!("process {}", process.display()));
            }
        }
    }
    let group = format!("stapes-lab{}", text.replace('/', "."));
    let groups = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (mount, kind) = (fields.next()?, fields.next()?);
        kind.starts_with("cgroup").then(|| Path::new(mount).join(&group))
    });
    found.extend(
        groups.filter(|path| path.exists()).map(|path| format!("cgroup {}", path.display())),
    );
    found
}

/// Waits until nothing is left, at most for five seconds, which is the supervisor's promise.
#[track_caller]
fn assert_clean(what: &str, dir: &Path, bridge: &str) {
    let started = Instant::now();
    let mut found = leftovers(dir, bridge);
    while !found.is_empty() && started.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(10));
        found = leftovers(dir, bridge);
    }
    println!("clean {:?} after {what}", started.elapsed());
    assert!(found.is_empty(), "after {what} there is still\n{}", found.join("\n"));
}

#[test]
fn nothing_stays_when_a_server_is_dropped() {
    let started = Instant::now();
    let server = IncusServer::start().unwrap();
    println!("started in {:?}", started.elapsed());
    let dir = server.dir().to_owned();
    server.incus(&["launch", "busybox", "one"]).unwrap();
    server.incus(&["stop", "one"]).unwrap();
    server
        .incus(&["network", "create", &bridge(0), "ipv4.address=none", "ipv6.address=none"])
        .unwrap();
    assert!(leftovers(&dir, &bridge(0)).len() > 5, "the check itself must see a living server");
    drop(server);
    assert_eq!(leftovers(&dir, &bridge(0)), [""; 0]);
}

#[test]
fn nothing_stays_when_a_test_panics() {
    let (mut child, dir) = hold("panic", &bridge(1));
    assert_eq!(child.wait().unwrap().code(), Some(101));
    assert_clean("a panic", &dir, &bridge(1));
}

#[test]
fn nothing_stays_when_a_test_is_killed() {
    let (mut child, dir) = hold("wait", &bridge(2));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_clean("kill -9", &dir, &bridge(2));
}

#[test]
fn nothing_stays_after_an_interrupt_from_the_terminal() {
    let (mut child, dir) = hold("wait", &bridge(3));
    // To the whole group, as a terminal does, and twice, as people do.
    signal("-INT", &format!("-{}", child.id()));
    child.wait().unwrap();
    assert_clean("Ctrl-C", &dir, &bridge(3));
}

#[test]
fn a_killed_supervisor_is_swept_by_the_next_one() {
    let (mut child, dir) = hold("wait", &bridge(4));
    let needle = format!("{}/incus-server.sh\0--dir", dir.display());
    let supervisor = fs::read_dir("/proc").unwrap().find_map(|entry| {
        let entry = entry.unwrap();
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let pid = entry.file_name().into_string().unwrap();
        String::from_utf8_lossy(&command).contains(&needle).then_some(pid)
    });
    signal("-KILL", &supervisor.unwrap());
    child.kill().unwrap();
    child.wait().unwrap();
    drop(IncusServer::start().unwrap());
    assert_clean("the sweep", &dir, &bridge(4));
}
