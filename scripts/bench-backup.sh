#!/usr/bin/env bash
# `stapes backup` and `stapes restore` side by side with `incus export` and `incus import`, against a
# private Incus server on this machine. Prints Markdown tables; what goes on meanwhile goes to
# standard error. Results: docs/benchmarks.md.
#
#   ROUNDS=5            how often each case is measured; the tables have medians and spreads
#   FILES=20000         files of the container, and of four others together
#   CONTAINER_MIB=600   what they hold
#   VOLUME_MIB=1024     size of the block volume; its first half is filled
#   INCUS7=1            Incus 7.0 LTS, with its own client, instead of the installed one
#   STAPES=…            a program to measure instead of a release build
#
# The cases take turns within a round, and each round begins with another one, so that a slow minute
# of the machine hits all of them. Before each case what others have written goes to the disk; what a
# command leaves to be written is measured after it, because stapes syncs what it has stored before it
# says so, and `incus export` does not.
set -euo pipefail

# shellcheck source=scripts/lab.sh
source "$(dirname "${BASH_SOURCE[0]}")/lab.sh"
# shellcheck source=scripts/measure.sh
source "$(dirname "${BASH_SOURCE[0]}")/measure.sh"
ROUNDS=${ROUNDS:-5} FILES=${FILES:-20000} CONTAINER_MIB=${CONTAINER_MIB:-600}
VOLUME_MIB=${VOLUME_MIB:-1024} INCUS7=${INCUS7:-}
INCUS7_TREE=/var/cache/stapes-lab/incus7
OPTIONS=(--pool-size 24GiB)

# What is measured, each as WHAT-HOW; `command_of` has the commands.
STORING=(container-gzip container-none container-stapes container-plain
  volume-gzip volume-none volume-stapes volume-plain)
FETCHING=(container-import container-restore container-restore-plain
  volume-import volume-restore volume-restore-plain)
MANY=(four-1 four-4)

say() { printf '%s\n' "$*" >&2; }

# ---------------------------------------------------------------- what there is to measure

rootfs_of() { printf '%s/containers/%s/rootfs' "$SOURCE_POOL" "$1"; }

# A running container with files below /root/data.
create_container() {
  local name=$1 count=$2 mib=$3 data
  incus launch -q source:busybox "source:$name" 2>/dev/null
  data=$(rootfs_of "$name")/root/data
  mkdir "$data"
  chown --reference="$(dirname "$data")" "$data"
  "$ROOT/scripts/bench-data.py" files "$data" "$count" "$mib"
}

create_items() {
  local number
  say "creating a container with $FILES files and $CONTAINER_MIB MiB, and four with a quarter each"
  create_container files "$FILES" "$CONTAINER_MIB"
  create_container quarter-1 $((FILES / 4)) $((CONTAINER_MIB / 4))
  for number in 2 3 4; do
    incus copy -q source:quarter-1 "source:quarter-$number" --stateless 2>/dev/null
    incus start -q "source:quarter-$number" 2>/dev/null
  done
  say "creating a block volume of $VOLUME_MIB MiB, half of it filled"
  incus storage volume create -q source:local disk --type=block "size=${VOLUME_MIB}MiB"
  "$ROOT/scripts/bench-data.py" block "$SOURCE_POOL/custom/default_disk/root.img" $((VOLUME_MIB / 2))
  cat >stapes.yaml <<YAML
incus:
  source: { url: "unix://$DIR/source/incus/unix.socket" }
repositories:
  disk: { url: dir:repository }
  kept: { url: dir:kept }
  kept-plain: { url: dir:kept-plain }
YAML
  mkdir repository kept kept-plain exports
}

# What the restores are from, made once.
create_backups() {
  say "making what is restored"
  incus export -q source:files kept.tar --compression none
  incus storage volume export -q source:local disk kept-volume.tar --compression none
  stapes backup instances files --quiet --incus source --target kept
  stapes backup volumes local/disk --quiet --incus source --target kept
  stapes backup instances files --quiet --incus source --target kept-plain --compression none
  stapes backup volumes local/disk --quiet --incus source --target kept-plain --compression none
}

# ---------------------------------------------------------------- measuring

# Sets COMMAND to that of a case, and SHOWN to how one would type it.
command_of() {
  local to='--incus source --target disk' from='--incus source --target kept'
  case $1 in
    container-gzip) SHOWN='incus export source:files exports/files' ;;
    container-none) SHOWN='incus export source:files exports/files --compression none' ;;
    container-stapes) SHOWN="stapes backup instances files $to" ;;
    container-plain) SHOWN="stapes backup instances files $to --compression none" ;;
    volume-gzip) SHOWN='incus storage volume export source:local disk exports/disk' ;;
    volume-none) SHOWN='incus storage volume export source:local disk exports/disk --compression none' ;;
    volume-stapes) SHOWN="stapes backup volumes local/disk $to" ;;
    volume-plain) SHOWN="stapes backup volumes local/disk $to --compression none" ;;
    container-import) SHOWN='incus import source: kept.tar copy' ;;
    container-restore) SHOWN="stapes restore instance files $from --target-name copy" ;;
    container-restore-plain) SHOWN="stapes restore instance files $from-plain --target-name copy" ;;
    volume-import) SHOWN='incus storage volume import source:local kept-volume.tar copy' ;;
    volume-restore) SHOWN="stapes restore volume local/disk $from --target-name copy" ;;
    volume-restore-plain) SHOWN="stapes restore volume local/disk $from-plain --target-name copy" ;;
    four-*) SHOWN="stapes backup instances quarter-* $to --parallel ${1#four-}" ;;
    *) die "no case is called $1" ;;
  esac
  read -ra COMMAND <<<"$SHOWN --quiet"
}

run_case() {
  local name=$1
  command_of "$name"
  sync
  measure "$DIR/$name" "${COMMAND[@]}" || die "this failed: ${COMMAND[*]}"
  measure "$DIR/$name.sync" sync
  du -s --block-size=1 repository exports | awk '{ sum += $1 } END { print sum }' >"$DIR/$name.stored"
  rm -rf repository/instances repository/volumes exports/*
  case $name in
    container-import | container-restore*) incus delete -q source:copy ;;
    volume-import | volume-restore*) incus storage volume delete -q source:local copy ;;
  esac
  say "  $name: $(tail -n 1 "$DIR/$name")"
}

measure_all() {
  local round index cases=("${STORING[@]}" "${FETCHING[@]}" "${MANY[@]}")
  for ((round = 0; round < ROUNDS; round++)); do
    say "round $((round + 1)) of $ROUNDS"
    for ((index = 0; index < ${#cases[@]}; index++)); do
      run_case "${cases[(index + round) % ${#cases[@]}]}"
    done
  done
}

# How long the steps of a command take that prints its events; one run, after all others.
steps_of() {
  command_of "$1"
  sync
  "${COMMAND[@]}" --output json | python3 -c '
import json, sys
steps = [event for line in sys.stdin if (event := json.loads(line))["event"] == "step-finished"]
print(", ".join("%s %.1f s" % (step["step"]["do"], step["seconds"]) for step in steps))'
  rm -rf repository/instances repository/volumes
}

# ---------------------------------------------------------------- telling

# Median and spread of the rounds' ratios of two cases.
ratio() {
  paste -d' ' "$DIR/$1" "$DIR/$2" | awk '{ print $1 / $5 }' >"$DIR/ratio"
  printf '%.2f (%.2f to %.2f)' "$(median "$DIR/ratio" 1)" "$(least "$DIR/ratio" 1)" "$(most "$DIR/ratio" 1)"
}

# A row of a table: the case, and the one that it is compared with.
row() {
  local name=$1 base=$2
  command_of "$name"
  awk -v shown="$SHOWN" -v wall="$(median "$DIR/$name" 1)" -v least="$(least "$DIR/$name" 1)" \
    -v most="$(most "$DIR/$name" 1)" -v ratio="$(ratio "$name" "$base")" \
    -v own="$(median "$DIR/$name" 2)" -v all="$(median "$DIR/$name" 4)" -v peak="$(most "$DIR/$name" 3)" \
    -v unwritten="$(median "$DIR/$name.sync" 1)" -v stored="$(<"$DIR/$name.stored")" 'BEGIN {
      size = stored > 1000000 ? sprintf("%d MB", stored / 1000000) : "–"
      printf "| `%s` | %.1f s (%.1f to %.1f) | %s | %.1f s | %.1f s | %.1f s | %.1f MB | %s |\n",
        shown, wall, least, most, ratio, unwritten, own, all, peak * 1.024 / 1000, size }'
}

table() {
  printf '\n| %s | time | against %s | sync after | own processor | all processors | own memory | stored |\n' "$1" "$2"
  printf '|---|---|---|---|---|---|---|---|\n'
}

print_tables() {
  local name
  printf '%d rounds, %s, Incus %s (client %s), %d processors, %d files and %d MiB, volume of %d MiB\n' "$ROUNDS" \
    "$(stapes --version)" "$(incus query source:/1.0 | awk -F'"' '$2 == "server_version" { print $4 }')" \
    "$(incus --version)" "$(nproc)" "$FILES" "$CONTAINER_MIB" "$VOLUME_MIB"
  table 'Backup of a container' 'uncompressed export'
  for name in "${STORING[@]:0:4}"; do row "$name" container-none; done
  table 'Backup of a block volume' 'uncompressed export'
  for name in "${STORING[@]:4}"; do row "$name" volume-none; done
  table 'Restore of the container' 'import'
  for name in "${FETCHING[@]:0:3}"; do row "$name" container-import; done
  table 'Restore of the block volume' 'import'
  for name in "${FETCHING[@]:3}"; do row "$name" volume-import; done
  table 'Four containers' 'one after the other'
  for name in "${MANY[@]}"; do row "$name" four-1; done
}

print_steps() {
  local name
  printf '\n| One run, step by step | |\n|---|---|\n'
  for name in container-stapes container-plain volume-stapes volume-plain; do
    command_of "$name"
    printf '| %s | %s |\n' "\`$SHOWN\`" "$(steps_of "$name")"
  done
}

# An expectation of ours: a ratio of two cases that is to be below a limit, or above it.
expect() {
  local text=$1 limit=$2 value
  paste -d' ' "$DIR/$3" "$DIR/$4" | awk '{ print $1 / $5 }' >"$DIR/ratio"
  value=$(median "$DIR/ratio" 1)
  awk -v text="$text" -v value="$value" -v limit="${limit#[<>]}" -v sign="${limit:0:1}" 'BEGIN {
    met = sign == "<" ? value <= limit : value >= limit
    printf "| %s | %s: %.2f |\n", text, met ? "met" : "**missed**", value }'
}

print_expectations() {
  printf '\n| Expected | Found |\n|---|---|\n'
  expect 'container: at most 1.1 times the uncompressed export' '<1.1' container-stapes container-none
  expect 'volume: at most 1.1 times the uncompressed export' '<1.1' volume-stapes volume-none
  expect 'container: at least 2 times faster than the default export' '>2' container-gzip container-stapes
  expect 'volume: at least 2 times faster than the default export' '>2' volume-gzip volume-stapes
  expect 'container: restored no slower than imported' '<1' container-restore container-import
  expect 'volume: restored no slower than imported' '<1' volume-restore volume-import
  expect 'four at a time at least 1.6 times faster than one' '>1.6' four-1 four-4
}

for size in FILES CONTAINER_MIB VOLUME_MIB; do
  [[ ${!size} =~ ^[1-9][0-9]*$ ]] || die "$size must be a number"
done
if [[ $INCUS7 ]]; then
  "$ROOT/scripts/setup.sh" --incus7 >&2
  OPTIONS+=(--incus7 "$INCUS7_TREE")
fi
"$ROOT/scripts/setup.sh" --picture >&2
need_lab release >&2
open_lab bench "${OPTIONS[@]}"
# A client of another version would take another way.
if [[ $INCUS7 ]]; then
  ln -s "$INCUS7_TREE/usr/bin/incus" "$DIR/bin/incus"
  hash -r
fi
export XDG_CONFIG_HOME=$DIR
create_items
create_backups
measure_all
print_tables
print_steps
print_expectations
