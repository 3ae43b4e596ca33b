#!/usr/bin/env bash
# A container that has not changed, backed up again into a restic repository on this machine, side by
# side with the server's own uncompressed export, against a private Incus server. Prints Markdown
# tables; what goes on meanwhile goes to standard error. Results: docs/benchmarks.md.
#
#   ROUNDS=5            how often each is measured; the table has medians and spreads
#   FILES=20000         files of the container
#   CONTAINER_MIB=600   what they hold
#   INCUS7=1            Incus 7.0 LTS, with its own client, instead of the installed one
#   STAPES=…            a program to measure instead of a release build
#
# The two take turns within a round, and each round begins with the other one. Time is that of the
# command and of the sync of the machine after it: stapes syncs what it stores, `incus export` does not.
set -euo pipefail

# shellcheck source=scripts/lab.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lab.sh"
# shellcheck source=scripts/measure.sh
source "$ROOT/scripts/measure.sh"
ROUNDS=${ROUNDS:-5} FILES=${FILES:-20000} CONTAINER_MIB=${CONTAINER_MIB:-600} INCUS7=${INCUS7:-}
INCUS7_TREE=/var/cache/stapes-lab/incus7
OPTIONS=(--pool-size 8GiB)
CASES=(export backup)
# What we want: times the export, and bytes that a backup of nothing new adds.
RATIO_LIMIT=1.15 ADDED_LIMIT=1000000

say() { printf '%s\n' "$*" >&2; }

# A running container with files below /root/data.
create_container() {
  local data=$SOURCE_POOL/containers/files/rootfs/root/data
  say "creating a container with $FILES files and $CONTAINER_MIB MiB"
  incus launch -q source:busybox source:files 2>/dev/null
  mkdir "$data"
  chown --reference="$(dirname "$data")" "$data"
  "$ROOT/scripts/bench-data.py" files "$data" "$FILES" "$CONTAINER_MIB"
}

# Sets COMMAND to that of a case, and SHOWN to how one would type it.
command_of() {
  case $1 in
    export) SHOWN='incus export source:files export.tar --compression none' ;;
    backup) SHOWN="stapes backup instances files --incus source --target restic:vault" ;;
  esac
  read -ra COMMAND <<<"$SHOWN --quiet"
}

# Bytes of all files of the repository.
stored() { find vault -type f -printf '%s\n' | awk '{ sum += $1 } END { printf "%d\n", sum }'; }

# Appends to the file of a case: time with sync, time of sync, and what `measure` says but its time.
run_case() {
  local name=$1 before
  command_of "$name"
  rm -f export.tar
  before=$(stored)
  sync
  rm -f "$DIR/run" "$DIR/sync"
  measure "$DIR/run" "${COMMAND[@]}" || die "this failed: ${COMMAND[*]}"
  measure "$DIR/sync" sync
  paste -d' ' "$DIR/run" "$DIR/sync" | awk '{ print $1 + $5, $5, $2, $3, $4 + $8 }' >>"$DIR/$name"
  printf '%d\n' $(($(stored) - before)) >>"$DIR/$name.added"
  say "  $name: $(tail -n 1 "$DIR/$name"), added $(tail -n 1 "$DIR/$name.added")"
}

measure_all() {
  local round index
  for ((round = 0; round < ROUNDS; round++)); do
    say "round $((round + 1)) of $ROUNDS"
    for ((index = 0; index < ${#CASES[@]}; index++)); do
      run_case "${CASES[(index + round) % ${#CASES[@]}]}"
    done
  done
}

# Ratios are of the same round's two times.
write_ratios() { paste -d' ' "$DIR/$1" "$DIR/export" | awk '{ print $1 / $6 }' >"$DIR/$1.ratio"; }

spread() { printf '%.2f (%.2f to %.2f)' "$(median "$@")" "$(least "$@")" "$(most "$@")"; }

row() {
  local name=$1 file=$DIR/$1
  command_of "$name"
  write_ratios "$name"
  printf "| \`%s\` | %s | %s | %.2f s | %.1f s | %.1f s | %.0f MB | %s |\n" "$SHOWN" "$(spread "$file" 1)" \
    "$(spread "$file.ratio" 1)" "$(median "$file" 2)" "$(median "$file" 3)" "$(median "$file" 5)" \
    "$(awk -v kib="$(most "$file" 4)" 'BEGIN { print kib * 1.024 / 1000 }')" \
    "$(if [[ $name == backup ]]; then printf '%d bytes' "$(most "$file.added" 1)"; else printf '–'; fi)"
}

# Prints a row about a value, in words too, that is to be below a limit, or at it.
expect() {
  awk -v text="$1" -v value="$2" -v limit="$3" -v found="$4" \
    'BEGIN { printf "| %s | %s: %s |\n", text, value + 0 <= limit + 0 ? "met" : "**missed**", found }'
}

print_results() {
  local name added
  printf '%d rounds; %s, Incus %s (client %s), %s; %d files and %d MiB; the first backup took %.1f s and stored %d MB.\n' \
    "$ROUNDS" "$(stapes --version)" "$(incus query source:/1.0 | awk -F'"' '$2 == "server_version" { print $4 }')" \
    "$(incus --version)" "$(nproc) processors" "$FILES" "$CONTAINER_MIB" "$(median "$DIR/first" 1)" \
    "$((FIRST_BYTES / 1000000))"
  printf '\n| Backup again, nothing changed | time in s | against the export | of it, sync | own processor | all processors | own memory | added at most |\n'
  printf '|---|---|---|---|---|---|---|---|\n'
  for name in "${CASES[@]}"; do row "$name"; done
  printf '\n| Expected | Found |\n|---|---|\n'
  expect "at most $RATIO_LIMIT times the uncompressed export" "$(median "$DIR/backup.ratio" 1)" "$RATIO_LIMIT" \
    "$(spread "$DIR/backup.ratio" 1)"
  added=$(most "$DIR/backup.added" 1)
  expect 'at most 1 MB added' "$added" "$ADDED_LIMIT" "$added bytes"
}

for size in ROUNDS FILES CONTAINER_MIB; do
  [[ ${!size} =~ ^[1-9][0-9]*$ ]] || die "$size must be a number"
done
if [[ $INCUS7 ]]; then
  "$ROOT/scripts/setup.sh" --incus7 >&2
  OPTIONS+=(--incus7 "$INCUS7_TREE")
fi
"$ROOT/scripts/setup.sh" --bench >&2
need_lab release >&2
open_lab bench "${OPTIONS[@]}"
# A client of another version would take another way.
if [[ $INCUS7 ]]; then
  ln -s "$INCUS7_TREE/usr/bin/incus" "$DIR/bin/incus"
  hash -r
fi
export XDG_CONFIG_HOME=$DIR RESTIC_PASSWORD=bench
printf 'incus:\n  source: { url: "unix://%s" }\n' "$DIR/source/incus/unix.socket" >stapes.yaml
create_container
say 'the first backup'
stapes init --target restic:vault >&2
command_of backup
sync
measure "$DIR/first" "${COMMAND[@]}"
FIRST_BYTES=$(stored)
measure_all
print_results
