#!/usr/bin/env python3
"""Makes the data of scripts/bench-backup.sh: the same bytes on every machine and in every run.

    bench-data.py files DIRECTORY COUNT MIB   COUNT files of 1/60 to 2 times the mean size, MIB in all
    bench-data.py block FILE MIB              fills the first MIB of a file that exists

Three quarters of it are words in random order, one quarter is noise, in pieces of 4 KiB: about half
of it can be compressed away. Words repeat at distances that no compressor's window reaches, but for
a few parts in a hundred. What is made belongs to the owner of the directory.
"""

import os
import random
import sys

MIB = 1 << 20
PIECE = 4096
POOL_BYTES = 64 * MIB


class Data:
    """An endless supply of pieces."""

    def __init__(self):
        self.random = random.Random(20261121)
        letters = "abcdefghijklmnopqrstuvwxyz"
        words = ["".join(self.random.choices(letters, k=self.random.randint(2, 11))) for _ in range(600)]
        pool = []
        size = 0
        while size < POOL_BYTES:
            part = (" ".join(self.random.choices(words, k=200_000)) + "\n").encode()
            pool.append(part)
            size += len(part)
        self.pool = b"".join(pool)

    def piece(self, size):
        words = size - size // 4
        start = self.random.randrange(len(self.pool) - words)
        return self.pool[start : start + words] + self.random.randbytes(size - words)

    def write(self, file, size):
        while size > 0:
            file.write(self.piece(min(size, PIECE)))
            size -= PIECE


def files(directory, count, mib):
    data, owner = Data(), os.stat(directory)
    mean = mib * MIB // count
    for number in range(count):
        folder = os.path.join(directory, f"{number // 100:04}")
        if number % 100 == 0:
            os.mkdir(folder)
            os.chown(folder, owner.st_uid, owner.st_gid)
        path = os.path.join(folder, f"file-{number:06}")
        with open(path, "wb") as file:
            data.write(file, data.random.randint(mean // 60, 2 * mean - mean // 60))
        os.chown(path, owner.st_uid, owner.st_gid)


def block(path, mib):
    with open(path, "r+b") as file:
        Data().write(file, mib * MIB)


def main():
    match sys.argv[1:]:
        case ["files", directory, count, mib]:
            files(directory, int(count), int(mib))
        case ["block", path, mib]:
            block(path, int(mib))
        case _:
            sys.exit(__doc__)


main()
