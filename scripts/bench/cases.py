"""What scripts/bench/repo.sh measures: which tool does what by which command. It runs nothing."""

import os
import shlex
from dataclasses import dataclass

INIT, FIRST, AGAIN, DISK, MEMORY = "init", "first", "again", "disk", "memory"
TITLES = {
    FIRST: "First backup",
    AGAIN: "Backup again, nothing changed",
    DISK: "Restore to disk",
    MEMORY: "Restore into a tmpfs",
}
# Where restores go, below the temporary directory, in which all commands run.
PLACES = {DISK: "out-", MEMORY: "mnt/out-"}


@dataclass(frozen=True)
class Tool:
    """Commands as one would type them. {out} is where a restore goes, {root} the temporary directory;
    a command that is empty is not measured.
    """

    version: str
    restore: str
    init: str = ""
    first: str = ""
    again: str = ""
    keeps_facts: bool = True  # modes, owners and times are restored too


TOOLS = {
    "stapes": Tool(
        version="stapes --version",
        init="stapes init --target restic:repo-stapes",
        first="stapes backup path tree --name ref --target restic:repo-stapes",
        again="stapes backup path tree --name ref --target restic:repo-stapes",
        restore="stapes restore path ref --to {out} --target restic:repo-stapes -y",
    ),
    "restic": Tool(
        version="restic version",
        init="restic init -r repo-restic",
        first="restic backup -r repo-restic tree",
        again="restic backup -r repo-restic tree",
        restore="restic restore -r repo-restic latest --target {out}",
    ),
    "borg": Tool(
        version="borg --version",
        init="borg init -e repokey repo-borg",
        first="borg create -C zstd,3 repo-borg::first tree",
        again="borg create -C zstd,3 repo-borg::again tree",
        restore="env -C {out} borg extract {root}/repo-borg::first",
    ),
    "tar": Tool(
        version="tar --version | head -n 1; zstd --version | grep -o 'v[0-9.]*' | sed s/^v/zstd\\ /; echo age $(age --version)",
        init="mkdir repo-tar",
        first="tar --format=posix -c tree | zstd -q -T0 -3 | age -R key.pub > repo-tar/tree.tar.zst.age",
        restore="age -d -i key repo-tar/tree.tar.zst.age | zstd -q -d | tar -xp -C {out}",
    ),
    "cp": Tool(version="cp --version | head -n 1", restore="cp -r tree {out}", keeps_facts=False),
}


def text_of(name, operation, root="$PWD"):
    """The command of a case, empty if there is none."""
    tool = TOOLS[name]
    text = {INIT: tool.init, FIRST: tool.first, AGAIN: tool.again}.get(operation, tool.restore)
    return text.replace("{out}", place_of(name, operation)).replace("{root}", root)


def place_of(name, operation):
    """The directory of a restore; that of all commands for what is none."""
    return PLACES[operation] + name if operation in PLACES else "."


def command_of(name, operation, root):
    """A list of words where one program does it all: a shell would need time and memory of its own."""
    text = text_of(name, operation, root)
    return text if "|" in text else shlex.split(text)


def environment_of(root):
    """Of all commands: no configuration, password or cache of whoever runs the benchmark."""
    return {
        "PATH": f"{root}/bin:{os.environ['PATH']}",
        "LC_ALL": "C.UTF-8",
        "HOME": f"{root}/home",
        "TMPDIR": f"{root}/tmp",
        "STAPES_STATE_DIR": f"{root}/home/state",
        "RESTIC_PASSWORD": "bench",
        "BORG_PASSPHRASE": "bench",
    }
