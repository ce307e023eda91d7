#!/bin/bash
# Runs bin/detour under real Tailscale clients in the test bed at E2E_BED: network namespaces, NATs, a control server.
# usage: run.sh [SCENARIO...]   as the bed names them: b or b_hard, or our own "first", "p" (behind proxies), "q" (admission), "lobby"; none: all
#                               that this version supports
#        run.sh check           only say whether this machine can run the bed
#
# E2E_BED    the bed's directory; it is only read
# E2E_RETRY  1: run the scenarios that failed once more, for machines whose noise makes time limits pass
# E2E_OUT    results and logs of the run (a retry's: in E2E_OUT/retry); default /tmp/e2e-out
# PEERS      where the clients are, or are built when they are missing (some minutes); default /tmp/peers/bin
# RELAY_CMD, RELAY_FLAGS  another relay than bin/detour serve, to compare with
#
# Exit status: 0 every scenario asked for ran and passed, 1 one did not, 2 wrong use, 77 this machine cannot run the bed.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
supported=(first a b c d e f g i j m n o p q lobby)
# Our own scenarios and their scripts here; the rest is the bed's.
declare -A own=([first]=first.sh [p]=proxies.sh [q]=admission.sh [lobby]=lobby.sh)
export PEERS=${PEERS:-/tmp/peers/bin} TS_VERSION=${TS_VERSION:-v1.102.5}
export RELAY_FLAGS=${RELAY_FLAGS:-$here/flags-detour.sh}
export RELAY_CERT_RELOAD=${RELAY_CERT_RELOAD:-auto} # the relay takes a new certificate by itself
out=${E2E_OUT:-/tmp/e2e-out}
probe=e2eprobe$$ # a namespace of our own; the bed's are called e2e-*

die() { printf 'e2e: %s\n' "$*" >&2; exit 2; }

# missing prints why this machine cannot run the bed, one reason a line; nothing when it can.
missing() {
  [[ $(uname -s) == Linux ]] || { echo "not Linux"; return; }
  ((EUID == 0)) || echo "not root"
  local tool without=()
  for tool in ip nft jq curl openssl awk sysctl flock go; do
    command -v "$tool" >/dev/null || without+=("$tool")
  done
  ((${#without[@]} == 0)) || echo "not installed: ${without[*]}"
  [[ -c /dev/net/tun ]] || echo "no /dev/net/tun; hint: modprobe tun, or hand the device to the container"
  ((EUID == 0 && ${#without[@]} == 0)) || return 0
  if ! ip netns add "$probe" 2>/dev/null; then
    echo "root cannot make network namespaces; hint: the container needs CAP_SYS_ADMIN and CAP_NET_ADMIN"
    return
  fi
  inside || true
  ip netns del "$probe"
}

# inside prints what cannot be made in the probe's namespace.
inside() {
  ip -n "$probe" link add br0 type bridge 2>/dev/null || echo "cannot make a bridge in a namespace"
  ip -n "$probe" link add v0 type veth peer name v1 2>/dev/null || echo "cannot make a veth pair in a namespace"
  ip netns exec "$probe" ip tuntap add dev tun0 mode tun 2>/dev/null || echo "cannot make a TUN device in a namespace"
  ip netns exec "$probe" sysctl -qw net.ipv4.ip_forward=1 2>/dev/null || echo "cannot turn on forwarding in a namespace"
  ip netns exec "$probe" nft -f - 2>/dev/null <<'NFT' || echo "nftables cannot masquerade in a namespace"
table ip probe { chain out { type nat hook postrouting priority 100; oifname "v0" masquerade random,fully-random; }; }
NFT
}

skip() { # skip REASONS
  {
    echo '************************************************************************'
    echo '** e2e SKIPPED: nothing was tested. This machine cannot run the bed:'
    printf '%s\n' "$1" | sed 's/^/**   /'
    echo '************************************************************************'
  } >&2
  exit 77
}

# build_peers gets the clients, unless all are there.
build_peers() {
  local name
  for name in "tailscaled-$TS_VERSION" "tailscale-$TS_VERSION" "tailscaled-ws-$TS_VERSION" e2e-control; do
    [[ -x $PEERS/$name ]] && continue
    echo "e2e: $name is not in $PEERS; building the clients, which takes some minutes"
    "$E2E_BED/peers.sh" "$TS_VERSION"
    break
  done
  for name in "tailscaled-$TS_VERSION" "tailscale-$TS_VERSION" e2e-control; do
    [[ -x $PEERS/$name ]] || die "$name could not be built; see the lines above"
  done
}

# run_bed OUT SCENARIO...: one run; the bed's own exit status is not enough, see failed.
run_bed() {
  local dir=$1 name rest=(); shift
  rm -f "$dir/results.txt" # of a former run: one that never starts must not be read as its success
  for name; do [[ ${own[$name]:-} ]] || rest+=("$name"); done
  ((${#rest[@]} == 0)) || E2E_OUT=$dir "$E2E_BED/run.sh" "${rest[@]}" || true
  for name; do # after the bed, which empties its directory
    [[ ${own[$name]:-} ]] || continue
    echo "== $name"
    mkdir -p "$dir"
    { E2E_OUT=$dir "$here/${own[$name]}" 2>&1 || echo "FAIL  ended with status $?"; } | tee >(sed "s/^/$name  /" >>"$dir/results.txt")
  done
}

# failed OUT SCENARIO...: prints those that have a failure or no success in OUT's results. The bed is content with a
# scenario that it does not know, or whose program is missing; we are not.
failed() {
  local results=$1/results.txt scenario; shift
  for scenario; do
    awk -v want="$scenario" '
      $1 == want || index($1, want "_") == 1 { if ($2 == "PASS") pass = 1; if ($2 == "FAIL") fail = 1 }
      END { exit !(pass && !fail) }' "$results" 2>/dev/null || echo "$scenario"
  done
}

main() {
  local reasons bad
  reasons=$(missing)
  [[ -z $reasons ]] || skip "$reasons"
  if [[ ${1:-} == check ]]; then echo "e2e: this machine can run the bed"; return; fi

  [[ -n ${E2E_BED:-} ]] || die "E2E_BED is not set; hint: make e2e E2E_BED=/path/to/the/bed"
  [[ -x $E2E_BED/run.sh && -x $E2E_BED/peers.sh ]] || die "E2E_BED=$E2E_BED holds no run.sh and peers.sh"
  E2E_BED=$(cd "$E2E_BED" && pwd)
  export RELAY_CMD=${RELAY_CMD:-$root/bin/detour serve}
  # The bed splits the command at blanks.
  [[ $root != *[[:space:]]* ]] || die "the path of this checkout has a blank, which the bed cannot take: $root"
  [[ -x ${RELAY_CMD%% *} || $RELAY_CMD != "$root"/* ]] || die "${RELAY_CMD%% *} is not there; hint: make build"
  (($#)) || set -- "${supported[@]}"

  build_peers
  run_bed "$out" "$@"
  mapfile -t bad < <(failed "$out" "$@")
  if ((${#bad[@]})) && [[ ${E2E_RETRY:-} == 1 ]]; then
    echo "e2e: once more: ${bad[*]}"
    run_bed "$out/retry" "${bad[@]}"
    mapfile -t bad < <(failed "$out/retry" "${bad[@]}")
  fi
  if ((${#bad[@]})); then
    echo "e2e: FAILED: ${bad[*]}; of $*; results and logs in $out"
    return 1
  fi
  echo "e2e: passed: $*"
}

main "$@"
