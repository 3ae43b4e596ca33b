#!/usr/bin/env python3
"""Tests of the benchmark's own parts: `python3 -B scripts/bench/tests.py`, some seconds. As root, because
repo.py mounts; with what `scripts/setup.sh --bench` installs."""

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import zlib

import cases
import compare
import measuring
import report
import tree
from measuring import Sample

HERE = os.path.dirname(os.path.abspath(__file__))
# Of the tree with SHRINK=1000. Whoever changes the tree makes older figures incomparable: say so there.
DIGEST = "f5bad0e078534740f9431c4983889ebe35ea4272061b3198f5a9294fb8b8bb79"


def sample(seconds, peak_bytes=1):
    return Sample(seconds, 0.0, 0.0, 0.0, peak_bytes)


class InADirectory(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name

    def path(self, *parts):
        return os.path.join(self.directory, *parts)


class TheTree(InADirectory):
    def setUp(self):
        super().setUp()
        tree.make(self.path("tree"), 1000)

    def test_it_has_the_same_bytes_modes_and_times_everywhere(self):
        digest = hashlib.sha256()
        for path, folders, files in os.walk(self.path("tree")):
            folders.sort()
            for name in [*folders, *sorted(files)]:
                full = os.path.join(path, name)
                facts = os.stat(full)
                digest.update(f"{full[len(self.directory) :]} {facts.st_mode} {facts.st_mtime_ns}\n".encode())
                if name in files:
                    with open(full, "rb") as file:
                        digest.update(file.read())
        self.assertEqual(digest.hexdigest(), DIGEST)

    def test_texts_shrink_like_text_and_the_others_by_half(self):
        ratios = {}
        for name in ("text/000/00001.txt", "half/00.bin", "disk.img"):
            with open(self.path("tree", name), "rb") as file:
                content = file.read()
            ratios[name] = len(content) / len(zlib.compress(content))
        self.assertTrue(2 < ratios["text/000/00001.txt"] < 4, ratios)
        for name in ("half/00.bin", "disk.img"):
            self.assertTrue(1.9 < ratios[name] < 2.05, ratios)

    def test_what_is_there_is_not_overwritten(self):
        with self.assertRaises(FileExistsError):
            tree.make(self.path("tree"), 1000)


class Comparing(InADirectory):
    def setUp(self):
        super().setUp()
        for name in ("one", "other"):
            os.makedirs(self.path(name, "folder"))
            for file in ("a", "folder/b"):
                with open(self.path(name, file), "wb") as opened:
                    opened.write(b"content of " + file.encode())
            for path in ("a", "folder/b", "folder"):
                os.utime(self.path(name, path), ns=(1, 1))

    def found(self, with_facts=True):
        return compare.differences(self.path("one"), self.path("other"), with_facts)

    def test_equal_trees_have_no_differences(self):
        self.assertEqual(self.found(), [])

    def test_another_byte_is_found_though_size_and_time_are_the_same(self):
        with open(self.path("other", "folder/b"), "r+b") as file:
            file.write(b"C")
        os.utime(self.path("other", "folder/b"), ns=(1, 1))
        self.assertEqual(self.found(), ["folder/b: other content"])

    def test_a_missing_and_a_new_file_are_found(self):
        os.rename(self.path("other", "a"), self.path("other", "c"))
        self.assertEqual(self.found(), ["a: only in one of both", "c: only in one of both"])

    def test_a_folder_in_place_of_a_file_is_found(self):
        os.unlink(self.path("other", "a"))
        os.mkdir(self.path("other", "a"))
        self.assertEqual(self.found(), ["a: of another kind"])

    def test_modes_and_times_are_found_where_they_are_to_be_kept(self):
        os.chmod(self.path("one", "a"), 0o644)
        os.chmod(self.path("other", "a"), 0o600)
        os.utime(self.path("other", "folder"), ns=(1, 2))
        modes = f"a: st_mode is {0o100600}, and was {0o100644}"
        self.assertEqual(self.found(), ["folder: st_mtime_ns is 2, and was 1", modes])
        self.assertEqual(self.found(with_facts=False), [])


class Measuring(InADirectory):
    def measure(self, command):
        return measuring.measure(command, os.environ, self.directory, self.directory, self.path("log"))

    def test_memory_and_processor_are_those_of_the_command_and_its_processes(self):
        small = self.measure(["sleep", "0.2"])
        self.assertTrue(0.2 <= small.seconds < 2 and small.own_seconds < 0.1, small)
        hungry = f"{sys.executable} -c \"block = b'x' * 200_000_000; [n * n for n in range(3_000_000)]\" | cat"
        large = self.measure(hungry)
        self.assertTrue(large.peak_bytes > 200_000_000 > small.peak_bytes + 100_000_000, (small, large))
        self.assertTrue(large.own_seconds > small.own_seconds + 0.1, (small, large))
        self.assertTrue(large.busy_seconds > 0.1, large)

    def test_a_pipeline_fails_with_any_of_its_commands_and_says_why(self):
        with self.assertRaisesRegex(measuring.Failed, "(?s)exit code 7 .*the reason"):
            self.measure("(echo the reason >&2; exit 7) | cat")
        with self.assertRaisesRegex(measuring.Failed, "exit code 1 of"):
            self.measure(["false"])


class Reporting(unittest.TestCase):
    def results(self, ours, theirs):
        results = report.Results()
        for seconds, base in zip(ours, theirs, strict=True):
            results.add(cases.FIRST, "stapes", sample(seconds, 10**8), 99)
            results.add(cases.FIRST, "restic", sample(base), 100)
        return results

    def test_ratios_are_of_the_same_round(self):
        # A slow round of both: the ratio of the medians would be another.
        results = self.results([1, 9, 2], [2, 10, 8])
        self.assertIn("| 0.50 (0.25 to 0.90) |", report.tables(results))
        self.assertIn("| 2.00 s (1.00 to 9.00) |", report.tables(results))

    def test_what_is_missed_is_said_as_clearly_as_what_is_met(self):
        met = report.expectations(self.results([5], [10]))
        self.assertIn("| First backup: at most 0.5 times what restic needs | met: 0.50", met)
        self.assertIn("met: 0.990 times", met)
        self.assertIn("met: 100 MB", met)
        missed = self.results([6], [10])
        missed.add(cases.AGAIN, "stapes", sample(1, 3 * 10**8), 1)
        missed = report.expectations(missed)
        self.assertIn("| **missed**: 0.60", missed)
        self.assertIn("| **missed**: 300 MB", missed)

    def test_every_row_of_a_table_has_as_many_cells(self):
        results = self.results([1], [1])
        results.add(cases.FIRST, "tar", sample(1), 1)
        rows = report.table(results, cases.FIRST).splitlines()
        self.assertIn(r"zstd -q -T0 -3 \| age", rows[-1])
        self.assertEqual({row.replace(r"\|", "").count("|") for row in rows}, {9})


class TheWhole(InADirectory):
    def start(self, **settings):
        environment = {**os.environ, "TMPDIR": self.directory, "SHRINK": "1000", "ROUNDS": "1", **settings}
        words = ["unshare", "--mount", "--propagation", "private", sys.executable, "-B", os.path.join(HERE, "repo.py")]
        child = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(child.communicate)
        return child

    def test_a_run_prints_its_tables_and_leaves_nothing(self):
        child = self.start(TOOLS="tar cp")
        said, meanwhile = child.communicate()
        self.assertEqual(child.returncode, 0, meanwhile)
        for text in ("| First backup |", "| Restore to disk |", "| Restore into a tmpfs |", "`cp -r tree mnt/out-cp`"):
            self.assertIn(text, said)
        self.assertEqual(os.listdir(self.directory), [])

    def test_an_interrupted_run_leaves_nothing(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            child = self.start(TOOLS="restic", RESTIC=self.slow_program())
            # Until the program that takes for ever has been started, by its own word.
            while not os.path.exists(self.path("begun")):
                self.assertIsNone(child.poll(), "it ended too early")
                time.sleep(0.01)
            with open(self.path("begun")) as file:
                slow = int(file.read())
            child.send_signal(number)
            said, meanwhile = child.communicate()
            self.assertEqual((child.returncode, said), (128 + number, ""), meanwhile)
            self.assertFalse(os.path.exists(f"/proc/{slow}"))
            os.unlink(self.path("begun"))
            self.assertEqual(os.listdir(self.directory), ["slow"])

    def slow_program(self):
        """A backup that takes for ever, with a second process that needs a while to end."""
        path, begun = self.path("slow"), self.path("begun")
        with open(path, "w") as file:
            file.write(f"""#!/bin/bash
                if [[ $1 != backup ]]; then exit; fi
                (
                  trap 'sleep 0.5; exit' TERM
                  echo $BASHPID >{begun}.new && mv {begun}.new {begun}
                  while :; do sleep 0.1; done
                ) &
                exec sleep 600
            """)
        os.chmod(path, 0o755)
        return path

    def test_a_restore_that_is_not_the_original_is_an_error(self):
        path = self.path("wrong")
        with open(path, "w") as file:
            file.write('#!/bin/sh\nif [ "$1" = restore ]; then cp -a tree "$6"; : >"$6/tree/disk.img"; fi\nmkdir -p repo-restic\n')
        os.chmod(path, 0o755)
        child = self.start(TOOLS="restic", RESTIC=path)
        said, meanwhile = child.communicate()
        self.assertEqual((child.returncode, said), (1, ""))
        self.assertRegex(meanwhile, "(?s)what restic restored is not what was backed up:.*disk.img: other content")
        self.assertEqual(os.listdir(self.directory), ["wrong"])


if __name__ == "__main__":
    unittest.main()
