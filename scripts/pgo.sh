#!/bin/bash
# Makes cmd/detour/default.pgo, the profile by which Go's compiler knows the data path, or checks that it still works.
# usage: pgo.sh make | check
#
# What it is for is one thing above all: with it the compiler sees through crypto/tls's reader of records, which
# otherwise allocates once for each record that comes in, and so for each packet of a real client. To be made anew when
# check fails, as a new Go may want it, or when the data path has changed much.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
GO=${GO:-go}
profile=cmd/detour/default.pgo

check() { # compiles, and looks for what the compiler says of that allocation
  local said
  said=$(CGO_ENABLED=0 "$GO" build -gcflags=crypto/tls=-m=1 -o /dev/null ./cmd/detour 2>&1) || {
    echo "$said" >&2
    exit 1
  }
  if ! grep -q 'atLeastReader{...} does not escape' <<<"$said"; then
    echo "pgo: crypto/tls allocates for each record again; hint: make $profile anew with scripts/pgo.sh make" >&2
    exit 1
  fi
  echo "pgo: crypto/tls allocates nothing for a record that it reads"
}

tmp='' relay=''
finish() {
  [[ -z $relay ]] || kill "$relay" 2>/dev/null || true
  [[ -z $tmp ]] || rm -rf "$tmp"
}

run() { # run NAME BENCH-ARGUMENTS...: the profile of a relay under that load, in $tmp/NAME
  local name=$1 load
  shift
  "$tmp/detour" bench --relay "https://127.0.0.1:$port" --insecure --duration 12s --json "$@" >"$tmp/$name.json" &
  load=$!
  sleep 3
  curl -sf --unix-socket "$tmp/state/admin.sock" "http://localhost/debug/pprof/profile?seconds=8" -o "$tmp/$name"
  wait "$load"
}

make_profile() {
  local i
  tmp=$(mktemp -d)
  trap finish EXIT
  CGO_ENABLED=0 "$GO" build -pgo=off -o "$tmp/detour" ./cmd/detour
  port=$((20000 + RANDOM % 10000))
  GOMAXPROCS=1 timeout 120 "$tmp/detour" serve --admit any --state-dir "$tmp/state" --listen "127.0.0.1:$port" \
    --http-listen off --stun-listen off >"$tmp/log" 2>&1 &
  relay=$!
  for ((i = 0; i < 50; i++)); do
    [[ -S $tmp/state/admin.sock ]] && break
    sleep 0.1
  done
  run each --flush-each
  run batched
  run paced --flush-each --rate 20000 --window 0
  "$GO" tool pprof -proto "$tmp/each" "$tmp/batched" "$tmp/paced" >"$tmp/merged" 2>/dev/null
  mv "$tmp/merged" "$profile"
  ls -l "$profile"
}

case ${1:-} in
make) make_profile && check ;;
check) check ;;
*)
  echo 'usage: pgo.sh make | check' >&2
  exit 2
  ;;
esac
