#!/usr/bin/env bash
# The demonstration: two private Incus servers on loopback, onboarding, replication, thinning and
# history, a comparison of the files byte for byte, and a replica that starts; then a backup of the
# whole source to a directory, a server that has lost what it had, its restore, and a comparison.
#
#   run.sh                 show it
#   run.sh --picture DIR   the same, and draw replicate.svg and backup.svg below DIR
#
# Needs root, Rust, and Debian 12 or 13, where it installs Incus if it is missing (scripts/setup.sh).
# STAPES names a program to use instead of building one.
# Everything is in one temporary directory; whatever the outcome, nothing of it stays.
set -euo pipefail

# shellcheck source=scripts/lab.sh
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/lab.sh"
PICTURE='' STEP=0

if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
  BOLD=$'\e[1m' DIM=$'\e[2m' GREEN=$'\e[32m' PLAIN=$'\e[0m'
else
  BOLD='' DIM='' GREEN='' PLAIN=''
fi

chapter() {
  STEP=$((STEP + 1))
  printf '\n%s%d. %s%s\n' "$BOLD" "$STEP" "$1" "$PLAIN"
  shift
  if (($#)); then printf '%s%s%s\n' "$DIM" "$*" "$PLAIN"; fi
}

# Shows a command as one would type it, and runs it.
typed() {
  printf '\n%s$ %s%s\n' "$GREEN" "$1" "$PLAIN"
  eval "$1"
}

# The same, on a terminal of its own, and into a picture if there is to be one. Arguments: the
# command, the name of the picture, its title, and what its moment shows; `-` for no moment.
pictured() {
  if [[ -z $PICTURE ]]; then
    typed "$1"
    return
  fi
  printf '\n%s$ %s%s\n' "$GREEN" "$1" "$PLAIN"
  "$ROOT/scripts/capture.py" "$PICTURE/$2.svg" --parts "$DIR/$2.json" --title "$3" --moment "${4/#-/no moment has this}" --columns 92 "$1"
}

night() { pictured 'stapes replicate nightly' replicate 'Two nights, two Incus servers' 'MiB/s'; }

# ---------------------------------------------------------------- comparison

# Every file below a directory: kind, mode, owner, size, time and target of a link; then the sums.
describe() {
  (
    cd "$1"
    find . -mindepth 1 \( -type d -printf '%P %y %m %U:%G %T@\n' \) \
      -o -printf '%P %y %m %U:%G %s %T@ %l\n' | sort
    find . -type f -print0 | sort -z | xargs -0 sha256sum
  )
}

same() {
  local what=$1
  describe "$2" >"$DIR/left.txt"
  describe "$3" >"$DIR/right.txt"
  cmp "$DIR/left.txt" "$DIR/right.txt" || die "the copy of $what differs from its source"
  printf '%-12s %4d files and directories, %6s KiB: the same\n' "$what" \
    "$(find "$2" -mindepth 1 | wc -l)" "$(du -sk --apparent-size "$2" | cut -f1)"
}

compare_all() {
  local snapshot=$1 name
  for name in web db mail; do
    same "$name" "$SOURCE_POOL/containers-snapshots/$name/$snapshot/rootfs" \
      "$TARGET_POOL/containers-snapshots/$name/$snapshot/rootfs"
  done
  same local/data "$SOURCE_POOL/custom-snapshots/default_data/$snapshot" \
    "$TARGET_POOL/custom-snapshots/default_data/$snapshot"
}

# ---------------------------------------------------------------- the story

create_items() {
  local name
  chapter "Three running containers on the source, one with a volume"
  for name in web db mail; do typed "incus launch -q source:busybox source:$name 2>/dev/null"; done
  typed "incus storage volume create -q source:local data"
  typed "incus config device add -q source:db data disk pool=local source=data path=/data"
  typed "incus exec source:db -- sh -c 'head -c 50000000 /dev/urandom >/data/table && ln -s table /data/current'"
  typed "incus exec source:web -- sh -c 'mkdir /srv && echo hello >/srv/index.html && chown 33:33 /srv/index.html'"
  typed "incus exec source:mail -- sh -c 'head -c 16000000 /dev/urandom >/root/inbox && chmod 600 /root/inbox'"
}

onboard() {
  chapter "Onboarding" "A token of each server, used once: then stapes has a key of its own, and each certificate is pinned."
  typed "A=\$(incus config trust add -q source:stapes)"
  typed "B=\$(incus config trust add -q target:stapes)"
  typed "stapes onboard --source-url $SOURCE_URL --source-token \"\$A\" \\
    --target-url $TARGET_URL --target-token \"\$B\" --cred-dir credentials"
  chapter "Policies short enough to watch" \
    "The source keeps 1 snapshot, the target 3. (Those of the first configuration span days and months.)"
  typed "sed -i -e '/^    keep:/s/\".*\"/\"1\"/' -e '/^        keep:/s/\".*\"/\"3\"/' stapes.yaml"
  typed "stapes config check"
}

replicate() {
  chapter "First run" "First what it would do, then it does it."
  typed "stapes replicate nightly --dry-run-copy"
  night
  chapter "Something changes, and only that is copied"
  typed "incus exec source:web -- sh -c 'echo changed >>/srv/index.html'"
  typed "incus exec source:db -- sh -c 'head -c 4000000 /dev/urandom >/data/log'"
  typed "stapes replicate nightly"
  chapter "A third night" \
    "The source has thinned its first snapshot. A refresh would delete it on the target too, but that is to keep 3: stapes keeps it in a history project."
  typed "incus exec source:db -- sh -c 'head -c 300000000 /dev/urandom >/data/archive'"
  night
  chapter "Two more nights, and the history is thinned as well"
  typed "stapes replicate nightly --quiet"
  typed "stapes replicate nightly"
  typed "stapes list replicas"
}

verify() {
  local newest
  chapter "Is it the same?" "Contents, modes, owners, times and links of the newest snapshot, on both servers."
  newest=$(find "$TARGET_POOL/containers-snapshots/web" -mindepth 1 -maxdepth 1 -printf '%f\n' | sort | tail -n 1)
  printf '\n'
  compare_all "$newest"
  chapter "Does a replica start?"
  typed "incus start target:web"
  typed "incus exec target:web -- cat /srv/index.html"
}

# ---------------------------------------------------------------- the second story: a repository

# What is compared later. Exports of Incus hold whole seconds, so times are rounded before.
remember() {
  local name
  for name in web db mail; do incus stop -q --force "source:$name"; done
  find "$SOURCE_POOL"/containers/{web,db,mail}/rootfs "$SOURCE_POOL/custom/default_data" \
    -exec sh -c 'for path; do touch -hcd "$(stat -c "@%Y" "$path")" "$path"; done' sh {} +
  mkdir "$DIR/before"
  for name in web db mail; do cp -a --reflink=auto "$SOURCE_POOL/containers/$name/rootfs" "$DIR/before/$name"; done
  cp -a --reflink=auto "$SOURCE_POOL/custom/default_data" "$DIR/before/data"
  for name in web db mail; do incus start -q "source:$name"; done
}

back_up() {
  chapter "A backup of the whole source" \
    "Its configuration, images, volumes and instances, to a directory. The containers go on."
  typed "export INCUS_DIR=$DIR/source/incus"
  typed "stapes init --target dir:backups"
  pictured 'stapes backup all --target dir:backups' backup 'A server, to a directory and back' 'MiB/s'
  typed "find backups -name export.tar.zst -o -name volume.tar.zst"
  chapter "Is it whole?" "Each byte is read again. Nothing of stapes is needed for that."
  typed "stapes verify all --target dir:backups"
  typed "(cd backups/instances/default/web/* && sha256sum -c checksums.txt)"
}

lose_and_restore() {
  local name
  chapter "Everything is lost"
  typed "incus delete --force source:web source:db source:mail"
  typed "incus storage volume delete source:local data"
  chapter "And restored" "Here onto the same server; onto an empty one it is the same command."
  pictured 'stapes restore all --target dir:backups --yes' backup 'A server, to a directory and back' '-'
  printf '\n'
  for name in web db mail; do
    same "$name" "$DIR/before/$name" "$SOURCE_POOL/containers/$name/rootfs"
  done
  same local/data "$DIR/before/data" "$SOURCE_POOL/custom/default_data"
  typed "incus start source:web && incus exec source:web -- cat /srv/index.html"
  typed "stapes list all --target dir:backups"
}

main() {
  while (($#)); do
    case $1 in
      --picture)
        PICTURE=$(realpath -e "${2:?--picture needs a directory}")
        shift
        ;;
      *) die "unknown option $1 (known: --picture DIR)" ;;
    esac
    shift
  done
  if [[ -n $PICTURE ]]; then "$ROOT/scripts/setup.sh" --picture; fi
  # The quick build: the servers do the work, and a release build takes three times as long.
  need_lab dev
  chapter "Two private Incus servers" "Both run here, on loopback. Yours are two machines."
  open_lab demo
  printf 'source %s\ntarget %s\n' "$SOURCE_URL" "$TARGET_URL"
  create_items
  onboard
  replicate
  verify
  remember
  back_up
  lose_and_restore
}

main "$@"
