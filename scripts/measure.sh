# Measuring commands, for scripts; to be sourced by bash.
#
# `measure FILE COMMAND…` runs a command and appends a line to FILE: seconds on the clock, seconds of
# processor of the command, its peak memory in KiB, and seconds of processor that the whole machine
# spent meanwhile. What the command prints goes to standard error. DIR is a directory for a file.
# `median`, `least` and `most` are of a column of such a file.
# shellcheck shell=bash

# Seconds that all processors have worked since the machine started, for whomever.
machine_busy() {
  awk -v ticks="$(getconf CLK_TCK)" '$1 == "cpu" { print ($2 + $3 + $4 + $7 + $8) / ticks }' /proc/stat
}

measure() {
  local file=$1 outer pid='' peak=0 now wall user system busy
  shift
  busy=$(machine_busy)
  (
    TIMEFORMAT='%R %U %S'
    { time "$@" >&2 2>&3; } 3>&2 2>"$DIR/time"
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
  wait "$outer" || return
  read -r wall user system <"$DIR/time"
  awk -v wall="$wall" -v user="$user" -v kernel="$system" -v peak="$peak" -v from="$busy" -v to="$(machine_busy)" \
    'BEGIN { printf "%.2f %.3f %d %.2f\n", wall, user + kernel, peak, to - from }' >>"$file"
}

sorted_column() { awk -v column="$2" '{ print $column }' "$1" | sort -g; }
least() { sorted_column "$@" | head -n 1; }
most() { sorted_column "$@" | tail -n 1; }
median() {
  sorted_column "$@" |
    awk '{ value[NR] = $1 } END { print NR % 2 ? value[(NR + 1) / 2] : (value[NR / 2] + value[NR / 2 + 1]) / 2 }'
}
