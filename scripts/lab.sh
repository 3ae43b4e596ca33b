# Two private Incus servers, `source` and `target`, for scripts; to be sourced by bash.
#
# `open_lab NAME` makes the temporary directory $DIR with everything in it, the servers included, and goes
# to $DIR/work; it sets traps, so that nothing of it is left whatever the outcome. Before it, `need_lab`
# installs what is missing, and builds the program.
# Afterwards `incus` knows the servers as remotes, `stapes` is in the path, SOURCE_URL and TARGET_URL
# are their addresses, and SOURCE_POOL and TARGET_POOL where the files of their pools can be read.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
LAB_SERVER=$ROOT/crates/stapes-testing/lab/incus-server.sh
DIR='' STAPES=${STAPES:-}
# Any address of 127.0.0.0/8 is ours; a random pair lets several labs run side by side.
LAB_NET=127.$((RANDOM % 250 + 2)).$((RANDOM % 250 + 2))
SOURCE_URL=https://$LAB_NET.1:8443
TARGET_URL=https://$LAB_NET.2:8443
# shellcheck disable=SC2034  # for the script that sources this
SOURCE_POOL='' TARGET_POOL=''
declare -A LAB_WORDS=() LAB_PIDS=()
exec {LAB_OUT}>&1

die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# Builds the program with the profile given, `dev` or `release`, unless $STAPES names one already.
need_lab() {
  local profile=$1
  ((EUID == 0)) || die "needs root: private Incus servers mount file systems and start containers"
  "$ROOT/scripts/setup.sh"
  if [[ -z $STAPES ]]; then
    (cd "$ROOT" && "${CARGO:-cargo}" build --locked -p stapes --profile "$profile")
    STAPES=$(cd "$ROOT" && realpath "${CARGO_TARGET_DIR:-target}")/${profile/dev/debug}/stapes
  fi
  STAPES=$(realpath -e "$STAPES")
}

# Arguments: a name for the directory, and options of incus-server.sh.
open_lab() {
  local name=$1
  shift
  trap 'exit 130' INT
  trap 'exit 143' HUP TERM
  DIR=$(mktemp -d -t "stapes-$name-XXXXXX")
  trap close_lab EXIT
  # Tells clean-lab.sh that we live; the servers inherit it, for they may live a little longer.
  exec {LAB_LOCK}>"$DIR/lock"
  flock "$LAB_LOCK"
  chmod 0711 "$DIR"
  mkdir "$DIR/bin" "$DIR/cli" "$DIR/work"
  ln -s "$STAPES" "$DIR/bin/stapes"
  export PATH=$DIR/bin:$PATH INCUS_CONF=$DIR/cli STAPES_STATE_DIR=$DIR/state LC_ALL=C.UTF-8
  unset STAPES_CONFIG STAPES_LOG STAPES_SOURCE_TOKEN STAPES_TARGET_TOKEN
  unset INCUS_DIR INCUS_SOCKET INCUS_REMOTE INCUS_PROJECT
  cd "$DIR/work" || exit
  start_server source "${SOURCE_URL#https://}" "$@"
  start_server target "${TARGET_URL#https://}" "$@"
  await_server source SOURCE_POOL
  await_server target TARGET_POOL
}

# A server obeys a pipe that only we hold open: when we end, in whatever way, it removes itself.
# Its own session keeps Ctrl-C from it, so that stapes can still finish what it does; a parent
# directory of its own keeps it from looking at the other one, which is about to start as well.
start_server() {
  local name=$1 address=$2 words
  shift 2
  mkfifo "$DIR/$name.words"
  setsid "$LAB_SERVER" --dir "$DIR/$name/incus" --https "$address" "$@" \
    <"$DIR/$name.words" >"$DIR/$name.answer" 2>"$DIR/$name.log" &
  LAB_PIDS[$name]=$!
  exec {words}>"$DIR/$name.words"
  LAB_WORDS[$name]=$words
}

await_server() {
  local name=$1 answer
  until [[ -s $DIR/$name.answer ]]; do
    kill -0 "${LAB_PIDS[$name]}" 2>/dev/null || break
    sleep 0.05
  done
  answer=$(<"$DIR/$name.answer")
  if [[ $answer != ready* ]]; then
    cat "$DIR/$name.log" >&2
    die "server $name did not start: $answer"
  fi
  # The pools are mounted in the namespace of the daemon only; this is the way in.
  printf -v "$2" '/proc/%s/root%s/%s/incus/storage-pools/local' "${answer#ready }" "$DIR" "$name"
  incus remote add "$name" "unix://$DIR/$name/incus/unix.socket" 2>/dev/null
}

# What still refers to our directory: mounts, loop devices, processes.
leftovers() {
  grep -F "$DIR" /proc/mounts || true
  losetup --list --noheadings --output NAME,BACK-FILE | grep -F "$DIR" || true
  ps -e -o pid=,args= | awk -v dir="$DIR" 'index($0, dir) && !/awk -v dir/' || true
}

close_lab() {
  local code=$? words pid left
  trap '' HUP INT TERM
  trap - EXIT
  cd /
  for words in "${LAB_WORDS[@]}"; do exec {words}>&-; done
  for pid in "${LAB_PIDS[@]}"; do wait "$pid" || true; done
  left=$(leftovers)
  rm -rf --one-file-system "$DIR"
  if [[ -n $left ]]; then
    printf '%s: this is left behind:\n%s\n' "$(basename "$0")" "$left" >&2
    exit 1
  fi
  if ((code)); then printf '%s: stopped with exit code %d\n' "$(basename "$0")" "$code" >&2; fi
  # The interruption may have come where standard output was redirected.
  printf '\nBoth servers are gone; of %s no process, mount, loop device or file is left.\n' \
    "$DIR" >&"$LAB_OUT"
  exit "$code"
}
