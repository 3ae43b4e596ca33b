#!/usr/bin/env python3
"""Makes the tree that scripts/bench/repo.sh measures with: the same bytes, modes and times on every
machine and in every run, 1.7 GB in 20,041 files.

    tree.py DIRECTORY [SHRINK]   DIRECTORY is made; SHRINK divides the number and size of things

    text/NNN/NNNNN.txt   20,000 files of 0.5 to 30 KB of text
    half/NN.bin          40 files of 8 MiB, half of them can be compressed away
    disk.img             one of 1 GiB, likewise

Text is words with the frequencies of a language, in sentences and lines. The other files take turns
between a piece of noise and a piece of records that differ in a number. No piece comes twice, so there
is nothing to deduplicate within the tree. It does not measure and does not compare: see repo.py.
"""

import hashlib
import os
import random
import sys
from bisect import bisect
from itertools import accumulate

KIB = 1 << 10
MIB = 1 << 20
SEED = 20261121
TEXTS, TEXTS_PER_FOLDER, TEXT_LEAST, TEXT_MOST = 20_000, 200, 500, 30_000
HALVES, HALF_BYTES, HALF_PIECE = 40, 8 * MIB, 256 * KIB
DISK_BYTES, DISK_PIECE = 1024 * MIB, 512 * KIB
# So large that a text seldom lies within a compressor's window of another one that overlaps it.
POOL_BYTES = 48 * MIB
RECORD_BYTES = 1000
# Times lie in the year before this one, with nanoseconds: a tool that rounds them is seen to.
TIME_NS = 1_760_000_000 * 10**9
YEAR_NS = 365 * 86_400 * 10**9


class Chance:
    """Random numbers that no version of Python may change: of `random` only `random()` is promised."""

    def __init__(self, seed):
        self.number = random.Random(seed).random

    def below(self, limit):
        return int(self.number() * limit)


def noise(name, size):
    """As good as random for a compressor; the name is the seed."""
    return hashlib.shake_128(f"{SEED} {name}".encode()).digest(size)


def vocabulary(chance, count):
    onsets = "b c d f g h k l m n p r s t v w st tr ch pr".split()
    nuclei = "a e i o u a e i o ea ou".split()
    codas = ["", "", "", "n", "r", "s", "t", "l", "nd", "st"]

    def syllable():
        return "".join(part[chance.below(len(part))] for part in (onsets, nuclei, codas))

    # Common words are short in every language.
    return ["".join(syllable() for _ in range(1 + chance.below(2 if rank < 200 else 4))) for rank in range(count)]


def text_pool(size):
    """Text without end for practical purposes: words by Zipf's law, in sentences and lines."""
    chance = Chance(SEED)
    words = vocabulary(chance, 12_000)
    ends = [" "] * 9 + [", ", ".\n"]
    shares = list(accumulate(1 / (rank + 2.7) for rank in range(len(words))))
    total, number = shares[-1], chance.number
    parts, length = [], 0
    while length < size:
        part = "".join(
            words[bisect(shares, number() * total)] + ends[int(number() * len(ends))] for _ in range(100_000)
        ).encode()
        parts.append(part)
        length += len(part)
    return b"".join(parts)[:size]


def records(pool, chance, name, size):
    """One record over and over, but for its number."""
    start = chance.below(len(pool) - RECORD_BYTES)
    record = pool[start : start + RECORD_BYTES - 32].replace(b"%", b" ")
    count = size // RECORD_BYTES + 1
    return b"".join(b"%16s %014d " % (name.encode()[-16:], number) + record for number in range(count))[:size]


def set_facts(path, mode, chance):
    moment = TIME_NS + chance.below(YEAR_NS)
    os.chmod(path, mode)
    os.utime(path, ns=(moment, moment))


def write_texts(directory, pool, chance, shrink):
    for number in range(max(1, TEXTS // shrink)):
        folder = os.path.join(directory, f"{number // TEXTS_PER_FOLDER:03}")
        if number % TEXTS_PER_FOLDER == 0:
            os.mkdir(folder)
        path = os.path.join(folder, f"{number:05}.txt")
        size = TEXT_LEAST + chance.below(TEXT_MOST - TEXT_LEAST + 1)
        head = b"%d\n" % number
        start = chance.below(len(pool) - size)
        with open(path, "wb") as file:
            file.write(head + pool[start : start + size - len(head)])
        set_facts(path, 0o640 if number % 10 == 0 else 0o644, chance)


def write_half(path, pool, chance, size, piece):
    """Noise and records in turns; `size` is a multiple of two pieces."""
    with open(path, "wb") as file:
        for number in range(size // piece // 2):
            name = f"{os.path.basename(path)} {number}"
            file.write(noise(name, piece))
            file.write(records(pool, chance, name, piece))
    set_facts(path, 0o600, chance)


def make(directory, shrink=1):
    """Fails if the directory exists: what is in it would be part of what is measured."""
    pool, chance = text_pool(max(POOL_BYTES // shrink, 2 * TEXT_MOST)), Chance(SEED + 1)
    text, half = os.path.join(directory, "text"), os.path.join(directory, "half")
    for folder in (directory, text, half):
        os.mkdir(folder)
    write_texts(text, pool, chance, shrink)
    for number in range(max(1, HALVES // shrink)):
        write_half(os.path.join(half, f"{number:02}.bin"), pool, chance, HALF_BYTES, HALF_PIECE)
    pieces = max(2, DISK_BYTES // DISK_PIECE // shrink // 2 * 2)
    write_half(os.path.join(directory, "disk.img"), pool, chance, pieces * DISK_PIECE, DISK_PIECE)
    # Last, because every new entry has changed the time of its folder.
    for path, folders, _ in os.walk(directory, topdown=False):
        folders.sort()
        for folder in folders:
            set_facts(os.path.join(path, folder), 0o755, Chance(os.path.join(path[len(directory) :], folder)))
    set_facts(directory, 0o755, Chance("root"))


def main():
    match sys.argv[1:]:
        case [directory]:
            make(directory)
        case [directory, shrink] if shrink.isdecimal() and int(shrink) > 0:
            make(directory, int(shrink))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
