#!/usr/bin/env python3
"""Measures what cases.py names, in rounds; repo.sh starts it and says how it is used.

It has a mount namespace of its own. Whatever the outcome, it leaves nothing behind but after a
kill -9: then the temporary directory stays for `make clean-lab`, and a command may run to its end.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import cases
import compare
import measuring
import report
from cases import AGAIN, DISK, FIRST, INIT, MEMORY, PLACES, TITLES, TOOLS
from measuring import Failed

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# What a whole run needs: the tree, and a repository and a restored tree of each tool.
FREE_DISK_BYTES, FREE_MEMORY_BYTES = 16 * 10**9, 8 * 10**9
# An ext4 without a journal takes no inode that was freed within the last minute, and looks at each of
# them again for each new file: a tree that is restored after another one was removed takes several times as long.
FREED_SECONDS = 65


class Bench:
    """The temporary directory, the environment of what runs in it, and when many files were removed."""

    def __init__(self, root):
        self.root = root
        self.freed = time.monotonic()
        self.environment = cases.environment_of(root)

    def path(self, *parts):
        return os.path.join(self.root, *parts)

    def run(self, text):
        """A command that is not measured; returns what it says."""
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", text], env=self.environment, cwd=self.root, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise Failed(f"exit code {done.returncode} of: {text}\n{done.stdout}")
        return done.stdout


def say(text):
    print(text, file=sys.stderr, flush=True)


# ---------------------------------------------------------------- the place


@contextlib.contextmanager
def workplace():
    """A temporary directory with a file system in memory below it, both gone at the end."""
    root = os.path.join(tempfile.gettempdir(), f"stapes-repo-{secrets.token_hex(3)}")
    os.mkdir(root, 0o700)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, root)
        # Tells clean-lab.sh that we live.
        lock = stack.enter_context(open(os.path.join(root, "lock"), "wb"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in ("bin", "home", "mnt", "tmp"):
            os.mkdir(os.path.join(root, name))
        mount = os.path.join(root, "mnt")
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4g,mode=0700", "stapes-repo", mount], check=True)
        stack.callback(subprocess.run, ["umount", "--lazy", mount], check=True)
        stack.callback(heed_no_signals)
        yield Bench(root)


def furnish(bench, names, shrink):
    for program in ("stapes", "restic"):
        if os.environ.get(program.upper()):
            os.symlink(os.environ[program.upper()], bench.path("bin", program))
    if "tar" in names:
        bench.run("age-keygen -o key && age-keygen -y key > key.pub")
    say("making the tree")
    # Not in this process: its peak memory is the least that measuring.py can find.
    maker = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tree.py")
    subprocess.run([sys.executable, "-B", maker, bench.path("tree"), str(shrink)], check=True)


def check_room():
    place = tempfile.gettempdir()
    kind = file_system_of(place)
    if kind == "tmpfs":
        raise Failed(f"{place} is in memory, and this is about disks: set TMPDIR")
    free = shutil.disk_usage(place).free
    if free < FREE_DISK_BYTES:
        raise Failed(f"{place} has {free / 1e9:.1f} GB free; this needs {FREE_DISK_BYTES / 1e9:.0f} GB")
    free = measuring.memory_facts()["MemAvailable"]
    if free < FREE_MEMORY_BYTES:
        raise Failed(f"{free / 1e9:.1f} GB of memory are free; this needs {FREE_MEMORY_BYTES / 1e9:.0f} GB")


def file_system_of(path):
    words = ["findmnt", "--noheadings", "--output", "FSTYPE", "--target", path]
    return subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


# ---------------------------------------------------------------- measuring


def warm(directory):
    """Reads all files, so that no case finds them in the cache and another one does not."""
    for path, _, files in os.walk(directory):
        for file in files:
            with open(os.path.join(path, file), "rb", buffering=0) as opened:
                while opened.read(compare.PIECE):
                    pass


def size_of(directory):
    """Bytes of all files, as a provider of storage counts them."""
    paths = (os.path.join(path, file) for path, _, files in os.walk(directory) for file in files)
    return sum(os.lstat(path).st_size for path in paths)


def prepare(bench, name, operation):
    """The same state for every tool: what it will read is cached, what others wrote is on the disk."""
    if operation == FIRST:
        shutil.rmtree(bench.path(f"repo-{name}"), ignore_errors=True)
        bench.run(cases.text_of(name, INIT, bench.root))
    if operation in PLACES:
        os.mkdir(bench.path(cases.place_of(name, operation)))
    if operation in (FIRST, AGAIN) or name == "cp":
        warm(bench.path("tree"))
    if operation != FIRST and name != "cp":
        warm(bench.path(f"repo-{name}"))
    os.sync()


def check_restored(bench, name, place):
    # Some restore the folder, some what is in it.
    restored = os.path.join(place, "tree")
    if not os.path.isdir(restored):
        restored = place
    found = compare.differences(bench.path("tree"), restored, TOOLS[name].keeps_facts)
    if found:
        raise Failed(f"what {name} restored is not what was backed up:\n" + "\n".join(found))


def run_case(bench, results, name, operation):
    prepare(bench, name, operation)
    repository = bench.path(f"repo-{name}")
    before = size_of(repository)
    command = cases.command_of(name, operation, bench.root)
    place = bench.path(cases.place_of(name, operation))
    sample = measuring.measure(command, bench.environment, bench.root, place, bench.path("log"))
    results.add(operation, name, sample, size_of(repository) - before)
    say(f"  {operation} {name}: {sample.seconds:.2f} s, {sample.peak_bytes / 1e6:.0f} MB")
    if operation in PLACES:
        check_restored(bench, name, place)
    if operation == MEMORY:
        shutil.rmtree(place)


def remove_restored(bench, names):
    for name in names:
        shutil.rmtree(bench.path(cases.place_of(name, DISK)))
    bench.freed = time.monotonic()


def measure_all(bench, names, rounds, patience):
    results = report.Results()
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        # Caches and state are of the repositories of a round.
        shutil.rmtree(bench.path("home"))
        os.makedirs(bench.path("home", "state"))
        for operation in TITLES:
            able = [name for name in names if cases.text_of(name, operation)]
            # Each round begins with another one, so that none always comes after the same.
            turn = number % max(1, len(able))
            if operation == DISK:
                time.sleep(max(0, bench.freed + patience - time.monotonic()))
            for name in able[turn:] + able[:turn]:
                run_case(bench, results, name, operation)
            if operation == DISK:
                remove_restored(bench, able)
    return results


# ---------------------------------------------------------------- what is asked for


def number_of(name, default):
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or int(text) < 1:
        raise Failed(f"{name} is to be a number from 1, and is {text!r}")
    return int(text)


def names_of(text):
    names = text.split()
    unknown = [name for name in names if name not in TOOLS]
    if unknown or not names:
        raise Failed(f"TOOLS is to be some of {' '.join(TOOLS)}, and is {text!r}")
    # One is the base of the ratios whatever the order; the tables have that of cases.py.
    return [name for name in TOOLS if name in names]


def headline(bench, names, rounds):
    versions = [", ".join(bench.run(TOOLS[name].version).splitlines()) for name in names]
    place = tempfile.gettempdir()
    return "\n".join([
        f"{rounds} rounds; {', '.join(versions)}.",
        f"{measuring.machine()}, {file_system_of(place)}; load before {os.getloadavg()[0]:.1f}.",
        f"Tree: {sum(len(files) for _, _, files in os.walk(bench.path('tree'))):,} files, "
        f"{size_of(bench.path('tree')) / 1e6:,.0f} MB.\n",
    ])  # fmt: skip


def end(number, _):
    heed_no_signals()
    sys.exit(128 + number)


def heed_no_signals():
    """What begins to clean up does so to the end."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def main():
    for number in SIGNALS:
        signal.signal(number, end)
    try:
        rounds, shrink = number_of("ROUNDS", 3), number_of("SHRINK", 1)
        names = names_of(os.environ.get("TOOLS") or " ".join(TOOLS))
        if shrink == 1:
            check_room()
        with workplace() as bench:
            furnish(bench, names, shrink)
            head = headline(bench, names, rounds)
            results = measure_all(bench, names, rounds, FREED_SECONDS if shrink == 1 else 0)
        print("\n".join((head, report.tables(results), report.expectations(results))))
    except (Failed, OSError, subprocess.SubprocessError) as error:
        sys.exit(f"repo.py: {error}")


if __name__ == "__main__":
    main()
