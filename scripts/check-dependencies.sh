#!/usr/bin/env bash
# Licences, forbidden crates and sources of all dependencies, as deny.toml has them, with nothing but
# cargo and awk. The stand-in for cargo-deny, whose own build takes longer than ours.
#
# Does not know advisories (they need a database from the network) and reads of deny.toml only the
# lists `allow` of [licenses] and `deny` of [bans].
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
PROBLEMS=0

problem() {
  printf 'check-dependencies: %s\n' "$*" >&2
  PROBLEMS=$((PROBLEMS + 1))
}

# The quoted strings of one list in deny.toml: section, key.
list() {
  awk -v section="[$1]" -v key="$2" '
    /^\[/ { inside = $0 == section; open = 0 }
    inside && $1 == key { open = 1 }
    open && !/^ *#/ {
      line = $0
      while (match(line, /"[^"]*"/)) {
        print substr(line, RSTART + 1, RLENGTH - 2)
        line = substr(line, RSTART + RLENGTH)
      }
      if (/\]/) open = 0
    }' deny.toml
}

# Whether a licence expression holds if exactly the allowed licences do.
acceptable() {
  local expression=" ${1//\// OR } " name
  expression=${expression//(/ ( } expression=${expression//)/ ) }
  # Longest names first: one may be the beginning of another.
  while read -r name; do expression=${expression//" $name "/ 1 }; done <<<"$ALLOWED"
  expression=${expression// OR /" || "} expression=${expression// AND /" && "}
  expression=$(sed -E 's/[A-Za-z][A-Za-z0-9.+-]*( WITH [A-Za-z0-9.-]+)?/0/g' <<<"$expression")
  [[ $expression =~ ^[01\ \(\)\&\|]+$ ]] && ((expression))
}

check_licences() {
  local crate licence
  while IFS='|' read -r crate licence; do
    acceptable "$licence" || problem "licence of $crate is not in deny.toml: ${licence:-none}"
  done < <(cargo tree --workspace --locked --edges normal,build,dev --prefix none --no-dedupe \
    --format '{p}|{l}' | sed '/^$/d; s/ (.*)|/|/' | sort -u)
}

check_bans() {
  local name
  while read -r name; do
    if grep -qx "name = \"$name\"" Cargo.lock; then problem "$name is forbidden by deny.toml"; fi
  done < <(list bans deny)
}

check_sources() {
  local source
  while read -r source; do
    problem "a dependency comes from elsewhere than crates.io: $source"
  done < <(awk '$1 == "source" && $3 != "\"registry+https://github.com/rust-lang/crates.io-index\"" { print $3 }' Cargo.lock)
}

ALLOWED=$(list licenses allow | awk '{ print length, $0 }' | sort -rn | cut -d' ' -f2-)
[[ -n $ALLOWED && -n $(list bans deny) ]] || problem "deny.toml has no lists that this script can read"
check_licences
check_bans
check_sources
((PROBLEMS == 0)) || exit 1
printf 'dependencies: licences, bans and sources as deny.toml has them\n'
