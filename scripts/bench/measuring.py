"""Runs commands and says what they needed; and what machine this is.

What a command needs includes the processes that it starts and waits for. It does not decide what to
run or what the figures mean: see repo.py.
"""

import contextlib
import ctypes
import os
import signal
import statistics
import subprocess
import time
from dataclasses import dataclass

LIBC = ctypes.CDLL(None, use_errno=True)
GRACE_SECONDS = 10
TOLD_BYTES = 2000


class Failed(Exception):
    """A command of a benchmark did not do what it should."""


@dataclass(frozen=True)
class Sample:
    """One run of a command."""

    seconds: float  # on the clock, with `sync_seconds`
    sync_seconds: float  # until the file system had written what the command left to it
    own_seconds: float  # of processor, user and system
    busy_seconds: float  # of processor, the whole machine meanwhile
    peak_bytes: int  # resident memory of the largest process


def measure(command, environment, directory, written, log):
    """Runs a list of words, or a text for bash, in a directory. `written` is on the file system that is
    synced at the end; `log` is a file for what the command says. Raises `Failed` with the end of it.
    """
    words = ["bash", "-o", "pipefail", "-c", command] if isinstance(command, str) else command
    target = os.open(written, os.O_RDONLY)
    try:
        with open(log, "w+b") as said:
            busy, began = machine_busy(), time.monotonic()
            code, needed = run(words, environment, directory, said)
            ended = time.monotonic()
            if LIBC.syncfs(target) != 0:
                raise Failed(f"cannot sync {written}: {os.strerror(ctypes.get_errno())}")
            synced = time.monotonic()
            busy = machine_busy() - busy
            if code != 0:
                said.seek(max(0, said.seek(0, os.SEEK_END) - TOLD_BYTES))
                raise Failed(f"exit code {code} of: {command}\n{said.read().decode(errors='replace')}")
    finally:
        os.close(target)
    # The kernel begins to count at the peak of the process that starts another: ours, about 25 MB.
    return Sample(synced - began, synced - ended, needed.ru_utime + needed.ru_stime, busy, needed.ru_maxrss * 1024)


def run(words, environment, directory, said):
    """Exit code and resources. The command has a process group of its own, which ends with us."""
    child = subprocess.Popen(
        words, env=environment, cwd=directory, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
    )
    try:
        _, status, needed = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    finally:
        if child.returncode is None:
            stop(child)
    return child.returncode, needed


def stop(child):
    """Ends a command with all its processes; politely first, for they may have locks to remove."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
            until = time.monotonic() + GRACE_SECONDS
            while time.monotonic() < until:
                child.poll()
                os.killpg(child.pid, 0)
                time.sleep(0.02)
            continue
        return


def machine_busy():
    """Seconds that all processors have worked since the machine started, for whomever."""
    with open("/proc/stat") as file:
        user, nice, system, _, _, irq, softirq, *_ = map(int, file.readline().split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def spread(values, unit=""):
    """`MEDIAN (LEAST to MOST)`."""
    return f"{statistics.median(values):.2f}{unit} ({min(values):.2f} to {max(values):.2f})"


def ratios(samples, base):
    """Round by round, because a slow minute of the machine then hits both."""
    return [one.seconds / other.seconds for one, other in zip(samples, base, strict=True)]


def memory_facts():
    with open("/proc/meminfo") as file:
        return {name: int(rest.split()[0]) * 1024 for name, rest in (line.split(":") for line in file)}


def machine():
    """One line about the machine that the figures are from."""
    with open("/proc/cpuinfo") as file:
        facts = dict(map(str.strip, line.split(":", 1)) for line in file if ":" in line)
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    known = [
        f"{name} {'yes' if flags & names else 'no'}"
        for name, names in (("SHA-NI", {"sha_ni", "sha2"}), ("AES-NI", {"aes"}), ("AVX2", {"avx2"}))
    ]
    with open("/etc/os-release") as file:
        system = next((line.split("=", 1)[1].strip().strip('"') for line in file if line.startswith("PRETTY_NAME=")), "")
    return (
        f"{facts.get('model name', os.uname().machine)}, {os.cpu_count()} processors ({', '.join(known)}), "
        f"{memory_facts()['MemTotal'] / 1e9:.0f} GB of memory, {system}, Linux {os.uname().release}"
    )
