"""Says where two trees of files differ. Holes, links and devices are not looked at: the tree of the
benchmarks has none."""

import os
import stat

PIECE = 1 << 20
ENOUGH = 10


def differences(original, copy, with_facts=True):
    """The first differences, as sentences; none if the trees are equal. `with_facts` compares modes,
    owners and times too, but for the folders at the top, which are made by whoever restores.
    """
    found = []
    for path, names in pairs(original, copy):
        one, other = os.path.join(original, path), os.path.join(copy, path)
        found.extend(f"{os.path.join(path, name)}: only in one of both" for name in names)
        found.extend(difference(path, one, other, with_facts and path != ""))
        if len(found) >= ENOUGH:
            break
    return found[:ENOUGH]


def pairs(original, copy):
    """Every path that both have, relative, and which names below it only one of them has."""
    todo = [""]
    while todo:
        path = todo.pop()
        one, other = os.path.join(original, path), os.path.join(copy, path)
        names = [set(os.listdir(each)) if stat.S_ISDIR(os.lstat(each).st_mode) else set() for each in (one, other)]
        yield path, sorted(names[0] ^ names[1])
        todo.extend(os.path.join(path, name) for name in sorted(names[0] & names[1]))


def difference(path, one, other, with_facts):
    first, second = os.lstat(one), os.lstat(other)
    if stat.S_IFMT(first.st_mode) != stat.S_IFMT(second.st_mode):
        yield f"{path}: of another kind"
        return
    if with_facts:
        for name in ("st_mode", "st_uid", "st_gid", "st_mtime_ns"):
            if getattr(first, name) != getattr(second, name):
                yield f"{path}: {name} is {getattr(second, name)}, and was {getattr(first, name)}"
    if stat.S_ISREG(first.st_mode) and not same_content(one, other):
        yield f"{path}: other content"


def same_content(one, other):
    with open(one, "rb", buffering=0) as first, open(other, "rb", buffering=0) as second:
        while True:
            piece = first.read(PIECE)
            if piece != second.read(PIECE):
                return False
            if not piece:
                return True
