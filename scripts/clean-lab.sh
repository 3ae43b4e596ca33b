#!/usr/bin/env bash
# Removes what killed tests and demonstrations left behind, and the tree of `make test-incus7`.
# What belongs to a running test is left alone.
set -euo pipefail

LAB=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/crates/stapes-testing/lab/incus-server.sh
TREE=/var/cache/stapes-lab

# A server looks for leftovers beside its own directory before it starts, so one that lives for a
# moment cleans up after all the others.
DIR=$(mktemp -d -t stapes-XXXXXX)
"$LAB" --dir "$DIR" --https 127.254.254.254:8443 </dev/null
if [[ -d $TREE ]]; then
  if grep -q " $TREE\|lowerdir=$TREE" /proc/[0-9]*/mounts 2>/dev/null; then
    printf 'clean-lab: %s is in use and stays\n' "$TREE" >&2
  else
    rm -rf --one-file-system "$TREE"
  fi
fi
