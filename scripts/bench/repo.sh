#!/usr/bin/env bash
# `stapes` with a restic repository side by side with restic, borg, `tar | zstd | age` and `cp -r`, on
# a tree of 20,041 files and 1.7 GB. Prints Markdown tables; what goes on meanwhile goes to standard
# error. Results: docs/benchmarks.md.
#
#   ROUNDS=3        how often each case is measured; the tables have medians and spreads
#   TOOLS='…'       some of: stapes restic borg tar cp
#   SHRINK=100      a tree of a hundredth, to try the script; the figures then mean nothing
#   STAPES=…        a program to measure instead of a release build
#   RESTIC=…        a program to compare with instead of the restic of this system
#   TMPDIR=…        where repositories and restored trees go; needs 16 GB
#
# The tools take turns within each operation of a round, each round begins with another one, and each
# first backup is into a new repository. Before each case all that it reads has been read once, and all
# that others wrote is on the disk: nothing waits for a cold disk, for any tool. Time is that of the
# command and of the sync of the file system after it: backups of stapes, restic and borg sync what
# they store by themselves, and so do restores of stapes; the others leave it to the kernel.
# Each restored tree is compared with the original, which is not measured. It is removed when all tools
# have restored theirs: repo.py says why. On a machine that others use the figures mean little.
set -euo pipefail

# shellcheck source=scripts/lab.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lab.sh"

((EUID == 0)) || die "needs root: it mounts a file system in memory"
"$ROOT/scripts/setup.sh" --bench >&2
if [[ " ${TOOLS:-stapes} " == *' stapes '* ]]; then
  need_lab release >&2
  export STAPES
else
  unset STAPES
fi
if [[ -n ${RESTIC:-} ]]; then
  RESTIC=$(realpath -e "$RESTIC")
  export RESTIC
fi
# The file system in memory is gone with the last process of this namespace, whatever ends it.
exec unshare --mount --propagation private python3 -B "$ROOT/scripts/bench/repo.py"
