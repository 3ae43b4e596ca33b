#!/usr/bin/env bash
# Removes what killed tests and demonstrations left behind, and the tree of `make test-incus7`.
# What belongs to a running test is left alone.
set -euo pipefail

LAB=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/crates/stapes-testing/lab/incus-server.sh
TREE=/var/cache/stapes-lab
TEMPORARY=${TMPDIR:-/tmp}

"$LAB" --sweep "$TEMPORARY"
# Directories of lab.sh, locked for as long as the script or one of its servers lives.
for dir in "$TEMPORARY"/stapes-*-??????; do
  if [[ ! -e $dir/lock ]]; then continue; fi
  (
    exec {lock}<"$dir/lock" && flock --nonblock "$lock" || exit 0
    for server in "$dir"/*/; do "$LAB" --sweep "${server%/}"; done
    rm -rf --one-file-system "$dir"
  )
done
if [[ -d $TREE ]]; then
  if grep -q " $TREE\|lowerdir=$TREE" /proc/[0-9]*/mounts 2>/dev/null; then
    printf 'clean-lab: %s is in use and stays\n' "$TREE" >&2
  else
    rm -rf --one-file-system "$TREE"
  fi
fi
