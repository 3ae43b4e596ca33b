#!/usr/bin/env bash
# Replication between two private Incus servers on this machine: one item at a time against the
# default, with nothing new and with 1 % changed, and what stapes itself needs of processor and memory.
# Prints Markdown tables; what goes on meanwhile goes to standard error. Results: docs/benchmarks.md.
#
#   ROUNDS=5      how often each case is measured; the table has medians
#   CONTAINERS=20 running containers with DATA_MIB=32 of random data each
#   MANY=200      items of the memory test; 0 leaves it out
#   STAPES=…      a program to measure instead of a release build
#
# The cases take turns within a round, so that a slow minute of the machine hits all of them.
set -euo pipefail

# shellcheck source=scripts/lab.sh
source "$(dirname "${BASH_SOURCE[0]}")/lab.sh"
ROUNDS=${ROUNDS:-5} CONTAINERS=${CONTAINERS:-20} DATA_MIB=${DATA_MIB:-32} MANY=${MANY:-200}
CASES=('unchanged 1' 'unchanged 4' 'changed 1' 'changed 4')

say() { printf '%s\n' "$*" >&2; }

create_containers() {
  local number
  say "creating $CONTAINERS containers with $DATA_MIB MiB each"
  incus launch -q source:busybox source:b-1 2>/dev/null
  incus exec source:b-1 -- dd if=/dev/urandom of=/root/data bs=1M count="$DATA_MIB" 2>/dev/null
  incus stop --force source:b-1
  for ((number = 2; number <= CONTAINERS; number++)); do
    incus copy -q source:b-1 "source:b-$number"
    # Data of its own, or the copies on the source would share what the replicas cannot.
    dd if=/dev/urandom of="$(data_of "b-$number")" bs=1M count="$DATA_MIB" conv=notrunc 2>/dev/null
  done
  for ((number = 1; number <= CONTAINERS; number++)); do incus start source:b-$number 2>/dev/null; done
}

data_of() { printf '%s/containers/%s/rootfs/root/data' "$SOURCE_POOL" "$1"; }

# 1 % of each container's data, in one piece at a random place.
change_data() {
  local number kib=$((DATA_MIB * 1024 / 100))
  for ((number = 1; number <= CONTAINERS; number++)); do
    dd if=/dev/urandom of="$(data_of "b-$number")" bs=1K count="$kib" conv=notrunc \
      seek=$(((RANDOM * 32768 + RANDOM) % (DATA_MIB * 1024 - kib))) 2>/dev/null
  done
  sync -f "$(data_of b-1)"
}

configure() {
  local source target
  source=$(incus config trust add -q source:stapes)
  target=$(incus config trust add -q target:stapes)
  stapes onboard --quiet --source-url "$SOURCE_URL" --source-token "$source" \
    --target-url "$TARGET_URL" --target-token "$target" --cred-dir credentials
  # Two snapshots on each side: every run then makes one, copies one and removes one on either.
  cat >>servers.yaml <<YAML
credentials: $PWD/credentials
incus:
  source: { url: "$SOURCE_URL" }
  target: { url: "$TARGET_URL" }
jobs:
  twenty:
    from: { incus: source, instances: ["b-*"] }
    keep: "2"
    to: [{ replica: target, keep: "2" }]
  many:
    from: { incus: source, instances: ["tiny-*"] }
    keep: "2"
    to: [{ replica: target, keep: "2" }]
YAML
}

# Seconds that all processors have worked since the machine started, for whomever.
machine_busy() { awk -v ticks="$(getconf CLK_TCK)" '$1 == "cpu" { print ($2 + $3 + $4 + $7 + $8) / ticks }' /proc/stat; }

# Runs a job and appends to FILE: seconds on the clock, seconds of processor, peak memory in KiB, and
# seconds of processor that the whole machine spent meanwhile, the two servers above all.
measure() {
  local file=$1 outer pid='' peak=0 now wall user system busy
  shift
  busy=$(machine_busy)
  (
    TIMEFORMAT='%R %U %S'
    { time stapes --config servers.yaml --quiet replicate "$@" 2>&3; } 3>&2 2>"$DIR/time"
  ) &
  outer=$!
  # There is no newline in that file, which makes `read` fail although it has read.
  until { read -r pid _ || [[ -n $pid ]]; } 2>/dev/null <"/proc/$outer/task/$outer/children"; do
    kill -0 "$outer" 2>/dev/null || break
    sleep 0.01
  done
  # The kernel keeps the peak; only what comes after the last look is missed.
  while now=$(awk '$1 == "VmHWM:" { print $2 }' "/proc/$pid/status" 2>/dev/null) && [[ -n $now ]]; do
    peak=$now
    sleep 0.1
  done
  wait "$outer" || die "stapes replicate $* failed"
  read -r wall user system <"$DIR/time"
  awk -v wall="$wall" -v user="$user" -v kernel="$system" -v peak="$peak" -v from="$busy" -v to="$(machine_busy)" \
    'BEGIN { printf "%.2f %.3f %d %.2f\n", wall, user + kernel, peak, to - from }' >>"$file"
  say "  replicate $*: $(tail -n 1 "$file")"
}

# Median of a column of a file.
median() {
  awk -v column="$2" '{ print $column }' "$1" | sort -g |
    awk '{ value[NR] = $1 } END { print NR % 2 ? value[(NR + 1) / 2] : (value[NR / 2] + value[NR / 2 + 1]) / 2 }'
}

measure_cases() {
  local round index kind parallel
  say "first copy, and one run to settle"
  measure "$DIR/first" twenty
  measure "$DIR/settle" twenty
  for ((round = 0; round < ROUNDS; round++)); do
    say "round $((round + 1)) of $ROUNDS"
    for ((index = 0; index < ${#CASES[@]}; index++)); do
      # Each round begins with another case: none profits from always being after the same one.
      read -r kind parallel <<<"${CASES[(index + round) % ${#CASES[@]}]}"
      if [[ $kind == changed ]]; then change_data; fi
      if ((parallel == 4)); then
        measure "$DIR/$kind-4" twenty
      else
        measure "$DIR/$kind-$parallel" twenty --parallel "$parallel"
      fi
    done
  done
}

measure_many() {
  local number
  say "creating $MANY tiny containers, stopped"
  for ((number = 1; number <= MANY; number++)); do
    incus init -q source:busybox "source:tiny-$number" 2>/dev/null
  done
  measure "$DIR/many-first" many
  measure "$DIR/many-next" many
}

# Ratios are of the same round's two figures, and of these the median.
case_rows() {
  local kind title
  for kind in unchanged changed; do
    if [[ $kind == changed ]]; then title='1 % changed'; else title='nothing new'; fi
    paste -d' ' "$DIR/$kind-1" "$DIR/$kind-4" | awk '{ print $1 / $5 }' >"$DIR/$kind-ratio"
    awk '{ print 100 * $2 / $1 }' "$DIR/$kind-4" >"$DIR/$kind-share"
    printf '| %d containers, %s | %.1f s | %.1f s | %.2f | %.1f s, %.1f s | %.1f %% | %.1f MB |\n' "$CONTAINERS" "$title" \
      "$(median "$DIR/$kind-1" 1)" "$(median "$DIR/$kind-4" 1)" "$(median "$DIR/$kind-ratio" 1)" \
      "$(median "$DIR/$kind-1" 4)" "$(median "$DIR/$kind-4" 4)" \
      "$(median "$DIR/$kind-share" 1)" "$(awk -v kib="$(median "$DIR/$kind-4" 3)" 'BEGIN { print kib * 1.024 / 1000 }')"
  done
}

single_row() {
  local wall processor peak busy
  read -r wall processor peak busy <"$2"
  awk -v title="$1" -v wall="$wall" -v processor="$processor" -v peak="$peak" -v busy="$busy" 'BEGIN {
    printf "| %s | – | %.1f s | – | –, %.1f s | %.1f %% | %.1f MB |\n", title, wall, busy, 100 * processor / wall, peak * 1.024 / 1000 }'
}

print_results() {
  printf '%d rounds, %s, %d processors, %s\n\n' "$ROUNDS" "$(stapes --version)" "$(nproc)" \
    "Incus $(incus query source:/1.0 | awk -F'"' '$2 == "server_version" { print $4 }')"
  printf '| | one at a time | default | ratio | all processors | own processor time | own memory |\n|---|---|---|---|---|---|---|\n'
  case_rows
  single_row "$CONTAINERS containers, first copy" "$DIR/first"
  if ((MANY)); then
    single_row "$MANY containers, first copy" "$DIR/many-first"
    single_row "$MANY containers, nothing new" "$DIR/many-next"
  fi
}

need_lab release >&2
open_lab bench --pool-size 16GiB
create_containers
configure
measure_cases
if ((MANY)); then measure_many; fi
print_results
