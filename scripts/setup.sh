#!/usr/bin/env bash
# Installs what the tests and the demo need on Debian 12 or 13: Incus 6.0 LTS and its tools, restic
# and an SSH server to test repositories with, and what builds the workspace besides Rust.
#
#   setup.sh             install what is missing; silent and quick when nothing is
#   setup.sh --check     only say what is missing; exit 1 if anything is
#   setup.sh --lint      also install what `make lint` uses
#   setup.sh --picture   also install what `make picture` uses
#   setup.sh --bench     also install what `make bench-repo` measures beside us, and with
#   setup.sh --incus7 [DIR]   also make a Debian 13 tree with Incus 7.0 LTS, to test against it
#
# Leaves no apt source and no package list behind: Debian 12 has Incus only in its backports, whose
# source is derived from the machine's own and used from a temporary directory.
# No service is started: tests run private servers of their own.
set -euo pipefail

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# Package, and what shows that it is there: a path, or a program; a hundred times quicker than dpkg.
WANTED=(
  incus-base:/usr/libexec/incus/incusd
  incus-client:incus
  btrfs-progs:btrfs
  e2fsprogs:chattr
  busybox-static:/var/lib/dpkg/info/busybox-static.list
  lxcfs:lxcfs
  uidmap:newuidmap
  nftables:nft
  dnsmasq-base:dnsmasq
  iproute2:ip
  openssl:openssl
  procps:ps
  gcc:gcc
  libc6-dev:/usr/include/stdio.h
  make:make
  pkg-config:pkg-config
  restic:restic
  rclone:rclone
  openssh-client:ssh-keygen
  openssh-server:sshd
  openssh-sftp-server:/usr/lib/openssh/sftp-server
)
LINT_WANTED=(shellcheck:shellcheck)
PICTURE_WANTED=(python3:python3)
BENCH_WANTED=(python3:python3 borgbackup:borg age:age zstd:zstd tar:tar)
TREE_PACKAGES=(
  incus-base incus-client btrfs-progs lxcfs uidmap nftables dnsmasq-base iproute2
  e2fsprogs qemu-utils rsync squashfs-tools zstd
)
TREE=/var/cache/stapes-lab/incus7
SCRATCH=''
UNDO=()

die() {
  printf 'setup: %s\n' "$*" >&2
  exit 1
}

# Undoes the last first, whatever the outcome.
undo() {
  local index
  for ((index = ${#UNDO[@]} - 1; index >= 0; index--)); do eval "${UNDO[index]}"; done
  UNDO=()
}

scratch() {
  if [[ -z $SCRATCH ]]; then
    SCRATCH=$(mktemp -d)
    UNDO+=("rm -rf -- '$SCRATCH'")
    mkdir -p "$SCRATCH/parts" "$SCRATCH/lists/partial"
  fi
}

missing_packages() {
  local wanted proof
  for wanted in "${WANTED[@]}"; do
    proof=${wanted#*:}
    if [[ $proof == /* && -e $proof ]] || command -v "$proof" >/dev/null; then continue; fi
    printf '%s\n' "${wanted%%:*}"
  done
}

# The tree is complete when its last step has left this file.
tree_is_ready() { [[ -e $TREE.complete && -x $TREE/usr/libexec/incus/incusd ]]; }

debian_codename() {
  # shellcheck source=/dev/null
  (. /etc/os-release 2>/dev/null && [[ ${ID:-} == debian ]] && printf '%s\n' "${VERSION_CODENAME:-}")
}

# First Debian source of this machine, as `KEY VALUE` lines: uri, components, signed-by.
debian_source() {
  local file
  for file in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list.d/*.sources; do
    [[ -r $file ]] || continue
    # A stanza of ours has the suite of this Debian among its suites.
    awk -v RS='' -v suite="$1" '
      $0 ~ "(^|\n)Suites:[^\n]*[ \t]" suite "([ \t]|\n|$)" {
        count = split($0, lines, "\n")
        for (i = 1; i <= count; i++) {
          if (lines[i] ~ /^URIs:/) { split(lines[i], words, /[ \t]+/); print "uri", words[2] }
          if (lines[i] ~ /^Components:/) { sub(/^[^:]*:[ \t]*/, "", lines[i]); print "components", lines[i] }
          if (lines[i] ~ /^Signed-By:[ \t]*\//) { split(lines[i], words, /[ \t]+/); print "signed-by", words[2] }
        }
        exit
      }' "$file" | grep . && return
  done
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [[ -r $file ]] || continue
    awk -v suite="$1" '
      $1 == "deb" {
        line = $0; key = ""
        if (match(line, /\[[^]]*\]/)) {
          options = substr(line, RSTART + 1, RLENGTH - 2)
          line = substr(line, 1, RSTART - 1) substr(line, RSTART + RLENGTH)
          count = split(options, words, /[ \t]+/)
          for (i = 1; i <= count; i++) if (words[i] ~ /^signed-by=\//) key = substr(words[i], 11)
        }
        count = split(line, words, /[ \t]+/)
        if (words[3] != suite) next
        print "uri", words[2]
        printf "components"; for (i = 4; i <= count; i++) printf " %s", words[i]; print ""
        if (key != "") print "signed-by", key
        exit
      }' "$file" | grep . && return
  done
  return 1
}

# A deb822 stanza for the suites given, on the mirror of this machine.
stanza() {
  local source uri components key
  source=$(debian_source "$(debian_codename)") || die "no Debian source found in /etc/apt to derive one from"
  uri=$(awk '$1 == "uri" { print $2 }' <<<"$source")
  components=$(awk '$1 == "components" { $1 = ""; print }' <<<"$source")
  key=$(awk '$1 == "signed-by" { print $2 }' <<<"$source")
  printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents:%s\n' "$uri" "$*" "${components:- main}"
  if [[ -n $key ]]; then printf 'Signed-By: %s\n' "$key"; fi
}

# Package scripts start no services as long as this says so. An existing policy is left alone.
forbid_services() {
  local policy=${1:-}/usr/sbin/policy-rc.d
  [[ ! -e $policy ]] || return 0
  UNDO+=("rm -f -- '$policy'")
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 0755 "$policy"
}

# Runs apt-get on sources of our own, quietly unless it fails.
apt_here() {
  if ! DEBIAN_FRONTEND=noninteractive apt-get -q \
    -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$SCRATCH/parts" \
    -o Dir::State::Lists="$SCRATCH/lists" -o DPkg::Lock::Timeout=120 \
    "$@" >"$SCRATCH/apt.log" 2>&1 </dev/null; then
    tail -n 20 "$SCRATCH/apt.log" >&2
    die "apt-get failed (above: the end of what it said)"
  fi
}

install_packages() {
  local codename suites target package plain=() incus=()
  codename=$(debian_codename) || die "this is not Debian: install by hand: $*"
  case $codename in
    bookworm) suites=(bookworm bookworm-updates bookworm-backports) target=bookworm-backports ;;
    ?*) suites=("$codename" "$codename-updates") target=$codename ;;
    *) die "this Debian has no code name: install by hand: $*" ;;
  esac
  printf 'setup: installing %s\n' "$*"
  scratch
  stanza "${suites[@]}" >"$SCRATCH/parts/stapes.sources"
  forbid_services
  apt_here -o APT::Update::Error-Mode=any update
  # Only Incus and what it needs come from the backports, the rest from the stable suite.
  for package in "$@"; do
    if [[ $package == incus-* ]]; then incus+=("$package"); else plain+=("$package"); fi
  done
  if ((${#plain[@]})); then apt_here install -y --no-install-recommends "${plain[@]}"; fi
  if ((${#incus[@]})); then apt_here install -y --no-install-recommends -t "$target" "${incus[@]}"; fi
}

make_tree() {
  local mirror
  debian_codename >/dev/null || die "this is not Debian: the tree for Incus 7 cannot be made"
  if [[ ! -x /usr/sbin/debootstrap ]]; then install_packages debootstrap; fi
  scratch
  stanza trixie trixie-backports >"$SCRATCH/tree.sources"
  mirror=$(awk '$1 == "URIs:" { print $2 }' "$SCRATCH/tree.sources")
  # Cloud images name a file with mirrors, which apt understands and debootstrap does not.
  if [[ $mirror == mirror+file:* ]]; then
    mirror=$(awk 'NF && !/^#/ { print $1; exit }' "${mirror#mirror+file:}")
    sed -i "s|^URIs:.*|URIs: $mirror|" "$SCRATCH/tree.sources"
  fi
  printf 'setup: making a Debian 13 tree with Incus 7.0 in %s, some minutes\n' "$TREE"
  rm -rf --one-file-system "$TREE" "$TREE.complete"
  mkdir -p "$TREE"
  if ! debootstrap --variant=minbase --include=ca-certificates trixie "$TREE" "$mirror" \
    >"$SCRATCH/debootstrap.log" 2>&1; then
    tail -n 20 "$SCRATCH/debootstrap.log" >&2
    die "debootstrap failed (above: the end of what it said)"
  fi
  cp "$SCRATCH/tree.sources" "$TREE/etc/apt/sources.list.d/debian.sources"
  rm -f "$TREE/etc/apt/sources.list"
  # A key outside the tree would not be found in it; its own archive keys serve as well.
  sed -i 's|^Signed-By:.*|Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg|' \
    "$TREE/etc/apt/sources.list.d/debian.sources"
  cp /etc/resolv.conf /etc/hosts "$TREE/etc/"
  apt-config dump | grep -i '^Acquire::.*proxy' >"$TREE/etc/apt/apt.conf.d/90proxy" || true
  forbid_services "$TREE"
  mount -t proc proc "$TREE/proc"
  UNDO+=("umount '$TREE/proc'")
  if ! chroot "$TREE" env DEBIAN_FRONTEND=noninteractive LC_ALL=C sh -c \
    'apt-get -q update && apt-get -q install -y --no-install-recommends -t trixie-backports "$@" && apt-get clean' \
    sh "${TREE_PACKAGES[@]}" >"$SCRATCH/tree.log" 2>&1 </dev/null; then
    tail -n 20 "$SCRATCH/tree.log" >&2
    die "apt-get failed in $TREE (above: the end of what it said)"
  fi
  rm -rf "$TREE"/var/lib/apt/lists/*
  touch "$TREE.complete"
}

main() {
  local check='' incus7='' missing
  while (($#)); do
    case $1 in
      --check) check=yes ;;
      --lint) WANTED+=("${LINT_WANTED[@]}") ;;
      --picture) WANTED+=("${PICTURE_WANTED[@]}") ;;
      --bench) WANTED+=("${BENCH_WANTED[@]}") ;;
      --incus7)
        incus7=yes
        if [[ ${2:-} == /* ]]; then
          TREE=${2%/}
          shift
        fi
        ;;
      *) die "unknown option $1 (known: --check, --lint, --picture, --bench, --incus7 [DIR])" ;;
    esac
    shift
  done
  mapfile -t missing < <(missing_packages)
  if [[ -n $incus7 ]] && ! tree_is_ready; then missing+=("$TREE"); fi
  ((${#missing[@]})) || exit 0
  if [[ -n $check ]]; then
    printf 'missing: %s\n' "${missing[@]}"
    exit 1
  fi
  ((EUID == 0)) || die "needs root to install: ${missing[*]}"
  trap undo EXIT
  mapfile -t missing < <(missing_packages)
  if ((${#missing[@]})); then install_packages "${missing[@]}"; fi
  mapfile -t missing < <(missing_packages)
  ((${#missing[@]} == 0)) || die "still missing after the installation: ${missing[*]}"
  if [[ -n $incus7 ]] && ! tree_is_ready; then make_tree; fi
}

main "$@"
