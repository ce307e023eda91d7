#!/bin/bash
# A quiet pair's latency alone, and beside each kind of attack; then what the relay counted and its memory.
# usage: attack.sh [RATE] [DURATION]     default 300 connections a second, 8s each; on loopback
# The attackers come with PROXY headers, so that the relay sees other addresses than loopback, which it does not bound.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
rate=${1:-300} duration=${2:-8s}
[[ -x bin/detour ]] || { echo "attack: bin/detour is not there; hint: make build" >&2; exit 2; }
dir=$(mktemp -d)
relay=''
cleanup() {
  [[ -z $relay ]] || { kill "$relay" 2>/dev/null && wait "$relay" || true; }
  rm -rf "$dir"
}
trap cleanup EXIT
admit=()
for i in 1 2; do
  admit+=(--admit-key "$(./bin/detour key generate "$dir/$i.key" | grep -o 'nodekey:[0-9a-f]*')")
done
./bin/detour serve --state-dir "$dir/state" "${admit[@]}" --listen 127.0.0.1:0 --stun-listen off --http-listen off \
  --also-listen '127.0.0.1:0,proxy_protocol=127.0.0.1' --hostname localhost >"$dir/out" 2>"$dir/log" &
relay=$!
ports=()
for _ in {1..100}; do
  mapfile -t ports < <(grep -oE '127\.0\.0\.1:[0-9]+' "$dir/out" | awk '!seen[$0]++')
  [[ ${#ports[@]} -ge 2 ]] && break
  kill -0 "$relay" 2>/dev/null || break
  sleep 0.1
done
[[ ${#ports[@]} -ge 2 ]] || { cat "$dir/out" "$dir/log" >&2; echo "attack: the relay does not start" >&2; exit 1; }
status=0
./bin/detour bench --relay "https://${ports[0]}" --insecure --server-pid "$relay" --attack --attack-through "${ports[1]}" \
  --attack-rate "$rate" --duration "$duration" --quiet-key "$dir/1.key" --quiet-key "$dir/2.key" || status=$?
echo "attack: what the relay counted"
curl -sS --unix-socket "$dir/state/admin.sock" http://relay/stats |
  grep -oE '"(refused[a-z_]*|login_no_room|login_failures|lobby_[a-z]*|waiting|pending|http_full|panics|accepted)": *[0-9]+' | sort -u || true
echo "attack: peak memory $(awk '/VmHWM/ {print $2 " " $3}' "/proc/$relay/status"), exit status $status"
exit "$status"
