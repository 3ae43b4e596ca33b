#!/usr/bin/env bash
# Supervisor of one private, throw-away Incus server.
#
#   incus-server.sh --dir DIR --https ADDRESS:PORT [--pool-size 2GiB] [--incus7 TREE] [--env NAME=VALUE]…
#   incus-server.sh --sweep DIRECTORY
#
# Starts incusd with INCUS_DIR=DIR in a mount and pid namespace and a cgroup of its own, gives it the
# pools `local` (btrfs in a loop file) and `plain` (dir), a default profile with its root disk on
# `local` and an image `busybox`, and prints one line: `ready PID`, or `failed REASON`.
# Then it obeys one word per line on standard input, each answered by one line:
#
#   kill      SIGKILL the daemon, containers keep running         -> killed
#   pause     SIGSTOP the daemon                                  -> paused
#   resume    SIGCONT the daemon                                  -> resumed
#   restart   start the daemon again on the same DIR (after kill) -> ready PID
#
# End of file on standard input, SIGTERM, SIGINT and SIGHUP all mean: remove everything, DIR included.
# If the supervisor itself is killed, the namespace dies with it (its first process reads a pipe that
# we hold), and the next supervisor with the same parent directory sweeps files, cgroups and bridges;
# --sweep does only that, for the servers whose directories are in DIRECTORY.
#
# Everything of a server can be found without asking the daemon, which may be dead or stuck:
# processes through the cgroup `stapes-lab…`, bridges through DIR/networks, loops through DIR/disks.
# Bridges are the one thing that lives on the host: there is no network namespace, because tests and
# the other server must reach the HTTPS address.
set -uo pipefail

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

DIR='' HTTPS='' POOL_SIZE=2GiB TREE='' DAEMON_ENV=()
DAEMON=/usr/libexec/incus/incusd
# Generous, for a machine that stands still now and then: giving up fails a test, or leaves something.
READY_SECONDS=120
CLEAN_SECONDS=20
FORWARDING=(/proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding)
UNSHARE_PID='' INIT_PID='' DAEMON_PID='' OWNS_DIR='' HOST_STATE=''

say() { printf '%s\n' "$*" 2>/dev/null; }

# Says why on both channels, removes what exists so far, ends.
fail() {
  say "failed $*"
  printf 'incus-server: %s\n' "$*" >&2
  if [[ -n $DIR && -s $DIR/daemon.log ]]; then tail -n 20 "$DIR/daemon.log" >&2; fi
  clean_up
  exit 1
}

parse_arguments() {
  while (($#)); do
    if (($# < 2)); then fail "option $1 needs a value"; fi
    case $1 in
      --dir) DIR=$2 ;;
      --https) HTTPS=$2 ;;
      --pool-size) POOL_SIZE=$2 ;;
      --incus7) TREE=$2 ;;
      --env) DAEMON_ENV+=("$2") ;;
      *) fail "unknown option $1" ;;
    esac
    shift 2
  done
  [[ $DIR == /?* && $DIR != */ ]] || fail "--dir needs an absolute path without a slash at its end"
  [[ $DIR != *[[:space:],:]* ]] || fail "--dir must not contain blanks, commas or colons"
  ((${#DIR} < 80)) || fail "--dir is too long for a unix socket below it"
  [[ -n $HTTPS ]] || fail "--https ADDRESS:PORT is missing"
  ((EUID == 0)) || fail "a private Incus server needs root"
  [[ -x $TREE$DAEMON ]] || fail "$TREE$DAEMON is missing (scripts/setup.sh installs it)"
}

# ---------------------------------------------------------------- leftovers, ours or of a dead one

# The cgroup of the server in DIR, a name below the root of every hierarchy.
cgroup_name() { printf 'stapes-lab%s' "${1//\//.}"; }

cgroup_mounts() { awk '$3 == "cgroup" || $3 == "cgroup2" { print $2 }' /proc/mounts; }

cgroup_directories() {
  local mount name
  name=$(cgroup_name "$1")
  for mount in $(cgroup_mounts); do
    if [[ -d $mount/$name ]]; then printf '%s\n' "$mount/$name"; fi
  done
}

# Kills every process of the server and waits until the kernel has buried them.
# A process that a v1 freezer holds dies only when it is thawed.
kill_processes() {
  local dir=$1 deadline=$((SECONDS + CLEAN_SECONDS)) groups pids
  mapfile -t groups < <(cgroup_directories "$dir")
  ((${#groups[@]})) || return 0
  while :; do
    mapfile -t pids < <(find "${groups[@]}" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -u)
    ((${#pids[@]})) || return 0
    kill -KILL "${pids[@]}" 2>/dev/null
    find "${groups[@]}" -name freezer.state 2>/dev/null | while read -r state; do
      echo THAWED 2>/dev/null >"$state"
    done
    ((SECONDS < deadline)) || return 1
    sleep 0.02
  done
}

# What Incus may change on the host for its bridges, as it is now: interfaces and forwarding.
host_state() {
  find /sys/class/net -mindepth 1 -printf '%f '
  printf '\n'
  cat "${FORWARDING[@]}" 2>/dev/null | tr '\n' ' '
  printf '\n'
}

# Removes the bridges of the server in DIR; never what `host_state` shows to have been there before.
# If only bridges are left that already did without forwarding, it is switched off again.
remove_bridges() {
  local dir=$1 state=$2 path name interfaces forwarding index others=''
  { read -r interfaces; read -r -a forwarding; } <<<"$state"
  for path in "$dir"/networks/*/; do
    name=$(basename "$path")
    if [[ $name == '*' || " $interfaces " == *" $name "* ]]; then continue; fi
    if [[ -d /sys/class/net/$name/bridge ]]; then ip link delete dev "$name"; fi
  done
  for path in /sys/class/net/*/bridge; do
    name=$(basename "$(dirname "$path")")
    if [[ -d $path && " $interfaces " != *" $name "* ]]; then others=yes; fi
  done
  if [[ -n $others ]]; then return; fi
  for index in "${!forwarding[@]}"; do
    if [[ $(<"${FORWARDING[index]}") != "${forwarding[index]}" ]]; then
      echo "${forwarding[index]}" >"${FORWARDING[index]}"
    fi
  done
}

# Loops detach by themselves when the last mount goes; a moment later than the processes, though.
detach_loops() {
  local dir=$1 deadline=$((SECONDS + CLEAN_SECONDS)) loops
  while :; do
    mapfile -t loops < <(losetup --list --noheadings --output NAME,BACK-FILE |
      awk -v dir="$dir/" 'index($2, dir) == 1 { print $1 }')
    ((${#loops[@]})) || return 0
    losetup --detach "${loops[@]}" 2>/dev/null
    ((SECONDS < deadline)) || return 1
    sleep 0.02
  done
}

remove_cgroups() {
  local dir=$1 deadline=$((SECONDS + CLEAN_SECONDS)) groups
  while :; do
    mapfile -t groups < <(cgroup_directories "$dir")
    ((${#groups[@]})) || return 0
    find "${groups[@]}" -depth -type d -exec rmdir {} + 2>/dev/null
    ((SECONDS < deadline)) || return 1
    [[ -z $(cgroup_directories "$dir") ]] || sleep 0.02
  done
}

# Removes all that the server in DIR ever made. Each step has its own deadline and none stops the rest.
wipe() {
  local dir=$1 state=$2
  kill_processes "$dir" || printf 'incus-server: processes of %s do not die\n' "$dir" >&2
  remove_bridges "$dir" "$state" 2>/dev/null
  detach_loops "$dir" || printf 'incus-server: loop devices of %s stay attached\n' "$dir" >&2
  remove_cgroups "$dir" || printf 'incus-server: cgroups of %s stay\n' "$dir" >&2
  rm -rf --one-file-system "$dir" || printf 'incus-server: cannot remove %s\n' "$dir" >&2
}

clean_up() {
  trap '' HUP INT TERM PIPE
  if [[ -n $OWNS_DIR ]]; then
    # Waited for at once, lest bash reports the death of a job.
    if [[ -n $UNSHARE_PID ]]; then kill -KILL "$UNSHARE_PID" && wait "$UNSHARE_PID"; fi 2>/dev/null
    wipe "$DIR" "$HOST_STATE"
    rm -f "$DIR.stapes-lab"
  fi
  OWNS_DIR=''
}

# ---------------------------------------------------------------- one owner for each directory

# `DIR.stapes-lab` lies beside DIR, holds the state of the host at start, and is locked for as long as
# the supervisor lives: a file whose lock is free belongs to a dead one. Descriptor 9 is
# closed in every child that may outlive us.
take_directory() {
  mkdir -p "$(dirname "$DIR")" || fail "cannot create $(dirname "$DIR")"
  # Once more if another supervisor swept the still empty file before we had the lock.
  until [[ /proc/self/fd/9 -ef $DIR.stapes-lab ]]; do
    exec 9>>"$DIR.stapes-lab" || fail "cannot write $DIR.stapes-lab"
    flock --timeout 5 9 || fail "$DIR belongs to a running server"
  done
  # All of DIR will be removed, so it must hold nothing of anybody else; the script may lie there.
  if [[ -e $DIR && -n $(find "$DIR" -mindepth 1 ! -name incus-server.sh -print -quit) ]]; then
    rm -f "$DIR.stapes-lab"
    fail "$DIR is not empty"
  fi
  HOST_STATE=$(host_state)
  printf '%s\n' "$HOST_STATE" >&9
  OWNS_DIR=yes
  # Containers come by as other users.
  { mkdir -p "$DIR" && chmod 0711 "$DIR"; } || fail "cannot create $DIR"
}

# Removes what dead supervisors left in a directory.
sweep() {
  local mark
  for mark in "$1"/*.stapes-lab; do
    if [[ ! -e $mark ]]; then continue; fi
    (
      exec 8<"$mark" && flock --nonblock 8 || exit 0
      # An empty one died before it had a directory.
      if [[ -s $mark ]]; then wipe "${mark%.stapes-lab}" "$(<"$mark")"; fi
      rm -f "$mark"
    ) 2>/dev/null
  done
}

# ---------------------------------------------------------------- inside the namespace

# First process of the pid namespace: starts the daemon on demand, reaps what is left behind, and
# ends at end of file, whereupon the kernel kills everyone else in the namespace.
# Its cgroup ends in init.scope because liblxc takes the parent of that as the place for containers.
inside() {
  local mount word
  for mount in $(cgroup_mounts); do
    echo 0 >"$mount/$(cgroup_name "$DIR")/init.scope/cgroup.procs" || exit 1
  done
  if [[ -n $TREE ]]; then enter_tree || exit 1; fi
  hide_firewall || exit 1
  while read -r word; do
    if [[ $word != start ]]; then continue; fi
    env "${DAEMON_ENV[@]}" INCUS_DIR="$DIR" "$DAEMON" --group root </dev/null >>"$DIR/daemon.log" 2>&1 &
    echo "$!"
  done
}

# Makes the tree our root. A chroot would not do: in one the kernel refuses user namespaces.
# The tree stays as it is, what the daemon writes outside DIR goes to memory.
enter_tree() {
  local base=$DIR/root new=$DIR/root/new
  mkdir -p "$base" && mount -t tmpfs tmpfs "$base" && mkdir "$base/upper" "$base/work" "$new" || return
  mount -t overlay overlay -o "lowerdir=$TREE,upperdir=$base/upper,workdir=$base/work" "$new" || return
  mount --rbind /dev "$new/dev" && mount --rbind /sys "$new/sys" || return
  mount -t proc proc "$new/proc" && mount -t tmpfs tmpfs "$new/run" || return
  mkdir -p "$new$DIR" "$new/old" && mount --bind "$DIR" "$new$DIR" || return
  cp /etc/subuid /etc/subgid "$new/etc/" || return
  cd "$new" && pivot_root . old && cd / && umount --lazy /old
}

# Firewall rules go to a network namespace of their own, where they do nothing. The host's table
# `incus` would be shared by all servers, and one version of nft does not survive the sight of what
# another one wrote: nft 1.0.6 crashes on the sets of Incus 7.
hide_firewall() {
  local nft
  nft=$(command -v nft) || return
  cp "$nft" "$DIR/nft.real" && touch "$DIR/nft.net" && unshare --net="$DIR/nft.net" true || return
  printf '#!/bin/sh\nexec nsenter --net=%s %s "$@"\n' "$DIR/nft.net" "$DIR/nft.real" >"$DIR/nft"
  chmod 0755 "$DIR/nft" && mount --bind "$DIR/nft" "$nft"
}

# ---------------------------------------------------------------- outside: start and configure

make_cgroups() {
  local mount group file
  for mount in $(cgroup_mounts); do
    for group in "$(cgroup_name "$DIR")" "$(cgroup_name "$DIR")/init.scope"; do
      mkdir -p "$mount/$group" || return
      # A v1 cpuset takes no process before it has processors and memory.
      for file in cpuset.mems cpuset.cpus; do
        if [[ -e $mount/$group/tasks && -e $mount/$group/$file ]]; then
          cat "$mount/$group/../$file" >"$mount/$group/$file" || return
        fi
      done
    done
  done
}

# Two seconds of a busybox shutdown would be two seconds of every graceful stop, so init is a shell
# that just ends on the signals which liblxc sends for halt (SIGPWR) and which a person might send.
write_image() {
  local rootfs=$DIR/image/rootfs
  mkdir -p "$rootfs"/{bin,dev,etc,home,mnt,proc,root,run,sbin,sys,tmp,usr,var} || return
  chmod 1777 "$rootfs/tmp"
  cp "$(command -v busybox)" "$rootfs/bin/busybox" && busybox --install -s "$rootfs/bin" || return
  ln -s ../bin "$rootfs/usr/bin"
  printf 'root:x:0:0:root:/root:/bin/sh\n' >"$rootfs/etc/passwd"
  printf 'root:x:0:\n' >"$rootfs/etc/group"
  cat >"$rootfs/sbin/init" <<'END'
#!/bin/sh
trap 'exit 0' PWR TERM
ip link set lo up
while :; do
  sleep 10000 &
  wait "$!"
done
END
  chmod 0755 "$rootfs/sbin/init"
  printf 'architecture: %s\ncreation_date: 1700000000\nproperties: {os: busybox}\n' "$(uname -m)" \
    >"$DIR/image/metadata.yaml"
  tar -C "$DIR/image" -cf "$DIR/image.tar" metadata.yaml rootfs && rm -rf "$DIR/image"
}

# A daemon that takes a connection and says nothing must not hold us for ever.
incus_here() { INCUS_DIR=$DIR INCUS_CONF=$DIR/cli timeout "$READY_SECONDS" incus "$@"; }

# The namespace prints the pid it sees; the host's pid of that process is found among its children.
start_daemon() {
  local inner child children seen
  printf 'start\n' >&"${INSIDE[1]}" || return
  read -r -t "$READY_SECONDS" inner <&"${INSIDE[0]}" || return
  read -r INIT_PID _ <"/proc/$UNSHARE_PID/task/$UNSHARE_PID/children"
  DAEMON_PID=''
  read -r -a children <"/proc/$INIT_PID/task/$INIT_PID/children"
  for child in "${children[@]}"; do
    seen=$(awk '$1 == "NSpid:" { print $NF }' "/proc/$child/status" 2>/dev/null)
    if [[ $seen == "$inner" ]]; then DAEMON_PID=$child; fi
  done
  [[ -n $DAEMON_PID ]]
}

await_daemon() {
  local deadline=$((SECONDS + READY_SECONDS))
  until [[ -S $DIR/unix.socket ]] && incus_here query /1.0 </dev/null >/dev/null 2>&1; do
    [[ -d /proc/$DAEMON_PID ]] && ((SECONDS < deadline)) || return 1
    sleep 0.02
  done
}

configure() {
  incus_here admin init --preseed <<END
config: {core.https_address: "$HTTPS"}
storage_pools:
- {name: local, driver: btrfs, config: {size: $POOL_SIZE}}
- {name: plain, driver: dir}
profiles:
- name: default
  devices: {root: {type: disk, path: /, pool: local}}
END
}

start() {
  local image
  make_cgroups || fail "cannot create cgroups"
  write_image >>"$DIR/daemon.log" 2>&1 9>&- &
  image=$!
  # Slave propagation: what the host unmounts goes here too, what is mounted here stays here.
  coproc INSIDE {
    exec 9>&-
    exec setsid unshare --mount --pid --fork --kill-child --mount-proc --propagation slave \
      "$BASH" "${BASH_SOURCE[0]}" --inside "$DIR" "$TREE" "${DAEMON_ENV[@]}" 2>>"$DIR/daemon.log"
  }
  UNSHARE_PID=$INSIDE_PID
  start_daemon || fail "the namespace of the server did not come up"
  await_daemon || fail "incusd did not answer within $READY_SECONDS s"
  configure >>"$DIR/daemon.log" 2>&1 9>&- || fail "cannot configure the server"
  wait "$image" || fail "cannot build the busybox image"
  incus_here image import "$DIR/image.tar" --alias busybox </dev/null >>"$DIR/daemon.log" 2>&1 9>&- ||
    fail "cannot import the busybox image"
  rm -f "$DIR/image.tar"
}

kill_daemon() {
  local deadline=$((SECONDS + CLEAN_SECONDS))
  kill -KILL "$DAEMON_PID" 2>/dev/null
  while [[ -d /proc/$DAEMON_PID ]] && ((SECONDS < deadline)); do sleep 0.01; done
}

signal_daemon() {
  if kill "-$1" "$DAEMON_PID" 2>/dev/null; then say "$2"; else say "failed there is no daemon"; fi
}

serve() {
  local word
  while read -r word; do
    case $word in
      kill)
        kill_daemon
        say killed
        ;;
      pause) signal_daemon STOP paused ;;
      resume) signal_daemon CONT resumed ;;
      restart)
        kill_daemon
        rm -f "$DIR/unix.socket"
        if start_daemon && await_daemon; then say "ready $DAEMON_PID"; else say "failed incusd did not come back"; fi
        ;;
      *) say "failed unknown word $word" ;;
    esac
  done
}

main() {
  if [[ ${1:-} == --inside ]]; then
    DIR=$2 TREE=$3 DAEMON_ENV=("${@:4}")
    inside
    exit
  fi
  trap 'clean_up; exit 0' HUP INT TERM
  trap '' PIPE
  if [[ ${1:-} == --sweep ]]; then
    sweep "${2:?--sweep needs a directory}"
    exit
  fi
  parse_arguments "$@"
  sweep "$(dirname "$DIR")"
  take_directory
  start
  say "ready $DAEMON_PID"
  serve
  clean_up
}

# On one line, so that bash reads no more of a file that may have changed meanwhile.
main "$@"; exit
