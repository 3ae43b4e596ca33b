#!/usr/bin/env bash
# Everything that can be wrong without running a test, cheapest first; all warnings are errors.
# Goes on after a finding, so that one run shows them all.
#
# Installs shellcheck if it is missing; uses cargo-deny if it is there.
set -uo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
CARGO=${CARGO:-cargo}
FAILED=()

check() {
  local what=$1
  shift
  printf '== %s\n' "$what"
  "$@" || FAILED+=("$what")
}

scripts() {
  if ! command -v shellcheck >/dev/null; then scripts/setup.sh --lint || return; fi
  shellcheck --severity=style -- .ci/run demo/*.sh scripts/*.sh scripts/bench/*.sh crates/stapes-testing/lab/*.sh
}

dependencies() {
  if "$CARGO" deny --version >/dev/null 2>&1; then
    "$CARGO" deny --locked --offline check --hide-inclusion-graph bans licenses sources
  else
    scripts/check-dependencies.sh
  fi
}

documentation() {
  RUSTDOCFLAGS="-D warnings ${RUSTDOCFLAGS:-}" "$CARGO" doc --workspace --no-deps --locked
}

check formatting "$CARGO" fmt --all --check
check scripts scripts
check dependencies dependencies
check clippy "$CARGO" clippy --workspace --all-targets --locked -- -D warnings
check documentation documentation

if ((${#FAILED[@]})); then
  printf 'lint: failed: %s\n' "${FAILED[*]}" >&2
  exit 1
fi
