#!/usr/bin/env bash
# Line coverage of the program by all tests, those with real servers included.
#
#   cover.sh          print a table of files and the total; fail under 80 %, or if a test fails
#   cover.sh --html   the same, and a report to read in target/llvm-cov/html
#
# Counted is all that goes into the program: every crate except stapes-testing, and no tests.
# Installs cargo-llvm-cov, and for the toolchain in use the component llvm-tools, if they are missing.
# Builds in a directory of its own, target/llvm-cov-target.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
CARGO=${CARGO:-cargo}
MINIMUM=80
# Files that hold tests only: they would cover themselves.
IGNORED='(^|/)(stapes-testing/|tests?/|tests\.rs|testing\.rs|model/)'

rustup component list --installed 2>/dev/null | grep -q '^llvm-tools' || rustup component add llvm-tools
"$CARGO" llvm-cov --version >/dev/null 2>&1 || "$CARGO" install cargo-llvm-cov --locked

report() { "$CARGO" llvm-cov report --ignore-filename-regex "$IGNORED" "$@"; }

# The programs that tests start count too, as long as the tests leave them LLVM_PROFILE_FILE.
CODE=0
"$CARGO" llvm-cov clean --workspace --profraw-only
"$CARGO" llvm-cov --no-report --no-fail-fast --workspace --locked || CODE=$?
if [[ ${1:-} == --html ]]; then report --html; fi
report --summary-only --fail-under-lines "$MINIMUM"
exit "$CODE"
